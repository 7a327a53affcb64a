"""Tests of experiments.account.spread."""

import numpy as np
import pytest

from experiments.account import spread
from tests.experiments.account import claims_test


def with_other_seeds(accuracies, *, without_test=()):
  """Records of two groups of seeds, from {(method, shots): (mean, mean)}."""
  first, second = (
    claims_test.few_shot(
      {place: means[group] for place, means in accuracies.items()}
    ).few_shot["mnist"]
    for group in (0, 1)
  )
  chosen = second.evaluation
  for record in chosen:
    record["seeds"] = [100 + seed for seed in record["seeds"]]
    record["metrics"] = {
      name: values
      for name, values in record["metrics"].items()
      if name not in without_test
    }
  # The others of each grid are worse than any that was chosen.
  others = [
    record
    | {
      "metrics": dict.fromkeys(
        record["metrics"], [0.1] * len(claims_test.SEEDS)
      )
    }
    for record in second.selection
    if record["config"] not in [other["config"] for other in chosen]
  ]
  return {"mnist": first._replace(selection=[*chosen, *others])}


ACCURACIES = {("vanilla", 1): (0.40, 0.43), ("bean1", 1): (0.45, 0.46)}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_difference_of_the_groups(split):
  missing = ("test_accuracy_last",) if split == "validation" else ()
  records = with_other_seeds(ACCURACIES, without_test=missing)
  vanilla, gain = spread.spreads(records)
  assert (vanilla.name, gain.name) == ("vanilla", "bean1")
  assert (vanilla.split, gain.split) == (split, split)
  np.testing.assert_allclose(vanilla.difference.mean, -0.03)
  np.testing.assert_allclose(gain.evaluated.mean, 0.05)
  np.testing.assert_allclose(gain.selecting.mean, 0.03)
  np.testing.assert_allclose(gain.difference.mean, 0.02)
  assert gain.difference.low < 0.02 < gain.difference.high
  text = spread.table([vanilla, gain])
  assert "-3.0 [-3.0, -3.0]" in text
  assert f"| {split} " in text


def test_nothing_is_said_without_records():
  assert spread.sentence([]) == ""
