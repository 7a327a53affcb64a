"""Tests of experiments.tables.figures."""

import functools
import os
import subprocess
import sys

from matplotlib import collections, colors
import numpy as np
from PIL import Image
import pytest

from experiments.tables import figures, stats

EPOCHS = np.arange(1, 6)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "figure.png"


def make_curves(num_seeds=4):
  values = np.random.default_rng(0).uniform(0.2, 0.8, (2, num_seeds, 5))
  return [("vanilla", EPOCHS, values[0]), ("BEAN-1", EPOCHS, values[1])]


def make_series(num_series=2, points=(1, 5, 20)):
  return [
    (
      f"method {index}",
      points,
      [stats.Interval(0.3 + 0.1 * k, 0.25, 0.9) for k in range(len(points))],
    )
    for index in range(num_series)
  ]


def lines(drawing):
  return {
    text.get_text(): handle
    for text, handle in zip(
      drawing.legends[0].get_texts(),
      drawing.axes[0].get_legend_handles_labels()[0],
      strict=True,
    )
  }


def draw_each(path):
  figures.learning_curves(path, make_curves(), title="curves")
  yield path
  figures.accuracy_against_shots(path, make_series(), title="shots")
  yield path
  figures.accuracy_against_hparam(
    path,
    make_series(),
    title="alphas",
    baseline=("vanilla", stats.Interval(0.4, 0.3, 0.5)),
  )
  yield path
  figures.differences(
    path, [("1-shot", {"BEAN-1": stats.Interval(0.1, 0.0, 0.2)})], title="gains"
  )
  yield path


class TestFile:
  def test_is_a_picture_of_150_dots_per_inch(self, path):
    for _ in draw_each(path):
      with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 7 * 150
        np.testing.assert_allclose(image.info["dpi"], 150, rtol=1e-3)
        # Something was drawn: not all pixels are alike.
        assert len(np.unique(np.asarray(image.convert("L")))) > 2
      assert os.listdir(path.parent) == [path.name]

  def test_equal_data_make_equal_bytes(self, path):
    first = [each.read_bytes() for each in draw_each(path)]
    assert first == [each.read_bytes() for each in draw_each(path)]
    assert len(set(first)) == 4

  def test_leaves_pyplot_and_the_settings_alone(self, path):
    program = """if True:
      import sys
      import matplotlib
      before = matplotlib.rcParams.copy()
      from experiments.tables import figures, stats
      figures.learning_curves(sys.argv[1], [("a", [1], [[0.5]])], title="t")
      assert "matplotlib.pyplot" not in sys.modules
      assert matplotlib.rcParams.copy() == before
    """
    subprocess.run([sys.executable, "-c", program, path], check=True)
    assert path.exists()


class TestLearningCurves:
  def test_draws_means_and_bands_in_percent(self, path):
    curves = make_curves()
    drawing = figures.learning_curves(path, curves, title="Digits")
    plot = drawing.axes[0]
    assert plot.get_title() == "Digits"
    assert plot.get_xlabel() == "epoch"
    assert plot.get_ylabel() == "accuracy (%)"
    for (label, _, values), band in zip(curves, plot.collections, strict=True):
      line = lines(drawing)[label]
      np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
      np.testing.assert_allclose(
        line.get_ydata(), 100 * values.mean(axis=0), rtol=1e-12
      )
      expected = stats.mean_interval(values[:, 2])
      at_third = band.get_paths()[0].vertices
      heights = at_third[at_third[:, 0] == EPOCHS[2], 1]
      # Another number of draws, so the bounds agree to a point or so.
      np.testing.assert_allclose(heights.min(), 100 * expected.low, atol=1.5)
      np.testing.assert_allclose(heights.max(), 100 * expected.high, atol=1.5)

  def test_leaves_out_seeds_that_are_not_finite_and_says_so(self, path):
    (_, _, values), _ = make_curves()
    broken = values.copy()
    broken[1, 3:] = np.nan
    drawing = figures.learning_curves(
      path,
      [
        ("vanilla", EPOCHS, broken),
        ("lost", EPOCHS, np.full((2, 5), np.inf)),
      ],
      title="t",
    )
    line = lines(drawing)["vanilla (3 of 4 seeds)"]
    np.testing.assert_allclose(
      line.get_ydata(), 100 * values[[0, 2, 3]].mean(axis=0), rtol=1e-12
    )
    assert lines(drawing)["lost (0 of 2 seeds)"].get_xdata().size == 0
    # One seed has no band.
    drawing = figures.learning_curves(path, make_curves(1), title="t")
    assert not drawing.axes[0].collections

  @pytest.mark.parametrize(
    ("values", "message"),
    [
      (np.zeros((3, 4)), r"vanilla: .* got \(5,\) and \(3, 4\)"),
      (np.zeros(5), r"got \(5,\) and \(5,\)"),
      (np.full((3, 5), 1.5), r"within \[0, 1\], got 1.5"),
      (np.full((3, 5), -0.5), r"within \[0, 1\], got -0.5"),
    ],
  )
  def test_refuses(self, path, values, message):
    with pytest.raises(ValueError, match=message):
      figures.learning_curves(path, [("vanilla", EPOCHS, values)], title="t")
    assert not path.exists()


