"""Table 1 from its records: methods against shots, under two protocols.

The paper's protocol chooses hyper-parameter and epoch on validation images, for
each number of shots. The strict one takes the last epoch, and for each method
one value of its hyper-parameter for all shots, chosen with other seeds.
"""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.learning.options import IMITATION_OPTIONS
from experiments.records import results
from experiments.tables import canvas, figures, markdown, paper, stats, summary

PROTOCOLS = {
  "paper": "hyper-parameter and epoch chosen on 10,000 validation images, for "
  "each number of shots",
  "strict": "last epoch; one hyper-parameter for all shots, chosen with other "
  "seeds",
}
_METRICS = {"paper": "test_accuracy", "strict": "test_accuracy_last"}
NOT_RUN = "not run"
BEAN = ("bean1", "bean2")


class Entry(NamedTuple):
  """One method at one number of shots, its hyper-parameter chosen.

  Attributes:
    accuracies: Test accuracy by seed, without the simulations that failed.
    strength: The hyper-parameter, None if the method has none.
    at_edge: Whether that is the least or the greatest value that was tried.
    num_failed: Simulations that failed.
    difference: To the method's baseline, paired by seed; None for vanilla, or
      without the baseline.
    reference: Test accuracy by seed of the model that an imitation network
      imitates; {} for other methods.
  """

  accuracies: Mapping[int, float]
  strength: float | None
  at_edge: bool
  num_failed: int
  difference: stats.PairedDifference | None
  reference: Mapping[int, float]


Entries = dict[tuple[str, int], Entry]


class Records(NamedTuple):
  """What was trained on one dataset.

  Attributes:
    selection: Every cell, with the seeds that choose for the strict protocol.
    evaluation: Every cell, with the seeds that are reported.
    chosen: Cells like those which the evaluation chooses, validated after every
      epoch.
  """

  selection: list[summary.Record]
  evaluation: list[summary.Record]
  chosen: list[summary.Record]


def joined(first: Records | None, second: Records) -> Records:
  """Puts the records of two numbers of shots together."""
  if first is None:
    return second
  return Records(*(a + b for a, b in zip(first, second, strict=True)))


def strict_strengths(
  selection: Sequence[summary.Record],
) -> dict[str, float | None]:
  """Chooses one value of each method's hyper-parameter for all shots.

  Args:
    selection: Records of the seeds that choose, of one dataset.

  Returns:
    For each method the value of best accuracy on validation images after the
    last epoch, in the mean over the numbers of shots at which all its values
    were tried. Methods without such a number are left out.
  """
  by_method: dict[str, dict[float | None, dict[int, float]]] = {}
  for record in selection:
    accuracies = summary.kept(record, "validation_accuracy_last")
    tried = by_method.setdefault(record["config"]["method"], {})
    tried.setdefault(summary.strength(record), {})[
      record["config"]["shots"]
    ] = summary.mean(accuracies) if accuracies else 0.0
  chosen = {}
  for method, tried in by_method.items():
    grid = methods.METHODS[method].grid if None not in tried else [None]
    shots = set.intersection(*(set(tried.get(value, {})) for value in grid))
    if shots:
      chosen[method] = max(
        grid, key=lambda v, t=tried, s=shots: np.mean([t[v][n] for n in s])
      )
  return chosen


def entries(
  protocol: str,
  records: Records,
) -> Entries:
  """Picks the records that a protocol reports.

  Args:
    protocol: One of `PROTOCOLS`.
    records: Of one dataset.

  Returns:
    {(method, shots): Entry}; what was not run, or has no choice yet, is left
    out.
  """
  if protocol == "paper":
    picked = records.chosen
  else:
    strengths = strict_strengths(records.selection)
    picked = [
      record
      for record in records.evaluation
      if record["config"]["method"] in strengths
      and summary.strength(record) == strengths[record["config"]["method"]]
    ]
  by_place = {
    (record["config"]["method"], record["config"]["shots"]): record
    for record in picked
  }
  return {
    (name, shots): _entry(
      record, by_place.get((methods.METHODS[name].baseline, shots)), protocol
    )
    for (name, shots), record in by_place.items()
  }


