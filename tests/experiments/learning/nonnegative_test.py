"""Tests of experiments.learning.nonnegative and the methods made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.learning import learner, methods, nonnegative
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Batch, Shots
from tests.experiments import members, tiny

SAMPLES = Samples(
  *(jnp.asarray(leaf[:20]) for leaf in tiny.load_few_digits().train)
)
HPARAMS = Hparams(jnp.float32(0.02), jnp.float32(3.0))
NAMES = ("nonnegative", "nonnegative_bean1", "nonnegative_bean2")


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_projected_after_every_step(name):
  """Against Adam by hand, with the gradient of the method's own objective."""
  method = methods.learner(
    name, tiny.NETWORK, Shots(2), Schedule(3, 0, 3), methods.Options()
  )
  key, data = jax.random.key(0), method.prepare(SAMPLES)

  @jax.jit
  def slopes(params):
    # Of all samples at once, whose order does not matter.
    batch = Batch(data, None, jax.random.key(1))
    grads, _ = jax.grad(method.objective, has_aux=True)(
      params, {}, batch, HPARAMS
    )
    return grads

  state = method.init(key, HPARAMS, SAMPLES)
  free = tiny.NETWORK.init(jax.random.fold_in(key, learner.INIT)).params
  start = {
    layer: {**leaves, "kernel": np.maximum(leaves["kernel"], 0)}
    for layer, leaves in free.items()
  }
  members.assert_equal(state.variables.params, start)
  expected = members.adam_by_hand(slopes, start, rate=0.02, nonnegative=True)
  state, _ = jax.jit(method.lap)(state, jnp.int32(0), key, HPARAMS, data)
  found = state.variables.params
  members.assert_close(found, expected, rtol=1e-3, atol=2e-5)
  # Some were put to 0 by a step, and biases are free.
  for layer, leaves in found.items():
    assert np.any((leaves["kernel"] == 0) & (start[layer]["kernel"] > 0))
  assert any(np.any(leaves["bias"] < 0) for leaves in found.values())


def test_kernels_of_convolutions_too():
  network = nonnegative.network(networks.make(networks.Spec()))
  for leaves in jax.jit(network.init)(jax.random.key(0)).params.values():
    assert np.min(leaves["kernel"]) == 0
    assert 0.3 < np.mean(leaves["kernel"] == 0) < 0.7
    assert np.min(leaves["bias"]) < 0
