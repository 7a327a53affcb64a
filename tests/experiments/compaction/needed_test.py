"""Tests of experiments.compaction.needed."""

import numpy as np
import pytest

from experiments.compaction import needed
from experiments.records import results
from tests.experiments.compaction import fake_records

OPTIONS = {"points": 0.5, "retrained": False}


@pytest.fixture
def group():
  (group,) = needed.make_groups(fake_records.make_all())
  return group


def pick(group, method, strength=None):
  (cell,) = [c for c in group.cells if c[:2] == (method, strength)]
  return cell


def need(group, method, strength=None, **options):
  cell = pick(group, method, strength)
  return needed.need(group, cell, "weights", **OPTIONS | options)


class TestGroups:
  def test_seeds_are_those_that_all_have(self):
    records = fake_records.make_all()
    records.append(fake_records.make("vanilla", None, 2, [0.9, 0.9, 0.9]))
    (group,) = needed.make_groups(records)
    assert {len(cell.records) for cell in group.cells} == {2}

  @pytest.mark.parametrize(
    "kept,more,message",
    (
      (slice(2, None), [], "no checkpoints of vanilla"),
      (slice(2), [("l1", 0.1, 9)], "no seed that all"),
      (slice(None), [("vanilla", None, 1)], "two checkpoints of vanilla"),
    ),
  )
  def test_refused(self, kept, more, message):
    records = fake_records.make_all()[kept]
    records += [fake_records.make(*each, [0.9, 0.9, 0.9]) for each in more]
    with pytest.raises(results.ResultError, match=message):
      needed.make_groups(records)


class TestNeed:
  def test_all_parameters_where_none_will_do(self, group):
    result = need(group, "l1", 1.0)
    np.testing.assert_array_equal(result.parameters, [1010, 110])
    np.testing.assert_array_equal(result.reached, [False, True])
    np.testing.assert_allclose(result.lost, [0.2, 0.0], atol=1e-12)

  @pytest.mark.parametrize(
    "points,parameters", ((0.39, 1010), (0.4, 110), (0.41, 110))
  )
  def test_points_are_percent_and_may_be_reached(
    self, group, points, parameters
  ):
    result = need(group, "l1", 0.1, points=points)
    assert result.parameters[0] == parameters

  def test_test_images_do_not_choose(self):
    group = self.of_vanilla([0.9, 0.9, 0.5], [0.8, 0.7, 0.8])
    result = need(group, "vanilla")
    np.testing.assert_array_equal(result.parameters, [510, 510])
    np.testing.assert_allclose(result.lost, [0.1, 0.1])

  def of_vanilla(self, *accuracies, **options):
    records = [
      fake_records.make("vanilla", None, seed, *accuracies, **options)
      for seed in (0, 1)
    ]
    (group,) = needed.make_groups(records)
    return group

  def test_retrained_is_compared_with_vanilla_as_it_was_trained(self):
    group = self.of_vanilla([0.9, 0.9, 0.5], retrained=[0.99, 0.91, 0.9])
    assert group.retrained
    result = need(group, "vanilla", retrained=True)
    np.testing.assert_array_equal(result.parameters, [110, 110])
    np.testing.assert_allclose(result.lost, 0, atol=1e-12)
    result = need(group, "vanilla")
    np.testing.assert_array_equal(result.parameters, [510, 510])


class TestChoose:
  @pytest.fixture
  def make(self):
    """Makes a group without some strengths of l1, and with more cells."""

    def make(*more, without=()):
      records = [
        r
        for r in fake_records.make_all()
        if r["config"]["checkpoint"].get("l1") not in without
      ]
      records += [
        fake_records.make(method, strength, seed, numbers)
        for method, strength, *both in more
        for seed, numbers in zip((0, 1), both * 2, strict=False)
      ]
      (group,) = needed.make_groups(records)
      return group

    return make

  def choose(self, group, choice):
    cells = needed.choose(group, choice, "weights", **OPTIONS)
    return {cell.method: cell.strength for cell in cells}

  def test_strongest_that_loses_little(self, make):
    group = make(
      # Stronger, and worse by more than half a point.
      ("bean1", 30.0, [0.893, 0.91, 0.91]),
      # Weaker, and better: not the one at matched accuracy.
      ("l1", 0.01, [0.99, 0.91, 0.91]),
    )
    expected = {"vanilla": None, "l1": 0.1, "bean1": 10.0}
    assert self.choose(group, "strongest") == expected

  def test_choices_that_are_the_same_are_one(self, make):
    found = needed.choices(make(without=(1.0,)), points=0.5)
    assert list(found) == ["strongest"]
    for meaning in needed.CHOICES.values():
      assert meaning.format(points=0.5) in found["strongest"]
    # Stronger, and worse by less than half a point, but the worst of all.
    group = make(("bean1", 20.0, [0.8951] * 3, [0.9151] * 3))
    assert {"strongest", "best"} <= set(needed.choices(group, points=0.5))

  def test_a_method_that_always_loses_more_has_no_match(self, make):
    group = make(without=(0.1,))
    assert set(self.choose(group, "strongest")) == {"vanilla", "bean1"}
    assert self.choose(group, "best")["l1"] == 1.0

  def test_smallest_need(self, make):
    group = make(("bean1", 3.0, [0.95, 0.95, 0.5]))
    expected = {"vanilla": None, "l1": 0.1, "bean1": 3.0}
    assert self.choose(group, "smallest") == expected
    assert self.choose(group, "best")["bean1"] == 10.0
