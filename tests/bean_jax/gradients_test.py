"""Gradients of the penalty: against differences, the oracle, and extremes."""

import functools

import jax
from jax import test_util
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import (
  OPTIONS,
  draw_layer,
  jitted_gradients,
  jitted_penalty,
  name_of,
)

each_option = pytest.mark.parametrize("options", OPTIONS, ids=name_of)

SIZES = (1, 2, 10, 84, 120, 400)
# A Latin square: each pair of sizes occurs for each two of S, N and M.
SQUARE = [
  (num_samples, num_neurons, SIZES[j - i])
  for i, num_samples in enumerate(SIZES)
  for j, num_neurons in enumerate(SIZES)
]
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
def _penalties(activations, kernel, gamma):
  return [
    bean_jax.layer_penalty(activations, kernel, gamma=gamma, **options)
    for options in OPTIONS
  ]


@pytest.mark.parametrize("shape", _shapes(SQUARE, fast=FAST))
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


# Of the largest entry. A gradient by ranks is a difference of sums over half of
# the neurons, so that float32 keeps about 4 digits at 400 neurons.
@pytest.mark.parametrize(
  "dtype,tolerance",
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
    gradients = jitted_gradients(**options)(*layer)
  expected = reference.layer_gradients(*layer, **options)
  for ours, oracle in zip(gradients, expected, strict=True):
    assert ours.dtype == dtype
    largest = max(np.max(np.abs(oracle)), 1e-30)
    np.testing.assert_allclose(ours, oracle, rtol=0, atol=tolerance * largest)


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


def _tied_layer(shape):
  """Returns a layer as ReLU makes them: 0 often, and some levels shared."""
  activations, kernel = draw_layer(*shape)
  return np.maximum(np.round(2 * activations - 2) / 2, 0), kernel


# Shapes for which different closed forms are the cheapest.
TIED = ((1, 20, 2), (5, 20, 2), (30, 9, 1), (5, 4, 20), (20, 5, 9))


@each_option
@pytest.mark.parametrize("shape", TIED, ids=str)
def test_gradients_equal_oracle_where_neurons_tie(shape, options):
  layer = _tied_layer(shape)
  expected = reference.layer_gradients(*layer, **options)
  gradients = jitted_gradients(**options)(*layer)
  for ours, oracle in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(
      ours, oracle, rtol=0, atol=1e-5 * np.max(np.abs(oracle))
    )


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
@pytest.mark.parametrize("shape", TIED, ids=str)
def test_derivatives_do_not_depend_on_the_order_of_tied_neurons(shape, options):
  activations, kernel = _tied_layer(shape)
  direction = draw_layer(*shape, seed=1)
  neurons = np.random.default_rng(0).permutation(shape[1])

  @jax.jit
  def derivatives(layer, direction):
    return jax.jvp(jitted_gradients(**options), layer, direction)

  ours = derivatives((activations, kernel), direction)
  permuted = derivatives(
    (activations[:, neurons], kernel[neurons]),
    (direction[0][:, neurons], direction[1][neurons]),
  )
  for (by_activations, by_kernel), others in zip(ours, permuted, strict=True):
    expected = by_activations[:, neurons], by_kernel[neurons]
    for one, other in zip(others, expected, strict=True):
      largest = np.max(np.abs(other))
      np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)


@each_option
def test_identical_neurons_leave_the_kernel_alone(options):
  layer = _degenerate_layers()["identical neurons"]
  by_kernel = jitted_gradients(**options)(*layer)[1]
  np.testing.assert_allclose(by_kernel, 0, atol=1e-6)


@each_option
@pytest.mark.parametrize("gamma", (0.0, 1.0))
def test_gradient_by_gamma_is_finite_at_the_kink(options, gamma):
  activations, kernel = draw_layer(6, 5, 4)
  kernel[1] = 0

  @jax.grad
  def by_gamma(gamma):
    return jitted_penalty(**options)(activations, kernel, gamma=gamma)

  assert np.isfinite(by_gamma(gamma))


@each_option
@pytest.mark.parametrize("padding", (np.nan, np.inf, 1e30))
def test_masked_samples_have_no_influence_on_gradients(options, padding):
  activations, kernel = draw_layer(6, 5, 4)
  where = np.array([True, False, True, True, False, True])
  expected = reference.layer_gradients(activations[where], kernel, **options)
  activations[~where] = padding
  by_activations, by_kernel = jitted_gradients(**options)(
    activations, kernel, where=where
  )
  np.testing.assert_array_equal(by_activations[~where], 0)
  np.testing.assert_allclose(
    by_activations[where], expected[0], rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(by_kernel, expected[1], rtol=1e-4, atol=1e-6)


@each_option
def test_without_real_samples_gradients_are_zero(options):
  activations, kernel = draw_layer(6, 5, 4)
  activations[2] = np.nan
  gradients = jitted_gradients(**options)(
    activations, kernel, where=np.zeros(6, bool)
  )
  for gradient in gradients:
    np.testing.assert_array_equal(gradient, 0)


@each_option
@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
def test_gradients_have_the_dtype_of_their_arguments(options, dtype):
  _, kernel = draw_layer(6, 20, 4)
  # Exact in 8 bits, so that rounding makes no ties.
  levels = np.tile(np.arange(20) / 8, (6, 1))
  activations = np.random.default_rng(0).permuted(levels, axis=1)
  low = [jnp.asarray(array, dtype) for array in (activations, kernel)]
  gradients = jitted_gradients(**options)(*low)
  rounded = (np.asarray(array, np.float64) for array in low)
  expected = reference.layer_gradients(*rounded, **options)
  for ours, oracle in zip(gradients, expected, strict=True):
    assert ours.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(ours, np.float64),
      oracle,
      rtol=float(jnp.finfo(dtype).eps),
      atol=1e-6,
    )


LOWEST = (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn)


@each_option
@pytest.mark.parametrize("dtype", LOWEST, ids=lambda dtype: dtype.dtype.name)
def test_layers_in_8_and_4_bits(options, dtype):
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
  for (ours,), slope in zip(gradients, oracle, strict=True):
    assert ours.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(ours, np.float64),
      32 * slope,
      rtol=float(jnp.finfo(dtype).eps),
      atol=float(jnp.finfo(dtype).smallest_subnormal),
    )


@each_option
def test_gradient_by_alpha_is_the_penalty_of_the_layer(options):
  layers = {"a": draw_layer(8, 3, 2), "b": draw_layer(8, 5, 6)}
  activations = {name: layer[0] for name, layer in layers.items()}
  kernels = {name: layer[1] for name, layer in layers.items()}

  @jax.jit
  @jax.grad
  def by_alpha(alpha):
    return bean_jax.bean_penalty(activations, kernels, alpha=alpha, **options)

  gradients = by_alpha({"a": 0.3, "b": 0.0})
  for name, layer in layers.items():
    np.testing.assert_allclose(
      gradients[name], reference.layer_penalty(*layer, **options), rtol=1e-5
    )
