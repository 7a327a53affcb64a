"""Tests of experiments.compaction.drawing."""

import os

import numpy as np
from PIL import Image
import pytest

from experiments.compaction import drawing, needed
from tests.experiments.compaction import fake_records


@pytest.fixture(scope="module")
def group():
  records = fake_records.make_all(
    retrained=[0.9, 0.89, 0.6], schemes=("weights", "units", "merge")
  )
  (group,) = needed.make_groups(records)
  return group


def draw(kind, directory, group, choice="best"):
  function = {"lost": drawing.curves, "needed": drawing.needs}[kind]
  return function(directory, kind, group, choice, points=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("lost", "needed"))
def test_files_are_pictures_and_equal_for_equal_data(kind, group, tmp_path):
  draw(kind, tmp_path, group)
  names = [f"{kind}.png", f"{kind}.svg"]
  assert sorted(os.listdir(tmp_path)) == names
  with Image.open(tmp_path / names[0]) as image:
    assert len(np.unique(np.asarray(image.convert("L")))) > 2
  first = [(tmp_path / name).read_bytes() for name in names]
  assert first[1].startswith(b"<?xml")
  draw(kind, tmp_path, group)
  assert first == [(tmp_path / name).read_bytes() for name in names]


def test_a_panel_for_every_way(group, tmp_path):
  axes = draw("lost", tmp_path, group).axes
  titles = [each.get_title() for each in axes]
  assert titles == [
    "weights pruned",
    "units removed",
    "assemblies merged",
    "weights pruned, retrained",
    "units removed, retrained",
    "assemblies merged, retrained",
  ]
  # Better is higher.
  low, high = axes[0].get_ylim()
  assert low > high


def test_points_are_drawn_where_they_are(group, tmp_path):
  axes = draw("lost", tmp_path, group).axes
  vanilla, l1, bean1 = axes[0].containers
  assert [each.get_label() for each in axes[0].containers] == [
    "Vanilla",
    "l1",
    "BEAN-1",
  ]
  np.testing.assert_allclose(vanilla.lines[0].get_xdata(), [110, 510, 1010])
  np.testing.assert_allclose(
    vanilla.lines[0].get_ydata(), [10, 0, 0], atol=1e-9
  )
  np.testing.assert_allclose(bean1.lines[0].get_ydata(), [11, 11, -5])
  looks = {
    (each.lines[0].get_linestyle(), each.lines[0].get_marker())
    for each in (vanilla, l1, bean1)
  }
  assert len(looks) == 3


def test_a_method_looks_the_same_whoever_is_beside_it(group, tmp_path):
  def look(kind, group, choice):
    drawn = draw(kind, tmp_path, group, choice)
    _, labels = drawn.axes[0].get_legend_handles_labels()
    handles = drawn.axes[0].containers
    return handles[-1].lines[0].get_color(), labels[-1]

  without = group._replace(cells=tuple(c for c in group.cells if c[1] != 0.1))
  expected = look("lost", group, "strongest")
  assert expected[1] == "BEAN-1"
  # l1 has no match there.
  assert look("lost", without, "strongest") == expected


def test_hollow_where_a_seed_needs_more_than_all(group, tmp_path):
  drawn = draw("needed", tmp_path, group)
  colors = [
    each.lines[0].get_markerfacecolor() for each in drawn.axes[0].containers
  ]
  assert colors.count("white") == 3 * 3  # Retrained, seed 1, every method.
  labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
  assert labels[:2] == ["weights pruned", "weights pruned\nretrained"]


def test_a_single_seed_has_no_bars(tmp_path):
  records = [r for r in fake_records.make_all() if r["seeds"] == [0]]
  (group,) = needed.make_groups(records)
  assert len(draw("lost", tmp_path, group).axes) == 1
  draw("needed", tmp_path, group)
