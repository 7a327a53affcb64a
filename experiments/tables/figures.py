"""Figures of accuracies as PNG files.

Functions of plain arrays. Accuracies are fractions within [0, 1] and are drawn
in percent. Every series has a colour (Okabe and Ito's, which colour-blind
readers can tell apart), a line style and a marker of its own, so a figure can
be read in black and white. No global state of matplotlib is read or changed
but its defaults. A file is written whole or not at all.
"""

from collections.abc import Mapping, Sequence
import io
import os
import textwrap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from experiments.learning import methods
from experiments.records import results
from experiments.tables import stats
from experiments.tables.canvas import axes, figure

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
_BAND_RESAMPLES = 2000
_LEGEND_COLUMNS = 3


def learning_curves(
  path: str | os.PathLike[str],
  curves: Sequence[tuple[str, ArrayLike, ArrayLike]],
  *,
  title: str,
) -> figure.Figure:
  """Draw accuracy against epoch: means over seeds with 95 % bands.

  Seeds with a number that is not finite are left out, and counted in the
  legend.

  Args:
    path: the PNG file to write.
    curves: for each line its label, [num_epochs] epochs, and
      [num_seeds, num_epochs] accuracies.
    title: above the axes.

  Returns:
    The figure that was written.

  Raises:
    ValueError: if there are no curves, the shapes do not fit or an accuracy is
      not within [0, 1].
    results.ResultError: if the file cannot be written.
  """
  drawing, plot = _blank(title, "epoch", curves)
  for index, (label, epochs, values) in enumerate(curves):
    epochs = np.asarray(epochs, np.float64)
    values = np.asarray(values, np.float64)
    if epochs.ndim != 1 or values.shape[1:] != epochs.shape:
      raise ValueError(
        f"{label}: expected [num_epochs] epochs and [num_seeds, num_epochs]"
        f" accuracies, got {epochs.shape} and {values.shape}"
      )
    kept = values[np.isfinite(values).all(axis=1)]
    if len(kept) < len(values):
      label = f"{label} ({len(kept)} of {len(values)} seeds)"
    points = [
      stats.mean_interval(column, num_resamples=_BAND_RESAMPLES)
      for column in (kept.T if len(kept) else ())
    ]
    percent = _percent(points, label)
    epochs = epochs[: len(points)]
    look = style(label, index)
    # Few markers, and not above each other.
    every = max(1, len(epochs) // 8)
    plot.plot(
      epochs,
      percent[0],
      label=label,
      markevery=(index * every // len(curves), every),
      **look,
    )
    _band(plot, epochs, percent, look["color"])
  return _finish(drawing, path)


def accuracy_against_shots(
  path: str | os.PathLike[str],
  series: Sequence[tuple[str, ArrayLike, Sequence[stats.Interval]]],
  *,
  title: str,
) -> figure.Figure:
  """Draw accuracy at each number of training images a class.

  Series stand side by side, so that no bar hides another, and without lines:
  through points beside each other they would cross where accuracies do not.

  Args:
    path: the PNG file to write.
    series: for each marker its label, [num_points] numbers of shots, and as
      many intervals of accuracies. NaN bounds are drawn as no bar.
    title: above the axes.

  Returns:
    The figure that was written.

  Raises:
    ValueError: if there are no series, the lengths differ, a number of shots
      is not positive or an accuracy is not within [0, 1].
    results.ResultError: if the file cannot be written.
  """
  drawing, plot = _blank(title, "training images per class (shots)", series)
  points = [_points(*one) for one in series]
  ticks = np.unique(np.concatenate([shots for shots, _ in points]))
  offsets = _side_by_side(len(series), at_most=0.1)
  for index, (shots, percent) in enumerate(points):
    _error_bars(
      plot,
      np.searchsorted(ticks, shots) + offsets[index],
      percent,
      label=series[index][0],
      capsize=3,
      **{**style(series[index][0], index), "linestyle": "none"},
    )
  plot.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
  plot.set_xlim(-0.5, len(ticks) - 0.5)
  return _finish(drawing, path)


def accuracy_against_hparam(
  path: str | os.PathLike[str],
  series: Sequence[tuple[str, ArrayLike, Sequence[stats.Interval]]],
  *,
  title: str,
  xlabel: str = "alpha",
  baseline: tuple[str, stats.Interval] | None = None,
  looks: Sequence[Mapping[str, Any]] = (),
) -> figure.Figure:
  """Draw accuracy against a hyper-parameter.

  Args:
    path: the PNG file to write.
    series: for each line its label, [num_points] values of the
      hyper-parameter, and as many intervals of accuracies. The axis is
      logarithmic, and 0 has a place of its own at its left. NaN bounds are
      drawn as no bar and no band.
    title: above the axes.
    xlabel: name of the hyper-parameter, with its unit if it has one.
    baseline: label and interval of what has no such hyper-parameter, drawn as
      a horizontal line with a band.
    looks: for each line how it is drawn, keywords of matplotlib as `style`
      returns them; left out, that of its place.

  Returns:
    The figure that was written.

  Raises:
    ValueError: if there are no series, the lengths differ, a value is
      negative or an accuracy is not within [0, 1].
    results.ResultError: if the file cannot be written.
  """
  drawing, plot = _blank(title, xlabel, series)
  if baseline is not None:
    label, interval = baseline
    mean, low, high = _percent([interval], label)[:, 0]
    color = style(label, 0)["color"]
    plot.axhline(mean, color=color, linewidth=1.5, label=label, zorder=1)
    if np.isfinite(low) and np.isfinite(high):
      plot.axhspan(low, high, color=color, alpha=0.15, linewidth=0, zorder=0)
  if not looks:
    # As they are where the baseline is the first of them.
    first = int(baseline is not None)
    looks = [style(one[0], first + i) for i, one in enumerate(series)]
  zero = _place_of_zero([x for _, x, _ in series])
  ticks: dict[float, str] = {}
  for (label, x, intervals), look in zip(series, looks, strict=True):
    names = [f"{value:g}" for value in x]
    x = np.where(np.asarray(x) == 0, zero, x)
    x, percent = _points(label, x, intervals)
    ticks.update(zip(x, names, strict=True))
    # A bar shows where there is one value, a band which line it belongs to.
    _error_bars(plot, x, percent, label=label, **look)
    _band(plot, x, percent, look["color"])
  _logarithmic_axis(plot, ticks)
  return _finish(drawing, path)


def differences(
  path: str | os.PathLike[str],
  series: Sequence[tuple[str, Mapping[str, stats.Interval]]],
  *,
  title: str,
) -> figure.Figure:
  """Draw differences of accuracy, one line of the figure a name.

  Args:
    path: the PNG file to write.
    series: for each marker its label, and an interval of differences by name;
      NaN bounds are drawn as no bar. A name need not be in all series.
    title: above the axes.

  Returns:
    The figure that was written.

  Raises:
    ValueError: if there are no series, or no names.
    results.ResultError: if the file cannot be written.
  """
  names = list(dict.fromkeys(name for _, by_name in series for name in by_name))
  drawing, plot = _blank(title, "difference (points)", names)
  drawing.set_figheight(1.8 + max(0.42, 0.15 * len(series)) * len(names))
  plot.set_ylabel("")
  plot.axvline(0, color="0.4", linewidth=1.2, zorder=1)
  offsets = _side_by_side(len(series), at_most=0.16)
  for index, (label, by_name) in enumerate(series):
    rows = np.array([names.index(name) for name in by_name])
    intervals = np.array(list(by_name.values()), np.float64).reshape(-1, 3)
    mean, low, high = 100.0 * intervals.T
    plot.errorbar(
      mean,
      rows + offsets[index],
      xerr=_lengths(mean, low, high),
      label=label,
      capsize=3,
      elinewidth=1.3,
      **{**style(label, index), "linestyle": "none"},
    )
  labels = [textwrap.fill(name, 34) for name in names]
  plot.set_yticks(range(len(names)), labels, fontsize=9)
  # The first above, and as much room at the ends as in between.
  plot.set_ylim(len(names) - 0.5, -0.5)
  return _finish(drawing, path)


def _place_of_zero(values: Sequence[ArrayLike]) -> float:
  """Returns where 0 stands on a logarithmic axis: a fifth of it to the left."""
  flat = np.concatenate([np.ravel(x) for x in values]).astype(np.float64)
  positive = flat[(flat > 0) & np.isfinite(flat)]
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


def _points(
  label: str, x: ArrayLike, intervals: Sequence[stats.Interval]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns [num_points] places and [3, num_points] percentages."""
  x = np.asarray(x, np.float64)
  if x.shape != (len(intervals),) or not np.all((x > 0) & np.isfinite(x)):
    raise ValueError(
      f"{label}: expected [num_points] positive numbers and as many"
      f" intervals, got {x.tolist()} and {len(intervals)} intervals"
    )
  return x, _percent(intervals, label)


def _side_by_side(num_series: int, at_most: float) -> np.ndarray:
  """Returns where series stand about 0, nearer than to those about 1."""
  step = min(at_most, 0.7 / num_series)
  return step * (np.arange(num_series) - (num_series - 1) / 2)


def _error_bars(
  plot: axes.Axes, x: np.ndarray, percent: np.ndarray, **kwargs: Any
) -> None:
  plot.errorbar(
    x, percent[0], yerr=_lengths(*percent), elinewidth=1.3, **kwargs
  )


def _lengths(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  # Equal values may have a mean just outside of their bounds.
  return np.maximum([mean - low, high - mean], 0.0)


def _band(
  plot: axes.Axes, x: np.ndarray, percent: np.ndarray, color: str
) -> None:
  _, low, high = percent
  if np.isfinite([low, high]).any():
    plot.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _percent(intervals: Sequence[stats.Interval], label: str) -> np.ndarray:
  numbers = np.array(intervals, np.float64).reshape(-1, 3).T
  outside = (numbers < 0) | (numbers > 1) | ~np.isfinite(numbers)
  outside[1:] &= ~np.isnan(numbers[1:])
  if outside.any():
    raise ValueError(
      f"{label}: expected accuracies as fractions within [0, 1], got"
      f" {numbers[outside][0]}"
    )
  return 100.0 * numbers


def style(label: str, index: int) -> dict[str, Any]:
  """Returns how matplotlib draws a series: a method has one colour everywhere.

  Args:
    label: Of the series; that of a method begins with its title.
    index: Number of the series in its figure, which its line and its marker
      tell, and its colour where it is of no method.

  Returns:
    Keywords of matplotlib.
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
  title: str, xlabel: str, series: Sequence
) -> tuple[figure.Figure, axes.Axes]:
  if not series:
    raise ValueError(f"{title}: expected at least one series, got none")
  legend_rows = -(-(len(series) + 1) // _LEGEND_COLUMNS)
  drawing = figure.Figure(
    figsize=(7.0, 4.6 + 0.2 * legend_rows), dpi=150, layout="constrained"
  )
  plot = drawing.add_subplot()
  plot.set_title(title, fontsize=13, wrap=True)
  plot.set_xlabel(xlabel, fontsize=12)
  plot.set_ylabel("accuracy (%)", fontsize=12)
  plot.tick_params(labelsize=11)
  plot.grid(color="0.88", linewidth=0.8)
  plot.set_axisbelow(True)
  plot.spines[["top", "right"]].set_visible(False)
  return drawing, plot


def _finish(
  drawing: figure.Figure, path: str | os.PathLike[str]
) -> figure.Figure:
  # Below the axes, where it cannot cover a line.
  for columns in range(_LEGEND_COLUMNS, 0, -1):
    legend = drawing.legend(
      loc="outside lower center",
      ncols=columns,
      fontsize=10,
      frameon=False,
      handlelength=3.5,
    )
    if legend.get_window_extent().width <= drawing.bbox.width or columns == 1:
      break
    legend.remove()
  buffer = io.BytesIO()
  # Without the version of matplotlib, so that equal data make equal bytes.
  drawing.savefig(buffer, format="png", metadata={"Software": None})
  results.write_bytes(path, buffer.getvalue())
  return drawing
