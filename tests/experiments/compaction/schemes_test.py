"""Tests of experiments.compaction.schemes."""

import numpy as np
import pytest

from experiments.compaction import schemes
from tests.experiments.compaction import tiny_head

FEATURES = tiny_head.make_samples().inputs
WITH_FEATURES = ("fc1", "fc2", "fc3")


def make(scheme, head, fraction):
  return schemes.SCHEMES[scheme](head, tiny_head.measure(head), fraction)


def shapes(compact):
  return [leaves["kernel"].shape for leaves in compact.params.values()]


def num_parameters(compact):
  return schemes.sizes(compact, sparse=False)["parameters"]


def assert_same_function(compact, head):
  np.testing.assert_allclose(
    tiny_head.run_compact(compact, FEATURES),
    tiny_head.run(head.params, FEATURES),
    rtol=1e-4,
    atol=1e-4,
  )


def make_pairs():
  """Two layers; the second half of the units is nearly wired as the first."""
  head = tiny_head.make_head(units=("fc2",), layers=("fc1", "fc2"))
  fc1, fc2 = head.params["fc1"], head.params["fc2"]
  for leaf in fc1.values():
    leaf[..., 3:] = leaf[..., :3]
  # Alike enough to be of one assembly.
  fc2["kernel"][3:] = 1.01 * fc2["kernel"][:3]
  return head


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_a_fraction_of_0_changes_nothing(scheme):
  head = tiny_head.make_head()
  compact = make(scheme, head, 0.0)
  assert_same_function(compact, head)
  if scheme != "merge":  # Which leaves out units that never fire.
    assert shapes(compact) == shapes(schemes.whole(head))
    assert num_parameters(compact) == (42 + 6) + (24 + 4) + (12 + 3)


def test_the_least_weights_of_all_layers_are_pruned():
  head = tiny_head.make_head()
  compact = make("weights", head, 0.5)
  kernels = [leaves["kernel"] for leaves in head.params.values()]
  limit = np.median(np.abs(np.concatenate([k.ravel() for k in kernels])))
  for layer, leaves in compact.params.items():
    kernel = head.params[layer]["kernel"]
    kept = np.abs(kernel) > limit
    np.testing.assert_array_equal(leaves["kernel"], np.where(kept, kernel, 0))
    np.testing.assert_array_equal(compact.masks[layer], kept)
    np.testing.assert_array_equal(leaves["bias"], head.params[layer]["bias"])
  assert num_parameters(compact) == 39 + 13


class TestRemoveUnits:
  def test_constant_units_go_first_and_are_not_missed(self):
    head = tiny_head.make_head()
    head.params["fc1"]["kernel"][:, [1, 4]] = 0
    head.params["fc1"]["bias"][[1, 4]] = [2.0, -1.0]
    head.params["fc2"]["kernel"][:, 3] = 0
    compact = make("units", head, 0.3)
    assert shapes(compact) == [(7, 4), (4, 3), (3, 3)]
    assert_same_function(compact, head)
    np.testing.assert_array_equal(
      compact.params["fc1"]["kernel"],
      head.params["fc1"]["kernel"][:, [0, 2, 3, 5]],
    )

  @pytest.mark.parametrize("scale", (100, 0.01))
  def test_the_least_important_of_all_layers_go(self, scale):
    head = tiny_head.make_head()
    # What counts is the share of the units' own layer.
    head.params["fc3"]["kernel"] *= scale
    importance = tiny_head.measure(head).importance
    first, second = (
      importance[layer] / np.linalg.norm(importance[layer])
      for layer in head.units
    )
    least = np.sort(np.concatenate([first, second]))[4]
    left, right = np.sum(first >= least), np.sum(second >= least)
    compact = make("units", head, 0.4)
    assert shapes(compact) == [(7, left), (left, right), (right, 3)]

  def test_scaling_units_back_and_forth_does_not_matter(self):
    head, scaled = tiny_head.make_head(), tiny_head.make_head()
    scales = np.array([1, 100, 0.01, 5, 3, 1], np.float32)
    scaled.params["fc1"]["kernel"] *= scales
    scaled.params["fc1"]["bias"] *= scales
    scaled.params["fc2"]["kernel"] /= scales[:, None]
    for fraction in (0.2, 0.5, 0.7):
      ours, theirs = (
        tiny_head.run_compact(make("units", each, fraction), FEATURES)
        for each in (scaled, head)
      )
      np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)

  def test_every_layer_keeps_a_unit(self):
    head = tiny_head.make_head()
    head.params["fc3"]["kernel"][:] = 0
    assert shapes(make("units", head, 0.99)) == [(7, 1), (1, 1), (1, 3)]

  def test_features_can_be_units(self):
    head = tiny_head.make_head(units=WITH_FEATURES)
    head.params["fc1"]["kernel"][[0, 2, 5]] = 0
    compact = make("units", head, 3 / 17)
    np.testing.assert_array_equal(compact.inputs, [1, 3, 4, 6])
    assert_same_function(compact, head)


