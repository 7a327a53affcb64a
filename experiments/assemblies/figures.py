"""Figures of assemblies, each as PNG and PDF, readable in black and white.

What colour says, a letter, a digit or a line style says too: assemblies are
letters, classes digits, and grey levels or colours of one direction of
lightness stand for numbers. A file is written whole or not at all. Paths are
without an ending, and every function returns the figure that was written.
"""

from collections.abc import Callable, Mapping, Sequence
import io
import pathlib
import string
from typing import NamedTuple

import numpy as np

import bean_jax
from experiments.assemblies import clusters, measures, summary
from experiments.assemblies.sources import Layer
from experiments.learning import methods
from experiments.records import results
from experiments.tables import figures, stats
from experiments.tables.canvas import (
  axes,
  axis,
  collections as mcollections,
  colors,
  figure,
)

# Paul Tol's muted scheme and black, which colour-blind readers can tell apart.
_COLORS = (
  *("#332288", "#CC6677", "#117733", "#DDAA00", "#88CCEE"),
  *("#882255", "#44AA99", "#999933", "#AA4499", "#000000"),
)
# Without those that are thin or look like digits.
_LETTERS = "ABCDEFGHKLMNPQRSTUVWXYZ"
Metric = Callable[[summary.Cell], np.ndarray]

_DEAD = {"s": 6, "c": "0.75", "marker": ".", "linewidths": 0}


class Portrait(NamedTuple):
  """A layer of one simulation, to be drawn.

  Attributes:
    title: Its name for people.
    kernel: Outgoing weights [N, M].
    correlation: Neuron correlation A [N, N].
    neurons: What is known of its neurons.
    places: Their places in the t-SNE plane [N, 2].
    rescaled_neurons: The same at outgoing weights of norm 1.
    rescaled_places: The same at outgoing weights of norm 1.
    metrics: Its numbers, as in a record.
  """

  title: str
  kernel: np.ndarray
  correlation: np.ndarray
  neurons: measures.Neurons
  places: np.ndarray
  rescaled_neurons: measures.Neurons
  rescaled_places: np.ndarray
  metrics: Mapping[str, np.ndarray]


def portray(
  title: str,
  layer: Layer,
  metrics: Mapping[str, np.ndarray],
  settings: measures.Settings,
  *,
  order: int,
  gamma: float,
  seed: int,
) -> Portrait:
  """Looks at a layer neuron by neuron; order and gamma are those of A."""
  rescaled = measures.rescaled(layer)
  return Portrait(
    title,
    layer.kernel,
    np.asarray(
      bean_jax.neuron_correlation(layer.kernel, order=order, gamma=gamma)
    ),
    measures.neurons(layer, settings, seed=seed),
    clusters.embed(layer.kernel, seed=seed),
    measures.neurons(rescaled, settings, seed=seed),
    clusters.embed(rescaled.kernel, seed=seed),
    metrics,
  )


def silhouettes(
  path: pathlib.Path,
  panels: Mapping[str, Mapping[str, np.ndarray]],
  *,
  num_classes: int,
) -> figure.Figure:
  """Draws the silhouette of K-means against the number of clusters.

  Args:
    path: File to write.
    panels: Four by title, each with curves [num_seeds, num_counts] by label,
      from 2 clusters on; NaN where not defined.
    num_classes: Marked by a vertical line.
  """
  drawing = blank((9.0, 7.0))
  grid = drawing.subplots(2, 2, sharex=True, sharey=True)
  for plot, (title, lines) in zip(grid.flat, panels.items(), strict=True):
    figures.frame(plot, title)
    for index, (label, curves) in enumerate(lines.items()):
      style = figures.style(label, index)
      counts = np.arange(2, 2 + curves.shape[1])
      means, *bounds = bands(curves.T).T
      markers = (index % 4, 4)
      plot.plot(counts, means, label=label, markevery=markers, **style)
      plot.fill_between(
        counts, *bounds, color=style["color"], alpha=0.15, linewidth=0
      )
    plot.axvline(num_classes, color="0.6", linewidth=0.8, zorder=0)
    plot.set_ylim(-0.05, 1.05)
    plot.set_xticks(counts[::2])
  for plot in grid[-1]:
    plot.set_xlabel("clusters")
  for plot in grid[:, 0]:
    plot.set_ylabel("silhouette")
  legend(drawing, grid[0, 0])
  return save(drawing, path)


def against_strength(
  path: pathlib.Path,
  cells: summary.Group,
  panels: Mapping[str, tuple[Metric, Metric | None]],
) -> figure.Figure:
  """Draws numbers against the strength of methods, one panel above another.

  Each panel has a metric of cells [num_seeds] and perhaps a control, which is
  thin and without markers. A method without strengths is a horizontal line.
  """
  drawing = blank((6.5, 0.6 + 2.3 * len(panels)))
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
  legend(drawing, grid[0])
  return save(drawing, path)


