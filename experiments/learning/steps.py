"""Learning batch by batch, in epochs of a fresh order each."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.architectures.networks import Network
from experiments.learning import learner, streams
from experiments.learning.learner import Hparams, Learner, Samples, State

Metrics = dict[str, jax.Array]
Step = Callable[[State, streams.Batch, Hparams], tuple[State, Metrics]]


def make_learner(
  init: Callable[[jax.Array, Hparams, Samples], State],
  step: Step,
  network: Network,
  stream: streams.Stream,
  schedule: learner.Schedule,
  *,
  predict: Callable[..., jax.Array] | None = None,
  objective: Callable[..., Any] | None = None,
) -> Learner:
  """Makes the learner of a step.

  Args:
    init: As `Learner.init`.
    step: Maps (state, `streams.Batch`, hparams) to (state, metrics), scalars by
      name, `objective` and `train_loss` among them.
    network: The network, which prepares a batch's inputs.
    stream: What a step sees.
    schedule: Epochs of a lap and samples of a step.
    predict: As `Learner.predict`; None for the network as it is.
    objective: As `Learner.objective`.

  Returns:
    The learner.

  Raises:
    ValueError: If the batch size is negative, or the epochs are not a number of
      whole laps.
  """
  if schedule.batch_size < 0:
    raise ValueError(
      f"batch_size must be at least 0, got {schedule.batch_size}"
    )
  return Learner(
    init=init,
    lap=functools.partial(_lap, step, network, stream, schedule),
    predict=predict or learner.plain_predict(network),
    num_laps=schedule.epochs // schedule.epochs_per_lap,
    epochs=schedule.epochs_per_lap,
    prepare=functools.partial(stream.prepare, network),
    objective=objective,
  )


def _lap(
  step: Step,
  network: Network,
  stream: streams.Stream,
  schedule: learner.Schedule,
  state: State,
  number: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[State, learner.Report]:
  order_key = jax.random.fold_in(key, learner.SHUFFLE)
  noise_key = jax.random.fold_in(key, learner.NOISE)

  def run_epoch(
    state: State, epoch: jax.Array
  ) -> tuple[State, tuple[jax.Array, Metrics]]:
    rows, masks = streams.batches(
      jax.random.fold_in(order_key, epoch),
      data.labels.shape[0],
      schedule.batch_size,
    )
    indices = epoch * rows.shape[0] + jnp.arange(rows.shape[0])

    def body(state: State, item: tuple) -> tuple[State, Metrics]:
      index, row, mask = item
      step_key = jax.random.fold_in(noise_key, index)
      return step(
        state, stream.batch(network, data, row, mask, step_key), hparams
      )

    state, metrics = jax.lax.scan(
      body, state, (indices, rows, masks), unroll=schedule.unroll
    )
    return state, (indices, metrics)

  first = number * schedule.epochs_per_lap
  state, (indices, metrics) = jax.lax.scan(
    run_epoch, state, first + jnp.arange(schedule.epochs_per_lap)
  )
  failed_step = learner.first_failure(
    metrics["objective"].reshape(-1), state.variables, indices.reshape(-1)
  )
  means = jax.tree.map(lambda m: jnp.mean(jnp.mean(m, axis=1)), metrics)
  return state, learner.Report(means, failed_step)
