"""How far results depend on which 20 seeds were drawn.

Table 1 is evaluated with one group of seeds, and the strict protocol chooses
with another. Both trained the same cells, so what they say of the same strength
after the last epoch tells how far 20 seeds scatter.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.tables import comparison, markdown, paper, stats, summary


class Spread(NamedTuple):
  """One quantity of two groups of seeds.

  Attributes:
    dataset: Its name in `paper.TABLE1`.
    shots: Training images of each class.
    name: "vanilla", whose accuracy it is, or a method, whose gain it is.
    strength: The hyper-parameter, None for vanilla.
    split: "test", or "validation" where a record has no test accuracies.
    evaluated: By the seeds that are reported.
    selecting: By the seeds that choose.
    difference: Of their means, `evaluated` less `selecting`.
  """

  dataset: str
  shots: int
  name: str
  strength: float | None
  split: str
  evaluated: stats.Interval
  selecting: stats.Interval
  difference: stats.Interval


def spreads(few_shot: Mapping[str, comparison.Records]) -> list[Spread]:
  """Compares the two groups of seeds.

  Args:
    few_shot: Records of Table 1 by dataset.

  Returns:
    Vanilla's accuracy and BEAN's gains at the strengths of the strict protocol,
    of what both groups have.
  """
  found = []
  for dataset, records in few_shot.items():
    strengths = comparison.strict_strengths(records.selection)
    groups = [_by_place(r) for r in (records.evaluation, records.selection)]
    for shots in paper.TABLE1[dataset]["vanilla"]:
      for name in ("vanilla", *comparison.BEAN):
        strength = strengths.get(name)
        places = [("vanilla", shots, None), (name, shots, strength)]
        if all(place in group for group in groups for place in places):
          cells = [[group[place] for place in places] for group in groups]
          found.append(_spread(dataset, shots, name, strength, cells))
  return found


def _by_place(
  records: list[summary.Record],
) -> dict[tuple[str, int, float | None], summary.Record]:
  return {
    (r["config"]["method"], r["config"]["shots"], summary.strength(r)): r
    for r in records
  }


def _spread(
  dataset: str,
  shots: int,
  name: str,
  strength: float | None,
  cells: list[list[summary.Record]],
) -> Spread:
  has_test = all(
    "test_accuracy_last" in record["metrics"]
    for pair in cells
    for record in pair
  )
  split = "test" if has_test else "validation"
  groups = []
  for pair in cells:
    plain, own = (summary.kept(r, f"{split}_accuracy_last") for r in pair)
    if name == "vanilla":
      groups.append(np.array(list(plain.values())))
    else:
      _, values, baseline = stats.align(own, plain)
      groups.append(values - baseline)
  return Spread(
    dataset,
    shots,
    name,
    strength,
    split,
    *(stats.mean_interval(group) for group in groups),
    stats.unpaired_difference(*groups),
  )


def sentence(found: list[Spread]) -> str:
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


def table(found: list[Spread]) -> str:
  """Formats spreads as a Markdown table."""
  header = (
    "dataset",
    "shots",
    "of",
    "split",
    "evaluated seeds",
    "selecting seeds",
    "difference",
  )
  rows = []
  for s in found:
    title = methods.METHODS[s.name].title
    if s.name == "vanilla":
      forms = "accuracy", ".1f"
    else:
      forms = f"gain, alpha {s.strength:g}", "+.1f"
    rows.append(
      (
        paper.title(s.dataset),
        str(s.shots),
        f"{title}, {forms[0]}",
        s.split,
        summary.percent(s.evaluated, forms[1]),
        summary.percent(s.selecting, forms[1]),
        summary.percent(s.difference, "+.1f"),
      )
    )
  return markdown.table(header, rows)
