"""The compiled programs that train members, spread over all devices.

A program maps a `Learner` over members. After each lap it validates them and
keeps the variables of the first best one beside the last ones. A member that
has failed, or is told to, stands still, so that its result does not depend on
the others'.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.architectures.networks import Variables
from experiments.learning.learner import Hparams, Learner, Samples, State
from experiments.learning.streams import Stream
from experiments.machine import devices, memory

PyTree = Any


class Carry(NamedTuple):
  """What members carry from lap to lap, arrays [members, ...].

  Attributes:
    state: Of their learner.
    failed_step: Step in which they failed, -1 if they have not.
    best: Variables after the lap of best validation accuracy.
    best_correct: Validation images classified correctly then; -1 before.
    best_epoch: Epochs trained then; 0 before.
  """

  state: State
  failed_step: jax.Array
  best: Variables
  best_correct: jax.Array
  best_epoch: jax.Array


class Program(NamedTuple):
  """What trains members, a multiple of the number of devices.

  Attributes:
    prepare: Maps the data of members to the form that `run` takes.
    init: Maps (keys [members], hparams, data as it was) to a `Carry`.
    run: Maps (carry, first lap, keys, hparams, whether to train each [members],
      prepared data, validation samples) to (carry, metrics [laps, members] by
      name). The carry is consumed. `correct` counts validation images after
      each lap, -1 where a member has failed; what is said of who is not trained
      means nothing.
    count: Maps (variables, samples, keys, hparams, occasion) to how many of the
      samples each member classifies correctly.
    count_rivals: Maps (data as it was, samples) to the same of all rivals, by
      name.
  """

  prepare: Callable
  init: Callable
  run: Callable
  count: Callable
  count_rivals: Callable


@functools.cache
def make(learner: Learner, stream: Stream, num_laps: int) -> Program:
  """Makes the programs of a learner; the same ones for equal arguments.

  A call of `run` has so many laps. They compile at their first call, once for
  each number of members, and those of functions that learners share once for
  all of these.
  """
  many, data, held_out = stream.layout
  shared, laps = devices.SHARED, jax.sharding.PartitionSpec(None, *many)

  def count_rivals(data: Samples, samples: Samples) -> dict[str, jax.Array]:
    return {
      name: _num_correct(classify(data, samples.inputs), samples, stream)
      for name, classify in learner.rivals
    }

  def spread(function: Callable, *takes: Any, **choices: Any) -> Callable:
    return devices.spread(function, takes=takes, **{"gives": many, **choices})

  return Program(
    prepare=spread(_over_members(learner.prepare, stream), data, gives=data),
    init=spread(make_init(learner.init, stream), many, many, data),
    run=spread(
      make_run(learner, stream, num_laps),
      *(many, shared, many, many, many, data, held_out),
      gives=(many, laps),
      donate=(0,),
    ),
    count=spread(
      make_count(learner.predict, stream),
      *(many, held_out, many, many, shared),
    ),
    count_rivals=spread(count_rivals, data, held_out),
  )


@functools.cache
def make_init(
  begin: Callable[[jax.Array, Hparams, Samples], State], stream: Stream
) -> Callable[[jax.Array, Hparams, Samples], Carry]:
  """Makes `Program.init` of `Learner.init`, not compiled."""

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> Carry:
    state = begin(key, hparams, data)
    nothing = jnp.int32(-1)
    return Carry(state, nothing, state.variables, nothing, jnp.int32(0))

  return jax.vmap(init, in_axes=(0, 0, stream.data_axis))


@functools.cache
def make_count(
  predict: Callable[..., jax.Array], stream: Stream
) -> Callable[..., jax.Array]:
  """Makes `Program.count` of `Learner.predict`, not compiled.

  Devices of the stream may have a part of the samples each.
  """

  def count(
    variables: Variables,
    samples: Samples,
    keys: jax.Array,
    hparams: Hparams,
    occasion: jax.Array,
  ) -> jax.Array:
    classes = predict(variables, samples.inputs, keys, hparams, occasion)
    return _num_correct(classes, samples, stream)

  return count


def make_run(
  learner: Learner, stream: Stream, num_laps: int
) -> Callable[..., tuple[Carry, dict[str, jax.Array]]]:
  """Makes `Program.run`, not compiled."""
  count = make_count(learner.predict, stream)
  train = jax.vmap(learner.lap, in_axes=(0, None, 0, 0, stream.data_axis))

  def run(
    carry: Carry,
    first_lap: jax.Array,
    keys: jax.Array,
    hparams: Hparams,
    active: jax.Array,
    data: Samples,
    validation: Samples,
  ) -> tuple[Carry, dict[str, jax.Array]]:
    def body(carry: Carry, lap: jax.Array) -> tuple[Carry, dict]:
      state, report = train(carry.state, lap, keys, hparams, data)
      carry = _advance(carry, state, report.failed_step, active)
      epoch = (lap + 1) * learner.epochs
      correct = count(carry.state.variables, validation, keys, hparams, epoch)
      correct = jnp.where(carry.failed_step < 0, correct, -1)
      carry = _keep_best(carry, jnp.where(active, correct, -1), epoch)
      return carry, {**report.metrics, "correct": correct}

    return jax.lax.scan(body, carry, first_lap + jnp.arange(num_laps))

  return run


@functools.cache
def fitting_width(
  learner: Learner,
  stream: Stream,
  *,
  image_shape: tuple[int, ...],
  num_samples: int,
  num_validation: int,
  wanted: int,
) -> int:
  """Returns how many members a device can train at once, by their memory.

  Of training samples each member has a number, or all share them; validation
  samples are shared. It is at least 1 and at most what is wanted.
  """
  shape = jax.ShapeDtypeStruct

  def samples(*axes: int) -> Samples:
    images = shape((*axes, *image_shape), jnp.uint8)
    return Samples(images, shape(axes, jnp.int32))

  def needs(members: int) -> int:
    number = shape((members,), jnp.float32)
    hparams = Hparams(number, number)
    keys = jax.eval_shape(jax.vmap(jax.random.key), jnp.zeros(members, int))
    own = () if stream.data_axis is None else (members,)
    data = samples(*own, num_samples)
    return memory.peak_bytes(
      make_run(learner, stream, 1),
      jax.eval_shape(make_init(learner.init, stream), keys, hparams, data),
      shape((), jnp.int32),
      keys,
      hparams,
      shape((members,), bool),
      jax.eval_shape(_over_members(learner.prepare, stream), data),
      samples(num_validation),
    )

  return memory.width(needs, wanted=wanted, limit=memory.device_bytes())


@functools.cache
def _over_members(function: Callable, stream: Stream) -> Callable:
  """Maps a function of a member's data over members, if each has its own."""
  return function if stream.data_axis is None else jax.vmap(function)


def _num_correct(
  classes: jax.Array, samples: Samples, stream: Stream
) -> jax.Array:
  correct = classes == samples.labels[None, :]
  return stream.reduce(jnp.sum(correct, axis=1, dtype=jnp.int32))


def _advance(
  carry: Carry, state: State, failed_step: jax.Array, active: jax.Array
) -> Carry:
  """Takes over what a lap made of members, where that is to count."""
  going = active & (carry.failed_step < 0)
  return carry._replace(
    state=_where(going & (failed_step < 0), state, carry.state),
    failed_step=jnp.where(going, failed_step, carry.failed_step),
  )


def _keep_best(carry: Carry, correct: jax.Array, epoch: jax.Array) -> Carry:
  """Keeps the variables of a lap that is strictly better than the best."""
  better = correct > carry.best_correct
  return carry._replace(
    best=_where(better, carry.state.variables, carry.best),
    best_correct=jnp.where(better, correct, carry.best_correct),
    best_epoch=jnp.where(better, epoch, carry.best_epoch),
  )


def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
  """Chooses members [members, ...] of either tree."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    shape = condition.shape + (1,) * (new.ndim - 1)
    return jnp.where(condition.reshape(shape), new, old)

  return jax.tree.map(choose, new, old)
