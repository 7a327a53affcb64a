"""Learning batch by batch, in epochs of a fresh order each."""

from collections.abc import Callable
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
  **fields: Any,
) -> Learner:
  """Makes the learner of a step.

  The step maps (state, `streams.Batch`, hparams) to (state, metrics), scalars
  by name, `objective` and `train_loss` among them. Further fields are those of
  `Learner`, such as `predict` where the network is not evaluated as it is.
  """
  every = schedule.validate_every

  def lap(
    state: State,
    number: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    data: Samples,
  ) -> tuple[State, learner.Report]:
    order_key = jax.random.fold_in(key, learner.SHUFFLE)
    noise_key = jax.random.fold_in(key, learner.NOISE)
    num_samples = data.labels.shape[0]

    def take_step(state: State, item: tuple) -> tuple[State, Metrics]:
      index, row, mask = item
      step_key = jax.random.fold_in(noise_key, index)
      batch = stream.batch(network, data, row, mask, step_key)
      return step(state, batch, hparams)

    def run_epoch(state: State, epoch: jax.Array) -> tuple[State, tuple]:
      rows, masks = streams.batches(
        jax.random.fold_in(order_key, epoch), num_samples, schedule.batch_size
      )
      indices = epoch * rows.shape[0] + jnp.arange(rows.shape[0])
      state, metrics = jax.lax.scan(take_step, state, (indices, rows, masks))
      return state, (indices, metrics)

    epochs = number * every + jnp.arange(every)
    state, (indices, metrics) = jax.lax.scan(run_epoch, state, epochs)
    failed_step = learner.first_failure(
      metrics["objective"].reshape(-1), state.variables, indices.reshape(-1)
    )
    means = jax.tree.map(lambda m: jnp.mean(jnp.mean(m, axis=1)), metrics)
    return state, learner.Report(means, failed_step)

  made = Learner(
    init=init,
    lap=lap,
    predict=learner.plain_predict(network),
    num_laps=schedule.epochs // every,
    epochs=every,
    prepare=streams.preparation(stream, network),
  )
  return made._replace(**fields)
