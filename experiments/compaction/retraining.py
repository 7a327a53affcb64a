"""Training and evaluation of many versions of one head, one program for all.

Versions differ in their masks: a smaller head lies in arrays of the shapes of
the whole (`schemes.pad`). They see the same images in the same order, and are
spread over all devices, one at a time on each.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compaction import heads
from experiments.learning import learner, streams
from experiments.learning.learner import Samples
from experiments.machine import devices

PyTree = Any

# Purpose of a member's key, after those of `learner`.
_ORDER = learner.EVALUATION + 1


def retrain(
  versions: list[tuple[PyTree, PyTree]],
  train: Samples,
  *,
  seed: int,
  epochs: int,
  batch_size: int,
  learning_rate: float,
) -> list[PyTree]:
  """Trains versions of a head to lower cross-entropy, without regularizer.

  Adam begins anew. What a mask holds at 0 stays there.

  Args:
    versions: Parameters and masks of each, of equal shapes.
    train: Features and labels; placed on the devices by `place`.
    seed: Decides the order of the samples.
    epochs: Passes over them.
    batch_size: Samples in a step; 0, or more than there are, means all.
    learning_rate: Adam's.

  Returns:
    The parameters of each version afterwards.
  """
  fit = _make_fit(epochs, batch_size, learning_rate)
  params, masks = (_stack(trees) for trees in zip(*versions, strict=True))
  key = jax.random.fold_in(jax.random.key(seed), _ORDER)
  trained = jax.device_get(fit(params, masks, key, train))
  return _unstack(trained, len(versions))


def accuracies(versions: list[PyTree], samples: Samples) -> np.ndarray:
  """Evaluates versions of a head.

  Args:
    versions: Parameters of each, of equal shapes.
    samples: Features and labels; placed on the devices by `place`.

  Returns:
    The fraction [versions] of samples that each classifies correctly.
  """
  correct = np.asarray(_make_count()(_stack(versions), samples))
  return correct[: len(versions)] / len(samples.labels)


def place(samples: Samples) -> Samples:
  """Moves samples to all devices, once."""
  return devices.place(samples, devices.SHARED)


@functools.cache
def _make_fit(epochs: int, batch_size: int, learning_rate: float) -> Callable:
  optimizer = optax.adam(learning_rate)

  def loss_fn(
    params: PyTree, samples: Samples, mask: jax.Array | None
  ) -> jax.Array:
    logits = heads.apply(params, samples.inputs)[-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, samples.labels
    )
    return jnp.mean(losses, where=mask)

  def fit_one(
    params: PyTree, masks: PyTree, key: jax.Array, train: Samples
  ) -> PyTree:
    def step(carry: tuple, item: tuple) -> tuple[tuple, None]:
      params, opt_state = carry
      rows, mask = item
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

  def fit(
    params: PyTree, masks: PyTree, key: jax.Array, train: Samples
  ) -> PyTree:
    return jax.lax.map(lambda one: fit_one(*one, key, train), (params, masks))

  many, shared = devices.MEMBERS, devices.SHARED
  return devices.spread(fit, takes=(many, many, shared, shared), gives=many)


@functools.cache
def _make_count() -> Callable:
  def count(params: PyTree, samples: Samples) -> jax.Array:
    def count_one(one: PyTree) -> jax.Array:
      logits = heads.apply(one, samples.inputs)[-1]
      return jnp.sum(jnp.argmax(logits, axis=-1) == samples.labels)

    return jax.lax.map(count_one, params)

  return devices.spread(
    count, takes=(devices.MEMBERS, devices.SHARED), gives=devices.MEMBERS
  )


def _stack(trees: list[PyTree]) -> PyTree:
  """Stacks trees; the last is repeated until all devices have as many."""
  missing = -len(trees) % devices.mesh().size
  trees = [*trees, *[trees[-1]] * missing]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstack(tree: PyTree, number: int) -> list[PyTree]:
  return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(number)]
