"""Values of the penalty, its parts and its sum over layers."""

import itertools

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
  draw_layer,
  jitted_penalty,
  name_of,
)

SIZES = (1, 2, 10, 84, 120, 400)
GRID = tuple(itertools.product(SIZES, repeat=3))
# A Latin square: each pair of sizes occurs for each two of S, N and M.
SQUARE = tuple(
  (num_samples, num_neurons, SIZES[(i + j) % len(SIZES)])
  for i, num_samples in enumerate(SIZES)
  for j, num_neurons in enumerate(SIZES)
)
SHAPES = [
  pytest.param(
    shape,
    id="x".join(map(str, shape)),
    marks=() if shape in SQUARE else pytest.mark.slow,
  )
  for shape in GRID
]
RELATIVE_ERROR = {np.float32: 1e-5, np.float64: 1e-10}


def _penalties(activations, kernel):
  return [
    bean_jax.layer_penalty(activations, kernel, **options)
    for options in OPTIONS
  ]


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_oracle_over_grid(shape, dtype):
  arrays = draw_layer(*shape, dtype=dtype)
  with jax.enable_x64(dtype == np.float64):
    penalties = jax.jit(_penalties)(*arrays)
  for penalty, options in zip(penalties, OPTIONS, strict=True):
    assert penalty.shape == ()
    assert penalty.dtype == dtype
    np.testing.assert_allclose(
      penalty,
      reference.layer_penalty(*arrays, **options),
      rtol=RELATIVE_ERROR[dtype],
      err_msg=name_of(options),
    )


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_equals_oracle_with_ties_and_dead_samples(options):
  activations, kernel = draw_layer(20, 30, 7)
  activations = np.maximum(activations - 1, 0)
  activations[3] = 0
  kernel[5] = 0
  penalty = jitted_penalty(**options)(activations, kernel)
  expected = reference.layer_penalty(activations, kernel, **options)
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", (0.0, 0.3, 1, np.float32(3), 10.0))
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_gamma_is_the_slope(options, gamma):
  layer = draw_layer(5, 9, 4)
  expected = reference.layer_penalty(*layer, gamma=float(gamma), **options)
  for penalty in (
    bean_jax.layer_penalty(*layer, gamma=gamma, **options),
    jitted_penalty(**options)(*layer, gamma=gamma),
  ):
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_numbers_by_hand():
  # As in reference_test.py: A = [[1/8, 1/8], [1/8, 1/4]], the neurons of the
  # two samples differ by 2 and 4, so 2 / 8 * (4 + 16) / (2 * 4) = 5 / 8.
  kernel = jnp.arctanh(jnp.array([[0.5, 0.0], [-0.5, 0.5]]))
  activations = jnp.array([[1.0, 3.0], [0.0, -4.0]])
  np.testing.assert_allclose(
    bean_jax.layer_penalty(activations, kernel), 5 / 8, rtol=1e-6
  )
  np.testing.assert_allclose(
    bean_jax.layer_penalty(activations, kernel, order=2, distance="absolute"),
    2 / 64 * (2 + 4) / (2 * 4),
    rtol=1e-6,
  )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", ((1, 1), (2, 3), (84, 10), (40, 120)))
def test_neuron_correlation_equals_oracle(shape, order):
  _, kernel = draw_layer(1, *shape)
  correlation = jax.jit(
    lambda kernel: bean_jax.neuron_correlation(kernel, order=order, gamma=2.0)
  )(kernel)
  expected = reference.neuron_correlation(kernel, order=order, gamma=2.0)
  np.testing.assert_allclose(correlation, expected, rtol=1e-5)
  np.testing.assert_allclose(correlation, correlation.T, rtol=1e-6)
  assert np.all(correlation >= 0)
  assert np.all(correlation < 1)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", ((1, 1), (1, 5), (9, 2), (50, 84)))
