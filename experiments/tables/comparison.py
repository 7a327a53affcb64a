"""Table 1 and its figures: methods against shots, under both protocols."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
import re

from experiments.learning import methods
from experiments.learning.options import IMITATION_OPTIONS
from experiments.records import results
from experiments.tables import (
  canvas,
  figures,
  markdown,
  paper,
  stats,
  summary,
  versions,
)
from experiments.tables.protocols import (
  PROTOCOLS,
  Entries,
  Records,
  entries,
  with_whole_grid,
)

NOT_RUN = "not run"
BEAN = ("bean1", "bean2")

Rows = list[list[str]]


def table(
  found: Entries, names: Sequence[str], shots: Sequence[int], dataset: str
) -> Rows:
  """Lays out methods against shots as the paper does, with its numbers.

  Marks the best mean of a column by "**", the second best by "__".
  """
  rows = [["method", *(f"{number}-shot" for number in shots)]]
  marks = {number: _marks(found, names, number) for number in shots}
  for name in names:
    row = [methods.METHODS[name].title]
    for number in shots:
      text = NOT_RUN
      if (entry := found.get((name, number))) and entry.accuracies:
        mark = marks[number].get(name, "")
        text = f"{mark}{summary.mean_percent(entry.accuracies, '.1f')}{mark}"
      row.append(text + paper.printed(dataset, name, number, " ({:.2f})"))
    rows.append(row)
  return rows


def _marks(found: Entries, names: Sequence[str], shots: int) -> dict[str, str]:
  there = {n: found[n, shots].accuracies for n in names if (n, shots) in found}
  ranked = sorted(
    filter(there.get, there), key=lambda name: -summary.mean(there[name])
  )
  return dict(zip(ranked, ("**", "__"), strict=False))


def details(
  found: Entries, names: Sequence[str], shots: Sequence[int], dataset: str
) -> Rows:
  """Lists every entry with all its statistics.

  Under an imitation network stands the model that it imitates.
  """
  head = ["shots", "method", "hyper-parameter", "mean", "interquartile mean"]
  rows = [[*head, "difference to vanilla", "seeds won", "failed", "paper"]]
  for number, name in itertools.product(shots, names):
    if (entry := found.get((name, number))) is None:
      continue
    method = methods.METHODS[name]
    strength = difference = ""
    if method.hparam:
      strength = f"{method.hparam} {entry.strength:g}"
      strength += " (edge)" * entry.at_edge
    if entry.gains.size:
      difference = summary.mean_percent(entry.gains, "+.2f")
      difference += baseline_note(method)
    rows.append(
      [
        *(str(number), method.title, strength, *_means(entry.accuracies)),
        *(difference, summary.won(entry.gains), str(entry.num_failed)),
        paper.printed(dataset, name, number),
      ]
    )
    if entry.reference:
      title = "the Gaussian process that they imitate"
      means = _means(entry.reference)
      rows.append([str(number), title, "", *means, "", "", "", ""])
  return rows


def _means(values: stats.BySeed) -> tuple[str, str]:
  """Formats the mean and the interquartile mean."""
  if not values:
    return "", ""
  middle = 100 * stats.interquartile_mean(values)
  return summary.mean_percent(values, ".2f"), f"{middle:.2f}"


def baseline_note(method: methods.Method) -> str:
  """Names what a method's differences are to, where it is not vanilla."""
  baseline = methods.METHODS.get(method.baseline or "")
  return f" (to {baseline.title})" if baseline and baseline.baseline else ""


def head_to_head(
  found: Entries, names: Sequence[str], shots: Sequence[int]
) -> Rows:
  """Compares BEAN with every other one of the methods, paired by seed.

  "**" marks differences with 0 outside of their interval.
  """
  others = [name for name in names if name not in BEAN]
  titles = [f"minus {methods.METHODS[name].title}" for name in others]
  rows = [["shots", "method", *titles]]
  for number in shots:
    for name in BEAN:
      cells = [_difference(found, number, name, other) for other in others]
      if any(cells):
        rows.append([str(number), methods.METHODS[name].title, *cells])
  return rows


def _difference(found: Entries, shots: int, first: str, second: str) -> str:
  own, others = (
    found[name, shots].accuracies if (name, shots) in found else {}
    for name in (first, second)
  )
  gains = stats.differences(own, others)
  if not gains.size:
    return ""
  interval = stats.mean_interval(gains)
  text = summary.percent(interval, "+.1f")
  return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def imitation_note(records: Sequence[summary.Record]) -> str:
  """Says how large imitation networks' training was; "" if there are none."""
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


def to_markdown(rows: Rows) -> str:
  """Formats rows as a Markdown table, second best underlined."""
  head, *body = (
    [re.sub("__(.+?)__", r"<u>\1</u>", cell) for cell in row] for row in rows
  )
  return markdown.table(head, body)


def to_latex(rows: Rows) -> str:
  """Formats rows as a LaTeX tabular, which needs the package booktabs."""
  head, *body = (" & ".join(row) + r" \\" for row in rows)
  columns = "l" + "c" * (len(rows[0]) - 1)
  lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
  text = "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"])
  text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
  return re.sub("__(.+?)__", r"\\underline{\1}", text)