def _draw_method(
  plot: axes.Axes,
  index: int,
  cells: Sequence[summary.Cell],
  metric: Metric,
  control: Metric | None,
) -> None:
  title = methods.METHODS[cells[0].method].title
  style = figures.style(title, index)
  plain = {**style, "marker": ""}
  thin = {**plain, "linewidth": 0.8}
  strengths = [cell.strength for cell in cells]
  means, low, high = bands([metric(cell) for cell in cells]).T
  controls = [] if control is None else bands([control(c) for c in cells])[:, 0]
  if strengths == [0]:
    for mean in controls:
      plot.axhline(mean, **thin)
    plot.axhline(means[0], label=title, **plain)
    plot.axhspan(low[0], high[0], color=style["color"], alpha=0.15, linewidth=0)
    return
  if control is not None:
    plot.plot(strengths, controls, **thin)
  plot.errorbar(
    strengths,
    means,
    yerr=np.abs([low - means, high - means]),
    label=title,
    capsize=3,
    **style,
  )


def maps(path: pathlib.Path, portraits: Sequence[Portrait]) -> figure.Figure:
  """Draws neurons in the t-SNE plane of their outgoing weights.

  A column a portrait. The rows: assemblies as letters (Figure 2), preferred
  classes as digits, the larger the more selective (Figure 4), and these once
  more where all weights have norm 1. Dead neurons are grey dots.
  """
  drawing = blank((0.6 + 3.3 * len(portraits), 10.6))
  grid = drawing.subplots(3, len(portraits), squeeze=False)
  for column, portrait in zip(grid.T, portraits, strict=True):
    neurons, metrics = portrait.neurons, portrait.metrics
    curves = [metrics[f"{x}_silhouettes_live"] for x in ("trained", "rescaled")]
    first, second = (_number(x[len(neurons.profiles) - 2]) for x in curves)
    sizes = 10 + 30 * neurons.selectivity
    letters, digits, equal = column
    letters.set_title(f"{portrait.title}\nassemblies, silhouette {first}")
    _scatter(letters, portrait.places, ordered(neurons), _LETTERS)
    digits.set_title(
      f"preferred classes, AMI {_number(metrics['trained_agreement'])}"
    )
    _scatter(digits, portrait.places, neurons.preferred, string.digits, sizes)
    equal.set_title(
      f"equal norms, silhouette {second}, "
      f"AMI {_number(metrics['rescaled_agreement'])}"
    )
    _scatter(
      equal,
      portrait.rescaled_places,
      portrait.rescaled_neurons.preferred,
      string.digits,
      sizes,
    )
  return save(drawing, path)