def with_whole_grid(
  records: Sequence[summary.Record],
) -> list[summary.Record]:
  """Picks the records of those methods and shots whose whole grid was run."""
  tried: dict[tuple[str, int], set] = {}
  for record in records:
    place = record["config"]["method"], record["config"]["shots"]
    tried.setdefault(place, set()).add(summary.strength(record))

  def is_whole(record: summary.Record) -> bool:
    method = methods.METHODS[record["config"]["method"]]
    place = record["config"]["method"], record["config"]["shots"]
    return method.hparam is None or tried[place] >= set(method.grid)

  return [record for record in records if is_whole(record)]


def _entry(
  record: summary.Record, baseline: summary.Record | None, protocol: str
) -> Entry:
  name = record["config"]["method"]
  strength = summary.strength(record)
  grid = methods.METHODS[name].grid
  accuracies = summary.kept(record, _METRICS[protocol])
  difference = None
  if baseline is not None and name != "vanilla":
    others = summary.kept(baseline, _METRICS[protocol])
    if accuracies.keys() & others:
      _, values, others = stats.align(accuracies, others)
      difference = stats.paired_difference(values, others)
  reference = {}
  if "test_accuracy_reference" in record["metrics"]:
    reference = summary.kept(record, "test_accuracy_reference")
  return Entry(
    accuracies,
    strength,
    strength is not None and strength in (min(grid), max(grid)),
    len(record["seeds"]) - len(accuracies),
    difference,
    reference,
  )


def table(
  found: Entries, names: Sequence[str], shots: Sequence[int], dataset: str
) -> list[list[str]]:
  """Lays out methods against shots, as in the paper.

  Args:
    found: What `entries` returned.
    names: Rows, names in `methods.METHODS`.
    shots: Columns.
    dataset: Of the records, whose numbers in the paper stand in brackets.

  Returns:
    Rows of text, the header first. The best mean of a column is marked by
    "**", the second best by "__".
  """
  ranks = {number: _ranked(found, names, number) for number in shots}
  rows = [["method", *(f"{number}-shot" for number in shots)]]
  for name in names:
    row = [methods.METHODS[name].title]
    for number in shots:
      entry = found.get((name, number))
      printed = paper.TABLE1.get(dataset, {}).get(name, {}).get(number)
      theirs = f" ({printed:.2f})" if printed is not None else ""
      if entry is None or not entry.accuracies:
        row.append(NOT_RUN + theirs)
        continue
      text = summary.percent(_interval(entry), ".1f")
      mark = {0: "**", 1: "__"}.get(ranks[number].index(name), "")
      row.append(f"{mark}{text}{mark}{theirs}")
    rows.append(row)
  return rows


def details(
  found: Entries, names: Sequence[str], shots: Sequence[int], dataset: str
) -> list[list[str]]:
  """Lists every entry with all its statistics.

  Args:
    found: As in `table`.
    names: As in `table`.
    shots: As in `table`.
    dataset: As in `table`.

  Returns:
    Rows of text, the header first. Under an imitation network stands the model
    that it imitates.
  """
  rows = [
    [
      "shots",
      "method",
      "hyper-parameter",
      "mean",
      "interquartile mean",
      "difference to vanilla",
      "seeds won",
      "failed",
      "paper",
    ]
  ]
  for number in shots:
    for name in names:
      entry = found.get((name, number))
      if entry is not None:
        rows.append([str(number), *_detail(name, entry, number, dataset)])
        if entry.reference:
          rows.append([str(number), *_reference(entry)])
  return rows


