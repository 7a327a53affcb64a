"""Tests of benchmarks.same_training, where PyTorch is installed."""

import jax
import numpy as np
import pytest

from benchmarks import same_training
from tests.experiments import in_process, tiny

pytestmark = pytest.mark.optimized
torch = pytest.importorskip("torch", reason="needs the extra `bench`")


@pytest.fixture(autouse=True)
def _one_thread():
  # Threads that wait for each other are slow where cores are shared.
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.mark.parametrize(
  "method",
  (
    "bean1",
    pytest.param("bean2", marks=pytest.mark.slow),
    pytest.param("vanilla", marks=pytest.mark.slow),
  ),
)
def test_both_make_the_same_updates(method):
  """With the shots and parameters of seeds, two epochs in their orders."""
  digits = tiny.load_digits(20)
  keys, problem = same_training.draw(digits, shots=1, seeds=(3, 5))
  ours, theirs = (
    train(problem, keys, method, 2)
    for train in (same_training.train_jax, same_training.train_torch)
  )

  def check(before, mine, other):
    update, expected = mine - before, other - before
    assert np.abs(expected).mean() > 1e-4
    # The mean, because Adam's first steps are signs: of a gradient that is 0
    # but for rounding too.
    allowed = 1e-4 * np.abs(expected).mean()
    assert np.abs(update - expected).mean() < allowed

  jax.tree.map(check, problem.params, ours, theirs)


@pytest.mark.slow
def test_script_prints_both_accuracies_by_seed():
  status, out, err = in_process.run(
    same_training,
    *("--dataset=digits", "--methods=bean1", "--seeds=2-3", "--epochs=30"),
  )
  assert status == 0, err
  head, _, *rows, mean = (
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in out.split("\n\n")[0].splitlines()
  )
  assert head == ["bean1, seed", "bean_jax", "PyTorch", "difference"]
  assert [row[0] for row in rows] == ["2", "3"]
  numbers = np.array([row[1:] for row in rows], float)
  # Seeds differ by more than implementations, and chance is 10 %.
  assert numbers[:, :2].min() > 30
  np.testing.assert_allclose(numbers[:, 0], numbers[:, 1], atol=3)
  ours, theirs = numbers[:, :2].mean(axis=0)
  np.testing.assert_allclose(float(mean[1]), ours, atol=0.011)
  np.testing.assert_allclose(float(mean[2]), theirs, atol=0.011)


@pytest.mark.parametrize("flag", ("--shots=0", "--epochs=0", "--seeds=x"))
def test_flags_that_cannot_be_used_are_one_line(flag):
  name = flag.removeprefix("--").partition("=")[0]
  assert f"--{name}: expected" in in_process.refused(same_training, flag)
