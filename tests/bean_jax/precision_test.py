"""Numbers where float32 is short, and where a compiler has been wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import (
  DISTANCES,
  OPTIONS,
  ORDERS,
  assert_leaves_close,
  draw_layer,
  jitted_gradients,
  jitted_penalty,
  name_of,
)

pytestmark = pytest.mark.optimized

# One row more than jaxlib 0.10.2 computes rightly on a CPU, in float32.
NUM_ROWS = 32_769
CURE = (
  "this jaxlib computes wrong numbers on this device (jax-ml/jax#39103): "
  "install a jax other than 0.10.2"
)


def _nearly_coactive(num_samples=100, num_next=10):
  """Returns 84 neurons which all fire at 1, to within one percent."""
  rng = np.random.default_rng(0)
  activations = 1 + 0.01 * rng.normal(size=(num_samples, 84))
  kernel = rng.normal(size=(84, num_next))
  return activations.astype(np.float32), kernel.astype(np.float32)


def _uncentred(activations, kernel, order):
  """Returns 2 (sum_i (A 1)_i h_i^2 - h' A h) as it stands, in float32."""
  correlation = bean_jax.neuron_correlation(kernel, order=order)
  gram = activations.T @ activations
  attraction = jnp.sum(correlation @ jnp.diagonal(gram))
  energy = 2 * (attraction - jnp.sum(correlation * gram))
  return energy / (len(activations) * len(kernel) ** 2)


@jax.jit
def _strengths(weights):
  """Returns tanh(w)^2 by way of networks of one weight each."""
  kernels = jnp.reshape(weights, (-1, 1, 1))
  return jax.vmap(bean_jax.neuron_correlation)(kernels).ravel()


def test_strength_of_weights_of_any_size():
  small, large = np.logspace(-15, 0, 100_000), np.linspace(0, 20, 100_000)
  weights = np.concatenate([small, large, -small]).astype(np.float32)
  expected = np.tanh(weights.astype(np.float64)) ** 2
  strengths = np.asarray(_strengths(weights), np.float64)
  np.testing.assert_allclose(strengths, expected, rtol=1e-6)
  assert strengths.max() == 1


def test_strength_of_extreme_weights():
  largest = np.finfo(np.float32).max
  weights = np.array([0.0, -0.0, np.inf, -np.inf, largest, np.nan], np.float32)
  expected = [0, 0, 1, 1, 1, np.nan]
  np.testing.assert_array_equal(_strengths(weights), expected)


# Sizes for which different closed forms are the cheapest.
@pytest.mark.parametrize("sizes", ((100, 10), (100, 60), (5, 10), (5, 400)))
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_nearly_coactive_neurons(options, sizes):
  layer = _nearly_coactive(*sizes)
  expected = reference.layer_penalty(*layer, **options)
  penalty = jitted_penalty(**options)(*layer)
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_nearly_coactive_neurons_break_the_uncentred_form(order):
  layer = _nearly_coactive()
  expected = reference.layer_penalty(*layer, order=order)
  centred = jitted_penalty(order=order, distance="squared")(*layer)
  uncentred = _uncentred(*map(jnp.asarray, layer), order)
  error = abs(float(centred) / expected - 1)
  assert abs(float(uncentred) / expected - 1) > 10 * max(error, 1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_nearly_coactive_assemblies(order):
  # Where training leads: ten assemblies, each firing as one to within one
  # percent, and hardly a wire between them. What is left of the penalty is a
  # difference of numbers 1e4 times its size, and the gradient of numbers 1e2
  # times its size; float32 leaves them 3 and 5 digits.
  rng = np.random.default_rng(0)
  assembly = np.arange(80) % 10
  levels = rng.permuted(np.tile(np.arange(10.0), (50, 1)), axis=1) / 4
  activations = levels[:, assembly] + 0.01 * rng.normal(size=(50, 80))
  kernel = np.where(assembly[:, None] == np.arange(10), 2.0, 1e-4)
  layer = activations.astype(np.float32), kernel.astype(np.float32)
  options = {"order": order, "distance": "squared"}
  expected = reference.layer_penalty(*layer, **options)
  np.testing.assert_allclose(
    jitted_penalty(**options)(*layer), expected, rtol=1e-2
  )
  gradients = jitted_gradients(**options)(*layer)
  oracle = reference.layer_gradients(*layer, **options)
  difference = np.linalg.norm(gradients[0] - oracle[0])
  assert difference <= 1e-4 * np.linalg.norm(oracle[0])


# Sizes for which different closed forms are the cheapest, of order 2 too.
ALL_FORMS = ((50, 30, 3), (2, 30, 4), (50, 30, 9), (5, 4, 60), (300, 20, 2))


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("level", (1e-10, 1e18, 9e18))
@pytest.mark.parametrize("sizes", ALL_FORMS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_activations_whose_squares_are_finite(options, sizes, level, masked):
  activations, kernel = draw_layer(*sizes)
  activations = activations - activations.mean()
  activations *= np.float32(level / np.abs(activations).max())
  where = np.arange(sizes[0]) % 5 != 1 if masked else np.ones(sizes[0], bool)
  expected = (
    reference.layer_penalty(activations[where], kernel, **options),
    *reference.layer_gradients(activations[where], kernel, **options),
  )
  activations[~where] = np.finfo(np.float32).max
  penalty = jitted_penalty(**options)(activations, kernel, where=where)
  gradients = jitted_gradients(**options)(activations, kernel, where=where)
  assert_leaves_close((penalty, gradients[0][where], gradients[1]), expected)


@pytest.mark.parametrize("level", (1e-10, 1e18, 9e18))
@pytest.mark.parametrize("distance", DISTANCES)
def test_divergence_of_activations_whose_squares_are_finite(distance, level):
  activations, _ = draw_layer(50, 12, 1)
  activations = activations - activations.mean()
  activations *= np.float32(level / np.abs(activations).max())
  divergence = jax.jit(
    functools.partial(bean_jax.coactivation_divergence, distance=distance)
  )(activations)
  expected = reference.coactivation_divergence(activations, distance=distance)
  assert_leaves_close(divergence, expected, 1e-6)


def test_jit_is_right_beyond_32768_rows():
  def squared_norm(row):
    return jnp.sum((jnp.eye(3) @ row) ** 2)

  first = jnp.arange(NUM_ROWS, dtype=jnp.float32)[:, None]
  rows = jnp.concatenate([first, jnp.zeros((NUM_ROWS, 2))], axis=1)
  jitted = jax.jit(jax.vmap(squared_norm))(rows)
  np.testing.assert_array_equal(
    jitted, jax.vmap(squared_norm)(rows), err_msg=CURE
  )
  np.testing.assert_array_equal(jitted[-1], 2.0**30, err_msg=CURE)


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_many_samples(options):
  layer = draw_layer(NUM_ROWS, 4, 3)
  penalty = functools.partial(bean_jax.layer_penalty, **options)
  jitted = jitted_penalty(**options)(*layer)
  np.testing.assert_allclose(jitted, penalty(*layer), rtol=1e-5, err_msg=CURE)
  expected = reference.layer_penalty(*layer, **options)
  np.testing.assert_allclose(jitted, expected, rtol=1e-5, err_msg=CURE)


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_many_members(options):
  activations, kernel = draw_layer(NUM_ROWS, 3, 3)
  penalty = functools.partial(bean_jax.layer_penalty, **options)

  def of_each(members, kernel):
    return jax.vmap(lambda h: penalty(h[None], kernel))(members)

  jitted = jax.jit(of_each)(activations, kernel)
  np.testing.assert_allclose(
    jitted, of_each(activations, kernel), rtol=1e-4, atol=1e-7, err_msg=CURE
  )
  for member in (0, 1, NUM_ROWS // 2, NUM_ROWS - 2, NUM_ROWS - 1):
    expected = reference.layer_penalty(
      activations[member : member + 1], kernel, **options
    )
    np.testing.assert_allclose(
      jitted[member], expected, rtol=1e-4, err_msg=CURE
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_many_neurons(distance):
  # Too many for the oracle. All but two neurons fire at 0, and A is constant:
  # each of the two differs by its level from all others.
  activations = np.zeros((2, NUM_ROWS), np.float32)
  activations[:, 7], activations[:, -1] = 1.0, 2.0
  kernel = np.full((NUM_ROWS, 2), np.arctanh(0.5), np.float32)
  penalty = functools.partial(bean_jax.layer_penalty, distance=distance)
  jitted = jax.jit(penalty)(activations, kernel)
  others = NUM_ROWS - 2
  pairs = {"squared": others * 5 + 1, "absolute": others * 3 + 1}[distance]
  expected = 0.25 * 2 * pairs / float(NUM_ROWS) ** 2
  np.testing.assert_allclose(jitted, expected, rtol=1e-5, err_msg=CURE)
  np.testing.assert_allclose(
    jitted, penalty(activations, kernel), rtol=1e-5, err_msg=CURE
  )