def test_coactivation_divergence_equals_oracle(shape, distance):
  activations, _ = draw_layer(*shape, 1)
  divergence = jax.jit(
    lambda rows: bean_jax.coactivation_divergence(rows, distance=distance)
  )(activations)
  expected = reference.coactivation_divergence(activations, distance=distance)
  assert divergence.dtype == jnp.float32
  np.testing.assert_allclose(
    divergence, expected, rtol=1e-5, atol=1e-6 * expected.max()
  )
  np.testing.assert_array_equal(np.diagonal(divergence), 0)
  # Up to rounding: a compiler may contract the two triangles differently.
  np.testing.assert_allclose(divergence, divergence.T, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_penalty_is_made_of_its_parts(options):
  activations, kernel = draw_layer(12, 20, 6)
  correlation = bean_jax.neuron_correlation(kernel, order=options["order"])
  divergence = bean_jax.coactivation_divergence(
    activations, distance=options["distance"]
  )
  np.testing.assert_allclose(
    bean_jax.layer_penalty(activations, kernel, **options),
    jnp.mean(correlation * divergence),
    rtol=1e-5,
  )


@pytest.mark.parametrize("batch_shape", ((2, 6), (3, 1, 4), (12,)))
def test_leading_dimensions_are_batch(batch_shape):
  activations, kernel = draw_layer(12, 5, 3)
  tokens = activations.reshape(*batch_shape, 5)
  for options in OPTIONS:
    np.testing.assert_array_equal(
      bean_jax.layer_penalty(tokens, kernel, **options),
      bean_jax.layer_penalty(activations, kernel, **options),
    )
  for distance in DISTANCES:
    np.testing.assert_array_equal(
      bean_jax.coactivation_divergence(tokens, distance=distance),
      bean_jax.coactivation_divergence(activations, distance=distance),
    )


@pytest.mark.parametrize("padding", (0.0, 1e3, np.nan, np.inf))
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_masked_samples_take_no_part(options, padding):
  activations, kernel = draw_layer(12, 5, 3)
  where = np.arange(12) % 3 != 1
  expected = reference.layer_penalty(activations[where], kernel, **options)
  activations[~where] = padding
  penalty = jitted_penalty(**options)(activations, kernel, where=where)
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
  divergence = bean_jax.coactivation_divergence(
    activations, distance=options["distance"], where=where
  )
  np.testing.assert_allclose(
    divergence,
    reference.coactivation_divergence(
      activations[where], distance=options["distance"]
    ),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_mask_may_have_the_shape_of_the_batch_or_be_flat(options):
  activations, kernel = draw_layer(12, 5, 3)
  tokens = activations.reshape(4, 3, 5)
  where = np.random.default_rng(0).uniform(size=(4, 3)) < 0.6
  penalty = jitted_penalty(**options)
  flat = penalty(activations, kernel, where=where.reshape(-1))
  for mask in (where, where.reshape(-1)):
    np.testing.assert_array_equal(penalty(tokens, kernel, where=mask), flat)
  np.testing.assert_allclose(
    penalty(tokens, kernel, where=np.ones((4, 3), bool)),
    penalty(tokens, kernel),
    rtol=1e-6,
  )


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_without_real_samples_the_penalty_is_zero(options):
  activations, kernel = draw_layer(4, 5, 3)
  nothing = np.zeros(4, bool)
  penalty = jitted_penalty(**options)(activations, kernel, where=nothing)
  np.testing.assert_array_equal(penalty, 0)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_low_precision_is_accumulated_in_float32(options, dtype):
  activations, kernel = draw_layer(300, 40, 12)
  # The square of 300 is beyond float16.
  low = [jnp.asarray(array, dtype) for array in (300 * activations, kernel)]
  penalty = jitted_penalty(**options)(*low, gamma=0.3)
  rounded = (np.asarray(x, np.float64) for x in low)
  expected = reference.layer_penalty(*rounded, gamma=0.3, **options)
  assert penalty.dtype == jnp.float32
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_parts_of_low_precision_are_float32():
  activations, kernel = draw_layer(3, 4, 2)
  half = jnp.asarray(activations, jnp.bfloat16)
  for distance in DISTANCES:
    divergence = bean_jax.coactivation_divergence(half, distance=distance)
    assert divergence.dtype == jnp.float32
  correlation = bean_jax.neuron_correlation(jnp.asarray(kernel, jnp.float16))
  assert correlation.dtype == jnp.float32


@pytest.mark.parametrize(
  "dtypes,expected",
  (
    ((np.float32, np.float32), np.float32),
    ((jnp.bfloat16, np.float32), np.float32),
    ((np.float32, np.float64), np.float64),
    ((np.float64, jnp.float16), np.float64),
  ),
  ids=str,
)
def test_result_dtype_under_x64(dtypes, expected):
  with jax.enable_x64(True):
    activations, kernel = (
      jnp.asarray(array, dtype)
      for array, dtype in zip(draw_layer(3, 4, 2), dtypes, strict=True)
    )
    for options in OPTIONS:
      # Strengths, in whatever type they come, leave the dtype as it is.
      for number in (2, 0.5, np.float64(0.5), np.float32(0.5), jnp.ones(())):
        penalty = bean_jax.bean_penalty(
          [activations], [kernel], alpha=number, gamma=number, **options
        )
        assert penalty.dtype == expected, (options, number)


def test_sum_over_layers_is_weighted():
  shapes = {"fc1": (6, 7, 5), "fc2": (6, 5, 4), "fc3": (6, 4, 2)}
  layers = {name: draw_layer(*shape) for name, shape in shapes.items()}
  activations = {name: layer[0] for name, layer in layers.items()}
  kernels = {name: layer[1] for name, layer in layers.items()}
  alphas = {"fc1": 0.5, "fc2": 0.0, "fc3": np.float32(30)}
  for options in OPTIONS:
    each = {
      name: reference.layer_penalty(*layer, gamma=2.0, **options)
      for name, layer in layers.items()
    }
    for alpha, expected in (
      (3.0, 3 * sum(each.values())),
      (alphas, sum(alphas[name] * each[name] for name in each)),
    ):
      fixed = bean_jax.bean_penalty(
        activations, kernels, alpha=alpha, gamma=2.0, **options
      )
      np.testing.assert_allclose(fixed, expected, rtol=1e-5)
      traced = jax.jit(
        lambda strength, options=options: bean_jax.bean_penalty(
          activations, kernels, alpha=strength, gamma=2.0, **options
        )
      )(alpha)
      np.testing.assert_allclose(traced, expected, rtol=1e-5)
  np.testing.assert_allclose(
    bean_jax.bean_penalty(activations, kernels),
    sum(reference.layer_penalty(*layer) for layer in layers.values()),
    rtol=1e-5,
  )


def test_trees_may_be_nested_and_of_any_kind():
  first, second = draw_layer(4, 3, 2), draw_layer(9, 5, 6)
  expected = sum(reference.layer_penalty(*layer) for layer in (first, second))
  for arrange in (
    lambda a, b: {"encoder": {"dense": a}, "head": b},
    lambda a, b: [a, b],
    lambda a, b: (a, {"last": b}),
  ):
    activations, kernels = map(arrange, first, second)
    np.testing.assert_allclose(
      bean_jax.bean_penalty(activations, kernels), expected, rtol=1e-5
    )
    alphas = arrange(1.0, 0.0)
    np.testing.assert_allclose(
      bean_jax.bean_penalty(activations, kernels, alpha=alphas),
      reference.layer_penalty(*first),
      rtol=1e-5,
    )


def test_layers_share_one_mask():
  layers = {"a": draw_layer(8, 3, 2), "b": draw_layer(8, 5, 6)}
  where = np.arange(8) < 5
  expected = sum(
    reference.layer_penalty(hidden[where], kernel)
    for hidden, kernel in layers.values()
  )
  penalty = bean_jax.bean_penalty(
    {name: layer[0] for name, layer in layers.items()},
    {name: layer[1] for name, layer in layers.items()},
    where=where,
  )
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
