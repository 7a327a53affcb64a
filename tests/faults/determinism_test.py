"""The same command twice gives the same numbers, to the bit."""

import math
import os
import pathlib
import subprocess
import sys

from absl import flags
import pytest

from experiments.command import scripts
from experiments.records import results
from tests.faults import kill_sweep

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("script", kill_sweep.SMALL)
def test_same_command_twice(script, tmp_path):
  for folder in ("first", "second"):
    kill_sweep.finish(kill_sweep.start(script, tmp_path / folder))
  first = kill_sweep.numbers(tmp_path / "first")
  assert len(first) >= 3
  assert first == kill_sweep.numbers(tmp_path / "second")
  # The test can see the last bit.
  name = next(name for name in first if name.endswith(".json"))
  record = results.read(tmp_path / "first" / name)
  curve = record["metrics"]["train_loss_curve"]
  curve[0][0] = math.nextafter(curve[0][0], math.inf)
  results.write(tmp_path / "first" / name, record)
  assert first != kill_sweep.numbers(tmp_path / "first")


@pytest.fixture
def started(monkeypatch):
  """Starts a script of no work; returns XLA's flags as its work sees them."""
  # Other tests may have parsed absl's own flags, which scripts do not have.
  parsed = flags.FLAGS.is_parsed()
  flags.FLAGS.unparse_flags()

  def started(*args):
    seen = []

    def main(argv):
      del argv
      seen.append(os.environ.get("XLA_FLAGS"))

    monkeypatch.setattr(sys, "argv", ["script", *args])
    with pytest.raises(SystemExit) as end:
      scripts.start(main, flags.FlagValues())
    assert end.value.code is None
    return seen[0]

  yield started
  flags.FLAGS.unparse_flags()
  if parsed:
    flags.FLAGS.mark_as_parsed()


def test_flag_reaches_xla_and_leaves_other_flags(started, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
  assert started() == "--xla_other=1"
  assert started("--nodeterministic") == "--xla_other=1"
  expected = "--xla_other=1 --xla_gpu_deterministic_ops=true"
  assert started("--deterministic") == expected
  monkeypatch.delenv("XLA_FLAGS")
  assert started("--deterministic") == "--xla_gpu_deterministic_ops=true"


@pytest.mark.slow
def test_xla_knows_the_flag(tmp_path):
  """It ends the process for a flag that it does not know."""
  finished = {}
  for flag in ("--xla_gpu_deterministic_ops=true", "--xla_no_such_flag=true"):
    finished[flag] = subprocess.run(
      [
        sys.executable,
        "-c",
        "import jax; jax.devices(); print(jax.numpy.ones(1))",
      ],
      env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag},
      capture_output=True,
      text=True,
      check=False,
    )
  known, unknown = finished.values()
  assert known.returncode == 0
  assert unknown.returncode != 0
