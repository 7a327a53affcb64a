"""Writes the tables of all pages from committed results.

    python docs/numbers.py

A test fails while a page disagrees with the results.
"""

from collections.abc import Sequence
import functools
import json
import pathlib
import re
import sys
from typing import Any

if __name__ == "__main__":
  # Not this folder, where Python's own module "numbers" would be this file.
  sys.path[0] = str(pathlib.Path(__file__).parent.parent)

from experiments import report
from experiments.account import claims, findings, spread
from experiments.tables import paper, summary

DOCS = pathlib.Path(__file__).parent
PAGES = (
  DOCS.parent / "README.md",
  DOCS.parent / "BUILD.md",
  *sorted(DOCS.glob("*.md")),
  *sorted((DOCS.parent / "results").glob("*.md")),
)
RESULTS = DOCS.parent / "results"
NAMES = {"vanilla": "no penalty", "bean1": "BEAN-1", "bean2": "BEAN-2"}


def penalty() -> str:
  """Returns the table of a wide layer: time and memory."""
  rows = []
  timed = {row["name"]: row for row in _rows("penalty")}
  for row in _rows("penalty_memory"):
    name = row["name"]
    cells = [name.replace("h W", "the layer"), "", ""]
    if name in timed:
      ratio = timed[name]["times_dense"]
      cells[1:] = [_milliseconds(timed[name]), f"{ratio:.2f}"]
    cells.append(f"{row['temp_bytes'] / 1e6:,.0f} MB")
    rows.append(cells)
  return _table(["", "time", "of the layer's", "temporaries"], rows)


def step_times() -> str:
  """Returns the table of one optimizer step, with PyTorch beside it."""
  lines = []
  for batch in (1, 100):
    rows = _rows(f"step_batch{batch}")
    plain = _fastest(rows, "vanilla", "PyTorch, one by one")
    for method, name in NAMES.items():
      ours = _fastest(rows, method, "bean_jax")
      cells = [
        str(batch),
        name,
        _milliseconds(ours),
        f"{ours['times_own_plain_step']:.2f}",
        _milliseconds(plain),
      ]
      if method == "vanilla":
        cells.append("")
      else:
        cells.append(_milliseconds(_fastest(rows, method, "[N, N, S]")))
      lines.append(cells)
  header = ["batch", "penalty", "bean_jax", "of its plain step"]
  header += ["PyTorch, no penalty", "PyTorch, `[N, N, S]`"]
  return _table(header, lines)


def step_environment() -> str:
  """Returns what the steps were timed with."""
  case = _suite()["step_batch1"]
  versions = case["versions"]
  names = ("python", "jax", "jaxlib", "torch")
  listed = ", ".join(f"{name} {versions[name]}" for name in names)
  commits = (
    f"`{_suite()[f'step_batch{size}']['git']['commit'][:7]}` (batch {size})"
    for size in (1, 100)
  )
  return (
    f"Medians of {case['repeats']} runs of each; {case['cores']} cores of a "
    f"{case['device']['platform'].upper()}, {listed}, commits "
    f"{' and '.join(commits)}."
  )


def few_shot() -> str:
  """Returns the accuracies of few-shot MNIST by strength."""
  table = _cells(RESULTS.joinpath("few_shot_mnist/table.md").read_text())
  names = "shots", "method", "strength", "test accuracy, best epoch"
  rows = [
    [cell.removeprefix("alpha ") for cell in row]
    for row in _columns(table, [*names, "difference to vanilla"])
  ]
  header = ["shots", "method", "alpha", "test accuracy, %"]
  return _table([*header, "difference to vanilla"], rows)


def table1(dataset: str) -> str:
  """Returns Table 1 of a dataset: both protocols and the paper's numbers."""
  header, *strict = _table1(dataset, "strict", "Methods of the paper")
  _, *validated = _table1(dataset, "paper", "Methods of the paper")
  columns = [
    column
    for column in range(1, len(header))
    if any("not run" not in row[column] for row in strict)
  ]
  rows = []
  for row, chosen in zip(strict, validated, strict=True):
    cells = [row[0]]
    for column in columns:
      ours, _, _ = row[column].partition(" (")
      mean, _, printed = chosen[column].partition(" (")
      mean = mean.partition(" [")[0].strip("*<u>")
      cells.append(f"{ours}<br>{mean} ({printed}")
    rows.append(cells)
  shots = [header[column] for column in columns]
  return _table([paper.title(dataset), *shots], rows)


