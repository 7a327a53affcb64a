"""Tests of experiments.tables.figures."""

from matplotlib import collections, colors
import numpy as np
import pytest

from experiments.tables import figures, stats

EPOCHS = np.arange(1, 6)
NONE = float("nan")


@pytest.fixture
def path(tmp_path):
  return tmp_path / "figure.png"


def make_curves(num_seeds=4):
  values = np.random.default_rng(0).uniform(0.2, 0.8, (2, num_seeds, 5))
  return [("vanilla", EPOCHS, values[0]), ("BEAN-1", EPOCHS, values[1])]


def make_series(num_series=2, points=(1, 5, 20)):
  means = 0.3 + 0.1 * np.arange(len(points))
  intervals = [stats.Interval(mean, 0.25, 0.9) for mean in means]
  return [(f"method {i}", points, intervals) for i in range(num_series)]


def lines(drawing):
  texts = [text.get_text() for text in drawing.legends[0].get_texts()]
  handles, _ = drawing.axes[0].get_legend_handles_labels()
  return dict(zip(texts, handles, strict=True))


def test_learning_curves_are_means_with_bands_in_percent(path):
  curves = make_curves()
  drawing = figures.learning_curves(path, curves, title="Digits")
  plot = drawing.axes[0]
  assert plot.get_title() == "Digits"
  assert (plot.get_xlabel(), plot.get_ylabel()) == ("epoch", "accuracy (%)")
  for (label, _, values), band in zip(curves, plot.collections, strict=True):
    line = lines(drawing)[label]
    np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
    np.testing.assert_allclose(line.get_ydata(), 100 * values.mean(axis=0))
    expected = stats.mean_interval(values[:, 2])
    x, y = band.get_paths()[0].vertices.T
    heights = np.unique(y[x == EPOCHS[2]])
    # Another number of draws, so the bounds agree to a point or so.
    np.testing.assert_allclose(heights, 100 * np.array(expected[1:]), atol=1.5)


def test_learning_curves_leave_out_who_failed_and_say_so(path):
  (_, _, values), _ = make_curves()
  broken = values.copy()
  broken[1, 3:] = np.nan
  lost = np.full((2, 5), np.inf)
  drawing = figures.learning_curves(
    path, [("vanilla", EPOCHS, broken), ("lost", EPOCHS, lost)], title="t"
  )
  line = lines(drawing)["vanilla (3 of 4 seeds)"]
  expected = 100 * values[[0, 2, 3]].mean(axis=0)
  np.testing.assert_allclose(line.get_ydata(), expected)
  assert np.isnan(lines(drawing)["lost (0 of 2 seeds)"].get_ydata()).all()
  # One seed has no band.
  drawing = figures.learning_curves(path, make_curves(1), title="t")
  assert not drawing.axes[0].collections


@pytest.mark.parametrize(
  "draw,places",
  (
    (figures.accuracy_against_shots, [0, 1, 2]),
    (figures.accuracy_against_hparam, [1, 5, 20]),
  ),
)
def test_points_bars_and_ticks(path, draw, places):
  drawing = draw(path, make_series(1), title="Digits")
  plot = drawing.axes[0]
  assert plot.get_ylabel() == "accuracy (%)"
  assert [t.get_text() for t in plot.get_xticklabels()] == ["1", "5", "20"]
  line, _, (bars,) = lines(drawing)["method 0"]
  np.testing.assert_allclose(line.get_xdata(), places, rtol=1e-12)
  np.testing.assert_allclose(line.get_ydata(), [30, 40, 50], rtol=1e-12)
  for segment in bars.get_segments():
    np.testing.assert_allclose(segment[:, 1], [25, 90], rtol=1e-12)


@pytest.mark.parametrize("others", [(), (0.01, 1.0)])
def test_zero_is_drawn_left_of_all_others(path, others):
  drawing = figures.accuracy_against_hparam(
    path, make_series(1, (0.0, *others)), title="t"
  )
  (plot,) = drawing.axes
  ticks = [t.get_text() for t in plot.get_xticklabels()]
  assert ticks == ["0", *(f"{value:g}" for value in others)]
  x = lines(drawing)["method 0"][0].get_xdata()
  low, high = plot.get_xlim()
  assert low < x[0] < x[-1] * (1 + 1e-9) < high
  np.testing.assert_allclose(x[1:], others, rtol=1e-12)
  assert np.all(np.diff(x) > 0)
  np.testing.assert_allclose(plot.get_xticks(), x, rtol=1e-12)


def test_series_stand_side_by_side_and_near_their_tick(path):
  drawing = figures.accuracy_against_shots(path, make_series(11), title="t")
  drawn = [line for line, *_ in lines(drawing).values()]
  x = np.array([line.get_xdata() for line in drawn])
  assert np.all(np.diff(x, axis=0) > 0)
  np.testing.assert_allclose(x, [[0, 1, 2]] * 11, atol=0.4)
  # Lines through such points would cross where accuracies do not.
  assert {line.get_linestyle() for line in drawn} == {"None"}
  # And they differ without their places, too.
  assert len({(one.get_color(), one.get_marker()) for one in drawn}) == 11


