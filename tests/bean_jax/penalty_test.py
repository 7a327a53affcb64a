"""Values and gradients of the penalty, its parts and its sum over layers."""

import functools
import itertools

import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import (
  DISTANCES,
  OPTIONS,
  ORDERS,
  assert_equals_oracle,
  assert_leaves_close,
  draw_layer,
  jitted_gradients,
  jitted_penalty,
  name_of,
)

each_option = pytest.mark.parametrize("options", OPTIONS, ids=name_of)

SIZES = (1, 2, 10, 84, 120, 400)
GRID = tuple(itertools.product(SIZES, repeat=3))
# A Latin square: each pair of sizes occurs for each two of S, N and M.
SQUARE = tuple(
  (num_samples, num_neurons, SIZES[(i + j) % len(SIZES)])
  for i, num_samples in enumerate(SIZES)
  for j, num_neurons in enumerate(SIZES)
)
FAST = ((2, 2, 1), (1, 2, 2), (10, 2, 400), (10, 84, 2), (84, 1, 84))
# The layers of LeNet-5 and MLP-500, at the batches of the paper and between.
LAYERS = ((1, 400, 120), (1, 120, 84), (84, 400, 120), (10, 84, 10))


def _shapes(shapes, fast):
  return [
    pytest.param(
      shape,
      id="x".join(map(str, shape)),
      marks=() if shape in fast else pytest.mark.slow,
    )
    for shape in shapes
  ]


@jax.jit
def _penalties(activations, kernel, gamma=1.0):
  return [
    bean_jax.layer_penalty(activations, kernel, gamma=gamma, **options)
    for options in OPTIONS
  ]


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("shape", _shapes(GRID, fast=SQUARE))
def test_values_equal_oracle_over_grid(shape, dtype):
  arrays = draw_layer(*shape, dtype=dtype)
  with jax.enable_x64(dtype == np.float64):
    penalties = _penalties(*arrays)
  for penalty, options in zip(penalties, OPTIONS, strict=True):
    assert (penalty.shape, penalty.dtype) == ((), dtype)
    np.testing.assert_allclose(
      penalty,
      reference.layer_penalty(*arrays, **options),
      rtol={np.float32: 1e-5, np.float64: 1e-10}[dtype],
      err_msg=name_of(options),
    )


# A gradient by ranks is a difference of sums over half of the neurons, so that
# float32 keeps about 4 digits at 400 neurons.
@pytest.mark.parametrize(
  "dtype, tolerance",
  (
    pytest.param(np.float32, 1e-4, id="float32"),
    pytest.param(np.float64, 1e-11, id="float64", marks=pytest.mark.slow),
  ),
)
@pytest.mark.parametrize("shape", _shapes((*FAST, *LAYERS), fast=LAYERS))
@each_option
def test_gradients_equal_oracle(options, shape, dtype, tolerance):
  layer = draw_layer(*shape, dtype=dtype)
  with jax.enable_x64(dtype == np.float64):
    assert_equals_oracle(layer, tolerance=tolerance, **options)


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


@pytest.mark.parametrize("shape", _shapes((*FAST, *SQUARE), fast=FAST))
def test_derivatives_equal_finite_differences(shape):
  with jax.enable_x64(True):
    test_util.check_grads(
      _penalties,
      (*draw_layer(*shape, dtype=np.float64), np.float64(0.7)),
      order=1,
      modes=("fwd", "rev"),
      eps=1e-6,
      atol=1e-7,
      rtol=1e-6,
    )


# Shapes for which different closed forms of order 1 or 2 are the cheapest.
@pytest.mark.parametrize(
  "shape", ((20, 2, 20), (1, 20, 2), (5, 20, 2), (2, 5, 20)), ids=str
)
@each_option
def test_second_derivatives_equal_differences_of_oracle(options, shape):
  penalty = functools.partial(bean_jax.layer_penalty, **options)
  layer = draw_layer(*shape, dtype=np.float64)
  direction = draw_layer(*shape, dtype=np.float64, seed=1)
  with jax.enable_x64(True):
    _, products = jax.jit(
      lambda *layer: jax.jvp(
        jax.grad(penalty, argnums=(0, 1)), layer, direction
      )
    )(*layer)
  step = 1e-6
  ahead, behind = (
    reference.layer_gradients(
      *(x + sign * step * d for x, d in zip(layer, direction, strict=True)),
      **options,
    )
    for sign in (1, -1)
  )
  for ours, right, left in zip(products, ahead, behind, strict=True):
    np.testing.assert_allclose(
      ours, (right - left) / (2 * step), rtol=1e-5, atol=1e-7
    )