def _detail(name: str, entry: Entry, shots: int, dataset: str) -> list[str]:
  method = methods.METHODS[name]
  strength = ""
  if method.hparam:
    strength = f"{method.hparam} {entry.strength:g}" + " (edge)" * entry.at_edge
  mean = middle = difference = wins = ""
  if entry.accuracies:
    mean = summary.percent(_interval(entry), ".2f")
    values = list(entry.accuracies.values())
    middle = f"{100 * stats.interquartile_mean(values):.2f}"
  if entry.difference is not None:
    difference = summary.percent(entry.difference.interval, "+.2f")
    difference += _baseline_note(method)
    wins = f"{entry.difference.wins} of {entry.difference.num_pairs}"
  printed = paper.TABLE1.get(dataset, {}).get(name, {}).get(shots)
  theirs = "" if printed is None else f"{printed:.2f}"
  return [
    method.title,
    strength,
    mean,
    middle,
    difference,
    wins,
    str(entry.num_failed),
    theirs,
  ]


def head_to_head(
  found: Entries, names: Sequence[str], shots: Sequence[int]
) -> list[list[str]]:
  """Compares BEAN with every other method, paired by seed.

  Args:
    found: As in `table`.
    names: Methods of the run, names in `methods.METHODS`.
    shots: As in `table`.

  Returns:
    Rows of text, the header first: differences of test accuracy with 95 %
    intervals, marked by "**" where 0 is outside. Only the header, if there is
    nothing to compare.
  """
  orders = [name for name in names if name in BEAN]
  others = [name for name in names if name not in BEAN]
  titles = [f"minus {methods.METHODS[name].title}" for name in others]
  rows = [["shots", "method", *titles]]
  for number in shots:
    for name in orders:
      entry = found.get((name, number))
      differences = [
        _difference(entry, found.get((other, number))) for other in others
      ]
      if any(differences):
        title = methods.METHODS[name].title
        rows.append([str(number), title, *differences])
  return rows


def _difference(first: Entry | None, second: Entry | None) -> str:
  if first is None or second is None:
    return ""
  if not first.accuracies.keys() & second.accuracies.keys():
    return ""
  _, values, others = stats.align(first.accuracies, second.accuracies)
  interval = stats.paired_difference(values, others).interval
  text = summary.percent(interval, "+.1f")
  return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def _reference(entry: Entry) -> list[str]:
  values = list(entry.reference.values())
  return [
    "the Gaussian process that they imitate",
    "",
    summary.percent(stats.mean_interval(values), ".2f"),
    f"{100 * stats.interquartile_mean(values):.2f}",
    *[""] * 4,
  ]


def imitation_note(records: Sequence[summary.Record]) -> str:
  """Says in a sentence how large imitation networks' training was.

  Args:
    records: Records of one dataset.

  Returns:
    The sentence, "" if there are none.
  """
  sizes = {
    tuple(record["config"][name] for name in IMITATION_OPTIONS)
    for record in records
    if record["config"].keys() >= set(IMITATION_OPTIONS)
  }
  # The authors' of imitation networks.
  usual = methods.Options()
  return " ".join(
    f"Imitation networks: {first} pseudo examples at first, {last} at last, in "
    f"{periods} periods of {epochs} epochs (their authors: "
    f"{usual.first_pseudo:,} to {usual.last_pseudo:,})."
    for first, last, periods, epochs in sorted(sizes)
  )


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
  """Formats rows as a Markdown table, second best underlined."""
  marked = [[_paired(text, "__", "<u>", "</u>") for text in r] for r in rows]
  return markdown.table(marked[0], marked[1:])


def to_latex(rows: Sequence[Sequence[str]]) -> str:
  """Formats rows as a LaTeX tabular, which needs the package booktabs."""
  body = [" & ".join(row) + r" \\" for row in rows]
  text = "\n".join(
    [
      rf"\begin{{tabular}}{{l{'c' * (len(rows[0]) - 1)}}}",
      r"\toprule",
      body[0],
      r"\midrule",
      *body[1:],
      r"\bottomrule",
      r"\end{tabular}",
    ]
  )
  text = _paired(text, "**", r"\textbf{", "}")
  return _paired(text, "__", r"\underline{", "}")


