"""Figures of accuracies as PNG files.

Functions of plain arrays. Accuracies are fractions within [0, 1] and are drawn
in percent; NaN bounds are drawn as no bar and no band. Every series has a
colour (Okabe and Ito's, which colour-blind readers can tell apart), a line
style and a marker of its own, so a figure can be read in black and white.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import pathlib
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.learning import methods
from experiments.tables import canvas, stats

if TYPE_CHECKING:
  from experiments.tables.canvas import axes, figure

# For each line its label, places [num_points] and as many means with bounds.
Series = Sequence[tuple[str, ArrayLike, Sequence[stats.Interval]]]

# Okabe and Ito's, which colour-blind readers tell apart; of the first methods.
_COLORS = (
  "#000000",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#D55E00",
  "#0072B2",
)
_LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LEGEND_COLUMNS = 3


def learning_curves(
  path: pathlib.Path,
  curves: Sequence[tuple[str, np.ndarray, np.ndarray]],
  *,
  title: str,
) -> figure.Figure:
  """Draws accuracies [num_seeds, num_epochs] against epochs: means with bands.

  Seeds with a number that is not finite are left out, and counted in the
  legend.
  """
  drawing, plot = _blank(title, "epoch", len(curves))
  for index, (label, epochs, values) in enumerate(curves):
    kept = values[np.isfinite(values).all(axis=1)]
    if len(kept) < len(values):
      label = f"{label} ({len(kept)} of {len(values)} seeds)"
    # Few markers, and not above each other.
    every = max(1, len(epochs) // 8)
    places = index * every // len(curves), every
    look = style(label, index) | {"label": label, "markevery": places}
    curve(plot, epochs, 100.0 * bands(kept.T), look)
  return _finish(drawing, path)


def accuracy_against_shots(
  path: pathlib.Path, series: Series, *, title: str
) -> figure.Figure:
  """Draws accuracy at each number of training images a class.

  Series stand side by side, so that no bar hides another, and without lines:
  through points beside each other they would cross where accuracies do not.
  """
  xlabel = "training images per class (shots)"
  drawing, plot = _blank(title, xlabel, len(series))
  ticks = np.unique(np.concatenate([shots for _, shots, _ in series]))
  offsets = _side_by_side(len(series), at_most=0.1)
  for index, (label, shots, intervals) in enumerate(series):
    places = np.searchsorted(ticks, shots) + offsets[index]
    look = style(label, index) | {"linestyle": "none", "capsize": 3}
    _error_bars(plot, places, _percent(intervals), label=label, **look)
  plot.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
  plot.set_xlim(-0.5, len(ticks) - 0.5)
  return _finish(drawing, path)


def accuracy_against_hparam(
  path: pathlib.Path,
  series: Series,
  *,
  title: str,
  xlabel: str = "alpha",
  baseline: tuple[str, stats.Interval] | None = None,
  looks: Sequence[Mapping[str, Any]] = (),
) -> figure.Figure:
  """Draws accuracy against a hyper-parameter.

  The axis is logarithmic, and 0 has a place of its own at its left. The
  baseline, which has no such hyper-parameter, is a horizontal line. Without
  `looks` lines are drawn in the style of their places.
  """
  drawing, plot = _blank(title, xlabel, len(series))
  if baseline is not None:
    label, interval = baseline
    mean, low, high = _percent([interval])[:, 0]
    color = style(label, 0)["color"]
    plot.axhline(mean, color=color, linewidth=1.5, label=label, zorder=1)
    if np.isfinite(low):
      plot.axhspan(low, high, color=color, alpha=0.15, linewidth=0, zorder=0)
  if not looks:
    # As they are where the baseline is the first of them.
    first = int(baseline is not None)
    looks = [style(one[0], first + i) for i, one in enumerate(series)]
  zero = _place_of_zero(np.concatenate([x for _, x, _ in series]))
  ticks: dict[float, str] = {}
  for (label, x, intervals), look in zip(series, looks, strict=True):
    places = np.where(np.equal(x, 0), zero, x)
    ticks.update(zip(places, [f"{value:g}" for value in x], strict=True))
    # A bar shows where there is one value, a band which line it belongs to.
    percent = _percent(intervals)
    _error_bars(plot, places, percent, label=label, **look)
    _band(plot, places, percent, look["color"])
  _logarithmic_axis(plot, ticks)
  return _finish(drawing, path)


def differences(
  path: pathlib.Path,
  series: Sequence[tuple[str, Mapping[str, stats.Interval]]],
  *,
  title: str,
  unit: str = "points",
) -> figure.Figure:
  """Draws differences, in hundredths, by name: one line of the figure each."""
  # In the order of the series that has most.
  fullest_first = sorted(series, key=lambda one: -len(one[1]))
  names = list(
    dict.fromkeys(name for _, by_name in fullest_first for name in by_name)
  )
  drawing, plot = _blank(title, f"difference ({unit})", len(names))
  drawing.set_figheight(1.8 + max(0.42, 0.15 * len(series)) * len(names))
  plot.set_ylabel("")
  plot.axvline(0, color="0.4", linewidth=1.2, zorder=1)
  offsets = _side_by_side(len(series), at_most=0.16)
  for index, (label, by_name) in enumerate(series):
    rows = np.array([names.index(name) for name in by_name])
    percent = _percent(list(by_name.values()))
    plot.errorbar(
      percent[0],
      rows + offsets[index],
      xerr=lengths(*percent),
      label=label,
      capsize=3,
      elinewidth=1.3,
      **style(label, index) | {"linestyle": "none"},
    )
  labels = [textwrap.fill(name, 34) for name in names]
  plot.set_yticks(range(len(names)), labels, fontsize=9)
  # The first above, and as much room at the ends as in between.
  plot.set_ylim(len(names) - 0.5, -0.5)
  return _finish(drawing, path)


def _place_of_zero(values: np.ndarray) -> float:
  """Returns where 0 stands on a logarithmic axis: a fifth of it to the left."""
  positive = values[values > 0]
  low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
  width = np.log(high / low) or 1.0
  return float(low * np.exp(-0.2 * width))


def _logarithmic_axis(plot: axes.Axes, ticks: Mapping[float, str]) -> None:
  """Sets the scale, the ticks, given by place, and the limits of the x axis."""
  places = sorted(ticks)
  low, high = places[0], places[-1]
  margin = (high / low) ** 0.09 if high > low else np.exp(0.09)
  plot.set_xscale("log")
  plot.set_xticks(places, [ticks[place] for place in places])
  # More than fit side by side.
  plot.tick_params(axis="x", labelrotation=45 if len(ticks) > 9 else 0)
  plot.set_xticks([], minor=True)
  plot.set_xlim(low / margin, high * margin)


def _side_by_side(num_series: int, at_most: float) -> np.ndarray:
  """Returns where series stand about 0, nearer than to those about 1."""
  step = min(at_most, 0.7 / num_series)
  return step * (np.arange(num_series) - (num_series - 1) / 2)


def _percent(intervals: Sequence[stats.Interval]) -> np.ndarray:
  """Returns means, lower and upper bounds [3, num_points] in percent."""
  return 100.0 * np.array(intervals, np.float64).reshape(-1, 3).T


def _error_bars(
  plot: axes.Axes, x: np.ndarray, percent: np.ndarray, **look: Any
) -> None:
  bars = lengths(*percent)
  plot.errorbar(x, percent[0], yerr=bars, elinewidth=1.3, **look)


def lengths(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Returns how far bounds [n] are below and above means [2, n]."""
  # Equal values may have a mean just outside of their bounds.
  return np.maximum([mean - low, high - mean], 0.0)


