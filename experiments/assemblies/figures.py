"""Figures of assemblies, each as PNG and PDF, readable in black and white.

What colour says, a letter, a digit or a line style says too: assemblies are
letters, classes digits, and grey levels or colours of one direction of
lightness stand for numbers. A file is written whole or not at all.
"""

from collections.abc import Mapping, Sequence
import io
import pathlib
import string
from typing import NamedTuple

import numpy as np

from experiments.assemblies import measures
from experiments.records import results
from experiments.tables import figures, stats
from experiments.tables.canvas import (
  axes,
  collections as mcollections,
  colors,
  figure,
)

# Paul Tol's muted scheme and black, which colour-blind readers can tell apart.
_COLORS = (
  "#332288",
  "#CC6677",
  "#117733",
  "#DDAA00",
  "#88CCEE",
  "#882255",
  "#44AA99",
  "#999933",
  "#AA4499",
  "#000000",
)
# Without those that are thin or look like digits.
_LETTERS = "ABCDEFGHKLMNPQRSTUVWXYZ"
_DEAD = {"s": 6, "c": "0.75", "marker": ".", "linewidths": 0}
_DPI = 120


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


def silhouettes(
  path: pathlib.Path,
  panels: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]],
  *,
  num_classes: int,
) -> figure.Figure:
  """Draws the silhouette of K-means against the number of clusters.

  Args:
    path: File to write, without its ending.
    panels: For each panel its title, and for each line its label and curves
      [num_seeds, num_counts], from 2 clusters on; NaN where not defined.
    num_classes: Marked by a vertical line.

  Returns:
    The figure that was written.
  """
  rows = -(-len(panels) // 2)
  drawing = _blank((9.0, 0.8 + 3.1 * rows))
  grid = drawing.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
  for plot, (title, lines) in zip(grid.flat, panels, strict=False):
    figures.frame(plot, title)
    for index, (label, curves) in enumerate(lines):
      style = figures.style(label, index)
      counts = np.arange(2, 2 + curves.shape[1])
      bands = _bands(curves.T)
      plot.plot(
        counts,
        bands[:, 0],
        label=label,
        markevery=(index % 4, 4),
        **style,
      )
      plot.fill_between(
        counts, *bands[:, 1:].T, color=style["color"], alpha=0.15, linewidth=0
      )
    plot.axvline(num_classes, color="0.6", linewidth=0.8, zorder=0)
    plot.set_ylim(-0.05, 1.05)
    plot.set_xticks(range(2, 2 + lines[0][1].shape[1], 2))
  for plot in grid[-1]:
    plot.set_xlabel("clusters")
  for plot in grid[:, 0]:
    plot.set_ylabel("silhouette")
  for plot in grid.flat[len(panels) :]:
    plot.set_axis_off()
  _legend(drawing, grid.flat[0])
  return _save(drawing, path)


def against_strength(
  path: pathlib.Path,
  panels: Sequence[tuple[str, Sequence[tuple]]],
  *,
  xlabel: str,
) -> figure.Figure:
  """Draws numbers against the strength of methods, one panel above another.

  Args:
    path: File to write, without its ending.
    panels: For each its label, and for each line its label, strengths, for
      each strength the values of its seeds, and those of a control or None. A
      line of one strength of 0 is a method without any, drawn as a horizontal
      line. Controls are thin and without markers.
    xlabel: What strengths are.

  Returns:
    The figure that was written.
  """
  drawing = _blank((6.5, 0.6 + 2.3 * len(panels)))
  grid = drawing.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
  for plot, (label, lines) in zip(grid, panels, strict=True):
    figures.frame(plot, "")
    plot.set_ylabel(label)
    for index, line in enumerate(lines):
      _strength_line(plot, figures.style(line[0], index), *line)
    plot.set_xscale("log")
  grid[-1].set_xlabel(xlabel)
  _legend(drawing, grid[0])
  return _save(drawing, path)


def _strength_line(
  plot: axes.Axes,
  style: Mapping,
  name: str,
  strengths: np.ndarray,
  values: Sequence[np.ndarray],
  control: Sequence[np.ndarray] | None,
) -> None:
  color, bands = style["color"], _bands(values)
  plain = {**style, "marker": ""}
  thin = {**plain, "linewidth": 0.8}
  means = None if control is None else _bands(control)[:, 0]
  if len(strengths) == 1 and strengths[0] == 0:
    if means is not None:
      plot.axhline(means[0], **thin)
    plot.axhline(bands[0, 0], label=name, **plain)
    plot.axhspan(*bands[0, 1:], color=color, alpha=0.15, linewidth=0)
    return
  if means is not None:
    plot.plot(strengths, means, **thin)
  plot.errorbar(
    strengths,
    bands[:, 0],
    yerr=np.abs(bands[:, 1:].T - bands[:, 0]),
    label=name,
    capsize=3,
    **style,
  )


def maps(path: pathlib.Path, portraits: Sequence[Portrait]) -> figure.Figure:
  """Draws neurons in the t-SNE plane of their outgoing weights.

  The rows: assemblies as letters (Figure 2), preferred classes as digits, the
  larger the more selective (Figure 4), and these once more where all weights
  have norm 1. Dead neurons are grey dots.

  Args:
    path: File to write, without its ending.
    portraits: One a column.

  Returns:
    The figure that was written.
  """
  drawing = _blank((0.6 + 3.3 * len(portraits), 10.6))
  grid = drawing.subplots(3, len(portraits), squeeze=False)
  for column, portrait in zip(grid.T, portraits, strict=True):
    numbers, neurons = portrait.metrics, portrait.neurons
    index = portrait.neurons.profiles.shape[0] - 2
    silhouette, level = (
      numbers[f"{name}_silhouettes_live"][index]
      for name in ("trained", "rescaled")
    )
    column[0].set_title(
      f"{portrait.title}\nassemblies, silhouette {_number(silhouette)}"
    )
    order = ordered(neurons)
    _scatter(column[0], portrait.places, order, _LETTERS)
    column[1].set_title(
      f"preferred classes, AMI {_number(numbers['trained_agreement'])}"
    )
    _scatter(
      column[1],
      portrait.places,
      neurons.preferred,
      string.digits,
      neurons.selectivity,
    )
    column[2].set_title(
      f"equal norms, silhouette {_number(level)}, "
      f"AMI {_number(numbers['rescaled_agreement'])}"
    )
    _scatter(
      column[2],
      portrait.rescaled_places,
      portrait.rescaled_neurons.preferred,
      string.digits,
      neurons.selectivity,
    )
  return _save(drawing, path)


def coactivation(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws the mean activation of every neuron for each class (Figure 3).

  Args:
    path: File to write, without its ending.
    portrait: The layer.

  Returns:
    The figure that was written.
  """
  profiles = portrait.neurons.profiles
  drawing = _blank((11.5, 5.2))
  grid = drawing.subplots(2, -(-len(profiles) // 2))
  # A few loud neurons would leave all others white.
  highest = max(float(np.quantile(profiles, 0.995)), 1e-12)
  for index, (plot, profile) in enumerate(
    zip(grid.flat, profiles, strict=False)
  ):
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
  return _save(drawing, path)


def ablations(
  path: pathlib.Path, portraits: Sequence[Portrait]
) -> figure.Figure:
  """Draws what the ablation of each class's population costs (Figure 5).

  Args:
    path: File to write, without its ending.
    portraits: One a row; columns are zero ablation, mean ablation and zero
      ablation of random groups; in the last layer then mean ablation of the
      neurons whose strongest connection leads to the class.

  Returns:
    The figure that was written.
  """
  columns = {
    "prefer it, to zero": "ablation_zero",
    "prefer it, to the mean": "ablation_mean",
    "random groups, to zero": "ablation_zero_random",
    "wired to it, to the mean": "targeting_mean",
  }
  if "targeting_mean" not in portraits[0].metrics:
    columns.popitem()
  drawing = _blank((0.5 + 3.7 * len(columns), 0.5 + 3.9 * len(portraits)))
  grid = drawing.subplots(len(portraits), len(columns), squeeze=False)
  for row, portrait in zip(grid, portraits, strict=True):
    for plot, (title, name) in zip(row, columns.items(), strict=True):
      share = portrait.metrics[f"{name}_diagonality"]
      plot.set_title(f"{title}: share {share:.2f}", fontsize=11)
      _table(plot, 100 * portrait.metrics[name])
    row[0].set_ylabel(f"{portrait.title}\nablated population")
  for plot in grid[-1]:
    plot.set_xlabel("class, loss of accuracy in points")
  return _save(drawing, path)


def wiring(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws what neurons of an assembly have in common (Figure 6).

  The correlation matrix with neurons ordered by assembly; the strongest fifth
  of the connections; the outgoing weights. Assemblies are those found at equal
  norms, which tell directions apart however strong a neuron's weights are.

  Args:
    path: File to write, without its ending.
    portrait: The layer.

  Returns:
    The figure that was written.
  """
  order, groups = _by_assembly(portrait.rescaled_neurons)
  drawing = _blank((12.5, 4.9))
  grid = drawing.subplots(1, 3, width_ratios=(1.1, 1.25, 0.9))
  drawing.suptitle(portrait.title, fontsize=13)
  for plot, title, matrix, signed in (
    (
      grid[0],
      "neuron correlation A",
      portrait.correlation[np.ix_(order, order)],
      False,
    ),
    (grid[2], "outgoing weights", portrait.kernel[order], True),
  ):
    plot.set_title(title, fontsize=11)
    highest = max(float(np.quantile(np.abs(matrix), 0.99)), 1e-12)
    drawn = plot.imshow(
      matrix,
      cmap="gray" if signed else "Greys",
      vmin=-highest if signed else 0,
      vmax=highest,
      aspect="auto" if signed else "equal",
      interpolation="nearest",
    )
    drawing.colorbar(
      drawn, ax=plot, shrink=0.75, extend="both" if signed else "max"
    )
    _group_ticks(plot.yaxis, groups)
  _group_ticks(grid[0].xaxis, groups)
  _connections(grid[1], portrait.kernel[order], groups)
  grid[2].set_xticks(range(portrait.kernel.shape[1]))
  grid[2].set_xlabel("neuron of the next layer")
  return _save(drawing, path)


def ordered(neurons: measures.Neurons) -> np.ndarray:
  """Numbers assemblies by the class that most of their neurons prefer.

  Args:
    neurons: What is known of them.

  Returns:
    Assemblies [N] from 0; -1 for dead neurons.
  """
  members = neurons.assemblies
  names = np.unique(members[members >= 0])

  def rank(name: int) -> tuple[int, int]:
    classes = neurons.preferred[members == name]
    counts = np.bincount(classes[classes >= 0], minlength=1)
    return int(np.argmax(counts)), -int(np.count_nonzero(members == name))

  result = np.full(len(members), -1)
  for index, name in enumerate(sorted(names, key=rank)):
    result[members == name] = index
  return result


def _scatter(
  plot: axes.Axes,
  places: np.ndarray,
  groups: np.ndarray,
  glyphs: str,
  sizes: np.ndarray | None = None,
) -> None:
  """Draws neurons as the glyph of their group, dead ones as dots."""
  _bare(plot)
  plot.scatter(*places[groups < 0].T, **_DEAD)
  area = np.full(len(places), 26.0) if sizes is None else 10 + 30 * sizes
  for group in np.unique(groups[groups >= 0]):
    here = groups == group
    glyph = glyphs[group % len(glyphs)]
    plot.scatter(
      *places[here].T,
      s=area[here],
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
  plot: axes.Axes,
  kernel: np.ndarray,
  groups: Sequence[tuple[int, int, int]],
) -> None:
  """Draws the strongest connections of neurons in their order."""
  plot.set_title("strongest fifth of the connections", fontsize=11, pad=18)
  num_neurons, num_outputs = kernel.shape
  strength = np.abs(kernel)
  graph = measures.strongest(strength, 0.2)
  sources, targets = np.nonzero(graph)
  sizes = [end - start for start, end, _ in groups]
  hues = np.repeat([_color(group) for *_, group in groups], sizes)
  outputs = (np.arange(num_outputs) + 0.5) * num_neurons / num_outputs
  lines = np.stack(
    [
      np.column_stack([sources, np.zeros(len(sources))]),
      np.column_stack([outputs[targets], np.ones(len(targets))]),
    ],
    axis=1,
  )
  shade = 0.1 + 0.6 * strength[sources, targets] / max(strength.max(), 1e-12)
  plot.add_collection(
    mcollections.LineCollection(
      lines,
      colors=[
        colors.to_rgba(hues[source], opacity)
        for source, opacity in zip(sources, shade, strict=True)
      ],
      # Solid into the next layer, dashed where it inhibits.
      linestyles=[
        "-" if kernel[source, target] > 0 else (0, (4, 3))
        for source, target in zip(sources, targets, strict=True)
      ],
      linewidths=0.6,
    )
  )
  plot.set_xlim(-1, num_neurons)
  plot.set_ylim(-0.02, 1.02)
  plot.set_yticks([])
  plot.spines[["left", "right", "top"]].set_visible(False)
  for index, place in enumerate(outputs):
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
  starts = np.flatnonzero(np.diff(last[order], prepend=-2))
  ends = np.append(starts[1:], len(last))
  return order, [
    (int(start), int(end), int(members[order[start]]))
    for start, end in zip(starts, ends, strict=True)
  ]


def _group_ticks(axis: object, groups: Sequence[tuple[int, int, int]]) -> None:
  """Labels an axis of neurons by their assemblies."""
  axis.set_ticks(
    [(start + end - 1) / 2 for start, end, _ in groups],
    [
      _LETTERS[g % len(_LETTERS)] if g >= 0 else "\N{EN DASH}"
      for *_, g in groups
    ],
  )
  axis.set_tick_params(labelsize=9, length=0)
  axis.set_ticks([start - 0.5 for start, *_ in groups[1:]], minor=True)
  axis.set_tick_params(which="minor", length=6, width=0.8)
  for label, (*_, group) in zip(axis.get_ticklabels(), groups, strict=True):
    label.set_color(_color(group))


def _color(group: int) -> str:
  return _COLORS[group % len(_COLORS)] if group >= 0 else "0.6"


def _bands(points: Sequence[np.ndarray]) -> np.ndarray:
  """Returns mean, low and high [num_points, 3] of [num_points][num_seeds]."""
  result = np.full((len(points), 3), np.nan)
  for point, column in zip(result, points, strict=True):
    kept = column[np.isfinite(column)]
    if kept.size:
      point[:] = stats.mean_interval(kept, num_resamples=2000)
  # One seed has no band: draw none rather than NaN.
  missing = np.isnan(result[:, 1])
  result[missing, 1] = result[missing, 2] = result[missing, 0]
  return result


def _number(value: float) -> str:
  return f"{value:.2f}" if np.isfinite(value) else "none"


def _blank(size: tuple[float, float]) -> figure.Figure:
  return figure.Figure(figsize=size, dpi=_DPI, layout="constrained")


def _bare(plot: axes.Axes) -> None:
  plot.set_xticks([])
  plot.set_yticks([])
  plot.spines[:].set_color("0.8")
  plot.margins(0.06)


def _legend(drawing: figure.Figure, plot: axes.Axes) -> None:
  drawing.legend(
    *plot.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=3,
    fontsize=10,
    frameon=False,
    handlelength=3.5,
  )


def _save(drawing: figure.Figure, path: pathlib.Path) -> figure.Figure:
  # Without versions and dates, so that equal data make equal bytes.
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
