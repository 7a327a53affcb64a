"""The same command twice gives the same numbers, to the bit."""

import math
import os
import subprocess
import sys

import pytest

from experiments.records import results
from tests.experiments import in_process
from tests.faults import kill_sweep


@pytest.mark.slow
@pytest.mark.parametrize("script", kill_sweep.SMALL)
def test_same_command_twice(script, tmp_path):
  for folder in ("first", "second"):
    kill_sweep.finish(kill_sweep.start(script, tmp_path / folder))
  first = in_process.numbers(tmp_path / "first")
  assert len(first) >= 3
  assert first == in_process.numbers(tmp_path / "second")
  # The test can see the last bit.
  name = next(name for name in first if name.endswith(".json"))
  record = results.read(tmp_path / "first" / name)
  curve = record["metrics"]["train_loss_curve"]
  curve[0][0] = math.nextafter(curve[0][0], math.inf)
  results.write(tmp_path / "first" / name, record)
  assert first != in_process.numbers(tmp_path / "first")


@pytest.mark.slow
def test_xla_knows_the_flag():
  """It ends the process for a flag that it does not know."""
  for flag, is_known in (("gpu_deterministic_ops", True), ("no_such", False)):
    finished = subprocess.run(
      [sys.executable, "-c", "import jax; jax.devices()"],
      env={**os.environ, "XLA_FLAGS": f"--xla_{flag}=true"},
      capture_output=True,
      check=False,
    )
    assert (finished.returncode == 0) == is_known
