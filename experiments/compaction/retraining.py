"""Training and evaluation of many versions of one head, one program for all.

Versions differ in their masks: a smaller head lies in arrays of the shapes of
the whole (`schemes.pad`). They see the same images in the same order, and are
spread over all devices, one at a time on each. Samples are on all devices
(`devices.place`).
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compaction import heads
from experiments.learning import descent, learner, streams
from experiments.learning.learner import Samples
from experiments.machine import devices

PyTree = Any

# Purpose of a member's key, after those of `learner`.
_ORDER = learner.EVALUATION + 1


def retrain(
  versions: Sequence[tuple[PyTree, PyTree]],
  train: Samples,
  *,
  seed: int,
  epochs: int,
  batch_size: int,
  learning_rate: float,
) -> list[PyTree]:
  """Trains versions of a head to lower cross-entropy, without regularizer.

  Versions are parameters and masks of equal shapes. What a mask holds at 0
  stays there. Adam begins anew, and the seed decides the order of the samples.
  """
  fit = _make_fit(epochs, batch_size, learning_rate)
  key = jax.random.fold_in(jax.random.key(seed), _ORDER)
  trained = jax.device_get(fit(_stack(versions), key, train))
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], trained)
    for i in range(len(versions))
  ]


def accuracies(versions: Sequence[PyTree], samples: Samples) -> np.ndarray:
  """Returns the fraction [versions] of samples that each classifies right."""
  correct = np.asarray(_make_count()(_stack(versions), samples))
  return correct[: len(versions)] / len(samples.labels)


@functools.cache
def _make_fit(epochs: int, batch_size: int, learning_rate: float) -> Callable:
  optimizer = optax.adam(learning_rate)

  def loss_fn(
    params: PyTree, samples: Samples, mask: jax.Array | None
  ) -> jax.Array:
    logits = heads.apply(params, samples.inputs)[-1]
    return descent.cross_entropy(logits, samples.labels, mask)

  def fit(
    versions: tuple[PyTree, PyTree], key: jax.Array, train: Samples
  ) -> PyTree:
    def fit_one(version: tuple[PyTree, PyTree]) -> PyTree:
      params, masks = version

      def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
        params, opt_state = carry
        rows, mask = batch
        samples = jax.tree.map(lambda leaf: leaf[rows], train)
        grads = jax.grad(loss_fn)(params, samples, mask)
        grads = jax.tree.map(jnp.multiply, grads, masks)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

      def run_epoch(carry: tuple, epoch: jax.Array) -> tuple[tuple, None]:
        batches = streams.batches(
          jax.random.fold_in(key, epoch), len(train.labels), batch_size
        )
        return jax.lax.scan(step, carry, batches)

      carry = params, optimizer.init(params)
      return jax.lax.scan(run_epoch, carry, jnp.arange(epochs))[0][0]

    return jax.lax.map(fit_one, versions)

  return devices.spread(
    fit,
    takes=(devices.MEMBERS, devices.SHARED, devices.SHARED),
    gives=devices.MEMBERS,
  )


@functools.cache
def _make_count() -> Callable:
  def count(versions: PyTree, samples: Samples) -> jax.Array:
    def count_one(params: PyTree) -> jax.Array:
      logits = heads.apply(params, samples.inputs)[-1]
      return jnp.sum(jnp.argmax(logits, axis=-1) == samples.labels)

    return jax.lax.map(count_one, versions)

  return devices.spread(
    count, takes=(devices.MEMBERS, devices.SHARED), gives=devices.MEMBERS
  )


def _stack(trees: Sequence[PyTree]) -> PyTree:
  """Stacks trees; the last is repeated until all devices have as many."""
  missing = -len(trees) % devices.mesh().size
  trees = [*trees, *[trees[-1]] * missing]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
