"""What efficiency records have shown, as Markdown tables."""

from collections.abc import Sequence

import numpy as np

from experiments.compaction import needed, schemes
from experiments.compaction.needed import Cell, Group, Need
from experiments.learning import methods
from experiments.records import results
from experiments.tables import markdown, stats

_DETAILS = (
  "scheme",
  "retrained",
  "method",
  "strength",
  "as trained, test",
  "parameters",
  "of vanilla's",
  "test points lost",
  "FLOPs",
  "bytes",
  "time",
  "reached by",
)
_LAYERS = ("method", "strength", "kernel", "Gini", "Hoyer", "small weights")


def report(groups: Sequence[Group], *, points: float) -> str:
  """Writes all tables.

  Args:
    groups: What is compared, from `needed.make_groups`.
    points: Of accuracy that may be lost, in percent.

  Returns:
    Markdown: for each group, how many parameters each method needs, by how its
    strength is chosen; the versions behind these numbers; and how sparse the
    kernels are as trained.
  """
  parts = []
  for group in groups:
    parts.append(summary(group, points=points))
    for choice, meaning in needed.choices(group, points=points).items():
      parts += [
        f"### The same in detail; strength: {meaning}",
        details(group, choice, points=points),
      ]
    parts += [
      "### Sparsity of the kernels as trained; strength: "
      + needed.CHOICES["strongest"].format(points=points),
      sparsity_table(group, points=points),
    ]
  return "\n\n".join(parts)


def summary(group: Group, *, points: float) -> str:
  """Writes how many parameters each method needs.

  Args:
    group: What is compared.
    points: Of accuracy that may be lost, in percent.

  Returns:
    Markdown, a table for each way to choose strengths.
  """
  seeds = len(group.cells[0].records)
  outside = _values(group.cells[0], "parameters_outside").mean()
  parts = [
    f"## {group.title}",
    f"{seeds} seeds. Parameters, FLOPs and bytes are those of the dense layers;"
    f" {outside:g} parameters lie before them and stay. Points are of accuracy "
    "in percent, lost against the vanilla network of the same seed as it was "
    "trained. Time is a multiple of that of the network as it was trained, in "
    "brackets for how many images at once.",
  ]
  for choice, meaning in needed.choices(group, points=points).items():
    parts += [
      f"### Thousands of parameters needed for at most {points:g} points lost; "
      f"strength: {meaning}",
      headline(group, choice, points=points),
    ]
  return "\n\n".join(parts)


def headline(group: Group, choice: str, *, points: float) -> str:
  """Writes the table of the parameters that each method needs.

  Args:
    group: What is compared.
    choice: How strengths are chosen, in `needed.CHOICES`.
    points: Of accuracy that may be lost, in percent.

  Returns:
    A line a method, a column for each way to make a head smaller. Numbers are
    thousands of parameters of the dense layers, means over seeds with 95 %
    bootstrap intervals.
  """
  ways = needed.ways(group)
  rows: dict[str, list[str]] = {}
  for scheme, retrained in ways:
    options = {"points": points, "retrained": retrained}
    chosen = {
      cell.method: cell
      for cell in needed.choose(group, choice, scheme, **options)
    }
    for method in dict.fromkeys(cell.method for cell in group.cells):
      row = rows.setdefault(method, [methods.METHODS[method].title])
      cell = chosen.get(method)
      if cell is None:
        row.append("none")
        continue
      need = needed.need(group, cell, scheme, **options)
      row.append(f"{_thousands(need)} ({_strength(cell)})".replace(" ()", ""))
  names = [
    schemes.TITLES[scheme] + ", retrained" * retrained
    for scheme, retrained in ways
  ]
  return markdown.table(["method", *names], list(rows.values()))


def details(group: Group, choice: str, *, points: float) -> str:
  """Writes the table of what stands behind `headline`.

  Args:
    group: What is compared.
    choice: How strengths are chosen, in `needed.CHOICES`.
    points: Of accuracy that may be lost, in percent.

  Returns:
    A line for each way to make a head smaller and each method.
  """
  rows = []
  for scheme, retrained in needed.ways(group):
    options = {"points": points, "retrained": retrained}
    vanilla = needed.need(group, group.cells[0], scheme, **options)
    rows += [
      _detail(group, cell, scheme, retrained, vanilla, points)
      for cell in needed.choose(group, choice, scheme, **options)
    ]
  return markdown.table(_DETAILS, rows)


def sparsity_table(group: Group, *, points: float) -> str:
  """Writes how sparse the kernels are as trained.

  Args:
    group: What is compared.
    points: As for `headline`, for the choice of strengths.

  Returns:
    A line for each method, at its strongest matched strength, and each kernel.
  """
  rows = []
  scheme = group.schemes[0]
  options = {"points": points, "retrained": False}
  for cell in needed.choose(group, "strongest", scheme, **options):
    layers = [
      name.partition("/")[2]
      for name in cell.records[0]["metrics"]
      if name.startswith("gini_index/")
    ]
    rows += [
      [
        methods.METHODS[cell.method].title,
        _strength(cell),
        layer,
        *(
          _interval(_values(cell, f"{measure}/{layer}"), ".3f")
          for measure in ("gini_index", "hoyer_sparsity", "small_fraction")
        ),
      ]
      for layer in layers
    ]
  return markdown.table(_LAYERS, rows)


def _detail(
  group: Group,
  cell: Cell,
  scheme: str,
  retrained: bool,
  vanilla: Need,
  points: float,
) -> list[str]:
  need = needed.need(group, cell, scheme, points=points, retrained=retrained)
  trained = needed.curve(cell, scheme, "test_accuracy")[:, 0]
  ratios = need.parameters / vanilla.parameters
  times = [
    f"{np.mean(values):.2f} ({name.removeprefix('time_ratio_')})"
    for name, values in need.sizes.items()
    if name.startswith("time_ratio_")
  ]
  return [
    schemes.TITLES[scheme],
    "yes" if retrained else "no",
    methods.METHODS[cell.method].title,
    _strength(cell),
    _interval(100 * trained, ".2f"),
    _thousands(need) + " k",
    "" if cell.method == "vanilla" else _interval(ratios, ".2f"),
    _interval(100 * need.lost, "+.2f"),
    f"{need.sizes['flops'].mean() / 1e3:.1f} k",
    f"{need.sizes['bytes'].mean() / 1e3:.1f} k",
    ", ".join(times),
    f"{need.reached.sum()} of {len(need.reached)}",
  ]


def _values(cell: Cell, name: str) -> np.ndarray:
  return np.stack([results.metric(r, name)[0] for r in cell.records])


def _thousands(need: Need) -> str:
  return _interval(need.parameters / 1e3, ".1f")


def _strength(cell: Cell) -> str:
  if cell.strength is None:
    return ""
  return f"{methods.METHODS[cell.method].hparam} {cell.strength:g}"


def _interval(values: np.ndarray, form: str) -> str:
  interval = stats.mean_interval(values)
  mean, low, high = (format(number, form) for number in interval)
  return mean if np.isnan(interval.low) else f"{mean} [{low}, {high}]"