def _degenerate_layers():
  activations, kernel = draw_layer(6, 5, 4)
  unwired = kernel.copy()
  unwired[2] = 0
  return {
    "zero kernel": (activations, 0 * kernel),
    "a neuron without weights": (activations, unwired),
    "huge kernel": (activations, 1e30 * kernel),
    "tiny kernel": (activations, 1e-30 * kernel),
    "identical neurons": (np.repeat(activations[:, :1], 5, axis=1), kernel),
    "dead layer": (0 * activations, kernel),
    "dead layer, zero kernel": (0 * activations, 0 * kernel),
    "half of the neurons dead": (np.maximum(activations - 1, 0), kernel),
    "one sample": (activations[:1], kernel),
    "one neuron": (activations[:, :1], kernel[:1]),
    "one next neuron": (activations, kernel[:, :1]),
    "one of each": (activations[:1, :1], kernel[:1, :1]),
    "huge activations": (1e12 * activations, kernel),
  }


@each_option
@pytest.mark.parametrize("case", _degenerate_layers())
def test_extremes_have_finite_value_and_gradient(case, options):
  activations, kernel = _degenerate_layers()[case]
  assert np.isfinite(jitted_penalty(**options)(activations, kernel))
  gradients = jitted_gradients(**options)(activations, kernel)
  assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
  # A pair (i, j) pulls at i and j alike, and never by more than A_ij times the
  # largest slope of d.
  pull = np.asarray(gradients[0], np.float64)
  hidden = np.asarray(activations, np.float64)
  correlation = reference.neuron_correlation(kernel, order=options["order"])
  spread = np.ptp(hidden, axis=1, keepdims=True)
  level = np.max(np.abs(hidden), axis=1, keepdims=True)
  largest_slope = (
    2 * (spread + 1e-6 * level) if options["distance"] == "squared" else 1.0
  )
  bound = 2 * correlation.sum(axis=1) * largest_slope
  bound = bound * (1 + 1e-5) / (len(hidden) * len(kernel) ** 2) + 1e-37
  assert np.all(np.abs(pull) <= bound)
  assert np.all(np.abs(pull.sum(axis=1)) <= 1e-5 * np.max(bound) * len(kernel))
  if case == "identical neurons":
    np.testing.assert_allclose(gradients[1], 0, atol=1e-6)


def _tied_layer(shape):
  """Returns a layer as ReLU makes them: 0 often, and some levels shared."""
  activations, kernel = draw_layer(*shape)
  return np.maximum(np.round(2 * activations - 2) / 2, 0), kernel


@each_option
# Shapes for which different closed forms are the cheapest.
@pytest.mark.parametrize(
  "shape",
  ((1, 20, 2), (5, 20, 2), (30, 9, 1), (5, 4, 20), (20, 5, 9)),
  ids=str,
)
def test_neurons_that_tie_equal_oracle_in_any_order(shape, options):
  activations, kernel = _tied_layer(shape)
  assert_equals_oracle((activations, kernel), **options)
  direction = draw_layer(*shape, seed=1)
  neurons = np.random.default_rng(0).permutation(shape[1])

  @jax.jit
  def second_derivatives(layer, direction):
    return jax.jvp(jitted_gradients(**options), layer, direction)[1]

  by_activations, by_kernel = second_derivatives(
    (activations, kernel), direction
  )
  permuted = second_derivatives(
    (activations[:, neurons], kernel[neurons]),
    (direction[0][:, neurons], direction[1][neurons]),
  )
  expected = by_activations[:, neurons], by_kernel[neurons]
  assert_leaves_close(permuted, expected)


