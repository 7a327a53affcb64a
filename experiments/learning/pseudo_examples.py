"""Pseudo examples of imitation networks: how many, and how they are made.

See `imitation` for what they are, and for the source.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import gaussian_process
from experiments.learning.options import Options

PyTree = Any

# Pseudo examples in a step, and in a block of them that moves.
BATCH_SIZE = 100
# Steps of the pseudo examples between two periods.
ASCENT_STEPS = 5
# Weights where the reference model is sure, L_up, and at the mean uncertainty.
MAX_WEIGHT, MEAN_WEIGHT = 2.0, 1.0


class Period(NamedTuple):
  """A stretch of training on pseudo examples that stand still, or several.

  Attributes:
    number: Counted from 0.
    num_moved: Pseudo examples that there were before, which move first.
    num_examples: Pseudo examples that it trains on.
    num_steps: Steps of the network in an epoch.
    first_step: Steps of the network before it.
  """

  number: ArrayLike
  num_moved: ArrayLike
  num_examples: ArrayLike
  num_steps: ArrayLike
  first_step: ArrayLike


def periods(options: Options) -> Period:
  """Returns all periods, whose pseudo examples grow in equal steps, as arrays.

  Example:
    >>> periods(Options()).num_examples.tolist()
    [1250, 2500, 3750, 5000, 6250, 7500, 8750, 10000]
  """
  numbers = np.arange(options.pseudo_periods)
  growth = options.last_pseudo - options.first_pseudo
  counts = options.first_pseudo + growth * numbers // max(numbers[-1], 1)
  steps = -(-counts // BATCH_SIZE)
  ends = np.cumsum(options.pseudo_epochs * steps)
  moved, first_steps = (np.append(0, column[:-1]) for column in (counts, ends))
  return Period(numbers, moved, counts, steps, first_steps)


def interpolate_pairs(
  key: jax.Array, images: ArrayLike, *, num_examples: int
) -> jax.Array:
  """Mixes pairs of different images, in uniformly random shares.

  Of images [n, ...] from 0 to 255, at least two, it makes mixtures uint8
  [num_examples, ...].
  """
  images = jnp.asarray(images, jnp.float32)
  num_images = images.shape[0]
  first_key, second_key, share_key = jax.random.split(key, 3)
  shape = (num_examples,)
  first = jax.random.randint(first_key, shape, 0, num_images)
  distance = jax.random.randint(second_key, shape, 1, num_images)
  second = (first + distance) % num_images
  share = jax.random.uniform(share_key, shape + (1,) * (images.ndim - 1))
  mixtures = images[second] + share * (images[first] - images[second])
  return jnp.round(mixtures).astype(jnp.uint8)


def fidelity_weights(
  uncertainty: ArrayLike, mean_uncertainty: ArrayLike
) -> jax.Array:
  """Weighs pseudo examples by how far the reference model is to be trusted.

  The weight is L_up exp(-log(L_up / L_mean) s / mean s).

  Example:
    >>> fidelity_weights(jnp.array([0.0, 0.5, 1.0]), 0.5).round(4).tolist()
    [2.0, 1.0, 0.5]
  """
  rate = math.log(MAX_WEIGHT / MEAN_WEIGHT) / mean_uncertainty
  return MAX_WEIGHT * jnp.exp(-rate * jnp.asarray(uncertainty))


def divergence(
  network: Network,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  pixels: jax.Array,
) -> jax.Array:
  """Measures how far a network is from the reference model.

  Kullback-Leibler divergences D(g(x) || f(x)) [n] at pixels [n, ...] in [0, 1],
  of a network without batch statistics.
  """
  targets = gaussian_process.predict(
    posterior, pixels.reshape(pixels.shape[0], -1)
  ).probabilities
  inputs = network.prepare(255 * pixels)
  (logits, _), _ = network.apply(Variables(params, {}), inputs, None)
  return optax.losses.kl_divergence(jax.nn.log_softmax(logits), targets)


def ascend(
  network: Network,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  images: jax.Array,
  learning_rate: ArrayLike,
  *,
  num_steps: int = ASCENT_STEPS,
) -> jax.Array:
  """Moves pseudo examples towards where the network is wrong.

  Steps of Adam up the `divergence`, within the range of pixels; its rate is in
  pixels from 0 to 1. Images are uint8 [n, ...], before and after.
  """
  optimizer = optax.adam(learning_rate)

  def descent(params: PyTree, pixels: jax.Array) -> jax.Array:
    return -jnp.sum(divergence(network, params, posterior, pixels))

  def step(
    _: jax.Array, carry: tuple[jax.Array, optax.OptState]
  ) -> tuple[jax.Array, optax.OptState]:
    pixels, opt_state = carry
    # Asked for the gradients of the biases too, XLA for CPUs keeps that of the
    # first layer, which otherwise it computes anew wherever it is read: a
    # third of the time.
    slopes, grads = jax.grad(descent, (0, 1))(params, pixels)
    biases = [leaf for leaf in jax.tree.leaves(slopes) if leaf.ndim == 1]
    finite = jnp.isfinite(sum(map(jnp.sum, biases)))
    updates, opt_state = optimizer.update(grads, opt_state)
    moved = jnp.clip(optax.apply_updates(pixels, updates), 0, 1)
    return jnp.where(finite, moved, pixels), opt_state

  pixels = images.astype(jnp.float32) / 255
  carry = pixels, optimizer.init(pixels)
  pixels, _ = jax.lax.fori_loop(0, num_steps, step, carry)
  return jnp.round(255 * pixels).astype(jnp.uint8)


def points(images: jax.Array) -> jax.Array:
  """Returns images uint8 [n, ...] as points [n, pixels] of the unit cube."""
  return images.reshape(images.shape[0], -1).astype(jnp.float32) / 255


def move(
  network: Network,
  period: Period,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  pseudo: jax.Array,
  learning_rate: ArrayLike,
) -> jax.Array:
  """Moves the pseudo examples of the period before, as `ascend` does.

  Returns all pseudo examples uint8 [capacity, ...].
  """

  def body(block: jax.Array, pseudo: jax.Array) -> jax.Array:
    start = block * BATCH_SIZE
    old = jax.lax.dynamic_slice_in_dim(pseudo, start, BATCH_SIZE)
    new = ascend(network, params, posterior, old, learning_rate)
    moved = start + jnp.arange(BATCH_SIZE) < period.num_moved
    moved = moved.reshape((-1,) + (1,) * (old.ndim - 1))
    new = jnp.where(moved, new, old)
    return jax.lax.dynamic_update_slice_in_dim(pseudo, new, start, 0)

  num_blocks = -(-period.num_moved // BATCH_SIZE)
  return jax.lax.fori_loop(0, num_blocks, body, pseudo)


def targets_and_weights(
  period: Period, posterior: gaussian_process.Posterior, pseudo: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Computes what a network is to learn from the pseudo examples of a period.

  Class probabilities that the reference model gives them [capacity, classes],
  and their weights [capacity].
  """
  capacity = pseudo.shape[0]

  def body(
    block: jax.Array, whole: gaussian_process.Prediction
  ) -> gaussian_process.Prediction:
    start = block * BATCH_SIZE
    queries = points(jax.lax.dynamic_slice_in_dim(pseudo, start, BATCH_SIZE))
    return jax.tree.map(
      lambda leaf, part: jax.lax.dynamic_update_slice_in_dim(
        leaf, part, start, 0
      ),
      whole,
      gaussian_process.predict(posterior, queries),
    )

  empty = gaussian_process.Prediction(
    jnp.zeros((capacity, posterior.one_hot.shape[1])), jnp.zeros(capacity)
  )
  targets, uncertainty = jax.lax.fori_loop(0, period.num_steps, body, empty)
  real = jnp.arange(capacity) < period.num_examples
  mean = jnp.mean(uncertainty, where=real)
  return targets, fidelity_weights(uncertainty, mean)
