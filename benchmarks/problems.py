"""What contenders in training are given: networks, images and a method."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.architectures import models
from experiments.learning import methods, training

PyTree = Any

LEARNING_RATE = 5e-4
# Names in `methods.METHODS`, and strengths that are in use, in its units.
STRENGTHS = {"vanilla": 0.0, "bean1": 1.0, "bean2": 100.0}
# Strengths at which BEAN is not small beside the cross-entropy, for checks.
GREAT_STRENGTHS = {"vanilla": 0.0, "bean1": 1e3, "bean2": 1e5}
ORDERS = {"vanilla": 0, "bean1": 1, "bean2": 2}


class Problem(NamedTuple):
  """A population of LeNet-5, each with images of its own.

  Attributes:
    params: Parameters as in `models.LeNet5`, NumPy arrays [members, ...].
    images: uint8 [members, n, 28, 28, 1].
    labels: int32 [members, n].
  """

  params: PyTree
  images: np.ndarray
  labels: np.ndarray

  def members(self, start: int, stop: int) -> "Problem":
    """Returns the problem of some of the members, the last one repeated."""
    rows = np.minimum(np.arange(start, stop), len(self.labels) - 1)
    return jax.tree.map(lambda leaf: leaf[rows], self)


def draw(num_members: int, num_images: int) -> Problem:
  """Draws a problem, always the same for the same sizes.

  Args:
    num_members: Networks; number i begins with the parameters of seed i.
    num_images: Images of each.
  """
  shape = (num_members, num_images)
  labels = np.random.default_rng(1).integers(0, 10, shape, dtype=np.int32)
  keys = keys_of(num_members)
  init = training.make_init(recipe(models.LENET5, "vanilla"))
  state = jax.jit(init)(keys, hparams(num_members, 0.0))
  return Problem(jax.device_get(state.params), draw_images(*shape), labels)


def draw_images(*shape: int) -> np.ndarray:
  """Draws images uint8 [*shape, 28, 28, 1], a fifth of the pixels with ink."""
  generator = np.random.default_rng(0)
  ink = generator.random((*shape, 28, 28, 1), np.float32) < 0.2
  return ink * generator.integers(0, 256, ink.shape, dtype=np.uint8)


def keys_of(num_members: int) -> jax.Array:
  """Returns the keys [members] of seeds 0, 1, ..."""
  return jax.vmap(jax.random.key)(jnp.arange(num_members, dtype=jnp.uint32))


def hparams(num_members: int, strength: float) -> training.Hparams:
  """Returns the same hyper-parameters for all members."""
  return training.Hparams(
    learning_rate=jnp.full(num_members, LEARNING_RATE, jnp.float32),
    strength=jnp.full(num_members, strength, jnp.float32),
  )


def recipe(model: models.Model, method: str) -> training.Recipe:
  """Returns how a method trains a member.

  Args:
    model: The network.
    method: Name in `methods.METHODS`.
  """
  return methods.recipe(method, model, methods.Options())


def samples(
  problem: Problem, model: models.Model = models.LENET5
) -> training.Samples:
  """Returns all members' images, prepared for a network, and labels."""
  prepare = jax.jit(jax.vmap(model.prepare))
  return training.Samples(
    prepare(jnp.asarray(problem.images)), jnp.asarray(problem.labels)
  )


@functools.cache
def make_loss_and_gradients(
  model: models.Model, method: str
) -> Callable[..., tuple[jax.Array, PyTree]]:
  """Makes the loss that is descended, and its gradients, of all members.

  Args:
    model: The network.
    method: Name in `methods.METHODS`.

  Returns:
    A function of (params, `Samples`, hparams), all with an axis of members,
    that returns (losses [members], gradients).
  """

  def of_member(
    params: PyTree, batch: training.Samples, member: training.Hparams
  ) -> tuple[jax.Array, PyTree]:
    loss_fn = recipe(model, method).loss(member)
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      params, batch, None, jax.random.key(0)
    )
    return loss, grads

  return jax.jit(jax.vmap(of_member))