@each_option
def test_tied_neurons_by_hand(options):
  # Three neurons at 0 are wired like those at 1 and 2, by A = f^2 or f^4. Each
  # is below two others, so that its slope is -2 A 2 / 25.
  activations = np.float32([[0, 0, 0, 1, 2]])
  kernel = np.full((5, 1), np.arctanh(0.5), np.float32)
  correlation = 0.25 ** options["order"]
  slopes = {
    "absolute": [-2, -2, -2, 2, 4],
    "squared": [-6, -6, -6, 4, 14],
  }[options["distance"]]
  expected = 2 * correlation * np.array([slopes]) / 25
  by_activations, _ = jitted_gradients(**options)(activations, kernel)
  np.testing.assert_allclose(by_activations, expected, rtol=1e-5)


@each_option
def test_dead_samples_and_unwired_neurons(options):
  activations, kernel = draw_layer(20, 30, 7)
  activations = np.maximum(activations - 1, 0)
  activations[3] = 0
  kernel[5] = 0
  assert_equals_oracle((activations, kernel), **options)


@pytest.mark.parametrize("gamma", (0.0, 0.3, 1, np.float32(3), 10.0))
@each_option
def test_gamma_is_the_slope(options, gamma):
  layer = draw_layer(5, 9, 4)
  expected = reference.layer_penalty(*layer, gamma=float(gamma), **options)
  for fn in (
    functools.partial(bean_jax.layer_penalty, **options),
    jitted_penalty(**options),
  ):
    np.testing.assert_allclose(fn(*layer, gamma=gamma), expected, rtol=1e-5)
  layer[1][1] = 0
  by_gamma = jax.grad(
    lambda gamma: jitted_penalty(**options)(*layer, gamma=gamma)
  )
  assert np.isfinite(by_gamma(float(gamma)))


@each_option
@pytest.mark.parametrize("padding", (0.0, 1e30, np.nan, np.inf))
def test_masked_samples_take_no_part(options, padding):
  activations, kernel = draw_layer(12, 5, 3)
  where = np.arange(12) % 3 != 1
  activations[~where] = padding
  assert_equals_oracle((activations, kernel), where=where, **options)
  distance = options["distance"]
  np.testing.assert_allclose(
    bean_jax.coactivation_divergence(
      activations, distance=distance, where=where
    ),
    reference.coactivation_divergence(activations[where], distance=distance),
    rtol=1e-5,
    atol=1e-6,
  )


@each_option
def test_without_real_samples_all_is_zero(options):
  activations, kernel = draw_layer(6, 5, 4)
  activations[2] = np.nan
  nothing = np.zeros(6, bool)
  assert jitted_penalty(**options)(activations, kernel, where=nothing) == 0
  for gradient in jitted_gradients(**options)(
    activations, kernel, where=nothing
  ):
    np.testing.assert_array_equal(gradient, 0)


@each_option
def test_leading_dimensions_are_batch_and_masks_may_be_flat(options):
  activations, kernel = draw_layer(12, 5, 3)
  where = np.random.default_rng(0).uniform(size=12) < 0.6
  divergence_fn = functools.partial(
    bean_jax.coactivation_divergence, distance=options["distance"]
  )
  penalty = jitted_penalty(**options)
  masked = penalty(activations, kernel, where=where)
  for shape in ((2, 6), (3, 1, 4), (12,)):
    tokens = activations.reshape(*shape, 5)
    np.testing.assert_array_equal(
      penalty(tokens, kernel), penalty(activations, kernel)
    )
    np.testing.assert_array_equal(
      divergence_fn(tokens), divergence_fn(activations)
    )
    for mask in (where, where.reshape(shape)):
      np.testing.assert_array_equal(penalty(tokens, kernel, where=mask), masked)
  tokens, first = activations.reshape(2, 6, 5), np.array([True, False])
  for function, masked in (
    (functools.partial(penalty, kernel=kernel), penalty(tokens[0], kernel)),
    (divergence_fn, divergence_fn(tokens[0])),
  ):
    np.testing.assert_allclose(function(tokens, where=first), masked, rtol=1e-5)


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
  assert np.all((correlation >= 0) & (correlation < 1))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", ((1, 1), (1, 5), (9, 2), (50, 84)))
