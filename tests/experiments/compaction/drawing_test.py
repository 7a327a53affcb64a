"""Tests of experiments.compaction.drawing."""

import numpy as np
from PIL import Image
import pytest

from experiments.compaction import drawing
from tests.experiments.compaction import fake_records


@pytest.fixture(scope="module")
def group():
  return fake_records.group(fake_records.make_all(retrained=[0.9, 0.89, 0.6]))


@pytest.fixture(scope="module")
def lost(group, tmp_path_factory):
  path = tmp_path_factory.mktemp("lost") / "lost.png"
  return drawing.curves(path, group, "best"), path


def test_a_panel_for_every_way(lost):
  figure, path = lost
  assert [each.get_title() for each in figure.axes] == [
    "weights pruned",
    "units removed",
    "weights pruned, retrained",
    "units removed, retrained",
  ]
  # Better is higher.
  low, high = figure.axes[0].get_ylim()
  assert low > high
  with Image.open(path) as image:
    assert len(np.unique(np.asarray(image.convert("L")))) > 2


def test_points_are_drawn_where_they_are(lost):
  first, *_, last = lost[0].axes
  lines = {each.get_label(): each.lines[0] for each in first.containers}
  vanilla, l1, bean1 = lines.values()
  assert list(lines) == ["Vanilla", "l1", "BEAN-1"]
  np.testing.assert_allclose(vanilla.get_xdata(), [110, 510, 1010])
  np.testing.assert_allclose(vanilla.get_ydata(), [10, 0, 0], atol=1e-9)
  np.testing.assert_allclose(bean1.get_ydata(), [11, 11, -5])
  retrained = last.containers[0].lines[0].get_ydata()
  np.testing.assert_allclose(retrained, [31, 2, 1])
  looks = {(x.get_linestyle(), x.get_marker()) for x in (vanilla, l1, bean1)}
  assert len(looks) == 3


def test_a_method_looks_the_same_whoever_is_beside_it(group, lost, tmp_path):
  # l1 has no match there.
  without = fake_records.without(group, 0.1)
  figure = drawing.curves(tmp_path / "a.png", without, "strongest")
  first, second = (f.axes[0].containers[-1] for f in (lost[0], figure))
  assert first.get_label() == second.get_label() == "BEAN-1"
  assert first.lines[0].get_color() == second.lines[0].get_color()
  assert first.lines[0].get_marker() == second.lines[0].get_marker()


def test_hollow_where_a_seed_needs_more_than_all(group, tmp_path):
  (plot,) = drawing.needs(tmp_path / "a.png", group, "best").axes
  lines = [each.lines[0] for each in plot.containers]
  # Retrained, seed 1, every method.
  assert [
    round(float(line.get_ydata()[0]))
    for line in lines
    if line.get_markerfacecolor() == "white"
  ] == [1] * 3 + [3] * 3
  labels = [text.get_text() for text in plot.get_yticklabels()]
  assert labels[:2] == ["weights pruned", "weights pruned\nretrained"]
