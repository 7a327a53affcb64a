"""Tests of experiments.compaction.schemes."""

import numpy as np
import pytest

from experiments.compaction import heads, schemes
from tests.experiments.compaction import tiny_head

FEATURES = tiny_head.make_samples().inputs


def measure(head):
  return heads.activity(head, FEATURES)


def shapes(compact):
  return [leaves["kernel"].shape for leaves in compact.params.values()]


def assert_same_function(compact, head):
  expected = tiny_head.run(head.params, FEATURES)
  np.testing.assert_allclose(
    tiny_head.run_compact(compact, FEATURES), expected, rtol=1e-4, atol=1e-4
  )


def make_twins():
  """A head whose units are copies, but for their outgoing weights' ends."""
  head = tiny_head.make_head()
  fc1, fc2 = head.params["fc1"], head.params["fc2"]
  for leaf in fc1.values():
    leaf[..., 3:] = leaf[..., :3]
  # Alike enough to be of one assembly.
  fc2["kernel"][3:] = 1.01 * fc2["kernel"][:3]
  return head


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_a_fraction_of_0_changes_nothing(scheme):
  head = tiny_head.make_head()
  compact = schemes.SCHEMES[scheme](head, measure(head), 0.0)
  assert_same_function(compact, head)
  whole = schemes.whole(head)
  if scheme != "merge":  # Which leaves out units that never fire.
    assert shapes(compact) == shapes(whole)
    assert schemes.count_parameters(compact) == (42 + 6) + (24 + 4) + (12 + 3)


class TestPruneWeights:
  def test_the_least_of_all_are_0(self):
    head = tiny_head.make_head()
    compact = schemes.prune_weights(head, 0.5)
    kernels = [leaves["kernel"] for leaves in head.params.values()]
    limit = np.median(np.abs(np.concatenate([k.ravel() for k in kernels])))
    for layer, leaves in compact.params.items():
      kernel = head.params[layer]["kernel"]
      kept = np.abs(kernel) > limit
      np.testing.assert_array_equal(leaves["kernel"], np.where(kept, kernel, 0))
      np.testing.assert_array_equal(compact.masks[layer], kept)
      np.testing.assert_array_equal(leaves["bias"], head.params[layer]["bias"])
    assert schemes.count_parameters(compact) == 39 + 13

  def test_layer_by_layer_all_lose_as_many(self):
    head = tiny_head.make_head()
    head.params["fc3"]["kernel"] /= 1e6
    compact = schemes.SCHEMES["weights_by_layer"](head, measure(head), 0.5)
    kept = [int(mask.sum()) for mask in compact.masks.values()]
    assert kept == [21, 12, 6]
    compact = schemes.SCHEMES["weights"](head, measure(head), 0.5)
    assert compact.masks["fc3"].sum() == 0


class TestRemoveUnits:
  def test_constant_units_go_first_and_are_not_missed(self):
    head = tiny_head.make_head()
    head.params["fc1"]["kernel"][:, [1, 4]] = 0
    head.params["fc1"]["bias"][[1, 4]] = [2.0, -1.0]
    head.params["fc2"]["kernel"][:, 3] = 0
    compact = schemes.remove_units(head, measure(head), 0.3)
    assert shapes(compact) == [(7, 4), (4, 3), (3, 3)]
    assert_same_function(compact, head)
    np.testing.assert_array_equal(
      compact.params["fc1"]["kernel"],
      head.params["fc1"]["kernel"][:, [0, 2, 3, 5]],
    )

  def test_the_least_important_of_all_layers_go(self):
    head = tiny_head.make_head()
    activity = measure(head)
    compact = schemes.remove_units(head, activity, 0.4)
    relative = {
      layer: values / np.linalg.norm(values)
      for layer, values in activity.importance.items()
    }
    values = np.sort(np.concatenate(list(relative.values())))
    number = [int(np.sum(r >= values[4])) for r in relative.values()]
    assert shapes(compact) == [
      (7, number[0]),
      (number[0], number[1]),
      (number[1], 3),
    ]

  def test_scaling_units_back_and_forth_does_not_matter(self):
    head, scaled = tiny_head.make_head(), tiny_head.make_head()
    scales = np.array([1, 100, 0.01, 5, 3, 1], np.float32)
    scaled.params["fc1"]["kernel"] *= scales
    scaled.params["fc1"]["bias"] *= scales
    scaled.params["fc2"]["kernel"] /= scales[:, None]
    for fraction in (0.2, 0.5, 0.7):
      compact, other = (
        schemes.remove_units(each, measure(each), fraction)
        for each in (head, scaled)
      )
      np.testing.assert_allclose(
        tiny_head.run_compact(other, FEATURES),
        tiny_head.run_compact(compact, FEATURES),
        rtol=1e-3,
        atol=1e-3,
      )

  def test_every_layer_keeps_a_unit(self):
    head = tiny_head.make_head()
    head.params["fc3"]["kernel"][:] = 0
    compact = schemes.remove_units(head, measure(head), 0.99)
    assert shapes(compact) == [(7, 1), (1, 1), (1, 3)]

  def test_features_can_be_units(self):
    head = tiny_head.make_head(units=("fc1", "fc2", "fc3"))
    head.params["fc1"]["kernel"][[0, 2, 5]] = 0
    compact = schemes.remove_units(head, measure(head), 3 / 17)
    np.testing.assert_array_equal(compact.inputs, [1, 3, 4, 6])
    assert_same_function(compact, head)
    # The whole head of a ResNet.
    head = tiny_head.make_head(units=("fc1",), layers=("fc1",))
    compact = schemes.remove_units(head, measure(head), 0.5)
    assert shapes(compact) == [(3, 6)]
    assert len(compact.inputs) == 3


