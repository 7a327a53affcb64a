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
from experiments.learning.options import Options

PyTree = Any


class Aux(NamedTuple):
  """Auxiliary output of an objective.

  Attributes:
    data_loss: Cross-entropy, before anything was added.
    batch_stats: New batch statistics.
  """

  data_loss: jax.Array
  batch_stats: PyTree


class Activity(NamedTuple):
  """What a penalty is computed of: a network and its neurons in one pass.

  Attributes:
    params: Parameters of the network.
    hidden: Neurons that enter dense layers, {layer: [batch, n]}.
    mask: Real samples [batch], or None if all are.
    options: Choices that methods depend on.
  """

  params: PyTree
  hidden: dict[str, jax.Array]
  mask: jax.Array | None
  options: Options

  @property
  def layers(self) -> tuple[str, ...]:
    """The dense layers where BEAN applies."""
    return self.options.layers or tuple(self.hidden)


_USUAL = Options()
# Maps (activity, strength) to what is added to the cross-entropy.
Penalty = Callable[[Activity, jax.Array], jax.Array]
Rate = Callable[[Hparams], jax.Array | float]
Optimizer = Callable[[Hparams], optax.GradientTransformation]
# Maps (params, batch statistics, `streams.Batch`, hparams) to ((objective,
# `Aux`), gradient by the parameters).
Gradient = Callable[..., tuple[tuple[jax.Array, Aux], PyTree]]


def adam(hparams: Hparams) -> optax.GradientTransformation:
  """Returns the optimizer of every method that has none of its own."""
  return optax.adam(hparams.learning_rate)


def cross_entropy(
  logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Returns the mean cross-entropy of the real samples."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return jnp.mean(losses, where=mask)


def make_objective(
  network: Network,
  penalty: Penalty | None = None,
  dropout_rate: Rate | None = None,
  options: Options = _USUAL,
) -> Callable[..., tuple[jax.Array, Aux]]:
  """Makes what is descended: the mean cross-entropy plus a penalty.

  It is a function of (params, batch statistics, `streams.Batch`, hparams) that
  returns (objective, `Aux`). Outputs of hidden dense layers are dropped at a
  rate, if there is one.
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
    loss = total = cross_entropy(logits, batch.samples.labels, batch.mask)
    if penalty is not None:
      neurons = {layer: hidden[layer] for layer in network.layers}
      activity = Activity(params, neurons, batch.mask, options)
      total = loss + penalty(activity, hparams.strength)
    if batch.weight is not None:
      loss, total = batch.weight * loss, batch.weight * total
    return total, Aux(loss, batch_stats)

  return objective


def make_learner(
  network: Network,
  stream: streams.Stream,
  schedule: learner.Schedule,
  options: Options,
  *,
  penalty: Penalty | None = None,
  dropout_rate: Rate | None = None,
  optimizer: Optimizer = adam,
  gradient: Callable[[Network], Gradient] | None = None,
) -> learner.Learner:
  """Makes the learner of a loss.

  Penalty and rate of dropout are as in `make_objective`; the state of the
  optimizer, which it maps hparams to, is the memory. The gradient makes, for a
  network, what the optimizer is given, in place of backpropagation.
  """
  objective_fn = make_objective(network, penalty, dropout_rate, options)
  if gradient is None:
    grad_fn = jax.value_and_grad(objective_fn, has_aux=True)
  else:
    grad_fn = gradient(network)

  def step(
    state: State, batch: streams.Batch, hparams: Hparams
  ) -> tuple[State, steps.Metrics]:
    (params, batch_stats), opt_state = state
    (objective, aux), grads = grad_fn(params, batch_stats, batch, hparams)
    objective, loss, grads = stream.reduce((objective, aux.data_loss, grads))
    updates, opt_state = optimizer(hparams).update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    metrics = {"objective": objective, "train_loss": loss}
    return State(Variables(params, aux.batch_stats), opt_state), metrics

  fields = {"objective": objective_fn}
  if options.dropout_at_eval and dropout_rate is not None:
    fields["predict"] = functools.partial(
      _predict_dropped, network, dropout_rate
    )
  init = _make_init(network, optimizer)
  return steps.make_learner(init, step, network, stream, schedule, **fields)


@functools.cache
def _make_init(
  network: Network, optimizer: Optimizer
) -> Callable[[jax.Array, Hparams, Samples], State]:
  """Makes `Learner.init`, the same function for equal arguments."""

  def init(key: jax.Array, hparams: Hparams, _data: Samples) -> State:
    variables = network.init(jax.random.fold_in(key, learner.INIT))
    return State(variables, optimizer(hparams).init(variables.params))

  return init


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
