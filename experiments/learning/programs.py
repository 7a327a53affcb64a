"""The compiled programs that train a population, spread over all devices."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.learning import devices, memory, training


class Program(NamedTuple):
  """What trains members, a multiple of the number of devices.

  Attributes:
    init: As `training.make_init` makes it.
    run_epochs: As `training.make_run_epochs` makes it; its state is consumed.
    count_correct: As `training.make_count_correct` makes it.
    num_epochs: Epochs in a call of `run_epochs`.
  """

  init: Callable
  run_epochs: Callable
  count_correct: Callable
  num_epochs: int


@functools.cache
def make(
  recipe: training.Recipe,
  *,
  batch_size: int,
  num_epochs: int,
  validate_every: int = 1,
  unroll: int = 1,
) -> Program:
  """Makes the programs of a recipe; the same ones for equal arguments.

  Args:
    recipe: How a member is trained.
    batch_size: Samples in a step; 0 for all.
    num_epochs: Epochs in a call.
    validate_every: Epochs from one validation to the next.
    unroll: Steps in a turn of the loop.

  Returns:
    Functions that compile at their first call, once for each number of members.
  """
  run_epochs = training.make_run_epochs(
    recipe,
    batch_size=batch_size,
    num_epochs=num_epochs,
    validate_every=validate_every,
    unroll=unroll,
  )
  many, second, shared = devices.MEMBERS, devices.SECOND, devices.SHARED
  return Program(
    devices.spread(training.make_init(recipe), takes=(many, many), gives=many),
    devices.spread(
      run_epochs,
      takes=(many, shared, many, many, many, shared),
      gives=(many, second),
      donate=(0,),
    ),
    devices.spread(
      training.make_count_correct(recipe.model),
      takes=(many, shared, many),
      gives=many,
    ),
    num_epochs,
  )


def fast_width(batch_size: int) -> int:
  """Returns how many members a device trains fastest, by the batch size.

  A GPU takes all that fit. On a CPU a step's parameters and activations
  should stay in the cache, while a step should not be too small a task.
  """
  if devices.mesh().devices.flat[0].platform != "cpu":
    return 1000
  return max(1, min(5, 100 // batch_size))


@functools.cache
def fitting_width(
  recipe: training.Recipe,
  *,
  batch_size: int,
  num_samples: int,
  num_validation: int,
  wanted: int,
) -> int:
  """Returns how many members a device can train at once, by their memory.

  Args:
    recipe: How a member is trained.
    batch_size: Samples in a step; 0 for all.
    num_samples: Training samples of a member.
    num_validation: Validation samples, which members share.
    wanted: The most.

  Returns:
    The number, at least 1.
  """
  run_epochs = training.make_run_epochs(
    recipe, batch_size=batch_size, num_epochs=1
  )
  shape = jax.ShapeDtypeStruct

  def needs(members: int) -> int:
    keys, hparams = member_shapes(members)
    images = shape((members, num_samples, 28, 28, 1), jnp.uint8)
    return memory.peak_bytes(
      run_epochs,
      jax.eval_shape(training.make_init(recipe), keys, hparams),
      shape((), jnp.int32),
      keys,
      hparams,
      training.Samples(
        jax.eval_shape(jax.vmap(recipe.model.prepare), images),
        shape((members, num_samples), jnp.int32),
      ),
      training.Samples(
        shape((num_validation, 28, 28, 1), jnp.uint8),
        shape((num_validation,), jnp.int32),
      ),
    )

  return memory.width(needs, wanted=wanted, limit=memory.device_bytes())


def member_shapes(
  members: int,
) -> tuple[jax.ShapeDtypeStruct, training.Hparams]:
  """Returns the shapes of the keys and hyper-parameters of members."""
  number = jax.ShapeDtypeStruct((members,), jnp.float32)
  keys = jax.eval_shape(jax.vmap(jax.random.key), jnp.zeros(members, int))
  return keys, training.Hparams(number, number)