class TestMergeAssemblies:
  def test_copies_can_be_merged(self):
    head = make_twins()
    compact = schemes.merge_assemblies(head, measure(head), 0.5)
    assert compact.params["fc1"]["kernel"].shape[1] <= 3
    # The other layer is merged too, so compare what enters it.
    x = np.maximum(
      FEATURES @ head.params["fc1"]["kernel"] + head.params["fc1"]["bias"], 0
    )
    expected = x @ head.params["fc2"]["kernel"]
    only = head._replace(units=("fc2",))
    compact = schemes.merge_assemblies(only, measure(head), 0.5)
    assert shapes(compact)[1:] == [(3, 4), (4, 3)]
    x = np.maximum(
      FEATURES @ compact.params["fc1"]["kernel"]
      + compact.params["fc1"]["bias"],
      0,
    )
    np.testing.assert_allclose(
      x @ compact.params["fc2"]["kernel"], expected, rtol=1e-4, atol=1e-4
    )
    assert_same_function(compact, head)

  def test_units_that_never_fire_are_no_part_of_an_assembly(self):
    head = make_twins()
    # In the middle of an assembly, by its outgoing weights.
    head.params["fc1"]["bias"][3] = -100
    only = head._replace(units=("fc2",))
    compact = schemes.merge_assemblies(only, measure(head), 0.5)
    assert_same_function(compact, head)

  def test_one_unit_stays_where_none_fires(self):
    head = tiny_head.make_head()
    head.params["fc1"]["bias"][:] = -100
    compact = schemes.merge_assemblies(head, measure(head), 0.9)
    assert shapes(compact)[0] == (7, 1)
    assert_same_function(compact, head)

  def test_features_stay(self):
    head = tiny_head.make_head(units=("fc1", "fc2", "fc3"))
    compact = schemes.merge_assemblies(head, measure(head), 0.5)
    np.testing.assert_array_equal(compact.inputs, np.arange(7))
    assert not schemes.applies(
      "merge", tiny_head.make_head(units=("fc1",), layers=("fc1",))
    )
    assert schemes.applies("merge", head)


class TestAssemblies:
  def test_clusters_are_found(self):
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    kernel = np.repeat(centres, 4, axis=0)
    kernel += np.random.default_rng(0).normal(size=kernel.shape) / 100
    groups = schemes.assemblies(kernel, 3)
    assert sorted(groups.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    for start in (0, 4, 8):
      assert len(set(groups[start : start + 4].tolist())) == 1

  @pytest.mark.parametrize("number", (1, 2, 3, 6))
  def test_no_more_clusters_than_units_that_differ(self, number):
    kernel = np.array([[1.0], [2.0], [1.0], [1.0], [2.0], [1.0]])
    groups = schemes.assemblies(kernel, number)
    assert groups.shape == (6,)
    assert set(groups.tolist()) == set(range(min(number, 2)))

  def test_units_that_hardly_differ_are_no_trouble(self):
    kernel = np.ones((6, 2), np.float32)
    kernel[:, 0] += np.arange(6, dtype=np.float32) * 1.2e-7
    groups = schemes.assemblies(kernel, 5)
    assert groups.max() < 5
    assert set(groups.tolist()) == set(range(groups.max() + 1))


def test_counts():
  whole = schemes.whole(tiny_head.make_head())
  assert schemes.count_parameters(whole) == 78 + 13
  assert schemes.count_flops(whole) == 2 * 78 + 13
  assert schemes.count_bytes(whole) == 4 * (78 + 13)
  pruned = schemes.prune_weights(tiny_head.make_head(), 2 / 3)
  assert schemes.count_parameters(pruned) == 26 + 13
  assert schemes.count_flops(pruned) == 2 * 26 + 13
  # Biases, values and columns, and where the rows begin and end.
  rows = (6 + 1) + (4 + 1) + (3 + 1)
  expected = 4 * 13 + 8 * 26 + 4 * rows
  assert schemes.count_bytes(pruned, sparse=True) == expected
  head = tiny_head.make_head(units=("fc1",), layers=("fc1",))
  chosen = schemes.remove_units(head, measure(head), 0.5)
  assert schemes.count_parameters(chosen) == 3 * 6 + 6
  # Which features these are takes room too.
  assert schemes.count_bytes(chosen) == 4 * (3 * 6 + 6 + 3)


@pytest.mark.parametrize("units", (("fc2", "fc3"), ("fc1", "fc2", "fc3")))
@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_padded_is_the_same_function(scheme, units):
  head = tiny_head.make_head(units=units)
  compact = schemes.SCHEMES[scheme](head, measure(head), 0.4)
  params, masks = schemes.pad(compact, head)
  for layer, leaves in head.params.items():
    for name, leaf in leaves.items():
      assert params[layer][name].shape == leaf.shape
      assert np.all(params[layer][name][masks[layer][name] == 0] == 0)
  total = sum(
    int(mask.sum()) for leaves in masks.values() for mask in leaves.values()
  )
  assert total == schemes.count_parameters(compact)
  np.testing.assert_allclose(
    tiny_head.run(params, FEATURES),
    tiny_head.run_compact(compact, FEATURES),
    rtol=1e-5,
    atol=1e-5,
  )