def write(
  found: Mapping[str, Records],
  names: Sequence[str],
  shots: Sequence[int],
  directory: pathlib.Path,
) -> str:
  """Writes table.md and table.tex of all datasets and protocols.

  Returns:
    The text of `table.md`.
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
      heading = f"{paper.title(dataset)}, protocol {protocol}"
      text.append(f"## {heading}: {meaning}")
      picked = entries(protocol, records)
      for title, group in groups.items():
        if group:
          rows = table(picked, group, shots, dataset)
          text += [f"### {title}", to_markdown(rows)]
          tex += [f"% {heading}: {title}", to_latex(rows)]
      sections = {"Details": details(picked, names, shots, dataset)}
      for title, group in groups.items():
        rows = head_to_head(picked, group, shots)
        sections[f"BEAN against {title.lower()}"] = rows
      for title, rows in sections.items():
        if len(rows) > 1:
          text += [f"### {title}", to_markdown(rows)]
      if note := imitation_note(records.evaluation):
        text.append(note)
  everything = [*itertools.chain(*itertools.chain(*found.values()))]
  if note := versions.mixed(everything):
    text.append(note)
  whole = "\n\n".join(text) + "\n"
  results.write_bytes(directory / "table.md", whole.encode())
  results.write_bytes(directory / "table.tex", ("\n".join(tex) + "\n").encode())
  return whole


_HEADER = """\
# Few-shot learning from scratch: test accuracy in percent

Means over seeds with 95 % bootstrap intervals; in brackets what the paper
prints. **Best** and <u>second best</u> of each column are marked as there.
Differences are paired by seed, in bold where 0 is outside their interval.
"(edge)": the chosen value is the least or the greatest that was tried; below
the least of weight decay and l1 there is vanilla."""


def draw(
  found: Mapping[str, Records], names: Sequence[str], directory: pathlib.Path
) -> None:
  """Draws `accuracy_against_shots_*.png`, `gains_*.png`, `sensitivity_*.png`.

  The first two of each dataset and protocol, the last of each method.
  """
  # The others would be more than a reader tells apart.
  few = [name for name in names if name in paper.TABLE1["mnist"]]
  for dataset, records in found.items():
    for protocol in PROTOCOLS:
      picked, end = entries(protocol, records), f"{dataset}_{protocol}.png"
      path = directory / f"accuracy_against_shots_{end}"
      draw_shots(path, picked, few, dataset, protocol)
      path = directory / f"gains_{end}"
      with canvas.attempt(path):
        _draw_gains(path, picked, names, dataset, protocol)
    for name in names:
      path = directory / f"sensitivity_{dataset}_{name}.png"
      own = [r for r in records.evaluation if r["config"]["method"] == name]
      own = with_whole_grid(own)
      if own and methods.METHODS[name].hparam:
        with canvas.attempt(path):
          _draw_sensitivity(path, own, name, dataset)


def draw_shots(
  path: pathlib.Path,
  found: Entries,
  names: Sequence[str],
  dataset: str,
  protocol: str,
) -> None:
  """Draws test accuracy against the number of shots, if there is any."""
  summary.draw_shots(
    path,
    {
      place: found[place].accuracies
      for name in names
      for place in sorted(place for place in found if place[0] == name)
    },
    f"{paper.title(dataset)}: test accuracy, protocol {protocol}",
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
  for name, shots in itertools.product(names, sorted({n for _, n in found})):
    entry = found.get((name, shots))
    if entry and entry.gains.size:
      method = methods.METHODS[name]
      label = method.title + baseline_note(method)
      by_label = series.setdefault(shots, {})
      by_label[label] = stats.mean_interval(entry.gains)
  if series:
    figures.differences(
      path,
      [(f"{shots}-shot", series[shots]) for shots in sorted(series)],
      title=f"{paper.title(dataset)}: gain over vanilla, protocol {protocol}",
    )


def _draw_sensitivity(
  path: pathlib.Path, records: Sequence[summary.Record], name: str, dataset: str
) -> None:
  """Draws accuracy against a method's hyper-parameter, for all shots."""
  lines, looks = [], []
  for index, shots in enumerate(
    sorted({r["config"]["shots"] for r in records})
  ):
    own = [record for record in records if record["config"]["shots"] == shots]
    for epoch, metric, look in (
      ("best", "test_accuracy", {"linestyle": "-"}),
      (
        *("last", "test_accuracy_last"),
        {"linestyle": "--", "markerfacecolor": "white"},
      ),
    ):
      values, intervals = summary.against_strength(own, metric)
      if values:
        lines.append((f"{shots}-shot, {epoch} epoch", values, intervals))
        looks.append(figures.style("", index) | look)
  if lines:
    method = methods.METHODS[name]
    figures.accuracy_against_hparam(
      path,
      lines,
      title=f"{paper.title(dataset)}: test accuracy of {method.title}",
      xlabel=method.hparam.replace("_", " "),
      looks=looks,
    )
