"""Figures of learning rules: attacks, weights, receptive fields.

A figure tells at most seven rules apart, by a colour, a line style and a marker
each; where there are more, it has several parts, each with the first rule.
"""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.rules.evaluations import EDGES
from experiments.tables import canvas, figures
from experiments.weights import distributions

MOST = 7
_ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "pgd_random": "PGD, random start"}
# Of each distribution its name for people, its colour and its line.
_FITS = {
  "lognormal": ("lognormal", "#0072B2", "-"),
  "stretched": ("stretched exponential", "#D55E00", "--"),
  "compressed": ("compressed exponential", "#009E73", ":"),
}
# Units of a row of receptive fields.
_UNITS = 8


def parts(names: Sequence[str]) -> list[list[str]]:
  """Deals rules out to figures, each with the first for comparison.

  Example:
    >>> parts(list("abcdefgh"))
    [['a', 'b', 'c', 'd', 'e'], ['a', 'f', 'g', 'h']]
  """
  first, *rest = names
  num_parts = -(-len(rest) // (MOST - 1)) or 1
  step = -(-len(rest) // num_parts) or 1
  places = range(0, len(rest) or 1, step)
  return [[first, *rest[place : place + step]] for place in places]


def paths(
  directory: pathlib.Path, stem: str, names: Sequence[str]
) -> list[tuple[pathlib.Path, list[str]]]:
  """Returns the file of each part, and its rules."""
  return [
    (directory / (f"{stem}_{index}.png" if index else f"{stem}.png"), part)
    for index, part in enumerate(parts(names))
  ]


def accuracy_against_epsilon(
  path: pathlib.Path, evaluations: Mapping[str, Record], *, title: str
) -> None:
  """Draws accuracy under each attack, with the share of zero gradients."""
  drawing = canvas.blank(11.0, 5.0, title=f"{title}: accuracy under attack")
  plots = drawing.subplots(1, len(_ATTACKS), sharey=True)
  for plot, (attack, name) in zip(plots, _ATTACKS.items(), strict=True):
    figures.frame(plot, name, "epsilon")
    for index, (method, record) in enumerate(evaluations.items()):
      missing = np.mean(results.metric(record, "zero_gradients"))
      label = f"{methods.METHODS[method].title} ({100 * missing:.0f} %)"
      figures.curve(
        plot,
        record["config"]["epsilons"],
        figures.bands(100 * results.metric(record, attack).T),
        figures.style(label, index) | {"label": label},
      )
  plots[0].set_ylabel("accuracy (%)", fontsize=12)
  plots[0].set_ylim(-3, 103)
  note = "in brackets: images whose gradient is zero"
  canvas.legend(drawing, plots[0], title=note, title_fontsize=9, fontsize=9)
  canvas.save(drawing, path)


def weight_histograms(
  path: pathlib.Path, evaluations: Mapping[str, Record], *, title: str
) -> None:
  """Draws the strengths of the first seed, and their fits."""
  columns = 2 if len(evaluations) == 4 else min(3, len(evaluations))
  rows = -(-len(evaluations) // columns)
  drawing = canvas.blank(
    0.6 + 3.5 * columns,
    1.2 + 2.5 * rows,
    title=f"{title}: strengths of synapses, first seed",
  )
  grid = drawing.subplots(rows, columns, sharex=True, squeeze=False)
  middles = np.sqrt(EDGES[1:] * EDGES[:-1])
  width = np.log(EDGES[1] / EDGES[0])
  for plot, (method, record) in zip(
    grid.flat, evaluations.items(), strict=False
  ):
    figures.frame(plot, methods.METHODS[method].title, "")
    counts = results.metric(record, "histogram")[0]
    heights = counts / max(1.0, counts.sum()) / width
    plot.bar(
      EDGES[:-1],
      heights,
      np.diff(EDGES),
      align="edge",
      color="0.8",
      label="weights",
    )
    for name, (label, color, line) in _FITS.items():
      parameters = results.metric(record, f"{name}_parameters")[0]
      if np.isfinite(parameters).all():
        density = distributions.log_density(
          name, middles, *parameters, distributions.THRESHOLD
        )
        plot.plot(
          middles,
          middles * np.exp(density),
          label=label,
          color=color,
          linestyle=line,
          linewidth=1.8,
        )
    plot.set_xscale("log")
    plot.set_ylim(0, 1.35 * max(heights.max(initial=0), 1e-9))
  for plot in grid.flat[len(evaluations) :]:
    plot.set_axis_off()
  for plot in grid[:, 0]:
    plot.set_ylabel("density of the logarithm", fontsize=9)
  for column in range(columns):
    last = (len(evaluations) - 1 - column) // columns
    grid[last, column].set_xlabel("|w| / max |w|", fontsize=10)
    grid[last, column].tick_params(labelbottom=True)
  canvas.legend(drawing, grid[0, 0], fontsize=9)
  canvas.save(drawing, path)


def receptive_fields(
  path: pathlib.Path, fields: Mapping[str, np.ndarray], *, title: str
) -> None:
  """Draws incoming weights [units, height, width], of units of all norms.

  The largest first. Each picture has a scale of its own: white is 0, red
  positive, blue negative.
  """
  units = min(_UNITS, max(map(len, fields.values())))
  drawing = canvas.blank(
    2.2 + 0.95 * units,
    0.6 + 1.0 * len(fields),
    title=f"{title}: incoming weights of first units, first seed",
  )
  grid = drawing.subplots(len(fields), units, squeeze=False)
  for row, (method, weights) in zip(grid, fields.items(), strict=True):
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    ranks = np.linspace(0, len(weights) - 1, min(units, len(weights)))
    picked = np.argsort(-norms, kind="stable")[ranks.round().astype(int)]
    for plot in row:
      plot.set_axis_off()
    for plot, unit in zip(row, picked, strict=False):
      limit = max(float(np.abs(weights[unit]).max()), 1e-30)
      plot.imshow(weights[unit], cmap="RdBu_r", vmin=-limit, vmax=limit)
    row[0].text(
      -0.15,
      0.5,
      methods.METHODS[method].title.replace(", ", ",\n"),
      transform=row[0].transAxes,
      ha="right",
      va="center",
      fontsize=9,
    )
  canvas.save(drawing, path)
