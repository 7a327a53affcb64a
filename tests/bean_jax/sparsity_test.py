"""Tests of bean_jax.sparsity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bean_jax import sparsity

KERNELS = {
  "fc1": np.array([[0.1, -0.2, 3.0], [4.0, -5.0, 6.0]], np.float32),
  "fc2": np.array([[0.3], [-0.4]], np.float32),
}


def draw_layer(num_inputs=4, num_units=6, num_next=3, seed=0):
  generator = np.random.default_rng(seed)
  shapes = (
    (num_inputs, num_units),
    (num_units,),
    (num_units, num_next),
    (num_next,),
  )
  return sparsity.HiddenLayer(
    *(generator.normal(size=shape).astype(np.float32) for shape in shapes)
  )


def draw_samples(num_inputs=4, num_samples=50):
  samples = np.random.default_rng(7).normal(size=(num_samples, num_inputs))
  return samples.astype(np.float32)


def hidden(layer, samples, activation):
  return activation(samples @ layer.incoming + layer.bias)


def relu(x):
  return np.maximum(x, 0)


def run(layer, samples, activation=relu):
  """The next layer's pre-activations, in float64."""
  layer = sparsity.HiddenLayer(*(np.asarray(a, np.float64) for a in layer))
  return hidden(layer, samples, activation) @ layer.outgoing + layer.next_bias


def assert_same_function(ours, theirs, activation=relu):
  samples = draw_samples()
  expected = run(theirs, samples, activation)
  assert expected.std() > 0.1
  np.testing.assert_allclose(
    run(ours, samples, activation), expected, rtol=1e-5, atol=1e-5
  )


MEASURES = (
  sparsity.gini_index,
  sparsity.hoyer_sparsity,
  sparsity.small_fraction,
)


