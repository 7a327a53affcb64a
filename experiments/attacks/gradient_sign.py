r"""Attacks by the sign of the gradient, within a box around each image.

The box has all images whose pixels, from 0 to 1, differ by at most epsilon from
those of x. Projected gradient descent (PGD) goes through it in steps,

.. math:: x_{t+1} = \Pi_\epsilon(x_t + a \, \mathrm{sign} \nabla_x \ell(x_t,
  y)),

from x or, so that a vanishing gradient at x does not stop it, from a random
place of the box. :math:`\ell` is the cross-entropy, and :math:`\Pi_\epsilon`
goes to the nearest image of the box. The fast gradient sign method (FGSM) is
one step from x to a corner, with :math:`a = \epsilon`.

A network whose gradient is 0 is not robust for that: the attack has no
direction. So the share of gradients that are 0 stands beside each accuracy. It
is 0 too where the cross-entropy of a sure network underflows.

References:
  Goodfellow, Shlens, Szegedy, `Explaining and harnessing adversarial examples
  <https://arxiv.org/abs/1412.6572>`_, 2015. Madry et al., `Towards deep
  learning models resistant to adversarial attacks
  <https://arxiv.org/abs/1706.06083>`_, 2018. Athalye, Carlini, Wagner,
  `Obfuscated gradients <https://arxiv.org/abs/1802.00420>`_, 2018.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from experiments.architectures.networks import Network, Variables

PyTree = Any
# Maps images [n, ...] of pixels in [0, 1], one by one, to logits [n, classes].
Logits = Callable[[jax.Array], jax.Array]

# Images at a time in `evaluate`.
BLOCK = 500


class Robustness(NamedTuple):
  """What an attack did to each member, as shares of the images [members]."""

  accuracy: jax.Array  # Attacked images that are classified rightly.
  # Images whose gradient is 0 in all pixels, before the attack.
  zero_gradients: jax.Array


def input_gradient(
  logits_fn: Logits, images: jax.Array, labels: ArrayLike
) -> jax.Array:
  """Computes the gradient of each image's cross-entropy by its pixels."""

  def loss_fn(images: jax.Array) -> jax.Array:
    return jnp.sum(
      optax.softmax_cross_entropy_with_integer_labels(logits_fn(images), labels)
    )

  return jax.grad(loss_fn)(images)


def pgd(
  logits_fn: Logits,
  images: jax.Array,
  labels: ArrayLike,
  key: jax.Array,
  *,
  epsilon: ArrayLike,
  step_size: ArrayLike,
  num_steps: ArrayLike,
  random: ArrayLike,
) -> jax.Array:
  """Attacks images by projected gradient descent.

  It begins at the images themselves or, if it is random, at a place of the box
  that the key decides.
  """
  low = jnp.maximum(images - epsilon, 0)
  high = jnp.minimum(images + epsilon, 1)
  # Uniform in what the box has of possible images.
  shares = jax.random.uniform(key, images.shape, images.dtype)
  start = jnp.where(random, low + shares * (high - low), images)

  def step(_: jax.Array, attacked: jax.Array) -> jax.Array:
    slopes = input_gradient(logits_fn, attacked, labels)
    return jnp.clip(attacked + step_size * jnp.sign(slopes), low, high)

  return jax.lax.fori_loop(0, num_steps, step, start)


def evaluate(
  network: Network,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  keys: jax.Array,
  attack: Callable[..., jax.Array],
) -> Robustness:
  """Attacks every member, variables [members, ...], on shared images.

  These are uint8 [n, height, width, channels], labels [n], and there is a key a
  member. The attack maps (logits function, images, labels, key) to attacked
  images.
  """
  num_images = images.shape[0]
  size = min(BLOCK, num_images)
  missing = -num_images % size
  padding = ((0, missing), *((0, 0),) * (images.ndim - 1))
  blocks = (
    jnp.arange(-(-num_images // size)),
    jnp.pad(images, padding).reshape(-1, size, *images.shape[1:]),
    jnp.pad(labels, (0, missing)).reshape(-1, size),
    (jnp.arange(num_images + missing) < num_images).reshape(-1, size),
  )

  def of_block(
    member: Variables, key: jax.Array, block: tuple[jax.Array, ...]
  ) -> Robustness:
    index, images, labels, real = block

    def logits_fn(images: jax.Array) -> jax.Array:
      # Networks take pixels from 0 to 255.
      (logits, _) = network.evaluate(member, 255 * images)
      return logits

    images = images.astype(jnp.float32) / 255
    slopes = input_gradient(logits_fn, images, labels)
    key = jax.random.fold_in(key, index)
    attacked = attack(logits_fn, images, labels, key)
    right = jnp.argmax(logits_fn(attacked), axis=-1) == labels
    flat = jnp.all(slopes.reshape(size, -1) == 0, axis=1)
    return Robustness(jnp.sum(right & real), jnp.sum(flat & real))

  def of_population(block: tuple[jax.Array, ...]) -> Robustness:
    return jax.vmap(of_block, (0, 0, None))(variables, keys, block)

  counts = jax.lax.map(of_population, blocks)
  return jax.tree.map(lambda x: jnp.sum(x, axis=0) / num_images, counts)
