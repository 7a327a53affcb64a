"""A member whose numbers overflow disturbs no other of its chunk."""

import jax
import numpy as np
import pytest

from experiments.architectures import models
from experiments.learning import methods
from experiments.runs import full_simulations, simulations
from tests.experiments import tiny, tiny_network
from tests.experiments.runs import full_simulations_test

SEEDS = (3, 0)
DIGITS = tiny.load_digits(50)
PROTOCOL = simulations.Protocol(
  model="tiny",
  options=methods.Options(),
  seeds=SEEDS,
  batch_size=4,
  learning_rate=2e-2,
  # Six members on two devices: all are trained at once.
  members_per_chunk=3,
)
# Of strengths: one at which float32 overflows, and one at which it does not.
OVERFLOWS = {1e38: True, 1e20: False}


@pytest.fixture(autouse=True, scope="module")
def _small_networks():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "tiny", tiny.MODEL)
    patch.setattr(
      full_simulations.networks,
      "make",
      lambda *args, **kwargs: tiny_network.NETWORK,
    )
    with jax.default_matmul_precision("highest"):
      yield


def few_shot(method, strength):
  """Trains cells of strength 1, this one and 10 at once; their metrics."""
  cells = [simulations.Cell(1, method, s, 3) for s in (1.0, strength, 10.0)]
  outcomes = simulations.run(cells, DIGITS, PROTOCOL, tick=lambda *_: None)
  return [outcome.metrics for _, outcome in outcomes]


def full_data(method, strength, folder):
  """The same of whole datasets."""
  cells = [full_simulations.Cell(method, s) for s in (1.0, strength, 10.0)]
  protocol = full_simulations_test.PROTOCOL._replace(
    seeds=SEEDS, epochs=2, members_per_chunk=3
  )
  outcomes = full_simulations.run(
    cells,
    full_simulations_test.DIGITS,
    protocol,
    full_simulations_test.make_store(folder, protocol),
    found={},
    tick=lambda *_: None,
  )
  return [outcome.metrics for _, outcome in outcomes]


def check(poisoned, healthy, *, fails):
  for metrics in healthy:
    np.testing.assert_array_equal(metrics["failed_step"], -1)
  assert np.all((poisoned[1]["failed_step"] >= 0) == fails)
  assert np.any(
    poisoned[1]["train_loss_curve"] != healthy[1]["train_loss_curve"]
  )
  for place in (0, 2):
    assert poisoned[place].keys() == healthy[place].keys()
    for name, values in healthy[place].items():
      np.testing.assert_array_equal(poisoned[place][name], values, name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ("bean1", "bean2", "l1", "group_lasso"))
def test_few_shot(method):
  healthy = few_shot(method, 5.0)
  for strength, fails in OVERFLOWS.items():
    check(few_shot(method, strength), healthy, fails=fails)


@pytest.mark.slow
@pytest.mark.parametrize("method", ("bean1", "bean2", "l1"))
def test_full_data(method, tmp_path):
  def train(strength):
    folder = tmp_path / f"{strength}"
    folder.mkdir()
    return full_data(method, strength, folder)

  healthy = train(5.0)
  for strength, fails in OVERFLOWS.items():
    check(train(strength), healthy, fails=fails)