# Never fires: none, one amid an assembly by its outgoing weights, all.
@pytest.mark.parametrize(
  "head,silent,expected",
  (
    (make_pairs(), [], (7, 3)),
    (make_pairs(), [3], None),
    (tiny_head.make_head(), list(range(6)), (7, 1)),
  ),
)
def test_merging_copies_changes_nothing(head, silent, expected):
  head.params["fc1"]["bias"][silent] = -100
  compact = make("merge", head, 0.5)
  assert expected in (None, shapes(compact)[0])
  assert_same_function(compact, head)


def test_merging_leaves_features():
  compact = make("merge", tiny_head.make_head(units=WITH_FEATURES), 0.5)
  np.testing.assert_array_equal(compact.inputs, np.arange(7))


@pytest.mark.parametrize("number", (1, 2, 3, 6))
def test_no_more_assemblies_than_units_that_differ(number):
  kernel = np.array([[1.0], [2.0], [1.0], [1.0], [2.0], [1.0]])
  groups = schemes.assemblies(kernel, number)
  assert set(groups.tolist()) == set(range(min(number, 2)))
  # Nor than those that differ in more than their last bits.
  kernel = 1 + np.arange(6, dtype=np.float32)[:, None] * np.float32(1.2e-7)
  groups = schemes.assemblies(kernel, number)
  assert set(groups.tolist()) == set(range(groups.max() + 1))


def test_sizes():
  head = tiny_head.make_head()
  whole, pruned = schemes.whole(head), make("weights", head, 2 / 3)
  # Biases, values and columns, and where the rows begin and end.
  sparse = 4 * 13 + 8 * 26 + 4 * ((6 + 1) + (4 + 1) + (3 + 1))
  only = make(
    "units", tiny_head.make_head(units=("fc1",), layers=("fc1",)), 0.5
  )
  assert shapes(only) == [(3, 6)]
  for compact, is_sparse, expected in (
    (whole, False, (78 + 13, 2 * 78 + 13, 4 * (78 + 13))),
    (pruned, True, (26 + 13, 2 * 26 + 13, sparse)),
    # Which features these are takes room too.
    (only, False, (18 + 6, 2 * 18 + 6, 4 * (18 + 6 + 3))),
  ):
    sizes = schemes.sizes(compact, sparse=is_sparse)
    assert tuple(sizes.values()) == expected


@pytest.mark.parametrize("units", (("fc2", "fc3"), WITH_FEATURES))
@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_padded_is_the_same_function(scheme, units):
  head = tiny_head.make_head(units=units)
  compact = make(scheme, head, 0.4)
  params, masks = schemes.pad(compact, head)
  total = 0
  for layer, leaves in head.params.items():
    for name, leaf in leaves.items():
      mask = masks[layer][name]
      assert params[layer][name].shape == mask.shape == leaf.shape
      assert np.all(params[layer][name][mask == 0] == 0)
      total += mask.sum()
  assert total == num_parameters(compact)
  np.testing.assert_allclose(
    tiny_head.run(params, FEATURES),
    tiny_head.run_compact(compact, FEATURES),
    rtol=1e-5,
    atol=1e-5,
  )