def gains(dataset: str) -> str:
  """Returns what BEAN and the methods beyond the paper gain over vanilla."""
  found = {}
  for protocol in ("paper", "strict"):
    header, *rows = _table1(dataset, protocol, "Details")
    for row in rows:
      cells = dict(zip(header, row, strict=True))
      gain, _, _ = cells["difference to vanilla"].partition(" (")
      found[cells["method"], protocol, cells["shots"]] = gain
  _, *beyond = _table1(dataset, "paper", "Methods beyond the paper")
  methods = ["BEAN-1", "BEAN-2", *(row[0] for row in beyond)]
  shots = sorted(
    {shots for method, _, shots in found if method in methods}, key=int
  )
  lines = []
  for method in methods:
    for protocol in ("paper", "strict"):
      cells = [
        found.get((method, protocol, number), "not run") for number in shots
      ]
      if set(cells) != {"not run"}:
        lines.append([method, protocol, *cells])
  columns = [f"{number}-shot" for number in shots]
  return _table([paper.title(dataset), "protocol", *columns], lines)


def rules(dataset: str) -> str:
  """Returns the accuracies of learning rules, protocol strict, by shots."""
  table = _rules(dataset, r"\d+")
  names = ["rule", *(name for name in table[0] if name.endswith("-shot"))]
  rows = []
  for rule, *accuracies in _columns(table, names):
    texts = []
    for text in accuracies:
      accuracy, _, gain = text.partition("; ")
      mean = accuracy.partition(" [")[0]
      texts.append(f"{mean} ({gain})" if gain else accuracy)
    rows.append([rule, *texts])
  return _table(names, rows)


def rules_networks(folder: str, shots: int) -> str:
  """Returns what the networks of learning rules are like."""
  accuracy = f"{shots}-shot"
  accuracies = dict(_columns(_rules(folder, r"\d+"), ["rule", accuracy]))
  (name, *names), rows = _networks(_rules(folder, str(shots)))
  rows = [
    [rule, accuracies[rule].partition("; ")[0], *cells] for rule, *cells in rows
  ]
  return _table([name, accuracy, *names], rows)


def rules_whole(dataset: str) -> str:
  """Returns the accuracies of learning rules on all images."""
  path = RESULTS / "full_data" / f"{dataset}-rules" / "table.md"
  table = _cells(path.read_text().partition("\n\n")[2])
  names = "method", "strength", "test accuracy, best epoch", "last epoch"
  return _table(names, _columns(table, names))


def rules_whole_networks(dataset: str) -> str:
  """Returns what the networks of learning rules on all images are like."""
  path = RESULTS / "learning_rules" / f"{dataset}-whole" / "table.md"
  # A part each for networks of one architecture.
  _, *parts = path.read_text().split("\n## ")
  found = [_networks(_cells(part.partition("\n\n")[2])) for part in parts]
  return _table(found[0][0], [row for _, rows in found for row in rows])


@functools.cache
def _found() -> Any:
  """Reads the records that claims are judged by."""
  return findings.read(RESULTS)


def claim_lines() -> str:
  """Returns a line a claim of the paper."""
  rows = []
  for claim in claims.CLAIMS:
    finding = claim.find(_found())
    title = claim.title
    if finding.comparisons:
      title = f"[{title}]({report.figure(claim)})"
    verdict = f"**{finding.verdict}**"
    rows.append([title, claim.paper, finding.sentence, verdict])
  return _table(["claim", "the paper", "found", "verdict"], rows)


def comparisons(title: str) -> str:
  """Returns all comparisons of a claim."""
  (claim,) = (claim for claim in claims.CLAIMS if claim.title == title)
  rows = []
  for compared in claim.find(_found()).comparisons:
    points = summary.percent(compared.interval, "+.1f")
    p = f"{compared.adjusted:.2g}"
    rows.append([compared.group, compared.label, points, p])
  return _table(["", "", "points", "p"], rows)


def seeds() -> str:
  """Returns how far two groups of seeds differ."""
  found = spread.spreads(_found().few_shot)
  return f"{spread.sentence(found)}\n\n{spread.table(found)}"


