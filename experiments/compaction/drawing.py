"""Figures of efficiency records, as PNG and PDF.

Every method has a colour, a line style and a marker of its own, the same in all
figures, so that they can be read in black and white. Paths end in .png, and
every function returns the figure that was written. Strengths are chosen as
`needed.CHOICES` says.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.compaction import needed
from experiments.compaction.needed import Group, Way
from experiments.learning import methods
from experiments.tables import canvas, figures, paper

if TYPE_CHECKING:
  from experiments.tables.canvas import axes, figure

# Points lost beyond which curves leave the picture.
_WORST = 10.0


def curves(path: pathlib.Path, group: Group, choice: str) -> figure.Figure:
  """Draws test accuracy lost against parameters left.

  A column for each scheme, a row without and one with retraining. Lines are
  means over seeds with 95 % bootstrap bars.
  """
  rows = 1 + any(retrained for _, retrained in group.ways)
  columns = len(group.ways) // rows
  drawing = canvas.blank(
    3.7 * columns + 0.6,
    3.1 * rows + 1.1,
    title=f"{paper.title(group.title)}: points of test accuracy lost when the "
    "dense layers shrink",
  )
  plots = drawing.subplots(rows, columns, squeeze=False, sharey=True)
  top = -1.0
  # Ways are those of each scheme in turn.
  for plot, way in zip(plots.T.flat, group.ways, strict=True):
    top = min(top, 1.1 * _draw_way(plot, group, choice, way))
  for plot in plots[:, 0]:
    plot.set_ylabel("points lost", fontsize=11)
  for plot in plots[-1]:
    plot.set_xlabel("parameters of the dense layers", fontsize=11)
  # Shared by all plots. Few-shot networks gain several points on vanilla.
  first = plots[0, 0]
  first.set_ylim(_WORST, top)
  ticks = sorted({-5, -2, -1, -0.5, 0, group.points, 1, 2, 5, _WORST})
  ticks = [tick for tick in ticks if tick >= top]
  first.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
  first.set_yticks([], minor=True)
  canvas.legend(drawing, first, columns=6 if drawing.get_figwidth() > 9 else 3)
  return canvas.save(drawing, path, with_pdf=True)


def _draw_way(plot: axes.Axes, group: Group, choice: str, way: Way) -> float:
  """Returns the fewest points lost, less than 0 where some are gained."""
  fewest = 0.0
  scheme, _ = way
  for cell in needed.choose(group, choice, way):
    losses = 100 * needed.lost(group, cell, way, "test")
    counts = cell.values(f"{scheme}/parameters").mean(axis=0)
    order = np.argsort(counts)
    band = figures.bands(losses.T)[:, order]
    fewest = min(fewest, float(band[0].min()))
    plot.errorbar(
      counts[order],
      band[0],
      yerr=figures.lengths(*band),
      capsize=2,
      elinewidth=1.0,
      label=methods.METHODS[cell.method].title,
      **_look(group, cell.method) | {"markersize": 5},
    )
  plot.axhline(group.points, color="0.35", linewidth=1.0, linestyle=(0, (1, 1)))
  plot.set_yscale("symlog", linthresh=1.0, linscale=0.8)
  _frame(plot, needed.title(way))
  return fewest


def needs(path: pathlib.Path, group: Group, choice: str) -> figure.Figure:
  """Draws how many parameters each method needs.

  A row for each way to make a head smaller, a marker for each method with its
  95 % bootstrap bar; hollow where not every seed is accurate enough.
  """
  drawing = canvas.blank(
    8.0,
    0.85 * len(group.ways) + 1.9,
    title=f"{paper.title(group.title)}: parameters needed for at most "
    f"{group.points:g} points lost",
  )
  plot = drawing.add_subplot()
  looks = {
    name: _look(group, name) | {"linestyle": "none"} for name in group.methods
  }
  for row, way in enumerate(group.ways):
    for cell in needed.choose(group, choice, way):
      place = group.methods.index(cell.method) - (len(looks) - 1) / 2
      need = needed.need(group, cell, way)
      band = figures.bands([need.parameters])
      hollow = {} if need.reached.all() else {"markerfacecolor": "white"}
      plot.errorbar(
        band[0],
        row + 0.12 * place,
        xerr=figures.lengths(*band),
        capsize=2,
        elinewidth=1.2,
        **looks[cell.method] | hollow,
      )
  for name, look in looks.items():
    plot.plot([], [], label=methods.METHODS[name].title, **look)
  plot.set_yticks(
    range(len(group.ways)), [needed.title(way, "\n") for way in group.ways]
  )
  plot.set_ylim(len(group.ways) - 0.5, -0.5)
  for row in range(1, len(group.ways)):
    plot.axhline(row - 0.5, color="0.8", linewidth=0.8)
  plot.set_xlabel(
    "parameters of the dense layers; hollow: some seeds need more than all",
    fontsize=11,
  )
  _frame(plot, "")
  canvas.legend(drawing, plot)
  return canvas.save(drawing, path, with_pdf=True)


FIGURES = {"lost": curves, "needed": needs}


def _look(group: Group, method: str) -> dict[str, Any]:
  index = group.methods.index(method)
  return figures.style(methods.METHODS[method].title, index)


def _frame(plot: axes.Axes, title: str) -> None:
  figures.frame(plot, title)
  plot.grid(color="0.88")
  plot.set_xscale("log")
  plot.xaxis.set_major_locator(
    canvas.ticker.LogLocator(10, subs=(1.0, 2.0, 5.0))
  )
  plot.xaxis.set_major_formatter(
    lambda x, _: f"{x / 1e3:g} k" if x >= 1e3 else f"{x:g}"
  )
  plot.xaxis.set_minor_formatter(canvas.ticker.NullFormatter())