class TestAccuracyAgainst:
  @pytest.mark.parametrize(
    ("draw", "xlabel", "places"),
    [
      (
        figures.accuracy_against_shots,
        "training images per class (shots)",
        [0, 1, 2],
      ),
      (figures.accuracy_against_hparam, "alpha", [1, 5, 20]),
    ],
  )
  def test_draws_points_bars_and_ticks(self, path, draw, xlabel, places):
    drawing = draw(path, make_series(1), title="Digits")
    plot = drawing.axes[0]
    assert plot.get_xlabel() == xlabel
    assert plot.get_ylabel() == "accuracy (%)"
    assert [t.get_text() for t in plot.get_xticklabels()] == ["1", "5", "20"]
    line, _, (bars,) = lines(drawing)["method 0"]
    np.testing.assert_allclose(line.get_xdata(), places, rtol=1e-12)
    np.testing.assert_allclose(line.get_ydata(), [30, 40, 50], rtol=1e-12)
    for segment in bars.get_segments():
      np.testing.assert_allclose(segment[:, 1], [25, 90], rtol=1e-12)

  def test_ticks_are_at_the_points_of_all_series(self, path):
    series = make_series(1, points=(0.1, 30)) + make_series(1, points=(30, 4))
    drawing = figures.accuracy_against_hparam(path, series, title="t")
    ticks = [t.get_text() for t in drawing.axes[0].get_xticklabels()]
    assert ticks == ["0.1", "4", "30"]

  @pytest.mark.parametrize("others", [(), (0.01, 1.0)])
  def test_zero_is_drawn_left_of_all_others(self, path, others):
    intervals = [stats.Interval(0.5, 0.4, 0.6)] * (1 + len(others))
    drawing = figures.accuracy_against_hparam(
      path, [("a", (0.0, *others), intervals)], title="t"
    )
    (plot,) = drawing.axes
    ticks = [t.get_text() for t in plot.get_xticklabels()]
    assert ticks == ["0", *(f"{value:g}" for value in others)]
    x = lines(drawing)["a"][0].get_xdata()
    low, high = plot.get_xlim()
    assert low < x[0] < x[-1] * (1 + 1e-9) < high
    np.testing.assert_allclose(x[1:], others, rtol=1e-12)
    np.testing.assert_allclose(plot.get_xticks(), x, rtol=1e-12)

  def test_series_stand_side_by_side_and_near_their_tick(self, path):
    drawing = figures.accuracy_against_shots(path, make_series(11), title="t")
    drawn = [line for line, *_ in lines(drawing).values()]
    x = np.array([line.get_xdata() for line in drawn])
    assert np.all(np.diff(x, axis=0) > 0)
    np.testing.assert_allclose(x, [[0, 1, 2]] * 11, atol=0.4)
    # Lines through such points would cross where accuracies do not.
    assert {line.get_linestyle() for line in drawn} == {"None"}

  def test_lines_against_a_hyper_parameter_are_at_its_values(self, path):
    drawing = figures.accuracy_against_hparam(path, make_series(3), title="t")
    plot = drawing.axes[0]
    assert plot.get_xscale() == "log"
    drawn = [line for line, *_ in lines(drawing).values()]
    for line in drawn:
      np.testing.assert_allclose(line.get_xdata(), [1, 5, 20], rtol=1e-12)
    bands = [
      artist
      for artist in plot.collections
      if isinstance(artist, collections.PolyCollection)
    ]
    assert len(bands) == len(drawn)
    for band, line in zip(bands, drawn, strict=True):
      heights = band.get_paths()[0].vertices[:, 1]
      np.testing.assert_allclose([heights.min(), heights.max()], [25, 90])
      np.testing.assert_allclose(
        band.get_facecolor()[0, :3], colors.to_rgb(line.get_color())
      )

  def test_styles_differ_with_and_without_colour(self, path):
    drawing = figures.accuracy_against_shots(path, make_series(11), title="t")
    drawn = [line for line, *_ in lines(drawing).values()]
    assert len({(one.get_color(), one.get_marker()) for one in drawn}) == 11
    styles = [figures.style("", index) for index in range(40)]
    assert len({(one["linestyle"], one["marker"]) for one in styles}) == 40

  def test_a_method_has_one_colour_wherever_it_is(self):
    own = figures.style("BEAN-1", 0)
    again = figures.style("BEAN-1 alpha 10 (19 of 20 seeds)", 3)
    assert again["color"] == own["color"]
    assert again["marker"] != own["marker"]
    for other in ("BEAN-1, A frozen", "BEAN-2", "Vanilla", "of no method"):
      assert figures.style(other, 0)["color"] != own["color"]

  def test_single_point_without_bounds(self, path):
    interval = stats.mean_interval([0.5])
    drawing = figures.accuracy_against_shots(
      path, [("vanilla", [5], [interval])], title="t"
    )
    (plot,) = drawing.axes
    low, high = plot.get_xlim()
    assert low < plot.get_xticks() < high
    # Bounds that rounding puts beside the mean.
    interval = stats.Interval(0.3, 0.3 + 1e-16, 0.3 - 1e-16)
    figures.accuracy_against_shots(path, [("a", [1], [interval])], title="t")

  def test_baseline_is_a_line_with_a_band(self, path):
    baseline = ("vanilla", stats.Interval(0.4, 0.35, 0.5))
    draw = functools.partial(
      figures.accuracy_against_hparam, path, make_series(1), title="t"
    )
    drawing = draw(xlabel="gamma", baseline=baseline)
    plot = drawing.axes[0]
    assert plot.get_xlabel() == "gamma"
    np.testing.assert_allclose(lines(drawing)["vanilla"].get_ydata(), [40, 40])
    (band,) = plot.patches
    np.testing.assert_allclose(band.get_y(), 35)
    np.testing.assert_allclose(band.get_height(), 15)
    # But for one without bounds.
    alone = draw(baseline=("vanilla", stats.mean_interval([0.4])))
    assert not alone.axes[0].patches

  def test_looks_are_those_that_were_asked_for(self, path):
    look = figures.style("", 2) | {
      "linestyle": "--",
      "markerfacecolor": "white",
    }
    drawing = figures.accuracy_against_hparam(
      path, make_series(2), title="t", looks=[figures.style("", 2), look]
    )
    first, second = (line for line, *_ in lines(drawing).values())
    assert first.get_color() == second.get_color() == look["color"]
    assert first.get_linestyle() != second.get_linestyle() == "--"
    assert second.get_markerfacecolor() == "white"

  @pytest.mark.parametrize("num_series", [1, 11])
  def test_legend_and_axes_do_not_overlap(self, path, num_series):
    series = [
      (f"{label}, with rather a long name of its own", x, intervals)
      for label, x, intervals in make_series(num_series)
    ]
    drawing = figures.accuracy_against_shots(path, series, title="t")
    legend = drawing.legends[0].get_window_extent()
    plot = drawing.axes[0].get_tightbbox()
    assert legend.y1 <= plot.y0
    assert drawing.bbox.x0 <= legend.x0
    assert legend.x1 <= drawing.bbox.x1
    assert plot.height > drawing.bbox.height / 3

  @pytest.mark.parametrize(
    ("points", "interval", "message"),
    [
      ([-1], stats.Interval(0.5, 0.4, 0.6), r"a: .* got \[-1.0\] and 1 interv"),
      ([np.nan], stats.Interval(0.5, 0.4, 0.6), "positive numbers"),
      ([np.inf], stats.Interval(0.5, 0.4, 0.6), "positive numbers"),
      ([1, 2], stats.Interval(0.5, 0.4, 0.6), r"got \[1.0, 2.0\] and 1"),
      ([1], stats.Interval(50.0, 40.0, 60.0), "fractions .* got 50.0"),
      ([1], stats.Interval(np.nan, 0.4, 0.6), "fractions .* got nan"),
      ([1], stats.Interval(0.5, 0.4, np.inf), "fractions .* got inf"),
    ],
  )
  def test_refuses(self, path, points, interval, message):
    for draw in (
      figures.accuracy_against_shots,
      figures.accuracy_against_hparam,
    ):
      with pytest.raises(ValueError, match=message):
        draw(path, [("a", points, [interval])], title="t")
    # A strength may be 0, a number of shots may not.
    series = [("a", [0], [stats.Interval(0.5, 0.4, 0.6)])]
    with pytest.raises(ValueError, match=r"a: .* got \[0.0\] and 1 interval"):
      figures.accuracy_against_shots(path, series, title="t")
    assert not path.exists()