class TestMeasures:
  @pytest.mark.parametrize(
    "weights, expected",
    (
      (np.tile(np.float32([-0.7, 0.7]), 500), (0, 0, 0)),
      (np.float32([[0], [-3]]), (1 / 2, 1, 1 / 2)),
      (np.float32([[0] * 999 + [-3]]), (0.999, 1, 0.999)),
      (np.zeros((3, 2), np.float32), (0, 0, 1)),
      (np.float32([3, 0, -4, 0]), (15 / 28, 2 - 7 / 5, 0.5)),
    ),
    ids=("equal", "one of two", "one of many", "zeros", "by hand"),
  )
  def test_known_weights(self, weights, expected):
    values = [measure(weights) for measure in MEASURES]
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-4)

  def test_gini_index_is_half_the_relative_mean_difference(self):
    weights = np.random.default_rng(0).normal(size=(30, 7))
    sizes = np.abs(weights.ravel())
    differences = np.abs(sizes[:, None] - sizes[None, :])
    expected = differences.mean() / sizes.mean() / 2
    value = sparsity.gini_index(weights.astype(np.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-5)

  @pytest.mark.parametrize("measure", MEASURES)
  def test_scale_does_not_matter(self, measure):
    weights = np.random.default_rng(0).normal(size=200).astype(np.float32)
    for scale in np.float32([1e-25, 1e25]):
      np.testing.assert_allclose(
        measure(weights * scale), measure(weights), rtol=1e-4
      )

  @pytest.mark.parametrize(
    "threshold, expected", ((0, 0.25), (0.5, 0.75), (1, 1), (0.49, 0.5))
  )
  def test_small_fraction_counts_up_to_the_threshold(self, threshold, expected):
    weights = np.array([[0.0, -0.25], [1.0, -2.0]])
    value = sparsity.small_fraction(weights, threshold=threshold)
    assert value == expected


class TestMagnitudeMasks:
  def prune(self, fraction, **options):
    masks = sparsity.magnitude_masks(KERNELS, fraction, **options)
    for name, mask in masks.items():
      assert mask.dtype == jnp.bool_
      assert mask.shape == KERNELS[name].shape
    return {name: np.asarray(mask).tolist() for name, mask in masks.items()}

  def test_the_least_of_all_kernels_go_first(self):
    assert self.prune(0.5) == {
      "fc1": [[False, False, True], [True, True, True]],
      "fc2": [[False], [False]],
    }

  def test_the_least_of_each_kernel_go_first(self):
    assert self.prune(0.5, scope="layer") == {
      "fc1": [[False, False, False], [True, True, True]],
      "fc2": [[False], [True]],
    }

  @pytest.mark.parametrize("fraction", (0.0, 0.1, 1 / 3, 0.77, 1.0))
  def test_equal_weights_are_pruned_in_the_number_asked_for(self, fraction):
    kernels = [np.full((7, 5), -1.0), np.full((3, 3, 2), 1.0)]
    masks = sparsity.magnitude_masks(kernels, fraction)
    flat = np.concatenate([np.ravel(mask) for mask in masks])
    assert np.count_nonzero(~flat) == round(53 * fraction)
    # The earlier ones first.
    np.testing.assert_array_equal(flat, np.sort(flat))

  def test_fractions_may_be_mapped_over(self):
    fractions = jnp.array([0.0, 0.25, 0.5, 1.0])
    masks = jax.jit(
      jax.vmap(sparsity.magnitude_masks, in_axes=(None, 0)),
    )(KERNELS, fractions)
    for index, fraction in enumerate((0.0, 0.25, 0.5, 1.0)):
      one = {name: mask[index].tolist() for name, mask in masks.items()}
      assert one == self.prune(fraction)


class TestUnitImportance:
  def test_is_the_change_that_the_next_layer_sees(self):
    layer, samples = draw_layer(), draw_samples()
    activations = hidden(layer, samples, relu)
    importance = sparsity.unit_importance(activations, layer.outgoing)
    assert importance.shape == (6,)
    for unit in range(6):
      replaced = activations.copy()
      replaced[:, unit] = activations[:, unit].mean()
      change = (activations - replaced) @ layer.outgoing
      expected = np.sqrt(np.mean(np.sum(change**2, axis=1)))
      np.testing.assert_allclose(importance[unit], expected, rtol=1e-5)

  def test_constant_and_unconnected_units_are_worth_nothing(self):
    activations = draw_samples(3)
    activations[:, 0] = 7
    kernel = np.ones((3, 2), np.float32)
    kernel[1] = 0
    importance = sparsity.unit_importance(activations, kernel)
    np.testing.assert_array_equal(importance[:2], 0)
    assert importance[2] > 1

  def test_leading_dimensions_are_batch(self):
    activations, kernel = draw_samples(3, 12), np.ones((3, 2), np.float32)
    np.testing.assert_allclose(
      sparsity.unit_importance(activations.reshape(3, 4, 3), kernel),
      sparsity.unit_importance(activations, kernel),
      rtol=1e-6,
    )


class TestRemoveUnits:
  def test_keeping_all_changes_nothing_but_their_order(self):
    layer = draw_layer()
    order = np.array([3, 1, 5, 0, 2, 4])
    turned = sparsity.remove_units(layer, order, means=np.ones(6, np.float32))
    np.testing.assert_array_equal(turned.incoming, layer.incoming[:, order])
    np.testing.assert_array_equal(turned.next_bias, layer.next_bias)
    assert_same_function(turned, layer)

  def test_removed_units_are_silent(self):
    layer = draw_layer()
    smaller = sparsity.remove_units(layer, np.array([0, 2, 5]))
    shapes = [np.shape(array) for array in smaller]
    assert shapes == [(4, 3), (3,), (3, 3), (3,)]
    silent = layer.outgoing.copy()
    silent[[1, 3, 4]] = 0
    assert_same_function(smaller, layer._replace(outgoing=silent))

  def test_constant_units_can_be_removed_for_their_means(self):
    layer = draw_layer()
    layer.incoming[:, [1, 4]] = 0
    layer.bias[[1, 4]] = [2.0, -3.0]
    means = hidden(layer, draw_samples(), relu).mean(axis=0)
    np.testing.assert_allclose(means[[1, 4]], [2.0, 0.0])
    smaller = sparsity.remove_units(layer, np.array([0, 2, 3, 5]), means=means)
    assert_same_function(smaller, layer)
    # The other way to put it: without the means something would be missing.
    without = sparsity.remove_units(layer, np.array([0, 2, 3, 5]))
    np.testing.assert_allclose(
      smaller.next_bias - without.next_bias, 2 * layer.outgoing[1], rtol=1e-5
    )


class TestMergeUnits:
  GROUPS = np.array([0, 1, 0, 2, 1, 0])

  @pytest.mark.parametrize("activation", (relu, np.tanh))
  def test_copies_of_units_can_be_merged(self, activation):
    layer = draw_layer()
    # Whatever their outgoing weights.
    layer.incoming[:] = layer.incoming[:, self.GROUPS]
    layer.bias[:] = layer.bias[self.GROUPS]
    merged = sparsity.merge_units(layer, self.GROUPS, num_groups=3)
    assert merged.incoming.shape == (4, 3)
    assert merged.outgoing.shape == (3, 3)
    assert_same_function(merged, layer, activation)

  def test_relu_units_that_are_wired_and_fire_together_can_be_merged(self):
    layer = draw_layer()
    layer.outgoing[:] = layer.outgoing[self.GROUPS]
    samples = draw_samples()
    # Within a group, one is a positive multiple of the other.
    layer.incoming[:] = layer.incoming[:, self.GROUPS] * np.arange(1, 7)
    layer.bias[:] = layer.bias[self.GROUPS] * np.arange(1, 7)
    merged = sparsity.merge_units(layer, self.GROUPS, num_groups=3)
    np.testing.assert_allclose(
      run(merged, samples), run(layer, samples), rtol=1e-5, atol=1e-4
    )
    # Units that fire on different samples cannot.
    layer.incoming[:, 0] *= -1
    layer.bias[0] *= -1
    merged = sparsity.merge_units(layer, self.GROUPS, num_groups=3)
    assert np.abs(run(merged, samples) - run(layer, samples)).max() > 0.1

  def test_units_of_their_own_stay(self):
    layer = draw_layer()
    merged = sparsity.merge_units(layer, np.arange(6), num_groups=6)
    jax.tree.map(np.testing.assert_array_equal, tuple(merged), tuple(layer))

  def test_groups_without_units_lead_nowhere(self):
    layer = draw_layer()
    groups = np.array([0, 1, 3, 4, 5, 6])
    merged = sparsity.merge_units(layer, groups, num_groups=8)
    for array in (merged.incoming.T, merged.bias, merged.outgoing):
      np.testing.assert_array_equal(array[np.array([2, 7])], 0)
    assert_same_function(merged, layer)


LAYER = draw_layer()
REFUSED = {
  "int": lambda: sparsity.gini_index(np.ones(3, int)),
  "at least 1": lambda: sparsity.gini_index(np.ones((0, 2))),
  "at least 2": lambda: sparsity.hoyer_sparsity(np.ones(1)),
  "threshold": lambda: sparsity.small_fraction(np.ones(2), threshold=-1.0),
  "1.1": lambda: sparsity.magnitude_masks(KERNELS, 1.1),
  "-0.1": lambda: sparsity.magnitude_masks(KERNELS, -0.1),
  "'unit'": lambda: sparsity.magnitude_masks(KERNELS, 0.5, scope="unit"),
  "at least one": lambda: sparsity.magnitude_masks({}, 0.5),
  "share N": lambda: sparsity.unit_importance(np.ones((5, 3)), np.ones((4, 2))),
  "[4, 6], [5], [6, 3], [3]": lambda: sparsity.remove_units(
    LAYER._replace(bias=np.ones(5)), np.array([0])
  ),
  "keep must be integers, got bool": lambda: sparsity.remove_units(
    LAYER, np.ones(6, bool)
  ),
  "means must have shape [6]": lambda: sparsity.remove_units(
    LAYER, np.array([0]), means=np.ones(5)
  ),
  "groups must have shape [6]": lambda: sparsity.merge_units(
    LAYER, np.zeros(5, int), num_groups=1
  ),
  "one dimension": lambda: sparsity.merge_units(
    LAYER, np.zeros((6, 1), int), num_groups=1
  ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
  error = TypeError if text.startswith(("int", "keep must")) else ValueError
  with pytest.raises(error) as caught:
    REFUSED[text]()
  assert text in str(caught.value)
  assert "\n" not in str(caught.value)
