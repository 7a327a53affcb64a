"""Which figures a run has, as PNG and PDF, and what is drawn in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from experiments import datasets
from experiments.assemblies import measures, portraits, sources
from experiments.assemblies.summary import Cell, Group
from experiments.learning import methods
from experiments.records import results
from experiments.tables import canvas, figures

if TYPE_CHECKING:
  from experiments.tables.canvas import axes, figure

Metric = Callable[[Cell], np.ndarray]
# Checkpoints, with their images, by the digest that records have.
Known = Mapping[str, tuple[sources.Source, datasets.Dataset]]

_SILHOUETTES = {
  "weights as they are": "trained_silhouettes_live",
  "weights permuted": "permuted_silhouettes_live",
  "equal norms": "rescaled_silhouettes_live",
  "weights permuted, then equal norms": "permuted_rescaled_silhouettes_live",
}

# Metrics and controls.
_AGAINST_STRENGTH = {
  "test accuracy (%)": (lambda c: 100 * c.values("test_accuracy"), None),
  "silhouette\n(thin: permuted)": (
    lambda c: c.at_classes("trained_silhouettes_live"),
    lambda c: c.at_classes("permuted_silhouettes_live"),
  ),
  "silhouette, equal norms\n(thin: permuted)": (
    lambda c: c.at_classes("rescaled_silhouettes_live"),
    lambda c: c.at_classes("permuted_rescaled_silhouettes_live"),
  ),
  "share of own losses\n(to the mean; thin: random)": (
    lambda c: c.values("ablation_mean_diagonality"),
    lambda c: c.values("ablation_mean_random_diagonality"),
  ),
}


def draw(
  path: pathlib.Path,
  cells: Group,
  picked: Sequence[Cell],
  known: Known,
) -> None:
  """Draws a group, and the networks of some of its cells, at least one.

  With the path the names of all files begin.
  """

  def place(what: str) -> pathlib.Path:
    return path.with_name(f"{path.name}-{what}.png")

  panels = {
    title: {cell.title: cell.values(metric) for cell in picked}
    for title, metric in _SILHOUETTES.items()
  }
  untrained = cells[0].values("untrained_silhouettes_live")
  panels["weights as they are"]["before training"] = untrained
  num_classes = cells[0].values("ablation_class_accuracy").shape[1]
  silhouettes(place("silhouettes"), panels, num_classes=num_classes)
  if len({cell.strength for cell in cells if cell.strength}) > 1:
    against_strength(place("strength"), cells, _AGAINST_STRENGTH)
  looked_at = [_portrait(cell, known) for cell in picked]
  portraits.maps(place("maps"), looked_at)
  portraits.ablations(place("ablation"), looked_at)
  for cell, portrait in zip(picked, looked_at, strict=True):
    name = f"{cell.method}-{cell.strength:g}" if cell.strength else cell.method
    portraits.coactivation(place(f"{name}-coactivation"), portrait)
    portraits.wiring(place(f"{name}-wiring"), portrait)


def _portrait(cell: Cell, known: Known) -> portraits.Portrait:
  """Looks at the first simulation of a cell once more, neuron by neuron."""
  record = cell.records[0]
  config = record["config"]
  source, dataset = known[config["checkpoint_sha256"]]
  seed = source.config["seed"]
  trained, _ = sources.trained_and_untrained(
    source, dataset, config["layer"], which=config["epoch"]
  )
  return portraits.portray(
    f"{cell.title}, seed {seed}",
    trained,
    {name: results.metric(record, name)[0] for name in record["metrics"]},
    measures.Settings(*(config[name] for name in measures.Settings._fields)),
    order=2 if cell.method.startswith("bean2") else 1,
    gamma=source.config.get("gamma", 1.0),
    seed=seed,
  )


def silhouettes(
  path: pathlib.Path,
  panels: Mapping[str, Mapping[str, np.ndarray]],
  *,
  num_classes: int,
) -> figure.Figure:
  """Draws the silhouette of K-means against the number of clusters.

  The four panels have curves [num_seeds, num_counts] by label, from 2 clusters
  on, NaN where not defined. A vertical line marks the number of classes.
  """
  drawing = canvas.blank(9.0, 7.0, dpi=120)
  grid = drawing.subplots(2, 2, sharex=True, sharey=True)
  for plot, (title, lines) in zip(grid.flat, panels.items(), strict=True):
    figures.frame(plot, title)
    for index, (label, curves) in enumerate(lines.items()):
      counts = np.arange(2, 2 + curves.shape[1])
      look = {"label": label, "markevery": (index % 4, 4)}
      figures.curve(
        plot,
        counts,
        figures.bands(curves.T),
        figures.style(label, index) | look,
      )
    plot.axvline(num_classes, color="0.6", linewidth=0.8, zorder=0)
    plot.set_ylim(-0.05, 1.05)
    plot.set_xticks(counts[::2])
  for plot in grid[-1]:
    plot.set_xlabel("clusters")
  for plot in grid[:, 0]:
    plot.set_ylabel("silhouette")
  canvas.legend(drawing, grid[0, 0])
  return canvas.save(drawing, path, with_pdf=True)


def against_strength(
  path: pathlib.Path,
  cells: Group,
  panels: Mapping[str, tuple[Metric, Metric | None]],
) -> figure.Figure:
  """Draws numbers against the strength of methods, one panel above another.

  Each panel has a metric of cells [num_seeds] and perhaps a control, which is
  thin and without markers. A method without strengths is a horizontal line.
  """
  drawing = canvas.blank(6.5, 0.6 + 2.3 * len(panels), dpi=120)
  grid = drawing.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
  for plot, (label, metrics) in zip(grid, panels.items(), strict=True):
    figures.frame(plot, "")
    plot.set_ylabel(label)
    for index, name in enumerate(dict.fromkeys(cell.method for cell in cells)):
      own = [cell for cell in cells if cell.method == name]
      # An axis of logarithms has no place for 0.
      own = [cell for cell in own if cell.strength] or own
      _draw_method(plot, index, own, *metrics)
    plot.set_xscale("log")
  grid[-1].set_xlabel("strength")
  canvas.legend(drawing, grid[0])
  return canvas.save(drawing, path, with_pdf=True)


def _draw_method(
  plot: axes.Axes,
  index: int,
  cells: Sequence[Cell],
  metric: Metric,
  control: Metric | None,
) -> None:
  title = methods.METHODS[cells[0].method].title
  style = figures.style(title, index)
  plain = {**style, "marker": ""}
  thin = {**plain, "linewidth": 0.8}
  strengths = [cell.strength for cell in cells]
  band = figures.bands(map(metric, cells))
  controls = [] if control is None else figures.bands(map(control, cells))[0]
  if strengths == [0]:
    for mean in controls:
      plot.axhline(mean, **thin)
    (mean,), *bounds = band
    plot.axhline(mean, label=title, **plain)
    if np.isfinite(bounds).all():
      look = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
      plot.axhspan(*np.ravel(bounds), **look)
    return
  if control is not None:
    plot.plot(strengths, controls, **thin)
  bars = figures.lengths(*band)
  plot.errorbar(strengths, band[0], bars, label=title, capsize=3, **style)
