"""Figures of efficiency records, as PNG and SVG.

Every method has a colour, a line style and a marker of its own, the same in all
figures, so that they can be read in black and white.
"""

import io
import pathlib
from typing import Any

import numpy as np

from experiments.compaction import needed, schemes
from experiments.compaction.needed import Cell, Group
from experiments.learning import methods
from experiments.records import results
from experiments.tables import figures, paper, stats
from experiments.tables.canvas import axes, figure, matplotlib, ticker

# Points lost beyond which curves leave the picture.
_WORST = 10.0
_BAND_RESAMPLES = 2000


def curves(
  directory: pathlib.Path,
  name: str,
  group: Group,
  choice: str,
  *,
  points: float,
) -> figure.Figure:
  """Draws test accuracy lost against parameters left.

  Args:
    directory: Folder that exists.
    name: Of the files, without ending.
    group: What is compared.
    choice: How strengths are chosen, in `needed.CHOICES`.
    points: Of accuracy that may be lost, in percent.

  Returns:
    The figure that was written: a column for each scheme, a row without and one
    with retraining. Lines are means over seeds with 95 % bootstrap bars.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  rows = 1 + group.retrained
  columns = len(group.schemes)
  drawing = figure.Figure(
    figsize=(3.7 * columns + 0.6, 3.1 * rows + 1.1),
    dpi=150,
    layout="constrained",
  )
  drawing.suptitle(
    f"{paper.title(group.title)}: points of test accuracy lost when the dense "
    "layers shrink",
    fontsize=13,
  )
  plots = drawing.subplots(rows, columns, squeeze=False, sharey=True)
  top = -1.0
  for row in range(rows):
    for column, scheme in enumerate(group.schemes):
      plot = plots[row, column]
      fewest = _draw_scheme(plot, group, choice, scheme, bool(row), points)
      top = min(top, 1.1 * fewest)
      retrained = ", retrained" if row else ""
      plot.set_title(schemes.TITLES[scheme] + retrained, fontsize=11)
    plots[row, 0].set_ylabel("points lost", fontsize=11)
  # Shared by all plots. Few-shot networks gain several points on vanilla.
  plots[0, 0].set_ylim(_WORST, top)
  ticks = sorted({-5, -2, -1, -0.5, 0, points, 1, 2, 5, _WORST})
  ticks = [tick for tick in ticks if tick >= top]
  plots[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
  plots[0, 0].set_yticks([], minor=True)
  for plot in plots[-1]:
    plot.set_xlabel("parameters of the dense layers", fontsize=11)
  _legend(drawing, plots[0, 0])
  return _write(drawing, directory, name)


def needs(
  directory: pathlib.Path,
  name: str,
  group: Group,
  choice: str,
  *,
  points: float,
) -> figure.Figure:
  """Draws how many parameters each method needs.

  Args:
    directory: Folder that exists.
    name: Of the files, without ending.
    group: What is compared.
    choice: How strengths are chosen, in `needed.CHOICES`.
    points: Of accuracy that may be lost, in percent.

  Returns:
    The figure that was written: a row for each way to make a head smaller, a
    marker for each method with its 95 % bootstrap bar; hollow where not every
    seed is accurate enough.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  ways = needed.ways(group)
  order = _order(group)
  drawing = figure.Figure(
    figsize=(8.0, 0.85 * len(ways) + 1.9), dpi=150, layout="constrained"
  )
  drawing.suptitle(
    f"{paper.title(group.title)}: parameters needed for at most {points:g} "
    "points lost",
    fontsize=13,
  )
  plot = drawing.add_subplot()
  for row, (scheme, retrained) in enumerate(ways):
    options = {"points": points, "retrained": retrained}
    for cell in needed.choose(group, choice, scheme, **options):
      place = order.index(cell.method)
      need = needed.need(group, cell, scheme, **options)
      interval = stats.mean_interval(
        need.parameters, num_resamples=_BAND_RESAMPLES
      )
      look = _look(order, cell.method) | {"linestyle": "none"}
      if not need.reached.all():
        look["markerfacecolor"] = "white"
      plot.errorbar(
        interval.mean,
        row + 0.12 * (place - (len(order) - 1) / 2),
        xerr=_bars(interval),
        capsize=2,
        elinewidth=1.2,
        **look,
      )
  for method in order:
    look = _look(order, method) | {"linestyle": "none"}
    plot.plot([], [], label=methods.METHODS[method].title, **look)
  plot.set_yticks(
    range(len(ways)),
    [
      schemes.TITLES[scheme] + "\nretrained" * retrained
      for scheme, retrained in ways
    ],
  )
  plot.set_ylim(len(ways) - 0.5, -0.5)
  for row in range(1, len(ways)):
    plot.axhline(row - 0.5, color="0.8", linewidth=0.8)
  plot.set_xlabel(
    "parameters of the dense layers; hollow: some seeds need more than all",
    fontsize=11,
  )
  _log_axis(plot)
  _legend(drawing, plot)
  return _write(drawing, directory, name)


