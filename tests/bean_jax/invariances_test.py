"""What must not change the penalty, or must change it in a known way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.layers import (
  OPTIONS,
  draw_layer,
  jitted_gradients,
  jitted_penalty,
  name_of,
)

pytestmark = pytest.mark.parametrize("options", OPTIONS, ids=name_of)
RTOL = 1e-5


RNG = np.random.default_rng(0)
NEURONS, FOLLOWING = RNG.permutation(20), RNG.permutation(6)
SHIFTS = np.linspace(-50, 50, 30, dtype=np.float32)[:, None]
SIGNS = RNG.choice(np.float32([-1, 1]), size=(20, 6))
# What is done to activations and kernel, and by what the penalty is scaled,
# for the powers 2 and 1 of the distance.
CHANGES = {
  "shift of each sample": (lambda h, w: (h + SHIFTS, w), 1),
  "permutation of neurons": (lambda h, w: (h[:, NEURONS], w[NEURONS]), 1),
  "permutation of next neurons": (lambda h, w: (h, w[:, FOLLOWING]), 1),
  "permutation of samples": (lambda h, w: (h[::-1], w), 1),
  "repetition of samples": (lambda h, w: (np.concatenate([h, h]), w), 1),
  "sign of weights": (lambda h, w: (h, w * SIGNS), 1),
  "scale of activations": (lambda h, w: (-8 * h, w), 8),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes(options, name):
  change, scale = CHANGES[name]
  layer = draw_layer(30, 20, 6)
  penalty = jitted_penalty(**options)
  power = 2 if options["distance"] == "squared" else 1
  np.testing.assert_allclose(
    penalty(*change(*layer)), scale**power * penalty(*layer), rtol=RTOL
  )


def test_neurons_on_one_side_only_make_another_network(options):
  activations, kernel = draw_layer(30, 20, 6)
  penalty = jitted_penalty(**options)
  crossed = penalty(activations[:, NEURONS], kernel)
  assert abs(crossed / penalty(activations, kernel) - 1) > 10 * RTOL


def test_mean_of_masked_parts(options):
  activations, kernel = draw_layer(30, 20, 6)
  penalty = jitted_penalty(**options)
  first = np.arange(30) < 9
  parts = [penalty(activations, kernel, where=mask) for mask in (first, ~first)]
  np.testing.assert_allclose(
    (9 * parts[0] + 21 * parts[1]) / 30,
    penalty(activations, kernel),
    rtol=RTOL,
  )


@pytest.mark.parametrize("level", (0.0, 1.0, 1234.5))
def test_identical_neurons_cost_nothing(options, level):
  levels = np.linspace(level, 1.1 * level, 30, dtype=np.float32)
  _, kernel = draw_layer(30, 20, 6)
  penalty = jitted_penalty(**options)(
    np.repeat(levels[:, None], 20, axis=1), kernel
  )
  power = 2 if options["distance"] == "squared" else 1
  np.testing.assert_allclose(penalty, 0, atol=(1e-6 * level) ** power)


def _gradients_of(options):
  penalty = functools.partial(bean_jax.layer_penalty, **options)
  return lambda activations, kernel, gamma, where: jax.value_and_grad(
    lambda h, w, slope: penalty(h, w, gamma=slope, where=where),
    argnums=(0, 1, 2),
  )(activations, kernel, gamma)


# Shapes in which different closed forms are the cheapest.
@pytest.mark.parametrize("shape", ((2, 20, 3), (9, 4, 30)), ids=str)
def test_vmap_over_members_equals_loop(options, shape):
  members = [draw_layer(*shape, seed=seed) for seed in range(4)]
  activations, kernels = map(np.stack, zip(*members, strict=True))
  gammas = np.float32([0.5, 1, 2, 3])
  masks = np.arange(shape[0])[None, :] <= np.array([8, 3, 0, 1])[:, None]
  each = (activations, kernels, gammas, masks)
  mapped = jax.jit(jax.vmap(_gradients_of(options)))(*each)
  one = jax.jit(_gradients_of(options))
  looped = [one(*(array[i] for array in each)) for i in range(4)]
  for ours, *expected in zip(
    jax.tree.leaves(mapped), *map(jax.tree.leaves, looped), strict=True
  ):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_vmap_over_kernels_alone_equals_loop(options):
  activations, _ = draw_layer(7, 12, 5)
  kernels = np.stack([draw_layer(7, 12, 5, seed=s)[1] for s in range(4)])
  penalty = jitted_penalty(**options)
  np.testing.assert_allclose(
    jax.vmap(penalty, in_axes=(None, 0))(activations, kernels),
    [penalty(activations, kernel) for kernel in kernels],
    rtol=RTOL,
  )


def test_jit_equals_eager(options):
  layer = draw_layer(9, 30, 8)
  eager = jax.grad(
    lambda *layer: bean_jax.layer_penalty(*layer, **options), argnums=(0, 1)
  )
  np.testing.assert_allclose(
    bean_jax.layer_penalty(*layer, **options),
    jitted_penalty(**options)(*layer),
    rtol=RTOL,
  )
  for ours, expected in zip(
    jitted_gradients(**options)(*layer), eager(*layer), strict=True
  ):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


def test_scan_and_remat_change_nothing(options):
  activations, kernel = draw_layer(9, 30, 8)

  @jax.checkpoint
  def penalty(kernel):
    return bean_jax.layer_penalty(activations, kernel, **options)

  def body(total, _):
    return total + jax.grad(penalty)(kernel), None

  total, _ = jax.jit(
    lambda: jax.lax.scan(body, jnp.zeros_like(kernel), length=3)
  )()
  expected = jitted_gradients(**options)(activations, kernel)[1]
  np.testing.assert_allclose(total, 3 * expected, rtol=1e-4, atol=1e-7)
