"""What contenders in training are given: networks, images and a method."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.architectures import networks
from experiments.learning import learner as learners, methods
from experiments.learning.learner import Hparams, Learner, Samples, Schedule
from experiments.learning.streams import Batch, Shots, Stream

PyTree = Any

LEARNING_RATE = 5e-4
# Names in `methods.METHODS`, and strengths that are in use, in its units.
STRENGTHS = {"vanilla": 0.0, "bean1": 1.0, "bean2": 100.0, "pc_fixed": 0.1}
# Strengths at which BEAN is not small beside the cross-entropy, for checks.
GREAT_STRENGTHS = {"vanilla": 0.0, "bean1": 1e3, "bean2": 1e5}
ORDERS = {"vanilla": 0, "bean1": 1, "bean2": 2}
LENET5 = networks.make(networks.Spec())
# Members have images of their own; how many does not matter here.
OWN = Shots(1)


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

  def member(self, place: int) -> "Problem":
    """Returns the problem of one member, without the axis of members."""
    return jax.tree.map(lambda leaf: leaf[place], self)

  def first_images(self, number: int) -> "Problem":
    """Returns the problem with so many images of each member."""
    return self._replace(
      images=self.images[:, :number], labels=self.labels[:, :number]
    )


def draw(num_members: int, num_images: int) -> Problem:
  """Draws a problem, always the same; member i has the parameters of seed i."""
  shape = (num_members, num_images)
  labels = np.random.default_rng(1).integers(0, 10, shape, dtype=np.int32)
  keys = keys_of(num_members)
  return Problem(initial_params(keys), draw_images(*shape), labels)


def initial_params(keys: jax.Array) -> PyTree:
  """Draws the parameters that the experiments begin with, NumPy arrays."""

  def init(key: jax.Array) -> PyTree:
    return LENET5.init(jax.random.fold_in(key, learners.INIT)).params

  return jax.device_get(jax.jit(jax.vmap(init))(keys))


def draw_images(*shape: int) -> np.ndarray:
  """Draws images uint8 [*shape, 28, 28, 1], a fifth of the pixels with ink."""
  generator = np.random.default_rng(0)
  ink = generator.random((*shape, 28, 28, 1), np.float32) < 0.2
  return ink * generator.integers(0, 256, ink.shape, dtype=np.uint8)


def keys_of(num_members: int) -> jax.Array:
  """Returns the keys [members] of seeds 0, 1, ..."""
  return jax.vmap(jax.random.key)(jnp.arange(num_members, dtype=jnp.uint32))


def hparams(num_members: int, strength: float) -> Hparams:
  """Returns the same hyper-parameters for all members."""
  return Hparams(
    learning_rate=jnp.full(num_members, LEARNING_RATE, jnp.float32),
    strength=jnp.full(num_members, strength, jnp.float32),
  )


def learner(
  network: networks.Network,
  method: str,
  schedule: Schedule,
  stream: Stream = OWN,
) -> Learner:
  """Returns how a method of `methods.METHODS` trains a member."""
  return methods.learner(method, network, stream, schedule, methods.Options())


def samples(problem: Problem, network: networks.Network = LENET5) -> Samples:
  """Returns all members' images, prepared for a network, and labels."""
  prepare = jax.jit(jax.vmap(network.prepare))
  return Samples(
    prepare(jnp.asarray(problem.images)), jnp.asarray(problem.labels)
  )


def loss_and_gradients(
  network: networks.Network, method: str, batch_stats: PyTree | None = None
) -> Callable[..., tuple[jax.Array, PyTree]]:
  """Makes the loss that a member descends, with its gradients.

  Returns:
    A function of (params, `Samples`, hparams) that returns (loss, gradients).
  """
  objective = learner(network, method, Schedule(1)).objective
  gradient = jax.value_and_grad(objective, has_aux=True)

  def of_member(
    params: PyTree, batch: Samples, hparams: Hparams
  ) -> tuple[jax.Array, PyTree]:
    seen = Batch(batch, None, jax.random.key(0))
    (loss, _), grads = gradient(params, batch_stats or {}, seen, hparams)
    return loss, grads

  return of_member


@functools.cache
def make_loss_and_gradients(
  network: networks.Network, method: str
) -> Callable[..., tuple[jax.Array, PyTree]]:
  """Compiles `loss_and_gradients` for all members, an axis in front."""
  return jax.jit(jax.vmap(loss_and_gradients(network, method)))
