"""Figures of layers, neuron by neuron, as PNG and PDF.

What colour says, a letter, a digit or a line style says too: assemblies are
letters, classes digits, and grey levels or colours of one direction of
lightness stand for numbers. Paths end in .png, and every function returns the
figure that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
import string
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import bean_jax
from experiments.assemblies import clusters, measures
from experiments.assemblies.sources import Layer
from experiments.tables import canvas

if TYPE_CHECKING:
  from experiments.tables.canvas import axes, axis, figure

# Paul Tol's muted scheme and black, which colour-blind readers can tell apart.
_COLORS = (
  *("#332288", "#CC6677", "#117733", "#DDAA00", "#88CCEE"),
  *("#882255", "#44AA99", "#999933", "#AA4499", "#000000"),
)
# Without those that are thin or look like digits.
_LETTERS = "ABCDEFGHKLMNPQRSTUVWXYZ"
_DPI = 120
_DEAD = {"s": 6, "c": "0.75", "marker": ".", "linewidths": 0}


class Portrait(NamedTuple):
  """A layer of one simulation, to be drawn."""

  title: str  # Its name for people.
  kernel: np.ndarray  # Outgoing weights [N, M].
  correlation: np.ndarray  # Neuron correlation A [N, N].
  neurons: measures.Neurons
  places: np.ndarray  # Of neurons in the t-SNE plane [N, 2].
  # Both at outgoing weights of norm 1.
  rescaled_neurons: measures.Neurons
  rescaled_places: np.ndarray
  metrics: Mapping[str, np.ndarray]  # As in a record.


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


def maps(path: pathlib.Path, portraits: Sequence[Portrait]) -> figure.Figure:
  """Draws neurons in the t-SNE plane of their outgoing weights.

  A column a portrait. The rows: assemblies as letters (Figure 2), preferred
  classes as digits, the larger the more selective (Figure 4), and these once
  more where all weights have norm 1. Dead neurons are grey dots.
  """
  drawing = canvas.blank(0.6 + 3.3 * len(portraits), 10.6, dpi=_DPI)
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
  return canvas.save(drawing, path, with_pdf=True)


def coactivation(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws the mean activation of every neuron for each class (Figure 3)."""
  profiles = portrait.neurons.profiles
  drawing = canvas.blank(11.5, 5.2, title=portrait.title, dpi=_DPI)
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
  drawing.colorbar(
    drawn, ax=grid, label="mean activation", shrink=0.8, extend="max"
  )
  return canvas.save(drawing, path, with_pdf=True)


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
  width, height = 0.5 + 3.7 * len(columns), 0.5 + 3.9 * len(portraits)
  drawing = canvas.blank(width, height, dpi=_DPI)
  grid = drawing.subplots(len(portraits), len(columns), squeeze=False)
  for row, portrait in zip(grid, portraits, strict=True):
    for plot, (title, name) in zip(row, columns.items(), strict=True):
      share = portrait.metrics[f"{name}_diagonality"]
      plot.set_title(f"{title}: share {share:.2f}", fontsize=11)
      _table(plot, 100 * portrait.metrics[name])
    row[0].set_ylabel(f"{portrait.title}\nablated population")
  for plot in grid[-1]:
    plot.set_xlabel("class, loss of accuracy in points")
  return canvas.save(drawing, path, with_pdf=True)


def wiring(path: pathlib.Path, portrait: Portrait) -> figure.Figure:
  """Draws what neurons of an assembly have in common (Figure 6).

  The correlation matrix with neurons ordered by assembly; the strongest fifth
  of the connections; the outgoing weights. Assemblies are those found at equal
  norms, which tell directions apart however strong a neuron's weights are.
  """
  order, groups = _by_assembly(portrait.rescaled_neurons)
  kernel = portrait.kernel[order]
  drawing = canvas.blank(12.5, 4.9, title=portrait.title, dpi=_DPI)
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
  return canvas.save(drawing, path, with_pdf=True)


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
    canvas.collections.LineCollection(
      lines,
      colors=canvas.colors.to_rgba_array(hues[sources], shade),
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
