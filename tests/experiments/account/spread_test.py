"""Tests of experiments.account.spread."""

import numpy as np
import pytest

from experiments.account import spread
from tests.experiments.account import findings_test

# {(method, shots): mean accuracy} by the seeds reported, and those that choose.
EVALUATED = {("vanilla", 1): 0.40, ("bean1", 1): 0.45}
SELECTING = {("vanilla", 1): 0.43, ("bean1", 1): 0.46}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_difference_of_the_groups(split):
  first, second = (
    findings_test.few_shot(accuracies).few_shot["mnist"]
    for accuracies in (EVALUATED, SELECTING)
  )
  for record in (*first.evaluation, *second.selection):
    metrics = record["metrics"]
    # The choice is among equals, and so the first of each grid.
    metrics["validation_accuracy_last"] = metrics["test_accuracy_last"]
    if split == "validation":
      del metrics["test_accuracy_last"]
  for record in second.selection:
    record["seeds"] = [100 + seed for seed in record["seeds"]]
  records = first._replace(selection=second.selection)
  vanilla, gain = spread.spreads({"mnist": records})
  assert (vanilla.name, gain.name) == ("vanilla", "bean1")
  assert (vanilla.split, gain.split) == (split, split)
  np.testing.assert_allclose(vanilla.difference.mean, -0.03)
  np.testing.assert_allclose(gain.evaluated.mean, 0.05)
  np.testing.assert_allclose(gain.selecting.mean, 0.03)
  np.testing.assert_allclose(gain.difference.mean, 0.02)
  assert gain.difference.low < 0.02 < gain.difference.high
  assert "-3.0 [-3.0, -3.0]" in spread.table([vanilla, gain])


def test_nothing_is_said_without_records():
  assert spread.sentence([]) == ""
