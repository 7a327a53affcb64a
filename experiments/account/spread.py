"""How far results depend on which 20 seeds were drawn.

Table 1 is evaluated with one group of seeds, and the strict protocol chooses
with another. Both trained the same cells, so what they say of the same strength
after the last epoch tells how far 20 seeds scatter.
"""

from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.tables import comparison, markdown, paper, stats, summary
from experiments.tables.protocols import Records, best_strengths


class Spread(NamedTuple):
  """One quantity of two groups of seeds."""

  dataset: str  # Its name in `paper.TABLE1`.
  shots: int  # Training images of each class.
  name: str  # "vanilla", whose accuracy it is, or a method, whose gain it is.
  strength: float  # The hyper-parameter, 0 for vanilla.
  split: str  # "test", or "validation" where a record has no test accuracies.
  evaluated: stats.Interval  # By the seeds that are reported.
  selecting: stats.Interval  # By the seeds that choose.
  difference: stats.Interval  # Of their means, `evaluated` less `selecting`.


def spreads(few_shot: Mapping[str, Records]) -> list[Spread]:
  """Compares both groups of seeds of Table 1, by dataset, in what both have.

  Vanilla's accuracy, and BEAN's gains at the strengths of the strict protocol.
  """
  found = []
  for dataset, records in few_shot.items():
    strengths = best_strengths("strict", records.selection)
    by_place = [
      {
        (
          r["config"]["method"],
          r["config"]["shots"],
          methods.strength(r["config"]),
        ): r
        for r in group
      }
      for group in (records.evaluation, records.selection)
    ]
    names = ("vanilla", *comparison.BEAN)
    for shots, name in itertools.product(
      paper.TABLE1[dataset]["vanilla"], names
    ):
      strength = strengths.get(name, 0.0)
      places = [(name, shots, strength), ("vanilla", shots, 0.0)]
      if all(place in group for group in by_place for place in places):
        groups = [[group[place] for place in places] for group in by_place]
        found.append(Spread(dataset, shots, name, strength, *_spread(groups)))
  return found


def _spread(
  groups: Sequence[Sequence[summary.Record]],
) -> tuple[str, stats.Interval, stats.Interval, stats.Interval]:
  """Returns the split and the intervals, of a method and vanilla by group."""
  has_test = all(
    "test_accuracy_last" in record["metrics"]
    for record in itertools.chain(*groups)
  )
  split = "test" if has_test else "validation"
  values = []
  for record, vanilla in groups:
    own, plain = (
      summary.kept(r, f"{split}_accuracy_last") for r in (record, vanilla)
    )
    is_gain = record is not vanilla
    values.append(stats.differences(own, plain) if is_gain else plain)
  evaluated, selecting = map(stats.mean_interval, values)
  return split, evaluated, selecting, stats.difference_interval(*values)


def sentence(found: Sequence[Spread]) -> str:
  """Says how far the groups differ, "" if there are none."""
  parts = []
  for is_gain, quantity in ((False, "vanilla's accuracy"), (True, "the gains")):
    rows = [s for s in found if (s.name != "vanilla") == is_gain]
    if rows:
      root = np.sqrt(np.mean([s.difference.mean**2 for s in rows]))
      outside = sum(s.difference.low > 0 or s.difference.high < 0 for s in rows)
      parts.append(
        f"{quantity} by {100 * root:.1f} points in the root mean square, and "
        f"with an interval without 0 in {outside} of {len(rows)}"
      )
  if not parts:
    return ""
  return f"The two groups of seeds differ in {'; in '.join(parts)}."


def table(found: Sequence[Spread]) -> str:
  """Formats spreads as a Markdown table."""
  head = ["dataset", "shots", "of", "split"]
  head += ["evaluated seeds", "selecting seeds", "difference"]
  rows = []
  for s in found:
    quantity, form = "accuracy", ".1f"
    if s.name != "vanilla":
      quantity, form = f"gain, alpha {s.strength:g}", "+.1f"
    rows.append(
      [
        paper.title(s.dataset),
        str(s.shots),
        f"{methods.METHODS[s.name].title}, {quantity}",
        s.split,
        summary.percent(s.evaluated, form),
        summary.percent(s.selecting, form),
        summary.percent(s.difference, "+.1f"),
      ]
    )
  return markdown.table(head, rows)
