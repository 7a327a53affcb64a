"""Optimizer steps in JAX: the experiments' own program, and one by one.

A trainer is a function of (problem, method, batch_size, num_steps) that returns
a function without arguments. Each call of that makes `num_steps` steps with
every member and returns the cross-entropy of each [num_steps, members]; the
next call goes on from there.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import problems
from experiments.architectures import models, networks
from experiments.learning.learner import Hparams, Learner, Samples, Schedule
from experiments.learning.streams import Batch
from experiments.machine import devices
from experiments.population import program

PyTree = Any

Trainer = Callable[[problems.Problem, str, int, int], Callable[[], np.ndarray]]

# Validation cannot be left out; so few images cost little in an epoch.
_NUM_VALIDATION = 10


def population(
  width: int, network: networks.Network = problems.LENET5, unroll: int = 1
) -> Trainer:
  """Makes the trainer of `experiments.population`, chunk after chunk.

  Its steps include all that those of an experiment do: the order of samples,
  picking them, Adam, the check for failures, the epochs' validation (of a few
  images) and the best epoch. Patches are taken beforehand, as there.

  Args:
    width: Members that a device trains at once, or fewer if there are no more.
    network: LeNet-5, however it is computed.
    unroll: Steps in a turn of the loop.
  """

  def trainer(
    problem: problems.Problem, method: str, batch_size: int, num_steps: int
  ) -> Callable[[], np.ndarray]:
    num_members, num_images = problem.labels.shape
    num_devices = devices.mesh().size
    at_once = num_devices * min(width, -(-num_members // num_devices))
    num_epochs, rest = divmod(num_steps * batch_size, num_images)
    if rest or num_images % batch_size:
      raise ValueError(
        "whole epochs of whole batches are timed, got "
        f"{num_steps} steps of {batch_size} of {num_images} images"
      )
    schedule = Schedule(num_epochs, batch_size, unroll=unroll)
    learner = problems.learner(network, method, schedule)
    run_laps = program.make(learner, problems.OWN, num_epochs).run
    chunks = _chunks(problem, method, at_once, learner)
    carries = [carry for carry, _ in chunks]
    validation = jax.tree.map(
      lambda leaf: leaf[0, :1].repeat(_NUM_VALIDATION, axis=0),
      Samples(problem.images, problem.labels),
    )
    validation = devices.place(validation, devices.SHARED)

    def run() -> np.ndarray:
      losses = []
      for index, (_, arguments) in enumerate(chunks):
        carries[index], metrics = run_laps(
          carries[index], np.int32(0), *arguments, validation
        )
        losses.append(jax.device_get(metrics["train_loss"]))
      # Without the members that only fill the last chunk up.
      return np.concatenate(losses, axis=1)[:, :num_members]

    return run

  return trainer


def _chunks(
  problem: problems.Problem, method: str, width: int, learner: Learner
) -> list[tuple[program.Carry, tuple]]:
  """Returns what each chunk carries at first, and the arguments of its laps."""
  num_members = problem.labels.shape[0]
  chunks = []
  for start in range(0, num_members, width):
    part = problem.members(start, start + width)
    keys, hparams, data, active = devices.place(
      (
        problems.keys_of(width),
        problems.hparams(width, problems.STRENGTHS[method]),
        Samples(part.images, part.labels),
        np.ones(width, bool),
      ),
      devices.MEMBERS,
    )
    prepared = program.make(learner, problems.OWN, 1).prepare(data)
    params = devices.place(part.params, devices.MEMBERS)
    carry = problems.begin(params, learner, keys, hparams, data)
    chunks.append((carry, (keys, hparams, active, prepared)))
  return chunks


# LeNet-5 without what makes it fit for populations.
LINEN = networks.from_linen(
  models.LeNet5(), (28, 28, 1), problems.LENET5.layers
)


def one_by_one(
  problem: problems.Problem, method: str, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
  """Trains seed after seed, one jitted step a call, convolutions by Linen.

  Args:
    problem: What to train.
    method: Name in `methods.METHODS`.
    batch_size: Images in a step.
    num_steps: Steps in a call.
  """
  num_members, num_images = problem.labels.shape
  step = _make_step(method, batch_size)
  optimizer = optax.adam(problems.LEARNING_RATE)
  params = [
    jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), problem.params)
    for i in range(num_members)
  ]
  states = [(member, optimizer.init(member)) for member in params]
  data = [
    (jnp.asarray(problem.images[i]), jnp.asarray(problem.labels[i]))
    for i in range(num_members)
  ]

  def run() -> np.ndarray:
    losses = []
    for member in range(num_members):
      for index in range(num_steps):
        start = index * batch_size % num_images
        states[member], loss = step(states[member], *data[member], start)
        losses.append(loss)
    losses = np.array(jax.device_get(losses))
    return losses.reshape(num_members, num_steps).T

  return run


@functools.cache
def _make_step(method: str, batch_size: int) -> Callable[..., tuple]:
  optimizer = optax.adam(problems.LEARNING_RATE)
  objective = problems.learner(LINEN, method, Schedule(1)).objective
  hparams = Hparams(problems.LEARNING_RATE, problems.STRENGTHS[method])

  def step(
    state: tuple[PyTree, optax.OptState],
    images: jax.Array,
    labels: jax.Array,
    start: jax.Array,
  ) -> tuple[tuple[PyTree, optax.OptState], jax.Array]:
    params, opt_state = state
    samples = Samples(
      jax.lax.dynamic_slice_in_dim(images, start, batch_size),
      jax.lax.dynamic_slice_in_dim(labels, start, batch_size),
    )
    batch = Batch(samples, None, jax.random.key(0))
    (_, aux), grads = jax.value_and_grad(objective, has_aux=True)(
      params, {}, batch, hparams
    )
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    return (params, opt_state), aux.data_loss

  return jax.jit(step, donate_argnums=0)


def loss_and_gradients(
  problem: problems.Problem, method: str, strength: float
) -> tuple[jax.Array, PyTree]:
  """Computes the losses that `population` descends, and their gradients.

  Args:
    problem: Networks and images, all of which make the batch.
    method: Name in `methods.METHODS`.
    strength: Of the method.

  Returns:
    Losses [members], and gradients in the form of `problem.params`.
  """
  return _loss_and_gradients(problems.LENET5, problem, method, strength)


def linen_loss_and_gradients(
  problem: problems.Problem, method: str, strength: float
) -> tuple[jax.Array, PyTree]:
  """Computes the same of what `one_by_one` descends."""
  return _loss_and_gradients(LINEN, problem, method, strength)


def _loss_and_gradients(
  network: networks.Network,
  problem: problems.Problem,
  method: str,
  strength: float,
) -> tuple[jax.Array, PyTree]:
  return problems.make_loss_and_gradients(network, method)(
    problem.params,
    problems.samples(problem, network),
    problems.hparams(problem.labels.shape[0], strength),
  )
