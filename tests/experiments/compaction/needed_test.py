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
  def test_cells_are_sorted_and_vanilla_is_first(self, group):
    assert group.title == "digits, lenet5"
    assert group.schemes == ("weights",)
    assert not group.retrained
    assert [cell[:2] for cell in group.cells] == [
      ("vanilla", None),
      ("l1", 0.1),
      ("l1", 1.0),
      ("bean1", 10.0),
    ]
    for cell in group.cells:
      seeds = [r["config"]["checkpoint"]["seed"] for r in cell.records]
      assert seeds == [0, 1]

  def test_seeds_are_those_that_all_have(self):
    records = fake_records.make_all()
    records.append(fake_records.make("vanilla", None, 2, [0.9, 0.9, 0.9]))
    (group,) = needed.make_groups(records)
    assert {len(cell.records) for cell in group.cells} == {2}

  def test_networks_and_shots_are_kept_apart(self):
    records = fake_records.make_all()
    records += fake_records.make_all(model="mlp500")
    records += fake_records.make_all(shots=1) + fake_records.make_all(shots=10)
    groups = needed.make_groups(records)
    assert [group.title for group in groups] == [
      "digits, lenet5",
      "digits, lenet5, 1-shot",
      "digits, lenet5, 10-shot",
      "digits, mlp500",
    ]
    assert {len(group.cells) for group in groups} == {4}

  def test_vanilla_must_be_there(self):
    with pytest.raises(results.ResultError, match="no checkpoints of vanilla"):
      needed.make_groups(fake_records.make_all()[2:])

  def test_seeds_must_be_shared(self):
    records = fake_records.make_all()[:2]
    records.append(fake_records.make("l1", 0.1, 9, [0.9, 0.9, 0.9]))
    with pytest.raises(results.ResultError, match="no seed that all"):
      needed.make_groups(records)

  def test_other_settings_are_not_mixed(self):
    records = fake_records.make_all()
    records.append(fake_records.make("vanilla", None, 1, [0.9, 0.9, 0.9]))
    with pytest.raises(results.ResultError, match="two checkpoints of vanilla"):
      needed.make_groups(records)


class TestNeed:
  def test_the_smallest_that_will_do(self, group):
    result = need(group, "vanilla")
    np.testing.assert_array_equal(result.parameters, [510, 510])
    np.testing.assert_array_equal(result.lost, [0, 0])
    np.testing.assert_array_equal(result.sizes["flops"], [1010, 1010])
    np.testing.assert_array_equal(result.sizes["time_ratio_1"], [0.8, 0.8])
    assert result.reached.all()

  def test_is_paired_with_the_vanilla_network_of_the_seed(self, group):
    result = need(group, "l1", 0.1)
    np.testing.assert_array_equal(result.parameters, [110, 110])
    np.testing.assert_allclose(result.lost, [0.004, 0.002], atol=1e-12)

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
    records = [
      fake_records.make("vanilla", None, s, [0.9, 0.9, 0.5], [0.8, 0.7, 0.8])
      for s in (0, 1)
    ]
    (group,) = needed.make_groups(records)
    result = need(group, "vanilla")
    np.testing.assert_array_equal(result.parameters, [510, 510])
    np.testing.assert_allclose(result.lost, [0.1, 0.1])

  def test_retrained_is_compared_with_vanilla_as_it_was_trained(self):
    records = [
      fake_records.make(
        "vanilla", None, s, [0.9, 0.9, 0.5], retrained=[0.99, 0.91, 0.9]
      )
      for s in (0, 1)
    ]
    (group,) = needed.make_groups(records)
    assert group.retrained
    result = need(group, "vanilla", retrained=True)
    np.testing.assert_array_equal(result.parameters, [110, 110])
    np.testing.assert_allclose(result.lost, 0, atol=1e-12)
    result = need(group, "vanilla")
    np.testing.assert_array_equal(result.parameters, [510, 510])


class TestChoose:
  def choose(self, group, choice):
    cells = needed.choose(group, choice, "weights", **OPTIONS)
    return {cell.method: cell.strength for cell in cells}

  def test_best_as_trained(self, group):
    assert self.choose(group, "best") == {
      "vanilla": None,
      "l1": 0.1,
      "bean1": 10.0,
    }

  def test_strongest_that_loses_little(self):
    records = fake_records.make_all()
    for seed in (0, 1):
      # Stronger, and worse by more than half a point.
      numbers = [0.893, 0.91, 0.91]
      records.append(fake_records.make("bean1", 30.0, seed, numbers))
      # Weaker, and better: not the one at matched accuracy.
      numbers = [0.99, 0.91, 0.91]
      records.append(fake_records.make("l1", 0.01, seed, numbers))
    (group,) = needed.make_groups(records)
    assert self.choose(group, "strongest") == {
      "vanilla": None,
      "l1": 0.1,
      "bean1": 10.0,
    }

  def test_choices_that_are_the_same_are_one(self):
    records = [
      r
      for r in fake_records.make_all()
      if r["config"]["checkpoint"].get("l1") != 1.0
    ]
    (group,) = needed.make_groups(records)
    found = needed.choices(group, points=0.5)
    assert list(found) == ["strongest"]
    for meaning in needed.CHOICES.values():
      assert meaning.format(points=0.5) in found["strongest"]

  def test_choices_that_differ_are_named(self):
    records = fake_records.make_all()
    for seed in (0, 1):
      # Stronger, and worse by less than half a point, but the worst of all.
      numbers = [0.8951 + 0.02 * seed] * 3
      records.append(fake_records.make("bean1", 20.0, seed, numbers))
    (group,) = needed.make_groups(records)
    assert {"strongest", "best"} <= set(needed.choices(group, points=0.5))

  def test_a_method_that_always_loses_more_has_no_match(self):
    records = [
      r
      for r in fake_records.make_all()
      if r["config"]["checkpoint"].get("l1") != 0.1
    ]
    (group,) = needed.make_groups(records)
    assert set(self.choose(group, "strongest")) == {"vanilla", "bean1"}
    assert self.choose(group, "best")["l1"] == 1.0

  def test_smallest_need(self):
    records = fake_records.make_all()
    for seed in (0, 1):
      numbers = [0.95, 0.95, 0.5]
      records.append(fake_records.make("bean1", 3.0, seed, numbers))
    (group,) = needed.make_groups(records)
    assert self.choose(group, "smallest") == {
      "vanilla": None,
      "l1": 0.1,
      "bean1": 3.0,
    }
    assert self.choose(group, "best")["bean1"] == 10.0
