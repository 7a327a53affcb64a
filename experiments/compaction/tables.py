"""What efficiency records have shown, as Markdown tables."""

from collections.abc import Sequence

import numpy as np

from experiments.assemblies.summary import Cell, interval
from experiments.compaction import needed, schemes
from experiments.compaction.needed import Group, Need, Way
from experiments.learning import methods
from experiments.tables import markdown

_DETAILS = (
  *("scheme", "retrained", "method", "strength", "as trained, test"),
  *("parameters", "of vanilla's", "test points lost", "FLOPs", "bytes"),
  *("time", "reached by"),
)
_LAYERS = ("method", "strength", "kernel", "Gini", "Hoyer", "small weights")


def report(groups: Sequence[Group]) -> str:
  """Writes all tables of all groups."""
  parts = []
  for group in groups:
    parts.append(summary(group))
    for choice, meaning in needed.choices(group).items():
      parts += [
        f"### The same in detail; strength: {meaning}",
        details(group, choice),
      ]
    parts += [
      "### Sparsity of the kernels as trained; strength: "
      + needed.CHOICES["strongest"].format(points=group.points),
      sparsity_table(group),
    ]
  return "\n\n".join(parts)


def summary(group: Group) -> str:
  """Writes how many parameters each method needs, a table a choice."""
  seeds = len(group.cells[0].records)
  outside = group.cells[0].values("parameters_outside").mean()
  parts = [
    f"## {group.title}",
    f"{seeds} seeds. Parameters, FLOPs and bytes are those of the dense layers;"
    f" {outside:g} parameters lie before them and stay. Points are of accuracy "
    "in percent, lost against the vanilla network of the same seed as it was "
    "trained. Time is a multiple of that of the network as it was trained, in "
    "brackets for how many images at once.",
  ]
  for choice, meaning in needed.choices(group).items():
    parts += [
      "### Thousands of parameters needed for at most "
      f"{group.points:g} points lost; strength: {meaning}",
      headline(group, choice),
    ]
  return "\n\n".join(parts)


def headline(group: Group, choice: str) -> str:
  """Writes the thousands of parameters that each method needs, by way."""
  rows = {name: [methods.METHODS[name].title] for name in group.methods}
  for way in group.ways:
    chosen = {c.method: c for c in needed.choose(group, choice, way)}
    for name, row in rows.items():
      text = "none"
      if cell := chosen.get(name):
        strength = f" ({_strength(cell)})" if cell.strength else ""
        text = _thousands(needed.need(group, cell, way)) + strength
      row.append(text)
  names = [needed.title(way) for way in group.ways]
  return markdown.table(["method", *names], list(rows.values()))


def details(group: Group, choice: str) -> str:
  """Writes what stands behind `headline`, a line a way and method."""
  rows = [
    _detail(group, cell, way)
    for way in group.ways
    for cell in needed.choose(group, choice, way)
  ]
  return markdown.table(_DETAILS, rows)


def sparsity_table(group: Group) -> str:
  """Writes how sparse each kernel is as trained, at matched accuracy."""
  rows = [
    [
      methods.METHODS[cell.method].title,
      _strength(cell),
      name.removeprefix("gini_index/"),
      *(
        interval(cell.values(name.replace("gini_index", measure)), 3)
        for measure in ("gini_index", "hoyer_sparsity", "small_fraction")
      ),
    ]
    for cell in needed.choose(group, "strongest", group.ways[0])
    for name in cell.records[0]["metrics"]
    if name.startswith("gini_index/")
  ]
  return markdown.table(_LAYERS, rows)


def _detail(group: Group, cell: Cell, way: Way) -> list[str]:
  scheme, retrained = way
  need = needed.need(group, cell, way)
  vanilla = needed.need(group, group.cells[0], way)
  trained = cell.values(f"{scheme}/test_accuracy")[:, 0]
  times = [
    f"{np.mean(values):.2f} ({name.removeprefix('time_ratio_')})"
    for name, values in need.sizes.items()
    if name.startswith("time_ratio_")
  ]
  ratios = interval(need.parameters / vanilla.parameters)
  return [
    schemes.TITLES[scheme],
    "yes" if retrained else "no",
    methods.METHODS[cell.method].title,
    _strength(cell),
    interval(100 * trained),
    _thousands(need) + " k",
    "" if cell is group.cells[0] else ratios,
    interval(100 * need.lost, sign="+"),
    f"{need.sizes['flops'].mean() / 1e3:.1f} k",
    f"{need.sizes['bytes'].mean() / 1e3:.1f} k",
    ", ".join(times),
    f"{need.reached.sum()} of {len(need.reached)}",
  ]


def _thousands(need: Need) -> str:
  return interval(need.parameters / 1e3, 1)


def _strength(cell: Cell) -> str:
  hparam = methods.METHODS[cell.method].hparam
  return f"{hparam} {cell.strength:g}" if hparam else ""
