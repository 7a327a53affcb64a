"""The two protocols of Table 1: which records they report.

The paper's protocol chooses hyper-parameter and epoch on validation images, for
each number of shots. The strict one takes the last epoch, and for each method
one value of its hyper-parameter for all shots, chosen with other seeds.

Where the grid of a method was tried at some numbers of shots alone, both take
what these choose at the others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.tables import stats, summary

PROTOCOLS = {
  "paper": "hyper-parameter and epoch chosen on 10,000 validation images, for "
  "each number of shots",
  "strict": "last epoch; one hyper-parameter for all shots, chosen with other "
  "seeds",
}
_METRICS = {"paper": "test_accuracy", "strict": "test_accuracy_last"}
_CHOSEN_BY = {
  "paper": "validation_accuracy",
  "strict": "validation_accuracy_last",
}


class Entry(NamedTuple):
  """One method at one number of shots, its hyper-parameter chosen."""

  # Test accuracy by seed, without the simulations that failed.
  accuracies: stats.BySeed
  strength: float  # The hyper-parameter, 0 if the method has none.
  # Whether that is the least or the greatest value that was tried.
  at_edge: bool
  num_failed: int  # Simulations that failed.
  # Differences to the method's baseline, paired by seed [num_pairs]; none for
  # vanilla, or without the baseline.
  gains: np.ndarray
  # Test accuracy by seed of the model that an imitation network imitates; {}
  # for other methods.
  reference: stats.BySeed


Entries = dict[tuple[str, int], Entry]


class Records(NamedTuple):
  """What was trained on one dataset."""

  # Every cell, with the seeds that choose for the strict protocol.
  selection: list[summary.Record]
  # Every cell, with the seeds that are reported.
  evaluation: list[summary.Record]
  # Cells like those which the evaluation chooses, validated after every epoch.
  chosen: list[summary.Record]


def best_strengths(
  protocol: str, records: Sequence[summary.Record]
) -> dict[str, float]:
  """Chooses one value of each method's hyper-parameter for all shots.

  That of best accuracy on validation images, after the best epoch (paper) or
  the last (strict), in the mean over the numbers of shots at which the whole
  grid was tried, if there are.
  """
  by_method: dict[str, dict[int, dict[float, float]]] = {}
  for record in records:
    config = record["config"]
    accuracies = summary.kept(record, _CHOSEN_BY[protocol])
    by_shots = by_method.setdefault(config["method"], {})
    tried = by_shots.setdefault(config["shots"], {})
    tried[methods.strength(config)] = (
      summary.mean(accuracies) if accuracies else 0.0
    )
  chosen = {}
  for name, by_shots in by_method.items():
    grid = methods.METHODS[name].grid
    whole = [tried for tried in by_shots.values() if tried.keys() >= set(grid)]
    if whole:
      chosen[name] = max(
        grid, key=lambda v, w=whole: np.mean([tried[v] for tried in w])
      )
  return chosen


def with_whole_grid(records: Sequence[summary.Record]) -> list[summary.Record]:
  """Picks the records of those methods and shots whose whole grid was run."""

  def place(record: summary.Record) -> tuple[str, int]:
    return record["config"]["method"], record["config"]["shots"]

  tried: dict[tuple[str, int], set] = {}
  for record in records:
    tried.setdefault(place(record), set()).add(
      methods.strength(record["config"])
    )
  return [
    record
    for record in records
    if tried[place(record)]
    >= set(methods.METHODS[record["config"]["method"]].grid)
  ]


def entries(
  protocol: str,
  records: Records,
  strengths: Mapping[str, float] | None = None,
) -> Entries:
  """Picks the records that one of the `PROTOCOLS` reports, where it has any.

  Of methods whose strength is given, the strict one takes that.
  """
  picked = records.chosen
  if protocol == "strict":
    strengths = best_strengths(protocol, records.selection) | dict(
      strengths or {}
    )
    picked = [
      record
      for record in records.evaluation
      if (name := record["config"]["method"]) in strengths
      and methods.strength(record["config"]) == strengths[name]
    ]
  by_place = {
    (record["config"]["method"], record["config"]["shots"]): record
    for record in picked
  }
  return {
    (name, shots): _entry(
      record,
      by_place.get((methods.METHODS[name].baseline, shots)),
      _METRICS[protocol],
    )
    for (name, shots), record in by_place.items()
  }


def _entry(
  record: summary.Record, baseline: summary.Record | None, metric: str
) -> Entry:
  strength = methods.strength(record["config"])
  method = methods.METHODS[record["config"]["method"]]
  accuracies = summary.kept(record, metric)
  others = {} if baseline is None else summary.kept(baseline, metric)
  reference = {}
  if "test_accuracy_reference" in record["metrics"]:
    reference = summary.kept(record, "test_accuracy_reference")
  return Entry(
    accuracies,
    strength,
    method.hparam is not None
    and strength in (min(method.grid), max(method.grid)),
    len(record["seeds"]) - len(accuracies),
    stats.differences(accuracies, others),
    reference,
  )
