"""Tests of scripts that are asked to stop; simulations_test has their runs."""

import signal

from absl import flags
import pytest

from experiments.command import scripts
from experiments.machine import interruption
from tests.experiments import in_process


@pytest.fixture(autouse=True)
def _settings():
  with in_process.kept_settings():
    yield


def test_work_that_stopped(capsys):
  def work():
    raise interruption.Stopped

  assert scripts.run(["script"], work, flags.FlagValues()) == 0
  assert capsys.readouterr() == (
    "",
    "stopped as asked; finished cells are kept, the same command goes on "
    "from there\n",
  )


def test_sigterm_is_heard_where_work_asks():
  seen = []

  def work():
    seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  assert scripts.run(["script"], work, flags.FlagValues()) == 0
  assert scripts.run(["script"], work) == 0
  assert seen[0] != before
  assert seen[1] == before == signal.getsignal(signal.SIGTERM)
