"""Training a population: whole runs as pure functions, members as an axis.

A member is one simulation: a key, hyper-parameters and a training set. Its
training is a pure function; a population is `jax.vmap` of it, with every leaf
carrying a leading axis of members. Epochs are a `jax.lax.scan`, cut into
stretches only so that the host may report progress between them.

The protocol is the authors': Adam, a fresh order of the samples in every
epoch, accuracy on validation images after every epoch, and the parameters of
the first best epoch kept beside the last ones.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import models

PyTree = Any

# Purposes of a member's key, so that no stream depends on another's length.
INIT, SHUFFLE = 0, 1


class Hparams(NamedTuple):
  """Numbers that may differ from member to member.

  Attributes:
    learning_rate: Adam's learning rate.
    strength: What the method multiplies its regularizer with.
  """

  learning_rate: jax.Array
  strength: jax.Array


class Samples(NamedTuple):
  """Inputs [n, ...] of a network and labels [n]."""

  inputs: jax.Array
  labels: jax.Array


class State(NamedTuple):
  """What a member carries from step to step.

  Attributes:
    params: Parameters.
    opt_state: State of the optimizer.
    failed_step: Step of the first non-finite loss, at which the member was
      frozen, or the last step of the epoch after which a parameter was not
      finite; -1 if neither.
    best_params: Parameters after the epoch of best validation accuracy.
    best_correct: Validation images classified correctly then; -1 before.
    best_epoch: That epoch, counted from 1; 0 before.
  """

  params: PyTree
  opt_state: optax.OptState
  failed_step: jax.Array
  best_params: PyTree
  best_correct: jax.Array
  best_epoch: jax.Array


class Aux(NamedTuple):
  """Auxiliary output of a loss.

  Attributes:
    hidden: Neurons that enter dense layers, {layer: [batch, n]}.
    mask: Real samples of a batch [batch], or None if all are.
    data_loss: Loss before any regularizer was added.
  """

  hidden: dict[str, jax.Array]
  mask: jax.Array | None
  data_loss: jax.Array


class Metrics(NamedTuple):
  """Learning curves [epochs, members].

  Attributes:
    train_loss: Mean cross-entropy over the steps of the epoch.
    validation_accuracy: Fraction of validation images classified correctly
      after it.
  """

  train_loss: jax.Array
  validation_accuracy: jax.Array


LossFn = Callable[..., tuple[jax.Array, Aux]]


def cross_entropy(model: models.Model) -> LossFn:
  """Makes the mean cross-entropy of a network over a batch's real samples.

  Args:
    model: The network.

  Returns:
    A function of (params, samples, mask) that returns (loss, `Aux`); a mask
    of None means that all samples are real.
  """

  def loss_fn(
    params: PyTree, samples: Samples, mask: jax.Array | None
  ) -> tuple[jax.Array, Aux]:
    logits, hidden = model.apply(params, samples.inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, samples.labels
    )
    loss = jnp.mean(losses, where=mask)
    neurons = {layer: hidden[layer] for layer in model.layers}
    return loss, Aux(neurons, mask, loss)

  return loss_fn


@functools.cache
def make_init(model: models.Model) -> Callable[[jax.Array, Hparams], State]:
  """Makes the function that begins a population's training.

  Args:
    model: The network.

  Returns:
    A function of (keys [members], hparams) that returns a `State`, compiled
    once for each number of members.
  """

  def init(key: jax.Array, hparams: Hparams) -> State:
    params = model.init(jax.random.fold_in(key, INIT))
    return State(
      params=params,
      opt_state=optax.adam(hparams.learning_rate).init(params),
      failed_step=jnp.int32(-1),
      best_params=params,
      best_correct=jnp.int32(-1),
      best_epoch=jnp.int32(0),
    )

  return jax.jit(jax.vmap(init))


@functools.cache
def make_count_correct(
  model: models.Model,
) -> Callable[[PyTree, Samples], jax.Array]:
  """Makes the function that evaluates a population on shared samples.

  Args:
    model: The network.

  Returns:
    A function of (parameters, samples) that returns how many of the samples
    each member classifies correctly [members].
  """

  def count_correct(params: PyTree, samples: Samples) -> jax.Array:
    classes = model.predict(params, samples.inputs)
    return jnp.sum(classes == samples.labels[None, :], axis=1, dtype=jnp.int32)

  return jax.jit(count_correct)


def make_run_epochs(
  model: models.Model,
  regularizer: Callable[[LossFn, Hparams], LossFn],
  *,
  batch_size: int,
  num_epochs: int,
) -> Callable[..., tuple[State, Metrics]]:
  """Makes the function that trains a population for some epochs.

  Args:
    model: The network.
    regularizer: Maps (loss_fn, hparams of one member) to the loss that its
      training descends.
    batch_size: Samples in a step; 0, or more than there are, means all.
    num_epochs: Epochs in a call.

  Returns:
    A function of (state, epochs done before, keys [members], hparams, training
    samples of each member, validation samples that they share) that returns
    (state, Metrics), compiled once for each number of members. The state it
    is given is consumed.

  Raises:
    ValueError: If the batch size is negative or there are no epochs.
  """
  if batch_size < 0 or num_epochs < 1:
    raise ValueError(
      "batch_size must be at least 0 and num_epochs at least 1, got "
      f"{batch_size} and {num_epochs}"
    )
  data_loss_fn = cross_entropy(model)
  count_correct = make_count_correct(model)

  def step(
    state: State,
    index: jax.Array,
    samples: Samples,
    mask: jax.Array | None,
    hparams: Hparams,
  ) -> tuple[State, jax.Array]:
    loss_fn = regularizer(data_loss_fn, hparams)
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, samples, mask
    )
    failed = ~jnp.isfinite(loss) & (state.failed_step < 0)
    failed_step = jnp.where(failed, index, state.failed_step)
    optimizer = optax.adam(hparams.learning_rate)
    updates, opt_state = optimizer.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    # A failed member stands still; it cannot disturb the others.
    params, opt_state = jax.tree.map(
      functools.partial(jnp.where, failed_step < 0),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    state = state._replace(
      params=params, opt_state=opt_state, failed_step=failed_step
    )
    return state, aux.data_loss

  def run_epoch(
    state: State,
    epoch: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    train: Samples,
  ) -> tuple[State, jax.Array]:
    order_key = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE), epoch)
    batches, masks = _batches(order_key, train.labels.shape[0], batch_size)
    first_step = epoch * batches.shape[0]

    def body(
      carry: State, item: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[State, jax.Array]:
      offset, rows, mask = item
      samples = jax.tree.map(lambda leaf: leaf[rows], train)
      return step(carry, first_step + offset, samples, mask, hparams)

    steps = jnp.arange(batches.shape[0])
    state, losses = jax.lax.scan(body, state, (steps, batches, masks))
    # A gradient may overflow where the loss does not; no later loss may tell.
    finite = jax.tree.map(
      lambda leaf: jnp.all(jnp.isfinite(leaf)), state.params
    )
    failed = ~jnp.stack(jax.tree.leaves(finite)).all()
    last_step = first_step + batches.shape[0] - 1
    failed_step = jnp.where(
      failed & (state.failed_step < 0), last_step, state.failed_step
    )
    return state._replace(failed_step=failed_step), jnp.mean(losses)

  def run_epochs(
    state: State,
    first_epoch: jax.Array,
    keys: jax.Array,
    hparams: Hparams,
    train: Samples,
    validation: Samples,
  ) -> tuple[State, Metrics]:
    def body(carry: State, epoch: jax.Array) -> tuple[State, Metrics]:
      carry, loss = jax.vmap(run_epoch, in_axes=(0, None, 0, 0, 0))(
        carry, epoch, keys, hparams, train
      )
      correct = count_correct(carry.params, validation)
      metrics = Metrics(loss, correct / validation.labels.shape[0])
      return jax.vmap(_keep_best, in_axes=(0, 0, None))(
        carry, correct, epoch + 1
      ), metrics

    return jax.lax.scan(body, state, first_epoch + jnp.arange(num_epochs))

  return jax.jit(run_epochs, donate_argnums=0)


def _batches(
  key: jax.Array, num_samples: int, batch_size: int
) -> tuple[jax.Array, jax.Array | None]:
  """Returns one epoch's rows [steps, batch] and their mask, None if all real.

  The last batch is filled up with samples that are masked out.
  """
  size = min(batch_size or num_samples, num_samples)
  order = jax.random.permutation(key, num_samples)
  missing = -num_samples % size
  if not missing:
    return order.reshape(-1, size), None
  rows = jnp.concatenate([order, order[:missing]]).reshape(-1, size)
  mask = jnp.arange(num_samples + missing) < num_samples
  return rows, mask.reshape(-1, size)


def _keep_best(state: State, correct: jax.Array, epoch: jax.Array) -> State:
  """Keeps the parameters of an epoch that is strictly better than the best."""
  better = correct > state.best_correct
  best_params = jax.tree.map(
    functools.partial(jnp.where, better), state.params, state.best_params
  )
  return state._replace(
    best_params=best_params,
    best_correct=jnp.where(better, correct, state.best_correct),
    best_epoch=jnp.where(better, epoch, state.best_epoch),
  )