def write(
  found: Mapping[str, Records],
  names: Sequence[str],
  shots: Sequence[int],
  directory: pathlib.Path,
) -> str:
  """Writes the tables of all datasets and protocols, table.md and table.tex.

  Args:
    found: Records by dataset.
    names: Rows, names in `methods.METHODS`.
    shots: Columns.
    directory: Folder that exists.

  Returns:
    The text of `table.md`.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  text = [_HEADER]
  tex = ["% Means over seeds in percent with 95 % bootstrap intervals; the"]
  tex += ["% paper's numbers in brackets; best in bold, second underlined."]
  printed = paper.TABLE1["mnist"]
  groups = {
    "Methods of the paper": [n for n in names if n in printed],
    "Methods beyond the paper": [n for n in names if n not in printed],
  }
  for dataset, records in found.items():
    for protocol, meaning in PROTOCOLS.items():
      picked = entries(protocol, records)
      text.append(f"## {paper.title(dataset)}, protocol {protocol}: {meaning}")
      for title, group in groups.items():
        if group:
          rows = table(picked, group, shots, dataset)
          text += [f"### {title}", to_markdown(rows)]
          heading = f"% {paper.title(dataset)}, protocol {protocol}: {title}"
          tex += [heading, to_latex(rows)]
      rows = details(picked, names, shots, dataset)
      if len(rows) > 1:
        text += ["### Details", to_markdown(rows)]
      orders = [name for name in names if name in BEAN]
      for title, group in groups.items():
        others = [name for name in group if name not in BEAN]
        rows = head_to_head(picked, [*orders, *others], shots)
        if len(rows) > 1:
          text += [f"### BEAN against {title.lower()}", to_markdown(rows)]
      if note := imitation_note(records.evaluation):
        text.append(note)
  everything = [*itertools.chain(*itertools.chain(*found.values()))]
  if note := results.mixed_versions(everything):
    text.append(note)
  whole = "\n\n".join(text) + "\n"
  results.write_bytes(directory / "table.md", whole.encode())
  results.write_bytes(directory / "table.tex", ("\n".join(tex) + "\n").encode())
  return whole


def draw(
  found: Mapping[str, Records], names: Sequence[str], directory: pathlib.Path
) -> None:
  """Draws all datasets and protocols.

  For each dataset `accuracy_against_shots_*.png` and `gains_*.png` of each
  protocol and `sensitivity_*.png` of each method.

  Args:
    found: Records by dataset.
    names: Names in `methods.METHODS`.
    directory: Folder that exists.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  # The others would be more than a reader tells apart.
  few = [name for name in names if name in paper.TABLE1["mnist"]]
  for dataset, records in found.items():
    for protocol in PROTOCOLS:
      picked = entries(protocol, records)
      for kind, function, drawn in (
        ("accuracy_against_shots", draw_shots, few),
        ("gains", _draw_gains, names),
      ):
        path = directory / f"{kind}_{dataset}_{protocol}.png"
        with canvas.attempt(path):
          function(path, picked, drawn, dataset, protocol)
    for name in names:
      path = directory / f"sensitivity_{dataset}_{name}.png"
      with canvas.attempt(path):
        _draw_sensitivity(path, records.evaluation, name, dataset)


_HEADER = """\
# Few-shot learning from scratch: test accuracy in percent

Means over seeds with 95 % bootstrap intervals; in brackets what the paper
prints. **Best** and <u>second best</u> of each column are marked as there.
Differences are paired by seed, in bold where 0 is outside their interval.
"(edge)": the chosen value is the least or the greatest that was tried; below
the least of weight decay and l1 there is vanilla."""