def test_coactivation_divergence_equals_oracle(shape, distance):
  activations, _ = draw_layer(*shape, 1)
  divergence = jax.jit(
    lambda rows: bean_jax.coactivation_divergence(rows, distance=distance)
  )(activations)
  expected = reference.coactivation_divergence(activations, distance=distance)
  np.testing.assert_allclose(
    divergence, expected, rtol=1e-5, atol=1e-6 * expected.max()
  )
  np.testing.assert_array_equal(np.diagonal(divergence), 0)
  # Up to rounding: a compiler may contract the two triangles differently.
  np.testing.assert_allclose(divergence, divergence.T, rtol=1e-5)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
@each_option
def test_low_precision_is_accumulated_in_float32(options, dtype):
  activations, kernel = draw_layer(300, 40, 12)
  # The square of 300 is beyond float16.
  low = [jnp.asarray(array, dtype) for array in (300 * activations, kernel)]
  penalty = jitted_penalty(**options)(*low, gamma=0.3)
  rounded = [np.asarray(x, np.float64) for x in low]
  expected = reference.layer_penalty(*rounded, gamma=0.3, **options)
  assert penalty.dtype == jnp.float32
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
  for part in (
    bean_jax.coactivation_divergence(low[0], distance=options["distance"]),
    bean_jax.neuron_correlation(low[1]),
  ):
    assert part.dtype == jnp.float32


LOW = (
  *(jnp.bfloat16, jnp.float16),
  *(jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn),
)


@each_option
@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: dtype.dtype.name)
def test_layers_in_16_to_4_bits(options, dtype):
  # Rounded so coarsely that neurons tie and weights are 0.
  low = [jnp.asarray(array, dtype) for array in draw_layer(6, 20, 4)]
  exact = [np.asarray(array, np.float64) for array in low]
  value, gradients = jax.jit(
    jax.value_and_grad(
      lambda layer: bean_jax.bean_penalty(*layer, alpha=32.0, **options)
    )
  )([[array] for array in low])
  expected = 32 * reference.layer_penalty(*exact, **options)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  oracle = reference.layer_gradients(*exact, **options)
  limits = jnp.finfo(dtype)
  for (ours,), slope in zip(gradients, oracle, strict=True):
    assert ours.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(ours, np.float64),
      32 * slope,
      rtol=float(limits.eps),
      atol=max(float(limits.smallest_subnormal), 1e-5),
    )


@pytest.mark.parametrize(
  "dtypes, expected",
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


TREES = {
  "dict": lambda a, b: {"fc1": a, "fc2": b},
  "nested": lambda a, b: {"encoder": {"dense": a}, "head": b},
  "list": lambda a, b: [a, b],
  "tuple": lambda a, b: (a, {"last": b}),
}


@each_option
@pytest.mark.parametrize("kind", TREES)
def test_sum_over_layers_is_weighted(options, kind):
  arrange = TREES[kind]
  layers = draw_layer(8, 3, 2), draw_layer(8, 5, 6)
  where = np.arange(8) < 5
  each = [
    reference.layer_penalty(hidden[where], kernel, gamma=2.0, **options)
    for hidden, kernel in layers
  ]
  activations, kernels = itertools.starmap(arrange, zip(*layers, strict=True))

  def penalty(alpha):
    return bean_jax.bean_penalty(
      activations, kernels, alpha=alpha, gamma=2.0, where=where, **options
    )

  alphas = arrange(0.5, 0.0), arrange(0.0, np.float32(30)), 3.0
  for alpha, weights in zip(alphas, ((0.5, 0), (0, 30), (3, 3)), strict=True):
    expected = np.dot(weights, each)
    np.testing.assert_allclose(penalty(alpha), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(penalty)(alpha), expected, rtol=1e-5)
  by_alpha = jax.tree.leaves(jax.jit(jax.grad(penalty))(alphas[0]))
  np.testing.assert_allclose(by_alpha, each, rtol=1e-5)
