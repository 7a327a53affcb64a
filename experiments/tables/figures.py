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
import types
from typing import Any

from matplotlib import axes, figure
import numpy as np
from numpy.typing import ArrayLike

from experiments.records import results
from experiments.tables import stats

_COLORS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#000000",
  "#E69F00",
  "#56B4E9",
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
    mean, low, high = _percent(points, label)
    look = style(index)
    # Few markers, and not above each other.
    every = max(1, len(epochs) // 8)
    plot.plot(
      epochs[: len(mean)],
      mean,
      label=label,
      markevery=(index * every // len(curves), every),
      **look,
    )
    if len(kept) > 1:
      plot.fill_between(
        epochs, low, high, color=look["color"], alpha=0.15, linewidth=0
      )
  return _finish(drawing, path)


def accuracy_against_shots(
  path: str | os.PathLike[str],
  series: Sequence[tuple[str, ArrayLike, Sequence[stats.Interval]]],
  *,
  title: str,
) -> figure.Figure:
  """Draw accuracy against the number of training images a class.

  Args:
    path: the PNG file to write.
    series: for each line its label, [num_points] numbers of shots, and as many
      intervals of accuracies. NaN bounds are drawn as no bar.
    title: above the axes.

  Returns:
    The figure that was written.

  Raises:
    ValueError: if there are no series, the lengths differ, a number of shots
      is not positive or an accuracy is not within [0, 1].
    results.ResultError: if the file cannot be written.
  """
  drawing, plot = _blank(title, "training images per class (shots)", series)
  _error_bars(plot, series, [style(index) for index in range(len(series))])
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
      drawn as no bar.
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
    color = style(0)["color"]
    plot.axhline(mean, color=color, linewidth=1.5, label=label, zorder=1)
    if np.isfinite(low) and np.isfinite(high):
      plot.axhspan(low, high, color=color, alpha=0.15, linewidth=0, zorder=0)
  if not looks:
    # As they are where the baseline is the first of them.
    first = int(baseline is not None)
    looks = [style(first + index) for index in range(len(series))]
  zero = _place_of_zero([x for _, x, _ in series])
  placed = [
    (label, np.where(np.asarray(x) == 0, zero, x), intervals)
    for label, x, intervals in series
  ]
  _error_bars(plot, placed, looks, names={zero: "0"})
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
  drawing.set_figheight(1.6 + max(0.42, 0.15 * len(series)) * len(names))
  plot.set_ylabel("")
  plot.axvline(0, color="0.4", linewidth=1.2, zorder=1)
  # Below each other, and nearer than to those of the next name.
  step = min(0.16, 0.7 / len(series))
  for index, (label, by_name) in enumerate(series):
    rows = np.array([names.index(name) for name in by_name])
    intervals = np.array(list(by_name.values()), np.float64).reshape(-1, 3)
    mean, low, high = 100.0 * intervals.T
    plot.errorbar(
      mean,
      rows + step * (index - (len(series) - 1) / 2),
      xerr=np.maximum([mean - low, high - mean], 0.0),
      label=label,
      capsize=3,
      elinewidth=1.3,
      **{**style(index), "linestyle": "none"},
    )
  labels = [textwrap.fill(name, 34) for name in names]
  plot.set_yticks(range(len(names)), labels, fontsize=9)
  plot.invert_yaxis()
  return _finish(drawing, path)


def _place_of_zero(values: Sequence[ArrayLike]) -> float:
  """Returns where 0 stands on a logarithmic axis: a fifth of it to the left."""
  flat = np.concatenate([np.ravel(x) for x in values]).astype(np.float64)
  positive = flat[(flat > 0) & np.isfinite(flat)]
  low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
  width = np.log(high / low) or 1.0
  return float(low * np.exp(-0.2 * width))


def _error_bars(
  plot: axes.Axes,
  series: Sequence[tuple],
  looks: Sequence[Mapping[str, Any]],
  names: Mapping[float, str] = types.MappingProxyType({}),
) -> None:
  for label, x, intervals in series:
    x = np.asarray(x, np.float64)
    if x.shape != (len(intervals),) or not np.all((x > 0) & np.isfinite(x)):
      raise ValueError(
        f"{label}: expected [num_points] positive numbers and as many"
        f" intervals, got {x.tolist()} and {len(intervals)} intervals"
      )
  ticks = np.unique(np.concatenate([x for _, x, _ in series]))
  width = np.log(ticks[-1] / ticks[0]) or 1.0
  # Side by side, so that the bars of a series do not hide those of another.
  step = min(0.014, 0.12 / len(series)) * width
  drawn = zip(series, looks, strict=True)
  for index, ((label, x, intervals), look) in enumerate(drawn):
    mean, low, high = _percent(intervals, label)
    plot.errorbar(
      np.asarray(x) * np.exp(step * (index - (len(series) - 1) / 2)),
      mean,
      # Equal values may have a mean just outside of their bounds.
      yerr=np.maximum([mean - low, high - mean], 0.0),
      label=label,
      capsize=3,
      elinewidth=1.3,
      **look,
    )
  margin = np.exp(0.09 * width)
  plot.set_xscale("log")
  plot.set_xticks(ticks, [names.get(tick, f"{tick:g}") for tick in ticks])
  # More than fit side by side.
  plot.tick_params(axis="x", labelrotation=45 if len(ticks) > 9 else 0)
  plot.set_xticks([], minor=True)
  plot.set_xlim(ticks[0] / margin, ticks[-1] * margin)


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


def style(index: int) -> dict[str, Any]:
  """Returns how matplotlib draws the line of a series, by its number."""
  # Lengths without a common factor, so that 280 series have different styles.
  return {
    "color": _COLORS[index % len(_COLORS)],
    "linestyle": _LINE_STYLES[index % len(_LINE_STYLES)],
    "marker": _MARKERS[index % len(_MARKERS)],
    "linewidth": 1.8,
    "markersize": 6,
  }


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