def coactivation(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws the mean activation of every neuron for each class (Figure 3)."""
  profiles = portrait.neurons.profiles
  drawing = blank((11.5, 5.2))
  grid = drawing.subplots(2, -(-len(profiles) // 2))
  # A few loud neurons would leave all others white.
  highest = max(float(np.quantile(profiles, 0.995)), 1e-12)
  for index, profile in enumerate(profiles):
    plot = grid.flat[index]
    _bare(plot)
    plot.set_title(f"class {index}", fontsize=11)
    # The most active are drawn last, on top.
    rank = np.argsort(profile, kind="stable")
    drawn = plot.scatter(
      *portrait.places[rank].T,
      c=profile[rank],
      s=14,
      cmap="YlOrRd",
      vmin=0,
      vmax=highest,
      edgecolors="0.55",
      linewidths=0.25,
    )
  for plot in grid.flat[len(profiles) :]:
    plot.set_axis_off()
  drawing.suptitle(portrait.title, fontsize=13)
  drawing.colorbar(
    drawn, ax=grid, label="mean activation", shrink=0.8, extend="max"
  )
  return save(drawing, path)


def ablations(
  path: pathlib.Path, portraits: Sequence[Portrait]
) -> figure.Figure:
  """Draws what the ablation of each class's population costs (Figure 5).

  A row a portrait; columns are zero ablation, mean ablation and zero ablation
  of random groups; in the last layer then mean ablation of the neurons whose
  strongest connection leads to the class.
  """
  columns = {
    "prefer it, to zero": "ablation_zero",
    "prefer it, to the mean": "ablation_mean",
    "random groups, to zero": "ablation_zero_random",
    "wired to it, to the mean": "targeting_mean",
  }
  if "targeting_mean" not in portraits[0].metrics:
    columns.popitem()
  drawing = blank((0.5 + 3.7 * len(columns), 0.5 + 3.9 * len(portraits)))
  grid = drawing.subplots(len(portraits), len(columns), squeeze=False)
  for row, portrait in zip(grid, portraits, strict=True):
    for plot, (title, name) in zip(row, columns.items(), strict=True):
      share = portrait.metrics[f"{name}_diagonality"]
      plot.set_title(f"{title}: share {share:.2f}", fontsize=11)
      _table(plot, 100 * portrait.metrics[name])
    row[0].set_ylabel(f"{portrait.title}\nablated population")
  for plot in grid[-1]:
    plot.set_xlabel("class, loss of accuracy in points")
  return save(drawing, path)


def wiring(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws what neurons of an assembly have in common (Figure 6).

  The correlation matrix with neurons ordered by assembly; the strongest fifth
  of the connections; the outgoing weights. Assemblies are those found at equal
  norms, which tell directions apart however strong a neuron's weights are.
  """
  order, groups = _by_assembly(portrait.rescaled_neurons)
  kernel = portrait.kernel[order]
  drawing = blank((12.5, 4.9))
  drawing.suptitle(portrait.title, fontsize=13)
  left, middle, right = drawing.subplots(1, 3, width_ratios=(1.1, 1.25, 0.9))
  similar = portrait.correlation[np.ix_(order, order)]
  highest = max(float(np.quantile(similar, 0.99)), 1e-12)
  drawn = left.imshow(
    similar, cmap="Greys", vmin=0, vmax=highest, interpolation="nearest"
  )
  drawing.colorbar(drawn, ax=left, shrink=0.75, extend="max")
  highest = max(float(np.quantile(np.abs(kernel), 0.99)), 1e-12)
  drawn = right.imshow(
    kernel,
    cmap="gray",
    vmin=-highest,
    vmax=highest,
    aspect="auto",
    interpolation="nearest",
  )
  drawing.colorbar(drawn, ax=right, shrink=0.75, extend="both")
  left.set_title("neuron correlation A", fontsize=11)
  right.set_title("outgoing weights", fontsize=11)
  right.set_xticks(range(kernel.shape[1]))
  right.set_xlabel("neuron of the next layer")
  for labelled in (left.xaxis, left.yaxis, right.yaxis):
    _group_ticks(labelled, groups)
  _connections(middle, kernel, groups)
  return save(drawing, path)


def ordered(neurons: measures.Neurons) -> np.ndarray:
  """Numbers assemblies [N] by the class that most of their neurons prefer.

  Larger ones come first; dead neurons have -1.
  """
  members = neurons.assemblies

  def rank(name: int) -> tuple[int, int]:
    classes = neurons.preferred[members == name]
    counts = np.bincount(classes[classes >= 0], minlength=1)
    return int(np.argmax(counts)), -int(np.count_nonzero(members == name))

  result = np.full(len(members), -1)
  names = np.unique(members[members >= 0])
  for index, name in enumerate(sorted(names, key=rank)):
    result[members == name] = index
  return result


def _scatter(
  plot: axes.Axes,
  places: np.ndarray,
  groups: np.ndarray,
  glyphs: str,
  sizes: float | np.ndarray = 26.0,
) -> None:
  """Draws neurons as the glyph of their group, dead ones as dots."""
  _bare(plot)
  plot.scatter(*places[groups < 0].T, **_DEAD)
  sizes = np.broadcast_to(sizes, len(places))
  for group in np.unique(groups[groups >= 0]):
    here = groups == group
    glyph = glyphs[group % len(glyphs)]
    plot.scatter(
      *places[here].T,
      s=sizes[here],
      color=_color(group),
      marker=f"$\\mathrm{{{glyph}}}$",
      linewidths=0,
    )


def _table(plot: axes.Axes, losses: np.ndarray) -> None:
  """Draws a matrix of losses in points, with its numbers."""
  plot.imshow(losses, cmap="Greys", vmin=0, vmax=100)
  for (row, column), loss in np.ndenumerate(losses):
    if abs(loss) >= 0.5:
      plot.text(
        column,
        row,
        f"{loss:.0f}",
        ha="center",
        va="center",
        fontsize=7,
        color="white" if loss > 55 else "black",
      )
  plot.set_xticks(range(losses.shape[1]))
  plot.set_yticks(range(losses.shape[0]))
  plot.tick_params(labelsize=9, length=0)


def _connections(
  plot: axes.Axes, kernel: np.ndarray, groups: Sequence[tuple[int, int, int]]
) -> None:
  """Draws the strongest connections of neurons in their order."""
  plot.set_title("strongest fifth of the connections", fontsize=11, pad=18)
  num_neurons, num_outputs = kernel.shape
  strength = np.abs(kernel)
  sources, targets = np.nonzero(measures.strongest(strength, 0.2))
  hues = np.repeat(
    [_color(group) for *_, group in groups],
    [end - start for start, end, _ in groups],
  )
  places = (np.arange(num_outputs) + 0.5) * num_neurons / num_outputs
  lines = np.zeros((len(sources), 2, 2))
  lines[:, 0, 0] = sources
  lines[:, 1] = np.column_stack([places[targets], np.ones(len(targets))])
  shade = 0.1 + 0.6 * strength[sources, targets] / max(strength.max(), 1e-12)
  plot.add_collection(
    mcollections.LineCollection(
      lines,
      colors=colors.to_rgba_array(hues[sources], shade),
      # Solid into the next layer, dashed where it inhibits.
      linestyles=[
        "-" if weight > 0 else (0, (4, 3))
        for weight in kernel[sources, targets]
      ],
      linewidths=0.6,
    )
  )
  plot.set_xlim(-1, num_neurons)
  plot.set_ylim(-0.02, 1.02)
  plot.set_yticks([])
  plot.spines[["left", "right", "top"]].set_visible(False)
  for index, place in enumerate(places):
    plot.text(place, 1.03, str(index), ha="center", va="bottom", fontsize=9)
  _group_ticks(plot.xaxis, groups)
  plot.set_xlabel("assembly (\N{EN DASH}: dead); dashed: negative weight")


def _by_assembly(
  neurons: measures.Neurons,
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
  """Returns an order of neurons, and (start, end, assembly) of each run."""
  members = ordered(neurons)
  # The dead last, and neurons of one class next to each other.
  last = np.where(members < 0, members.max(initial=0) + 1, members)
  order = np.lexsort((neurons.preferred, last))
  starts = np.flatnonzero(np.diff(last[order], prepend=-2)).tolist()
  ends = [*starts[1:], len(last)]
  names = members[order[starts]].tolist()
  return order, list(zip(starts, ends, names, strict=True))


def _group_ticks(
  labelled: axis.Axis, groups: Sequence[tuple[int, int, int]]
) -> None:
  """Labels an axis of neurons by their assemblies."""
  labelled.set_ticks(
    [(start + end - 1) / 2 for start, end, _ in groups],
    [
      _LETTERS[g % len(_LETTERS)] if g >= 0 else "\N{EN DASH}"
      for *_, g in groups
    ],
  )
  labelled.set_tick_params(labelsize=9, length=0)
  labelled.set_ticks([start - 0.5 for start, *_ in groups[1:]], minor=True)
  labelled.set_tick_params(which="minor", length=6, width=0.8)
  for label, (*_, group) in zip(labelled.get_ticklabels(), groups, strict=True):
    label.set_color(_color(group))


def _color(group: int) -> str:
  return _COLORS[group % len(_COLORS)] if group >= 0 else "0.6"


def _number(value: float) -> str:
  return f"{value:.2f}" if np.isfinite(value) else "none"


def _bare(plot: axes.Axes) -> None:
  plot.set_xticks([])
  plot.set_yticks([])
  plot.spines[:].set_color("0.8")
  plot.margins(0.06)


def bands(points: Sequence[np.ndarray]) -> np.ndarray:
  """Returns mean, low and high [num_points, 3] of [num_points][num_seeds].

  Numbers that are not finite are left out. One seed has no band.
  """
  result = np.full((len(points), 3), np.nan)
  for point, column in zip(result, points, strict=True):
    kept = column[np.isfinite(column)]
    if kept.size:
      point[:] = stats.mean_interval(kept, num_resamples=2000)
  return np.where(np.isnan(result), result[:, :1], result)


def blank(size: tuple[float, float], *, dpi: int = 120) -> figure.Figure:
  """Makes a figure of so many inches."""
  return figure.Figure(figsize=size, dpi=dpi, layout="constrained")


def legend(
  drawing: figure.Figure, plot: axes.Axes, *, columns: int = 3
) -> None:
  """Names the lines of a plot below all plots, where it covers none."""
  drawing.legend(
    *plot.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=columns,
    fontsize=10,
    frameon=False,
    handlelength=3.5,
  )


def save(drawing: figure.Figure, path: pathlib.Path) -> figure.Figure:
  """Writes a figure as PNG and PDF.

  Neither has versions and dates, so that equal data make equal bytes.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  for ending, metadata in (
    ("png", {"Software": None}),
    ("pdf", {"Creator": None, "Producer": None, "CreationDate": None}),
  ):
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=ending, metadata=metadata)
    results.write_bytes(
      path.with_name(f"{path.name}.{ending}"), buffer.getvalue()
    )
  return drawing
