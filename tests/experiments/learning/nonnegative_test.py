"""Tests of experiments.learning.nonnegative and the methods made of it."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.learning import learner, methods, nonnegative
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Batch, Shots
from tests.experiments import tiny

SAMPLES = Samples(
  *(jnp.asarray(leaf[:20]) for leaf in tiny.load_few_digits().train)
)
HPARAMS = Hparams(jnp.float32(0.02), jnp.float32(3.0))
NAMES = ("nonnegative", "nonnegative_bean1", "nonnegative_bean2")


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_projected_after_every_step(name):
  """Against Adam by hand, with the gradient of the method's own objective."""
  method = methods.learner(
    name, tiny.NETWORK, Shots(2), Schedule(4, 0, 1), methods.Options()
  )
  key, data = jax.random.key(0), method.prepare(SAMPLES)
  lap = jax.jit(lambda *args: method.lap(*args, key, HPARAMS, data)[0])

  @jax.jit
  def slopes(params):
    # Of all samples at once, whose order does not matter.
    batch = Batch(data, None, jax.random.key(1))
    grads, _ = jax.grad(method.objective, has_aux=True)(
      params, {}, batch, HPARAMS
    )
    return grads

  state = method.init(key, HPARAMS, SAMPLES)
  start = tiny.NETWORK.init(jax.random.fold_in(key, learner.INIT)).params
  expected = {
    (layer, name): np.maximum(leaf, 0) if name == "kernel" else leaf
    for layer, leaves in start.items()
    for name, leaf in leaves.items()
  }
  zeros = [np.any(leaf == 0) for leaf in expected.values()]
  means = squares = dict.fromkeys(expected, 0.0)
  for step in range(5):
    params = state.variables.params
    for (layer, leaf), value in expected.items():
      np.testing.assert_allclose(
        params[layer][leaf], value, rtol=1e-3, atol=2e-5
      )
    grads = jax.tree.map(np.float64, slopes(params))
    grads = {(layer, leaf): grads[layer][leaf] for layer, leaf in expected}
    means = {k: 0.9 * means[k] + 0.1 * g for k, g in grads.items()}
    squares = {k: 0.999 * squares[k] + 0.001 * g**2 for k, g in grads.items()}
    for place, value in expected.items():
      mean = means[place] / (1 - 0.9 ** (step + 1))
      root = np.sqrt(squares[place] / (1 - 0.999 ** (step + 1)))
      moved = value - 0.02 * mean / (root + 1e-8)
      is_kernel = place[1] == "kernel"
      expected[place] = np.maximum(moved, 0) if is_kernel else moved
    state = lap(state, jnp.int32(step))
  assert any(zeros)
  # Some were put to 0 by a step, and biases are free.
  for layer, leaves in state.variables.params.items():
    assert np.any((leaves["kernel"] == 0) & (start[layer]["kernel"] > 0))
  assert any(np.any(expected[layer, "bias"] < 0) for layer in start)


def test_kernels_of_convolutions_too():
  network = nonnegative.network(networks.make(networks.Spec()))
  for leaves in jax.jit(network.init)(jax.random.key(0)).params.values():
    assert np.min(leaves["kernel"]) == 0
    assert 0.3 < np.mean(leaves["kernel"] == 0) < 0.7
    assert np.min(leaves["bias"]) < 0


def test_examples_of_docstrings():
  assert doctest.testmod(nonnegative).failed == 0
