"""Pseudo examples of imitation networks: how many, and how they are made.

See `imitation` for what they are, and for the source.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import gaussian_process

PyTree = Any


class Settings(NamedTuple):
  """Choices that decide shapes and loops, the same for all members.

  Attributes:
    first: Pseudo examples in the first period.
    last: Pseudo examples in the last period.
    num_periods: Periods, in each of which the pseudo examples stand still.
    epochs: Passes over the pseudo examples in a period.
    batch_size: Pseudo examples in a step.
    shots_per_step: Labelled examples in a step, or all if there are fewer.
    ascent_steps: Steps of the pseudo examples between two periods.
    num_classes: Classes.
    alpha_eps: Of the reference model, see `gaussian_process.fit`.
    length_scales: Of the reference model, see `gaussian_process.fit`.
    label_weight: Weight of the labelled examples in the loss, lambda_1.
    max_weight: Weight of a pseudo example of whose class the reference model
      is sure, L_up.
    mean_weight: Weight at the mean uncertainty, L_mean.
  """

  first: int = 1250
  last: int = 10_000
  num_periods: int = 8
  epochs: int = 25
  batch_size: int = 100
  shots_per_step: int = 25
  ascent_steps: int = 5
  num_classes: int = 10
  alpha_eps: float = 0.01
  length_scales: tuple[float, ...] = gaussian_process.LENGTH_SCALES
  label_weight: float = 1.0
  max_weight: float = 2.0
  mean_weight: float = 1.0


class Period(NamedTuple):
  """A stretch of training on pseudo examples that stand still.

  Attributes:
    number: Counted from 0.
    num_moved: Pseudo examples that there were before, which move first.
    num_examples: Pseudo examples that it trains on.
    first_step: Steps of the network before it.
  """

  number: ArrayLike
  num_moved: ArrayLike
  num_examples: ArrayLike
  first_step: ArrayLike


def periods(settings: Settings) -> list[Period]:
  """Lists the periods, whose pseudo examples grow in equal steps.

  Args:
    settings: Sizes.

  Returns:
    The periods, of Python integers.

  Example:
    >>> [period.num_examples for period in periods(Settings())][:4]
    [1250, 2500, 3750, 5000]
  """
  listed, moved, step = [], 0, 0
  growth = settings.last - settings.first
  for number in range(settings.num_periods):
    count = settings.first + growth * number // max(settings.num_periods - 1, 1)
    listed.append(Period(number, moved, count, step))
    moved = count
    step += settings.epochs * -(-count // settings.batch_size)
  return listed


def interpolate_pairs(
  key: jax.Array, images: ArrayLike, *, num_examples: int
) -> jax.Array:
  """Mixes pairs of different images, in uniformly random shares.

  Args:
    key: A key.
    images: Images [n, ...] from 0 to 255, at least two.
    num_examples: How many mixtures to make.

  Returns:
    Mixtures uint8 [num_examples, ...].
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
  uncertainty: ArrayLike,
  mean_uncertainty: ArrayLike,
  *,
  max_weight: ArrayLike,
  mean_weight: ArrayLike,
) -> jax.Array:
  """Weighs pseudo examples by how far the reference model is to be trusted.

  The weight is L_up exp(-log(L_up / L_mean) s / mean s).

  Args:
    uncertainty: Predictive uncertainties s [...].
    mean_uncertainty: Their mean.
    max_weight: Weight where there is no uncertainty, L_up.
    mean_weight: Weight at the mean uncertainty, L_mean.

  Returns:
    Weights [...].

  Example:
    >>> uncertainty = jnp.array([0.0, 0.5, 1.0])
    >>> weights = fidelity_weights(
    ...   uncertainty, 0.5, max_weight=4.0, mean_weight=2.0
    ... )
    >>> weights.round(4).tolist()
    [4.0, 2.0, 1.0]
  """
  rate = jnp.log(max_weight / mean_weight) / mean_uncertainty
  return max_weight * jnp.exp(-rate * jnp.asarray(uncertainty))


def divergence(
  network: Network,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  pixels: jax.Array,
) -> jax.Array:
  """Measures how far a network is from the reference model.

  Args:
    network: The network, without batch statistics.
    params: Its parameters.
    posterior: The reference model.
    pixels: Images [n, ...] in [0, 1].

  Returns:
    Kullback-Leibler divergences D(g(x) || f(x)) [n].
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
  *,
  num_steps: int,
  learning_rate: ArrayLike,
) -> jax.Array:
  """Moves pseudo examples towards where the network is wrong.

  Steps of Adam up the `divergence`, within the range of pixels.

  Args:
    network: The network, without batch statistics.
    params: Its parameters.
    posterior: The reference model.
    images: Pseudo examples uint8 [n, ...].
    num_steps: How many steps to take.
    learning_rate: Adam's, in pixels from 0 to 1.

  Returns:
    Moved pseudo examples uint8 [n, ...].
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
  settings: Settings,
  period: Period,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  pseudo: jax.Array,
  learning_rate: ArrayLike,
) -> jax.Array:
  """Moves the pseudo examples of the last period, as `ascend` does.

  Args:
    network: The network, without batch statistics.
    settings: Sizes.
    period: The one that begins.
    params: Parameters of the network.
    posterior: The reference model.
    pseudo: Pseudo examples uint8 [capacity, ...].
    learning_rate: Adam's, in pixels from 0 to 1.

  Returns:
    All pseudo examples.
  """
  size = settings.batch_size

  def body(block: jax.Array, pseudo: jax.Array) -> jax.Array:
    start = block * size
    old = jax.lax.dynamic_slice_in_dim(pseudo, start, size)
    new = ascend(
      network,
      params,
      posterior,
      old,
      num_steps=settings.ascent_steps,
      learning_rate=learning_rate,
    )
    moved = start + jnp.arange(size) < period.num_moved
    moved = moved.reshape((size,) + (1,) * (old.ndim - 1))
    new = jnp.where(moved, new, old)
    return jax.lax.dynamic_update_slice_in_dim(pseudo, new, start, 0)

  num_blocks = (period.num_moved + size - 1) // size
  return jax.lax.fori_loop(0, num_blocks, body, pseudo)


def targets_and_weights(
  settings: Settings,
  period: Period,
  posterior: gaussian_process.Posterior,
  pseudo: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Computes what a network is to learn from the pseudo examples of a period.

  Args:
    settings: Sizes.
    period: The one that begins.
    posterior: The reference model.
    pseudo: Pseudo examples uint8 [capacity, ...].

  Returns:
    Class probabilities that the reference model gives them [capacity, classes],
    and their weights [capacity].
  """
  size, capacity = settings.batch_size, pseudo.shape[0]

  def body(
    block: jax.Array, whole: gaussian_process.Prediction
  ) -> gaussian_process.Prediction:
    start = block * size
    queries = points(jax.lax.dynamic_slice_in_dim(pseudo, start, size))
    return jax.tree.map(
      lambda leaf, part: jax.lax.dynamic_update_slice_in_dim(
        leaf, part, start, 0
      ),
      whole,
      gaussian_process.predict(posterior, queries),
    )

  empty = gaussian_process.Prediction(
    jnp.zeros((capacity, settings.num_classes)), jnp.zeros(capacity)
  )
  num_blocks = (period.num_examples + size - 1) // size
  targets, uncertainty = jax.lax.fori_loop(0, num_blocks, body, empty)
  real = jnp.arange(capacity) < period.num_examples
  weights = fidelity_weights(
    uncertainty,
    jnp.mean(uncertainty, where=real),
    max_weight=settings.max_weight,
    mean_weight=settings.mean_weight,
  )
  return targets, weights