TABLES = {
  "claims": claim_lines,
  "spread": seeds,
  "wiring against a random A": functools.partial(
    comparisons, "The wiring helps, against a random A"
  ),
  "wiring against a constant A and none": functools.partial(
    comparisons, "The wiring helps, against a constant A and none"
  ),
  "BEAN beside dropout": functools.partial(comparisons, "BEAN adds to dropout"),
  "wiring beside dropout": functools.partial(
    comparisons, "The wiring helps beside dropout"
  ),
  "table 1 mnist": functools.partial(table1, "mnist"),
  "table 1 fashion_mnist": functools.partial(table1, "fashion_mnist"),
  "gains mnist": functools.partial(gains, "mnist"),
  "gains fashion_mnist": functools.partial(gains, "fashion_mnist"),
  "rules mnist": functools.partial(rules, "mnist"),
  "rules fashion_mnist": functools.partial(rules, "fashion_mnist"),
  "rules mnist networks": functools.partial(rules_networks, "mnist", 5),
  "rules mnist networks of 100 shots": functools.partial(
    rules_networks, "mnist", 100
  ),
  "rules fashion_mnist networks": functools.partial(
    rules_networks, "fashion_mnist", 5
  ),
  "rules fashion_mnist networks of 100 shots": functools.partial(
    rules_networks, "fashion_mnist", 100
  ),
  "rules whole mnist": functools.partial(rules_whole, "mnist"),
  "rules whole fashion_mnist": functools.partial(rules_whole, "fashion_mnist"),
  "rules whole fashion_mnist networks": functools.partial(
    rules_whole_networks, "fashion_mnist"
  ),
  "rules digits networks": functools.partial(
    rules_networks, "digits-hebbian", 5
  ),
  "rules mnist non-negative": functools.partial(rules, "mnist-nonnegative"),
  "rules mnist non-negative networks": functools.partial(
    rules_networks, "mnist-nonnegative", 5
  ),
  "rules mnist controls": functools.partial(
    rules_networks, "mnist-controls", 5
  ),
  "rules mnist controls of 100 shots": functools.partial(
    rules_networks, "mnist-controls", 100
  ),
  "penalty": penalty,
  "step times": step_times,
  "step environment": step_environment,
  "few-shot": few_shot,
}


def with_tables(page: str) -> str:
  """Returns a page with what stands between its marks written anew.

  Args:
    page: Markdown. A part from `<!-- begin NAME -->` to `<!-- end NAME -->` is
      that of `TABLES`.
  """

  def written(match: re.Match[str]) -> str:
    begin, name, end = match.groups()
    return f"{begin}\n{TABLES[name]()}\n{end}"

  part = r"(<!-- begin (.+) -->)\n(?:.*?\n)?(<!-- end \2 -->)"
  return re.sub(part, written, page, flags=re.DOTALL)


def main() -> None:
  """Writes all pages."""
  for path in PAGES:
    page = path.read_text()
    if with_tables(page) != page:
      path.write_text(with_tables(page))
      print(f"wrote {path.name}")


def _table1(dataset: str, protocol: str, title: str) -> list[list[str]]:
  """Returns the cells of a table of the results, the header's first."""
  text = (RESULTS / "table1" / "table.md").read_text()
  heading = f"\n## {paper.title(dataset)}, protocol {protocol}"
  _, _, part = text.partition(heading)
  _, _, part = part.partition(f"### {title}\n\n")
  return _cells(part)


def _rules(folder: str, shots: str) -> list[list[str]]:
  """Returns the first table of learning rules of such shots, a pattern."""
  text = (RESULTS / "learning_rules" / folder / "table.md").read_text()
  dataset = paper.title(folder.partition("-")[0])
  heading = rf"\n## {dataset}, {shots}-shot, protocol strict\n\n"
  _, part, *_ = re.split(heading, text, maxsplit=1)
  return _cells(part)


def _networks(table: list[list[str]]) -> tuple[list[str], list[list[str]]]:
  """Picks what pages show of networks: the header, and a row a rule."""
  attacks = [name for name in table[0] if name[:4] in ("FGSM", "PGD ")]
  names = ["rule", *attacks, "zero gradients", "below 0.005", "Gini"]
  names.append("silhouette")
  return names, _columns(table, names)


def _columns(table: list[list[str]], names: Sequence[str]) -> list[list[str]]:
  """Picks columns of a table whose first row is its header."""
  header, *rows = table
  places = [header.index(name) for name in names]
  return [[row[place] for place in places] for row in rows]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table in Markdown, not aligned: a change is that of one line."""
  first, *others = (f"| {' | '.join(line)} |" for line in (header, *rows))
  return "\n".join([first, "|---" * len(header) + "|", *others])


def _cells(text: str) -> list[list[str]]:
  """Returns the header and the rows of the Markdown table that begins a text.

  After an empty line there may be notes, and further tables.
  """
  header, _, *rows = (
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in text.strip().partition("\n\n")[0].splitlines()
  )
  return [header, *rows]


def _suite() -> dict[str, Any]:
  return json.loads((RESULTS / "benchmarks" / "cpu.json").read_text())["cases"]


def _rows(case: str) -> list[dict[str, Any]]:
  return _suite()[case]["rows"]


def _fastest(
  rows: list[dict[str, Any]], method: str, route: str
) -> dict[str, Any]:
  """Returns the fastest row of a method whose route contains a text."""
  fitting = [
    row for row in rows if row["method"] == method and route in row["route"]
  ]
  return min(fitting, key=lambda row: row["median"])


def _milliseconds(row: dict[str, Any]) -> str:
  three_digits = float(f"{1e3 * row['median']:.3g}")
  return f"{three_digits:g} ms"


if __name__ == "__main__":
  main()
