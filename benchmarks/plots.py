"""Figures of cases as PNG files that can be read in black and white."""

from __future__ import annotations

import io
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import cases
from experiments.records import results
from experiments.tables import canvas

if TYPE_CHECKING:
  from experiments.tables.canvas import axes, axis, figure

# Of ours and of the peers: dark against hatched.
_OURS = {"color": "0.35"}
_PEERS = {"facecolor": "white", "edgecolor": "0.2", "hatch": "///"}
# What names of rows have that are of something else than bean_jax.
_OF_PEERS = (
  "PyTorch",
  "JAX, one by one",
  "h W",
  "the tensor",
  "import jax",
)
_LINES = (
  {"color": "black", "linestyle": "-", "marker": "o"},
  {"color": "0.35", "linestyle": "--", "marker": "s"},
  {"color": "0.5", "linestyle": ":", "marker": "^"},
  {"color": "black", "linestyle": "-.", "marker": "D"},
  {"color": "0.35", "linestyle": (0, (6, 2, 1, 2)), "marker": "v"},
  {"color": "0.5", "linestyle": "-", "marker": "x"},
)


def draw(path: pathlib.Path, case: cases.Case) -> figure.Figure:
  """Writes a case as a PNG file: lines if its rows are points, else bars."""
  drawing = _lines(case) if case.x_label is not None else _bars(case)
  buffer = io.BytesIO()
  # Without the version of matplotlib, so that equal data make equal bytes.
  drawing.savefig(buffer, format="png", metadata={"Software": None})
  results.write_bytes(path, buffer.getvalue())
  return drawing


def is_peer(name: str) -> bool:
  """Returns whether a row is of something else than bean_jax."""
  return any(word in name for word in _OF_PEERS)


def _bars(case: cases.Case) -> figure.Figure:
  """Draws bars with their ranges, floors and numbers."""
  rows = case.rows
  drawing, plot = _blank(case.title, height=1.6 + 0.36 * len(rows))
  is_memory = "temp_bytes" in rows[0]
  scale, unit = (1e-6, "MB") if is_memory else (1e3, "ms")
  values = [scale * row.get("temp_bytes", row.get("median")) for row in rows]
  highs = [scale * row["max"] for row in rows] if not is_memory else values
  floors = {
    place: scale * row["floor"]
    for place, row in enumerate(rows)
    if "floor" in row
  }
  # 0 has no place on a log axis: its number stands at the left end.
  drawn = [value for value in (*values, *floors.values()) if value]
  left = min(drawn) / 2
  plot.set_xscale("log")
  # With room for numbers at the right.
  plot.set_xlim(left, max(highs) * (max(highs) / left) ** 0.12)
  for place, (row, value, high) in enumerate(
    zip(rows, values, highs, strict=True)
  ):
    style = _PEERS if is_peer(row["name"]) else _OURS
    plot.barh(place, value, height=0.7, zorder=2, **style)
    plot.annotate(
      f"{float(f'{value:.3g}'):g}",  # 7910, not 7.91e+03.
      (max(high, left), place),
      (5, 0),
      textcoords="offset points",
      va="center",
      fontsize=9,
    )
  if not is_memory:
    lows = [scale * row["min"] for row in rows]
    spans = np.abs([lows, highs] - np.array(values))
    plot.errorbar(
      values,
      range(len(rows)),
      xerr=spans,
      fmt="none",
      ecolor="black",
      capsize=3,
      zorder=3,
    )
  handles = [
    canvas.patches.Patch(label="bean_jax", **_OURS),
    canvas.patches.Patch(label="others", **_PEERS),
  ]
  if floors:
    ticks = plot.vlines(
      floors.values(),
      [place - 0.42 for place in floors],
      [place + 0.42 for place in floors],
      color="black",
      linewidth=2.5,
      zorder=4,
      label="least possible time",
    )
    handles.insert(0, ticks)
  plot.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
  plot.invert_yaxis()
  _plain_numbers(plot.xaxis)
  words = case.unit.partition(" ")[2]
  plot.set_xlabel(f"{unit} {words}".strip() + ", log scale")
  drawing.legend(
    handles=handles,
    loc="outside lower right",
    ncols=3,
    fontsize=9,
    frameon=False,
  )
  return drawing


def _lines(case: cases.Case) -> figure.Figure:
  drawing, plot = _blank(case.title, height=4.6)
  series: dict[str, list[dict[str, Any]]] = {}
  for row in case.rows:
    series.setdefault(row["series"], []).append(row)
  for index, (name, rows) in enumerate(series.items()):
    low, middle, high = (
      [1e3 * row[name] for row in rows] for name in ("min", "median", "max")
    )
    plot.errorbar(
      [row["x"] for row in rows],
      middle,
      yerr=np.abs([low, high] - np.array(middle)),
      label=name,
      capsize=3,
      **_LINES[index % len(_LINES)],
    )
  plot.set_xscale("log")
  plot.set_yscale("log")
  ticks = sorted({row["x"] for row in case.rows})
  plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
  plot.set_xticks([], minor=True)
  plot.set_xlabel(case.x_label)
  _plain_numbers(plot.yaxis)
  words = case.unit.partition(" ")[2]
  plot.set_ylabel(f"ms {words}".strip())
  plot.legend(fontsize=9)
  return drawing


def _plain_numbers(log_axis: axis.Axis) -> None:
  """Writes 0.5 and 2000, not 5e-1 and 2e3, at few places of a log axis."""
  # At 2 and 5 as well, since there are few powers of ten.
  log_axis.set_major_locator(canvas.ticker.LogLocator(subs=(1, 2, 5)))
  log_axis.set_major_formatter(lambda value, position: f"{value:g}")
  log_axis.set_minor_formatter(canvas.ticker.NullFormatter())


def _blank(title: str, *, height: float) -> tuple[figure.Figure, axes.Axes]:
  drawing = canvas.blank(8.5, height, dpi=130)
  plot = drawing.add_subplot()
  plot.set_title(title, fontsize=12, wrap=True)
  plot.grid(color="0.88", linewidth=0.8)
  plot.set_axisbelow(True)
  plot.spines[["top", "right"]].set_visible(False)
  return drawing, plot
