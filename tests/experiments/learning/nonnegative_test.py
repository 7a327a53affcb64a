"""Tests of experiments.learning.nonnegative and the methods made of it."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.architectures import networks
from experiments.learning import descent, learner, methods, nonnegative
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Shots
from tests.experiments import tiny

DIGITS = tiny.load_few_digits()
SAMPLES = Samples(
  jnp.asarray(DIGITS.train.images[:20]), jnp.asarray(DIGITS.train.labels[:20])
)
HPARAMS = Hparams(jnp.float32(0.02), jnp.float32(3.0))
NAMES = ("nonnegative", "nonnegative_bean1", "nonnegative_bean2")


def kernels_and_biases(params):
  chosen = jax.tree.leaves(nonnegative.constrained(params))
  leaves = jax.tree.leaves(params)
  return (
    [leaf for leaf, is_kernel in zip(leaves, chosen, strict=True) if is_kernel],
    [
      leaf
      for leaf, is_kernel in zip(leaves, chosen, strict=True)
      if not is_kernel
    ],
  )


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_projected_after_every_step(name):
  """Against Adam by hand, with the gradient of the method's own objective."""
  num_steps = 4
  method = methods.learner(
    name, tiny.NETWORK, Shots(2), Schedule(num_steps, 0, 1), methods.Options()
  )
  data = method.prepare(SAMPLES)

  @jax.jit
  def lap(state, number, key):
    return method.lap(state, number, key, HPARAMS, data)[0]

  @jax.jit
  def slopes(params):
    # Of all samples at once, whose order does not matter.
    batch = descent.streams.Batch(data, None, jax.random.key(1))
    return jax.grad(method.objective, has_aux=True)(params, {}, batch, HPARAMS)[
      0
    ]

  state = method.init(jax.random.key(0), HPARAMS, SAMPLES)
  expected = tiny.NETWORK.init(
    jax.random.fold_in(jax.random.key(0), learner.INIT)
  ).params
  expected = {
    layer: {"kernel": np.maximum(leaf["kernel"], 0), "bias": leaf["bias"]}
    for layer, leaf in expected.items()
  }
  jax.tree.map(np.testing.assert_array_equal, state.variables.params, expected)
  means = squares = jax.tree.map(np.zeros_like, expected)
  for step in range(num_steps):
    grads = jax.tree.map(np.float64, slopes(state.variables.params))
    means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, grads)
    squares = jax.tree.map(
      lambda s, g: 0.999 * s + 0.001 * g**2, squares, grads
    )
    for layer, leaves in expected.items():
      for leaf in leaves:
        mean = means[layer][leaf] / (1 - 0.9 ** (step + 1))
        root = np.sqrt(squares[layer][leaf] / (1 - 0.999 ** (step + 1)))
        moved = leaves[leaf] - 0.02 * mean / (root + 1e-8)
        leaves[leaf] = np.maximum(moved, 0) if leaf == "kernel" else moved
    state = lap(state, jnp.int32(step), jax.random.key(0))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
      state.variables.params,
      expected,
    )
  kernels, biases = kernels_and_biases(state.variables.params)
  assert all(np.all(kernel >= 0) for kernel in kernels)
  # Some were put to 0 by a step, and biases are free.
  start, _ = kernels_and_biases(
    method.init(jax.random.key(0), HPARAMS, SAMPLES).variables.params
  )
  assert any(
    np.any((new == 0) & (old > 0))
    for new, old in zip(kernels, start, strict=True)
  )
  assert any(np.any(bias < 0) for bias in biases)


def test_kernels_of_convolutions_too():
  network = nonnegative.network(networks.make(networks.Spec()))
  kernels, biases = kernels_and_biases(
    jax.jit(network.init)(jax.random.key(0)).params
  )
  assert len(kernels) == len(biases) == 5
  for kernel in kernels:
    assert np.min(kernel) == 0
    assert 0.3 < np.mean(kernel == 0) < 0.7
  assert all(np.min(bias) < 0 for bias in biases)


def test_any_optimizer_is_projected():
  params = {"fc": {"kernel": jnp.array([0.1, 2.0]), "bias": jnp.array([0.1])}}
  grads = jax.tree.map(jnp.ones_like, params)
  for make in (optax.sgd, optax.adamw, optax.rmsprop):
    tx = nonnegative.optimizer(lambda hparams, make=make: make(0.5))(None)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    moved = optax.apply_updates(params, updates)["fc"]
    assert moved["kernel"][0] == 0
    assert 0 < moved["kernel"][1] < 2
    assert moved["bias"][0] < 0


def test_examples_of_docstrings():
  assert doctest.testmod(nonnegative).failed == 0
