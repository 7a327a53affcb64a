"""Tests of experiments.tables.protocols: what is chosen, and what reported."""

import numpy as np
import pytest

from experiments.learning import methods
from experiments.tables import protocols
from tests.experiments.tables import made

LOST = [None, None, None]


def test_strict_strength_is_best_over_all_shots_with_the_whole_grid():
  # The best value at 1 shot (the first) is not that of the mean (the third).
  selection = [
    *made.grid("bean1", (0.6, 0.1, 0.5, 0.1, 0.1), shots=1),
    *made.grid("bean1", (0.1, 0.2, 0.7, 0.1, 0.1), shots=5),
    made.record("vanilla", choice=0.9),
  ]
  strengths = protocols.best_strengths("strict", selection)
  assert strengths == {"bean1": 10.0, "vanilla": 0.0}
  whole = made.grid("bean1", (0.1, 0.2, 0.3, 0.4, 0.1), shots=1)
  part = made.grid("bean1", (0.9, 0.1, 0.1, 0.1, 0.1), shots=5)[:4]
  assert protocols.best_strengths("strict", whole + part) == {"bean1": 30.0}
  assert protocols.best_strengths("strict", part) == {}
  assert protocols.with_whole_grid([*part, *whole, selection[-1]]) == [
    *(*whole, selection[-1])
  ]
  # By any accuracy: that of the best epoch is best with the last alpha.
  for record, accuracy in zip(whole, (0.3, 0.2, 0.1, 0.1, 0.4), strict=True):
    record["metrics"]["validation_accuracy"] = [accuracy] * 3
  best = protocols.best_strengths("paper", whole)
  assert best == {"bean1": methods.METHODS["bean1"].grid[-1]}
  # Nor are values chosen of which all failed.
  whole[3]["metrics"]["validation_accuracy_last"] = LOST
  assert protocols.best_strengths("strict", whole) == {"bean1": 10.0}


@pytest.fixture
def records():
  """BEAN-1 is better by 0.1, 0.2, 0.0 where chosen for each number of shots."""
  grid = methods.METHODS["bean1"].grid
  return protocols.Records(
    selection=[
      made.record("vanilla"),
      *made.grid("bean1", (0.1, 0.2, 0.3, 0.4, 0.5)),
    ],
    evaluation=[
      made.record("vanilla", test=(0.4, 0.4, 0.4), last=(0.3, 0.2, 0.1)),
      *(
        made.record("bean1", alpha, last=(0.4, 0.4, alpha / 1000))
        for alpha in grid
      ),
    ],
    chosen=[
      made.record("vanilla", test=(0.4, 0.4, 0.4)),
      made.record("bean1", 1.0, test=(0.5, 0.6, 0.4)),
    ],
  )


def test_paper_protocol_reports_the_chosen_cells(records):
  found = protocols.entries("paper", records)
  entry = found["bean1", 1]
  assert entry.accuracies == {0: 0.5, 1: 0.6, 2: 0.4}
  assert (entry.strength, entry.at_edge, entry.num_failed) == (1.0, False, 0)
  np.testing.assert_allclose(entry.gains, [0.1, 0.2, 0.0], atol=1e-12)
  assert not found["vanilla", 1].gains.size


def test_strict_protocol_reports_the_last_epoch_of_the_other_seeds_choice(
  records,
):
  entry = protocols.entries("strict", records)["bean1", 1]
  # The greatest value is the choice of the selection seeds.
  assert (entry.strength, entry.at_edge) == (100.0, True)
  assert entry.accuracies == {0: 0.4, 1: 0.4, 2: 0.1}
  np.testing.assert_allclose(entry.gains, [0.1, 0.2, 0.0], atol=1e-12)


def test_strict_protocol_takes_what_is_given_instead(records):
  strengths = {"bean1": 10.0}
  entry = protocols.entries("strict", records, strengths)["bean1", 1]
  assert (entry.strength, entry.at_edge) == (10.0, False)
  assert entry.accuracies == {0: 0.4, 1: 0.4, 2: 0.01}
  # Validation images choose in the other.
  entry = protocols.entries("paper", records, strengths)["bean1", 1]
  assert entry.strength == 1.0


def test_failed_simulations_are_left_out_and_counted(records):
  records.chosen[1] = made.record("bean1", 1.0, test=(0.5, None, 0.4))
  entry = protocols.entries("paper", records)["bean1", 1]
  assert entry.accuracies == {0: 0.5, 2: 0.4}
  assert (entry.num_failed, entry.gains.size) == (1, 2)
