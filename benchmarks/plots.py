"""Figures of cases as PNG files that can be read in black and white."""

from collections.abc import Sequence
import io
import pathlib
from typing import Any

from benchmarks import cases
from experiments.records import results
from experiments.tables.canvas import axes, axis, figure, patches, ticker

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
  """Writes a case as a PNG file: lines if its rows are points, else bars.

  Raises:
    results.ResultError: If the file cannot be written.
  """
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
  rows = case.rows
  drawing, plot = _blank(case.title, height=1.6 + 0.36 * len(rows))
  scale, unit = (1e-6, "MB") if "temp_bytes" in rows[0] else (1e3, "ms")
  plot.set_xscale("log")
  plot.set_xlim(*_range(scale, rows))
  for position, row in enumerate(rows):
    _bar(plot, position, row, scale)
  plot.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
  plot.invert_yaxis()
  _plain_numbers(plot.xaxis)
  words = case.unit.partition(" ")[2]
  plot.set_xlabel(f"{unit} {words}".strip() + ", log scale")
  handles, _ = plot.get_legend_handles_labels()
  handles += [
    patches.Patch(label="bean_jax", **_OURS),
    patches.Patch(label="others", **_PEERS),
  ]
  drawing.legend(
    handles=handles,
    loc="outside lower right",
    ncols=3,
    fontsize=9,
    frameon=False,
  )
  return drawing


def _bar(
  plot: axes.Axes, position: int, row: dict[str, Any], scale: float
) -> None:
  """Draws a bar with its range, its floor and its number."""
  value = scale * _value(row)
  style = _PEERS if is_peer(row["name"]) else _OURS
  plot.barh(position, value, height=0.7, zorder=2, **style)
  # 0 has no place on a log axis: its number stands at the left end.
  end = max(value, plot.get_xlim()[0])
  if "median" in row:
    low, end = scale * row["min"], scale * row["max"]
    plot.errorbar(
      value,
      position,
      xerr=[[value - low], [end - value]],
      color="black",
      capsize=3,
      zorder=3,
    )
  if "floor" in row:
    plot.plot(
      [scale * row["floor"]] * 2,
      [position - 0.42, position + 0.42],
      color="black",
      linewidth=2.5,
      zorder=4,
      # Once in the legend.
      label="" if position else "least possible time",
    )
  plot.annotate(
    f"{float(f'{value:.3g}'):g}",  # 7910, not 7.91e+03.
    (end, position),
    (5, 0),
    textcoords="offset points",
    va="center",
    fontsize=9,
  )


def _lines(case: cases.Case) -> figure.Figure:
  drawing, plot = _blank(case.title, height=4.6)
  series: dict[str, list[dict[str, Any]]] = {}
  for row in case.rows:
    series.setdefault(row["series"], []).append(row)
  for index, (name, rows) in enumerate(series.items()):
    middle = [1e3 * row["median"] for row in rows]
    low = [1e3 * (row["median"] - row["min"]) for row in rows]
    high = [1e3 * (row["max"] - row["median"]) for row in rows]
    plot.errorbar(
      [row["x"] for row in rows],
      middle,
      yerr=[low, high],
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


def _value(row: dict[str, Any]) -> float:
  return row["temp_bytes"] if "temp_bytes" in row else row["median"]


def _range(scale: float, rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
  """Returns the ends of the axis, with room for numbers at the right."""
  values = [
    scale * value
    for row in rows
    for value in (_value(row), row.get("max"), row.get("floor"))
    if value  # 0 has no place on a log axis.
  ]
  left, high = min(values) / 2, max(values)
  return left, high * (high / left) ** 0.12


def _plain_numbers(log_axis: axis.Axis) -> None:
  """Writes 0.5 and 2000, not 5e-1 and 2e3, at few places of a log axis."""
  # At 2 and 5 as well, since there are few powers of ten.
  log_axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  log_axis.set_major_formatter(lambda value, position: f"{value:g}")
  log_axis.set_minor_formatter(ticker.NullFormatter())


def _blank(title: str, *, height: float) -> tuple[figure.Figure, axes.Axes]:
  drawing = figure.Figure(figsize=(8.5, height), dpi=130, layout="constrained")
  plot = drawing.add_subplot()
  plot.set_title(title, fontsize=12, wrap=True)
  plot.grid(color="0.88", linewidth=0.8)
  plot.set_axisbelow(True)
  plot.spines[["top", "right"]].set_visible(False)
  return drawing, plot
