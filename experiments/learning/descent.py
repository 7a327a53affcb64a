"""Learning by descent: a loss, its gradient, an optimizer.

The loss is the mean cross-entropy of a batch plus what a method adds to it.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.architectures.dropout import Dropout
from experiments.architectures.networks import Network, Variables
from experiments.learning import learner, steps, streams
from experiments.learning.learner import Hparams, Samples, State

PyTree = Any


class Aux(NamedTuple):
  """Auxiliary output of an objective.

  Attributes:
    data_loss: Cross-entropy, before anything was added.
    batch_stats: New batch statistics.
  """

  data_loss: jax.Array
  batch_stats: PyTree


# Maps (params, hidden, mask, hparams) to what is added to the cross-entropy.
# Hidden has the neurons that enter dense layers, {layer: [batch, n]}.
Penalty = Callable[..., jax.Array]
Rate = Callable[[Hparams], jax.Array | float]
Optimizer = Callable[[Hparams], optax.GradientTransformation]
# Maps (params, batch statistics, `streams.Batch`, hparams) to ((objective,
# `Aux`), gradient by the parameters).
Gradient = Callable[..., tuple[tuple[jax.Array, Aux], PyTree]]


def adam(hparams: Hparams) -> optax.GradientTransformation:
  """Returns the optimizer of every method that has none of its own."""
  return optax.adam(hparams.learning_rate)


def make_objective(
  network: Network,
  penalty: Penalty | None = None,
  dropout_rate: Rate | None = None,
) -> Callable[..., tuple[jax.Array, Aux]]:
  """Makes what is descended: the mean cross-entropy plus a penalty.

  Args:
    network: The network.
    penalty: What is added, None for nothing.
    dropout_rate: Rate at which outputs of hidden dense layers are dropped, None
      for no dropout.

  Returns:
    A function of (params, batch statistics, `streams.Batch`, hparams) that
    returns (objective, `Aux`).
  """

  def objective(
    params: PyTree,
    batch_stats: PyTree,
    batch: streams.Batch,
    hparams: Hparams,
  ) -> tuple[jax.Array, Aux]:
    dropout = None
    if dropout_rate is not None:
      dropout = Dropout(dropout_rate(hparams), batch.key)
    (logits, hidden), batch_stats = network.apply(
      Variables(params, batch_stats), batch.samples.inputs, dropout
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.samples.labels
    )
    loss = total = jnp.mean(losses, where=batch.mask)
    if penalty is not None:
      neurons = {layer: hidden[layer] for layer in network.layers}
      total = loss + penalty(params, neurons, batch.mask, hparams)
    if batch.weight is not None:
      loss, total = batch.weight * loss, batch.weight * total
    return total, Aux(loss, batch_stats)

  return objective


def make_learner(
  network: Network,
  stream: streams.Stream,
  schedule: learner.Schedule,
  *,
  penalty: Penalty | None = None,
  dropout_rate: Rate | None = None,
  optimizer: Optimizer = adam,
  gradient: Gradient | None = None,
  dropout_at_eval: bool = False,
) -> learner.Learner:
  """Makes the learner of a loss.

  Args:
    network: The network.
    stream: What a step sees.
    schedule: How long and in which steps it is trained.
    penalty: As in `make_objective`.
    dropout_rate: As in `make_objective`.
    optimizer: Maps hparams to the optimizer.
    gradient: What is given to the optimizer; None for the gradient of the
      objective by backpropagation.
    dropout_at_eval: Whether dropout stays on at evaluation.

  Returns:
    The learner; its memory is the state of the optimizer.
  """
  objective_fn = make_objective(network, penalty, dropout_rate)
  gradient = gradient or jax.value_and_grad(objective_fn, has_aux=True)

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> State:
    del data
    variables = network.init(jax.random.fold_in(key, learner.INIT))
    return State(variables, optimizer(hparams).init(variables.params))

  def step(
    state: State, batch: streams.Batch, hparams: Hparams
  ) -> tuple[State, dict[str, jax.Array]]:
    variables, opt_state = state
    (objective, aux), grads = gradient(
      variables.params, variables.batch_stats, batch, hparams
    )
    objective, loss, grads = stream.reduce((objective, aux.data_loss, grads))
    updates, opt_state = optimizer(hparams).update(
      grads, opt_state, variables.params
    )
    params = optax.apply_updates(variables.params, updates)
    variables = Variables(params, aux.batch_stats)
    metrics = {"objective": objective, "train_loss": loss}
    return State(variables, opt_state), metrics

  predict = None
  if dropout_at_eval:
    predict = functools.partial(_predict_dropped, network, dropout_rate)
  return steps.make_learner(
    init,
    step,
    network,
    stream,
    schedule,
    predict=predict,
    objective=objective_fn,
  )


def _predict_dropped(
  network: Network,
  rate: Rate,
  variables: Variables,
  images: jax.Array,
  keys: jax.Array,
  hparams: Hparams,
  occasion: jax.Array,
) -> jax.Array:
  """Classifies with dropout left on, drawn anew at every evaluation."""

  def of_member(key: jax.Array, member: Hparams) -> Dropout:
    key = jax.random.fold_in(key, learner.EVALUATION)
    return Dropout(rate(member), jax.random.fold_in(key, occasion))

  return network.predict(variables, images, jax.vmap(of_member)(keys, hparams))
