"""No tensor of pairwise differences, on any path, and sizes beyond 2^31."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import (
  DISTANCES,
  OPTIONS,
  draw_layer,
  equations,
  name_of,
)

pytestmark = pytest.mark.optimized

# What a block of a blockwise sum may take beyond the size of the arguments.
BLOCK = 2**22
# Of no common factor, so that one size is never the product of others. Where
# S N^2 is below a block, only the closed forms of the squared distance count.
SMALL = ((37, 53, 11), (7, 211, 307), (307, 89, 17), (3, 401, 2))
LARGE = ((64, 1024, 40), (1031, 409, 400), (31, 2039, 2053), (512, 4096, 4096))


def _largest(function, *sizes) -> int:
  """Returns the largest array of a function of a layer of sizes S, N and M."""
  shapes = list(itertools.pairwise(sizes))
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  # Python integers, because these products are the ones which overflow.
  return max(
    math.prod(variable.aval.shape)
    for equation in equations(jaxpr)
    for variable in equation.outvars
  )


def _programs(options):
  penalty = functools.partial(bean_jax.layer_penalty, **options)
  both = jax.value_and_grad(penalty, argnums=(0, 1))
  return {
    "value": penalty,
    "value and gradient": both,
    "under jit and vmap": jax.jit(
      lambda h, w: jax.vmap(both)(h[None], w[None])
    ),
    "forward mode": lambda h, w: jax.jvp(penalty, (h, w), (h, w)),
  }


@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("order", (1, 2))
def test_squared_distance_forms_no_pairwise_tensor(order, shape):
  num_samples, num_neurons, _ = shape
  options = {"order": order, "distance": "squared"}
  for name, program in _programs(options).items():
    assert _largest(program, *shape) < num_samples * num_neurons**2, name


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_memory_is_that_of_matrices_and_a_block(options, shape):
  num_samples, num_neurons, num_next = shape
  matrices = (
    num_samples * num_neurons
    + num_neurons * num_next
    + num_samples * num_next
    + num_neurons**2
  )
  assert num_samples * num_neurons**2 > 4 * (BLOCK + matrices)
  for name, program in _programs(options).items():
    assert _largest(program, *shape) <= BLOCK + matrices, name


def test_order_one_squared_forms_no_matrix_of_neurons():
  # A and D take N^2; a wide layer that is narrow after it must need neither.
  options = {"order": 1, "distance": "squared"}
  for name, program in _programs(options).items():
    assert _largest(program, 4, 9973, 10) <= 10 * 9973, name


@pytest.mark.parametrize("distance", DISTANCES)
def test_divergence_forms_no_pairwise_tensor(distance):
  def total(activations):
    return jnp.sum(
      bean_jax.coactivation_divergence(activations, distance=distance)
    )

  for program in (total, jax.grad(total)):
    assert _largest(program, 300, 1024) <= 1024**2 + BLOCK


def test_the_definition_would_be_seen():
  def by_definition(activations, kernel):
    difference = activations[:, :, None] - activations[:, None, :]
    correlation = bean_jax.neuron_correlation(kernel)
    return jnp.mean(correlation[None] * difference**2)

  shape = num_samples, num_neurons, _ = SMALL[0]
  inside_scan = jax.jit(
    lambda h, w: jax.lax.scan(
      lambda total, _: (total + by_definition(h, w), None), 0.0, length=2
    )
  )
  for program in (by_definition, inside_scan):
    assert _largest(program, *shape) >= num_samples * num_neurons**2


@pytest.mark.parametrize(
  "shape",
  ((512, 4096, 4096), (2, 70001, 70001), (70001, 40009, 3), (50021, 3, 50021)),
  ids=str,
)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_products_of_sizes_beyond_int32_are_traced(options, shape):
  num_samples, num_neurons, num_next = shape
  activations = jax.ShapeDtypeStruct((num_samples, num_neurons), jnp.float32)
  kernel = jax.ShapeDtypeStruct((num_neurons, num_next), jnp.float32)
  where = jax.ShapeDtypeStruct((num_samples,), jnp.bool_)
  value, gradients = jax.eval_shape(
    lambda h, w, mask: jax.value_and_grad(
      lambda *layer: bean_jax.layer_penalty(*layer, where=mask, **options),
      argnums=(0, 1),
    )(h, w),
    activations,
    kernel,
    where,
  )
  assert (value.shape, value.dtype) == ((), jnp.float32)
  assert [x.shape for x in gradients] == [activations.shape, kernel.shape]


def test_large_layer_has_the_value_of_the_laplacian():
  # S N^2 = 2^33. In float64 NumPy: sum_ij A_ij (h_i - h_j)^2 is
  # 2 (sum_i (A 1)_i h_i^2 - h' A h), with A = F F' / M.
  activations, kernel = draw_layer(512, 4096, 4096)
  value, (by_activations, by_kernel) = jax.jit(
    jax.value_and_grad(bean_jax.layer_penalty, argnums=(0, 1))
  )(activations, kernel)
  hidden = np.asarray(activations, np.float64)
  strength = reference.relative_strength(kernel)
  projected = hidden @ strength
  degree = strength @ strength.sum(axis=0) / 4096
  attraction = np.sum(hidden**2 @ degree) - np.sum(projected**2) / 4096
  np.testing.assert_allclose(
    value, 2 * attraction / (512 * 4096.0**2), rtol=1e-5
  )
  slope = 4 * (hidden * degree - projected @ strength.T / 4096)
  slope /= 512 * 4096.0**2
  np.testing.assert_allclose(
    by_activations, slope, rtol=0, atol=1e-4 * np.max(np.abs(slope))
  )
  assert np.all(np.isfinite(by_kernel))


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_wide_layer_of_two_groups_has_the_value_by_hand(options):
  # Half of the neurons fire at a_s, half at b_s, so that only pairs of
  # one from each half count, all of them with the same d in a sample.
  activations, kernel = draw_layer(48, 2048, 24)
  levels = activations[:, :2]
  activations = np.repeat(levels, 1024, axis=1)
  value = jax.jit(functools.partial(bean_jax.layer_penalty, **options))(
    activations, kernel
  )
  correlation = reference.neuron_correlation(kernel, order=options["order"])
  difference = np.float64(levels[:, 0]) - levels[:, 1]
  divergence = reference.distance_of(difference, options["distance"])
  across = 2 * np.sum(correlation[:1024, 1024:])
  np.testing.assert_allclose(
    value, across * np.mean(divergence) / 2048**2, rtol=1e-5
  )
