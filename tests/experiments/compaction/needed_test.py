"""Tests of experiments.compaction.needed."""

import numpy as np
import pytest

from experiments.compaction import needed
from experiments.records import results
from tests.experiments.compaction import fake_records

WAY = ("weights", False)


@pytest.fixture
def group():
  return fake_records.group(fake_records.make_all())


def need(group, method, strength=0.0, way=WAY):
  (cell,) = [c for c in group.cells if c[:2] == (method, strength)]
  return needed.need(group, cell, way)


def of_vanilla(*accuracies, **options):
  make = fake_records.make
  return fake_records.group(
    [make("vanilla", None, seed, *accuracies, **options) for seed in (0, 1)]
  )


def test_seeds_are_those_that_all_have():
  records = fake_records.make_all()
  extra = fake_records.make("vanilla", None, 2, [0.9, 0.9, 0.9])
  group = fake_records.group([*records, extra])
  assert {len(cell.records) for cell in group.cells} == {2}
  with pytest.raises(results.ResultError, match="no checkpoints of vanilla"):
    fake_records.group(records[2:])
  with pytest.raises(results.ResultError, match="no seed that all"):
    fake_records.group([extra, *records[2:]])


def test_all_parameters_where_none_will_do(group):
  result = need(group, "l1", 1.0)
  np.testing.assert_array_equal(result.parameters, [1010, 110])
  np.testing.assert_array_equal(result.reached, [False, True])
  np.testing.assert_allclose(result.lost, [0.2, 0.0], atol=1e-12)
  np.testing.assert_array_equal(result.sizes["flops"], [2010, 210])


def test_points_are_percent_and_may_be_reached(group):
  for points, parameters in ((0.39, 1010), (0.4, 110)):
    found = need(group._replace(points=points), "l1", 0.1)
    assert found.parameters[0] == parameters


def test_test_images_do_not_choose():
  group = of_vanilla([0.9, 0.9, 0.5], test=[0.8, 0.7, 0.8])
  result = need(group, "vanilla")
  np.testing.assert_array_equal(result.parameters, [510, 510])
  np.testing.assert_allclose(result.lost, [0.1, 0.1])


def test_retrained_is_compared_with_vanilla_as_it_was_trained():
  group = of_vanilla([0.9, 0.9, 0.5], retrained=[0.99, 0.91, 0.9])
  retrained = ("weights", True)
  assert group.ways[:2] == (WAY, retrained)
  result = need(group, "vanilla", way=retrained)
  np.testing.assert_array_equal(result.parameters, [110, 110])
  np.testing.assert_allclose(result.lost, 0, atol=1e-12)
  np.testing.assert_array_equal(need(group, "vanilla").parameters, [510, 510])
  # Where none will do, the network counts as it was.
  group = of_vanilla([0.9, 0.9, 0.5], retrained=[0.5, 0.5, 0.5])
  np.testing.assert_allclose(need(group, "vanilla", way=retrained).lost, 0)


def extended(*rows):
  """A group with more cells, of a strength and accuracies of all seeds."""
  records = [
    fake_records.make(method, strength, seed, numbers)
    for method, strength, *both in rows
    for seed, numbers in zip((0, 1), both * 2, strict=False)
  ]
  return fake_records.group(fake_records.make_all() + records)


def choose(group, choice):
  cells = needed.choose(group, choice, WAY)
  return {cell.method: cell.strength for cell in cells}


def test_what_is_chosen():
  group = extended(
    # Stronger, and worse by more than half a point.
    ("bean1", 30.0, [0.893, 0.91, 0.91]),
    # Weaker, and better: not the one at matched accuracy.
    ("l1", 0.01, [0.99, 0.91, 0.91]),
  )
  expected = {"vanilla": 0.0, "l1": 0.1, "bean1": 10.0}
  assert choose(group, "strongest") == expected
  without = fake_records.without(fake_records.without(group, 0.1), 0.01)
  assert set(choose(without, "strongest")) == {"vanilla", "bean1"}
  assert choose(without, "best")["l1"] == 1.0
  group = extended(("bean1", 3.0, [0.95, 0.95, 0.5]))
  assert choose(group, "smallest") == {**expected, "bean1": 3.0}
  assert choose(group, "best")["bean1"] == 10.0


def test_choices_that_are_the_same_are_one(group):
  found = needed.choices(fake_records.without(group, 1.0))
  assert list(found) == ["strongest"]
  for meaning in needed.CHOICES.values():
    assert meaning.format(points=0.5) in found["strongest"]
  # Stronger, and worse by less than half a point, but the worst of all.
  group = extended(("bean1", 20.0, [0.8951] * 3, [0.9151] * 3))
  assert {"strongest", "best"} <= set(needed.choices(group))