def _ranked(found: Entries, names: Sequence[str], shots: int) -> list[str]:
  there = [
    name
    for name in names
    if (name, shots) in found and found[name, shots].accuracies
  ]
  return sorted(
    there, key=lambda name: -summary.mean(found[name, shots].accuracies)
  )


def _interval(entry: Entry) -> stats.Interval:
  return stats.mean_interval(list(entry.accuracies.values()))


def _paired(text: str, mark: str, opening: str, closing: str) -> str:
  """Replaces every other mark by what opens, the others by what closes."""
  parts = text.split(mark)
  ends = (opening, closing)
  return parts[0] + "".join(
    ends[index % 2] + part for index, part in enumerate(parts[1:])
  )


def _baseline_note(method: methods.Method) -> str:
  """Names what a method's differences are to, where it is not vanilla."""
  if method.baseline == "vanilla":
    return ""
  return f" (to {methods.METHODS[method.baseline].title})"


def draw_shots(
  path: pathlib.Path,
  found: Entries,
  names: Sequence[str],
  dataset: str,
  protocol: str,
) -> None:
  """Draws test accuracy against the number of shots, if there is any.

  Args:
    path: File to write.
    found: What `entries` returned.
    names: Methods to draw.
    dataset: For the title, as is the next.
    protocol: One of `PROTOCOLS`.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  series = []
  for name in names:
    places = sorted(n for m, n in found if m == name and found[m, n].accuracies)
    if places:
      intervals = [_interval(found[name, number]) for number in places]
      series.append((methods.METHODS[name].title, places, intervals))
  if series:
    figures.accuracy_against_shots(
      path,
      series,
      title=f"{paper.title(dataset)}: test accuracy, protocol {protocol}",
    )


def _draw_gains(
  path: pathlib.Path,
  found: Entries,
  names: Sequence[str],
  dataset: str,
  protocol: str,
) -> None:
  """Draws every method's difference to its baseline, for all shots."""
  series: dict[int, dict[str, stats.Interval]] = {}
  for name in names:
    method = methods.METHODS[name]
    label = method.title + _baseline_note(method)
    for shots in sorted(n for m, n in found if m == name):
      if (difference := found[name, shots].difference) is not None:
        series.setdefault(shots, {})[label] = difference.interval
  if series:
    figures.differences(
      path,
      [(f"{shots}-shot", series[shots]) for shots in sorted(series)],
      title=f"{paper.title(dataset)}: gain over vanilla, protocol {protocol}",
    )


def _draw_sensitivity(
  path: pathlib.Path,
  records: Sequence[summary.Record],
  name: str,
  dataset: str,
) -> None:
  """Draws accuracy against a method's hyper-parameter, for all shots."""
  method = methods.METHODS[name]
  if method.hparam is None:
    return
  by_shots: dict[int, list[tuple[float, summary.Record]]] = {}
  for record in records:
    if record["config"]["method"] == name:
      points = by_shots.setdefault(record["config"]["shots"], [])
      points.append((summary.strength(record), record))
  lines, looks = [], []
  for index, shots in enumerate(sorted(by_shots)):
    for epoch, protocol, look in (
      ("best", "paper", {"linestyle": "-"}),
      ("last", "strict", {"linestyle": "--", "markerfacecolor": "white"}),
    ):
      points = [
        (value, stats.mean_interval(list(accuracies.values())))
        for value, record in by_shots[shots]
        if (accuracies := summary.kept(record, _METRICS[protocol]))
      ]
      if points:
        values, intervals = zip(*points, strict=True)
        lines.append((f"{shots}-shot, {epoch} epoch", values, intervals))
        looks.append(figures.style("", index) | look)
  if lines:
    figures.accuracy_against_hparam(
      path,
      lines,
      title=f"{paper.title(dataset)}: test accuracy of {method.title}",
      xlabel=method.hparam.replace("_", " "),
      looks=looks,
    )