@pytest.mark.parametrize(
  "draw,series",
  (
    (figures.learning_curves, []),
    (figures.accuracy_against_shots, []),
    (figures.differences, []),
    (figures.differences, [("a", {})]),
  ),
)
def test_refuses_nothing_to_draw(path, draw, series):
  with pytest.raises(ValueError, match="at least one series"):
    draw(path, series, title="t")
  assert not path.exists()


class TestDifferences:
  def test_draws_a_line_of_the_figure_for_each_name(self, path):
    interval = stats.Interval(0.03, -0.01, 0.04)
    drawing = figures.differences(
      path,
      [("1-shot", {"a": interval, "b": interval}), ("5-shot", {"b": interval})],
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

  @pytest.mark.parametrize("num_series", [1, 2, 8])
  def test_markers_of_a_name_do_not_touch(self, path, num_series):
    interval = stats.Interval(0.03, -0.01, 0.04)
    drawing = figures.differences(
      path,
      [
        (f"{index}", {"a": interval, "b": interval})
        for index in range(num_series)
      ],
      title="t",
    )
    plot = drawing.axes[0]
    rows = np.sort(
      np.concatenate([line.get_ydata() for line, *_ in lines(drawing).values()])
    )
    heights = plot.transData.transform([(0, row) for row in rows])[:, 1]
    points = np.abs(np.diff(heights)) * 72 / drawing.dpi
    assert points.min() >= 4