def bands(points: Iterable[np.ndarray]) -> np.ndarray:
  """Returns mean, low and high [3, num_points] of [num_points][num_seeds].

  Numbers that are not finite are left out. Of one there is no band.
  """
  kept = [values[np.isfinite(values)] for values in points]
  return np.array(
    [
      stats.mean_interval(values, num_resamples=2000)
      if values.size
      else [np.nan] * 3
      for values in kept
    ]
  ).T


def curve(
  plot: axes.Axes, x: ArrayLike, band: np.ndarray, look: Mapping[str, Any]
) -> None:
  """Draws a line with the band [3, num_points] around it."""
  plot.plot(x, band[0], **look)
  _band(plot, x, band, look["color"])


def _band(plot: axes.Axes, x: ArrayLike, band: np.ndarray, color: str) -> None:
  _, low, high = band
  if np.isfinite(low).any():
    plot.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def style(label: str, index: int) -> dict[str, Any]:
  """Returns how matplotlib draws a series: a method has one colour everywhere.

  The label of a method's series begins with its title. The index in the figure
  gives line and marker, and the colour where it is of no method.
  """
  titles = [method.title for method in methods.METHODS.values()]
  own = max(filter(label.startswith, titles), key=len, default="")
  place = titles.index(own) if own else index
  # Lengths without a common factor, so that 40 series differ without colour.
  return {
    "color": _COLORS[place % len(_COLORS)],
    "linestyle": _LINE_STYLES[index % len(_LINE_STYLES)],
    "marker": _MARKERS[index % len(_MARKERS)],
    "linewidth": 1.8,
    "markersize": 6,
  }


def frame(plot: axes.Axes, title: str, xlabel: str = "") -> None:
  """Sets up one of several axes: a title, a light grid, two spines."""
  plot.set_title(title, fontsize=11)
  if xlabel:
    plot.set_xlabel(xlabel, fontsize=11)
  plot.grid(color="0.9", linewidth=0.8)
  plot.set_axisbelow(True)
  plot.spines[["top", "right"]].set_visible(False)


def _blank(
  title: str, xlabel: str, num_series: int
) -> tuple[figure.Figure, axes.Axes]:
  legend_rows = -(-(num_series + 1) // _LEGEND_COLUMNS)
  drawing = canvas.blank(7.0, 4.6 + 0.2 * legend_rows)
  plot = drawing.add_subplot()
  frame(plot, "")
  plot.set_title(title, fontsize=13, wrap=True)
  plot.set_xlabel(xlabel, fontsize=12)
  plot.set_ylabel("accuracy (%)", fontsize=12)
  plot.tick_params(labelsize=11)
  plot.grid(color="0.88")
  return drawing, plot


def _finish(drawing: figure.Figure, path: pathlib.Path) -> figure.Figure:
  canvas.legend(drawing, drawing.axes[0], columns=_LEGEND_COLUMNS)
  return canvas.save(drawing, path)
