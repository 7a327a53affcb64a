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

# LeNet-5 without what makes it fit for populations.
LINEN = networks.from_linen(
  models.LeNet5(), (28, 28, 1), problems.LENET5.layers
)
# Validation cannot be left out; so few images cost little in an epoch.
_NUM_VALIDATION = 10


def population(width: int) -> Trainer:
  """Makes the trainer of `experiments.population`, chunk after chunk.

  Its steps include all that those of an experiment do: the order of samples,
  picking them, Adam, the check for failures, the epochs' validation (of a few
  images) and the best epoch. Patches are taken beforehand, as there. A device
  trains `width` members at once, or fewer if there are no more.
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
    schedule = Schedule(num_epochs, batch_size)
    learner = problems.learner(problems.LENET5, method, schedule)
    run_laps = program.make(learner, problems.OWN, num_epochs).run
    chunks = [
      _chunk(problem.members(start, start + at_once), method, learner)
      for start in range(0, num_members, at_once)
    ]
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


def _chunk(
  part: problems.Problem, method: str, learner: Learner
) -> tuple[program.Carry, tuple]:
  """Returns what a chunk carries at first, and the arguments of its laps."""
  width = len(part.labels)
  keys, hparams, data, active, params = devices.place(
    (
      problems.keys_of(width),
      problems.hparams(width, problems.STRENGTHS[method]),
      Samples(part.images, part.labels),
      np.ones(width, bool),
      part.params,
    ),
    devices.MEMBERS,
  )
  programs = program.make(learner, problems.OWN, 1)
  carry = programs.init(keys, hparams, data)
  # Copies of their own, as what is carried is consumed.
  first, second = (
    jax.tree.map(jnp.array, networks.Variables(params, {})) for _ in range(2)
  )
  carry = carry._replace(
    state=carry.state._replace(variables=first), best=second
  )
  return carry, (keys, hparams, active, programs.prepare(data))


def one_by_one(
  problem: problems.Problem, method: str, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
  """Trains seed after seed, one jitted step a call, convolutions by Linen."""
  num_members, num_images = problem.labels.shape
  step = _make_step(method, batch_size)
  optimizer = optax.adam(problems.LEARNING_RATE)
  members = [
    jax.tree.map(jnp.asarray, problem.member(i)) for i in range(num_members)
  ]
  states = [
    (member.params, optimizer.init(member.params)) for member in members
  ]

  def run() -> np.ndarray:
    losses = []
    for place, member in enumerate(members):
      for index in range(num_steps):
        start = index * batch_size % num_images
        states[place], loss = step(
          states[place], member.images, member.labels, start
        )
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
  problem: problems.Problem,
  method: str,
  strength: float,
  network: networks.Network = problems.LENET5,
) -> tuple[jax.Array, PyTree]:
  """Computes losses [members] on all images, and gradients like the params.

  Those that `population` descends, or `one_by_one` with the network `LINEN`.
  """
  return problems.make_loss_and_gradients(network, method)(
    problem.params,
    problems.samples(problem, network),
    problems.hparams(len(problem.labels), strength),
  )
