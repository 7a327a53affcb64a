"""A member whose numbers overflow disturbs no other of its chunk."""

import numpy as np
import pytest

from tests.experiments.population import simulations_test as simulations
from tests.experiments.population.simulations_test import _tiny_networks

__all__ = ["_tiny_networks"]

# Of strengths: one at which float32 overflows, and one at which it does not.
OVERFLOWS = {1e38: True, 1e20: False}


@pytest.mark.slow
@pytest.mark.parametrize("method", ("bean1", "bean2", "l1", "group_lasso"))
@pytest.mark.parametrize("kind", simulations.KINDS)
def test_poison(kind, method, tmp_path):
  """Beside strengths 1 and 10, all twelve members at once on two devices."""

  def train(strength):
    planned = simulations.make_cells(kind, 1.0, strength, 10.0, method=method)
    folder = tmp_path / f"{strength}"
    outcomes = simulations.run(folder, kind, planned, members_per_chunk=6)
    return [outcomes[cell].metrics for cell in planned]

  healthy = train(5.0)
  for metrics in healthy:
    np.testing.assert_array_equal(metrics["failed_step"], -1)
  for strength, fails in OVERFLOWS.items():
    poisoned = train(strength)
    assert np.all((poisoned[1]["failed_step"] >= 0) == fails)
    assert np.any(
      poisoned[1]["train_loss_curve"] != healthy[1]["train_loss_curve"]
    )
    for place in (0, 2):
      assert poisoned[place].keys() == healthy[place].keys()
      for name, values in healthy[place].items():
        np.testing.assert_array_equal(poisoned[place][name], values, name)