def _look(order: list[str], method: str) -> dict[str, Any]:
  return figures.style(methods.METHODS[method].title, order.index(method))


def _draw_scheme(
  plot: axes.Axes,
  group: Group,
  choice: str,
  scheme: str,
  retrained: bool,
  points: float,
) -> float:
  """Returns the fewest points lost, less than 0 where some are gained."""
  fewest = 0.0
  options = {"points": points, "retrained": retrained}
  for cell in needed.choose(group, choice, scheme, **options):
    counts, mean, bars = _points_lost(group, cell, scheme, retrained)
    fewest = min(fewest, float(mean.min()))
    plot.errorbar(
      counts,
      mean,
      yerr=bars,
      capsize=2,
      elinewidth=1.0,
      label=methods.METHODS[cell.method].title,
      **_look(_order(group), cell.method) | {"markersize": 5},
    )
  plot.axhline(points, color="0.35", linewidth=1.0, linestyle=(0, (1, 1)))
  plot.set_yscale("symlog", linthresh=1.0, linscale=0.8)
  _log_axis(plot)
  return fewest


def _points_lost(
  group: Group, cell: Cell, scheme: str, retrained: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns mean parameters, mean points lost and the bars of these."""
  missing = 100 * needed.lost(
    group, cell, scheme, split="test", retrained=retrained
  )
  intervals = [
    stats.mean_interval(column, num_resamples=_BAND_RESAMPLES)
    for column in missing.T
  ]
  bars = np.hstack([_bars(interval) for interval in intervals])
  counts = needed.curve(cell, scheme, "parameters").mean(axis=0)
  order = np.argsort(counts)
  mean = np.array([interval.mean for interval in intervals])
  return counts[order], mean[order], bars[:, order]


def _bars(interval: stats.Interval) -> np.ndarray:
  """Returns the lengths [2, 1] of the two halves of a bar, 0 for none."""
  halves = [interval.mean - interval.low, interval.high - interval.mean]
  return np.maximum(np.nan_to_num(halves), 0).reshape(2, 1)


def _order(group: Group) -> list[str]:
  return list(dict.fromkeys(cell.method for cell in group.cells))


def _log_axis(plot: axes.Axes) -> None:
  plot.set_xscale("log")
  plot.xaxis.set_major_locator(ticker.LogLocator(10, subs=(1.0, 2.0, 5.0)))
  plot.xaxis.set_major_formatter(
    ticker.FuncFormatter(
      lambda x, _: f"{x / 1e3:g} k" if x >= 1e3 else f"{x:g}"
    )
  )
  plot.xaxis.set_minor_formatter(ticker.NullFormatter())
  plot.grid(color="0.88", linewidth=0.8)
  plot.set_axisbelow(True)
  plot.spines[["top", "right"]].set_visible(False)


def _legend(drawing: figure.Figure, plot: axes.Axes) -> None:
  drawing.legend(
    *plot.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=6 if drawing.get_figwidth() > 9 else 3,
    fontsize=10,
    frameon=False,
    handlelength=3.5,
  )


def _write(
  drawing: figure.Figure, directory: pathlib.Path, name: str
) -> figure.Figure:
  # Neither version, date nor random names: equal data make equal bytes.
  for ending, metadata in (
    ("png", {"Software": None}),
    ("svg", {"Date": None}),
  ):
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bean_jax"}):
      drawing.savefig(buffer, format=ending, metadata=metadata)
    results.write_bytes(directory / f"{name}.{ending}", buffer.getvalue())
  return drawing