def test_lines_against_a_hyper_parameter_have_bands_of_their_colours(path):
  drawing = figures.accuracy_against_hparam(path, make_series(3), title="t")
  plot = drawing.axes[0]
  assert plot.get_xscale() == "log"
  drawn = [line for line, *_ in lines(drawing).values()]
  bands = plot.findobj(collections.PolyCollection)
  for band, line in zip(bands, drawn, strict=True):
    np.testing.assert_allclose(line.get_xdata(), [1, 5, 20], rtol=1e-12)
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [25, 90])
    color = colors.to_rgb(line.get_color())
    np.testing.assert_allclose(band.get_facecolor()[0, :3], color)


def test_a_method_has_one_colour_wherever_it_is():
  own = figures.style("BEAN-1", 0)
  again = figures.style("BEAN-1 alpha 10 (19 of 20 seeds)", 3)
  assert again["color"] == own["color"]
  assert again["marker"] != own["marker"]
  for other in ("BEAN-1, A frozen", "BEAN-2", "Vanilla", "of no method"):
    assert figures.style(other, 0)["color"] != own["color"]
  # And series differ without colour.
  styles = [figures.style("", index) for index in range(40)]
  assert len({(one["linestyle"], one["marker"]) for one in styles}) == 40


@pytest.mark.parametrize(
  "interval", ((0.5, NONE, NONE), (0.3, 0.3 + 1e-16, 0.3 - 1e-16))
)
def test_a_point_without_bounds_or_with_none_by_rounding(path, interval):
  series = [("a", [5], [stats.Interval(*interval)])]
  drawing = figures.accuracy_against_shots(path, series, title="t")
  (plot,) = drawing.axes
  low, high = plot.get_xlim()
  assert low < plot.get_xticks() < high


def test_baseline_is_a_line_with_a_band(path):
  def draw(*interval):
    return figures.accuracy_against_hparam(
      path,
      make_series(1),
      title="t",
      xlabel="gamma",
      baseline=("vanilla", stats.Interval(*interval)),
    )

  drawing = draw(0.4, 0.35, 0.5)
  plot = drawing.axes[0]
  assert plot.get_xlabel() == "gamma"
  np.testing.assert_allclose(lines(drawing)["vanilla"].get_ydata(), [40, 40])
  (band,) = plot.patches
  np.testing.assert_allclose([band.get_y(), band.get_height()], [35, 15])
  # But for one without bounds.
  assert not draw(0.4, NONE, NONE).axes[0].patches


def test_looks_are_those_that_were_asked_for(path):
  plain = figures.style("", 2) | {"linestyle": "-"}
  look = plain | {"linestyle": "--", "markerfacecolor": "white"}
  drawing = figures.accuracy_against_hparam(
    path, make_series(2), title="t", looks=[plain, look]
  )
  first, second = (line for line, *_ in lines(drawing).values())
  assert first.get_color() == second.get_color() == look["color"]
  assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
  assert second.get_markerfacecolor() == "white"


def test_legend_and_axes_do_not_overlap(path):
  long = ", with rather a long name of its own"
  series = [(label + long, *points) for label, *points in make_series(11)]
  drawing = figures.accuracy_against_shots(path, series, title="t")
  legend = drawing.legends[0].get_window_extent()
  plot = drawing.axes[0].get_tightbbox()
  assert legend.y1 <= plot.y0
  assert drawing.bbox.x0 <= legend.x0
  assert legend.x1 <= drawing.bbox.x1
  assert plot.height > drawing.bbox.height / 3


INTERVAL = stats.Interval(0.03, -0.01, 0.04)


def test_differences_have_a_line_of_the_figure_for_each_name(path):
  drawing = figures.differences(
    path,
    [("1-shot", {"a": INTERVAL, "b": INTERVAL}), ("5-shot", {"b": INTERVAL})],
    title="Digits",
  )
  plot = drawing.axes[0]
  assert [text.get_text() for text in plot.get_yticklabels()] == ["a", "b"]
  line, _, (bars,) = lines(drawing)["1-shot"]
  np.testing.assert_allclose(line.get_xdata(), [3, 3], rtol=1e-12)
  # Within its line of the figure, from the top.
  np.testing.assert_allclose(line.get_ydata(), [0, 1], atol=0.3)
  assert plot.yaxis_inverted()
  for segment in bars.get_segments():
    np.testing.assert_allclose(segment[:, 0], [-1, 4], rtol=1e-12)
  other, *_ = lines(drawing)["5-shot"]
  np.testing.assert_allclose(other.get_ydata(), [1], atol=0.3)
  assert other.get_ydata()[0] > line.get_ydata()[1]


def test_names_that_a_series_lacks_stay_in_their_place(path):
  series = [
    ("paper", {"a": INTERVAL, "c": INTERVAL}),
    ("strict", {"a": INTERVAL, "b": INTERVAL, "c": INTERVAL}),
  ]
  plot = figures.differences(path, series, title="Digits").axes[0]
  names = [text.get_text() for text in plot.get_yticklabels()]
  assert names == ["a", "b", "c"]


def test_markers_of_a_name_do_not_touch(path):
  series = [(f"{i}", {"a": INTERVAL, "b": INTERVAL}) for i in range(8)]
  drawing = figures.differences(path, series, title="t")
  drawn = [line.get_ydata() for line, *_ in lines(drawing).values()]
  rows = np.sort(np.concatenate(drawn))
  transform = drawing.axes[0].transData.transform
  heights = transform([(0, row) for row in rows])[:, 1]
  assert np.abs(np.diff(heights)).min() * 72 / drawing.dpi >= 4
