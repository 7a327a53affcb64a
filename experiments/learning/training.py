"""Training a population: whole runs as pure functions, members as an axis.

A member is one simulation: a key, hyper-parameters and a training set. Its
training is a pure function; a population is `jax.vmap` of it, with every leaf
carrying a leading axis of members. Epochs are a `jax.lax.scan`, cut into
stretches only so that the host may report progress between them.

The protocol is the authors': Adam, a fresh order of the samples in every
epoch, accuracy on validation images after every epoch (or every few), and the
parameters of the first best one kept beside the last ones.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.architectures import models
from experiments.architectures.dropout import Dropout

PyTree = Any

# Purposes of a member's key, so that no stream depends on another's length.
INIT, SHUFFLE, NOISE, EVALUATION = range(4)


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
  """Learning curves [validations, members].

  Attributes:
    train_loss: Mean cross-entropy over the steps since the last validation.
    validation_accuracy: Fraction of validation images classified correctly.
  """

  train_loss: jax.Array
  validation_accuracy: jax.Array


LossFn = Callable[..., tuple[jax.Array, Aux]]


def adam(hparams: Hparams) -> optax.GradientTransformation:
  """Returns the optimizer of every method that has none of its own."""
  return optax.adam(hparams.learning_rate)


class Recipe(NamedTuple):
  """How one member is trained; pure functions of its hyper-parameters.

  Attributes:
    model: The network.
    loss: Maps hparams to the loss that is descended, a function of (params,
      samples, mask, key) that returns (loss, `Aux`); a mask of None means that
      all samples are real.
    optimizer: Maps hparams to the optimizer.
    evaluation_rate: Maps hparams to the rate of dropout at evaluation, or None
      for an evaluation without.
  """

  model: models.Model
  loss: Callable[[Hparams], LossFn]
  optimizer: Callable[[Hparams], optax.GradientTransformation] = adam
  evaluation_rate: Callable[[Hparams], jax.Array] | None = None


def cross_entropy(
  model: models.Model, dropout_rate: jax.Array | None = None
) -> LossFn:
  """Makes the mean cross-entropy of a network over a batch's real samples.

  Args:
    model: The network.
    dropout_rate: Rate at which outputs of hidden dense layers are dropped, or
      None for no dropout; may be traced.

  Returns:
    A loss as in `Recipe`.
  """

  def loss_fn(
    params: PyTree, samples: Samples, mask: jax.Array | None, key: jax.Array
  ) -> tuple[jax.Array, Aux]:
    dropout = None if dropout_rate is None else Dropout(dropout_rate, key)
    logits, hidden = model.apply(params, samples.inputs, dropout)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, samples.labels
    )
    loss = jnp.mean(losses, where=mask)
    neurons = {layer: hidden[layer] for layer in model.layers}
    return loss, Aux(neurons, mask, loss)

  return loss_fn


@functools.cache
def make_init(recipe: Recipe) -> Callable[[jax.Array, Hparams], State]:
  """Makes the function that begins a population's training.

  Args:
    recipe: How a member is trained.

  Returns:
    A function of (keys [members], hparams) that returns a `State`, compiled
    once for each number of members.
  """

  def init(key: jax.Array, hparams: Hparams) -> State:
    params = recipe.model.init(jax.random.fold_in(key, INIT))
    return State(
      params=params,
      opt_state=recipe.optimizer(hparams).init(params),
      failed_step=jnp.int32(-1),
      best_params=params,
      best_correct=jnp.int32(-1),
      best_epoch=jnp.int32(0),
    )

  return jax.jit(jax.vmap(init))


@functools.cache
def make_count_correct(model: models.Model) -> Callable[..., jax.Array]:
  """Makes the function that evaluates a population on shared samples.

  Args:
    model: The network.

  Returns:
    A function of (parameters, samples, dropout=None), the dropout stacked over
    members, that returns how many of the samples each member classifies
    correctly [members].
  """

  def count_correct(
    params: PyTree, samples: Samples, dropout: Dropout | None = None
  ) -> jax.Array:
    classes = model.predict(params, samples.inputs, dropout)
    return jnp.sum(classes == samples.labels[None, :], axis=1, dtype=jnp.int32)

  return jax.jit(count_correct)


def evaluation_dropout(
  recipe: Recipe, keys: jax.Array, hparams: Hparams, occasion: jax.Array
) -> Dropout | None:
  """Draws what an evaluation drops.

  Args:
    recipe: How a member is trained.
    keys: Keys [members].
    hparams: Hyper-parameters of each member.
    occasion: Number of the evaluation: its epoch, or 0 for the final test.

  Returns:
    Dropout stacked over members, or None if the recipe has none.
  """
  if recipe.evaluation_rate is None:
    return None

  def of_member(key: jax.Array, member: Hparams) -> Dropout:
    key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION), occasion)
    return Dropout(recipe.evaluation_rate(member), key)

  return jax.vmap(of_member)(keys, hparams)


def make_run_epochs(
  recipe: Recipe,
  *,
  batch_size: int,
  num_epochs: int,
  validate_every: int = 1,
  unroll: int = 1,
) -> Callable[..., tuple[State, Metrics]]:
  """Makes the function that trains a population for some epochs.

  Args:
    recipe: How a member is trained.
    batch_size: Samples in a step; 0, or more than there are, means all.
    num_epochs: Epochs in a call.
    validate_every: Epochs from one validation to the next; divides their
      number.
    unroll: Steps in a turn of the loop, which a GPU starts from the host.

  Returns:
    A function of (state, epochs done before, keys [members], hparams, training
    samples of each member, validation samples that they share) that returns
    (state, Metrics), for `jax.jit` or `jax.shard_map` along members.

  Raises:
    ValueError: If the batch size is negative, or the epochs are not a number of
      whole validations.
  """
  if batch_size < 0:
    raise ValueError(f"batch_size must be at least 0, got {batch_size}")
  if validate_every < 1 or num_epochs < 1 or num_epochs % validate_every:
    raise ValueError(
      "num_epochs must be a positive multiple of validate_every, got "
      f"{num_epochs} and {validate_every}"
    )
  count_correct = make_count_correct(recipe.model)
  run_epoch = _make_run_epoch(recipe, batch_size, unroll)

  def run_epochs(
    state: State,
    first_epoch: jax.Array,
    keys: jax.Array,
    hparams: Hparams,
    train: Samples,
    validation: Samples,
  ) -> tuple[State, Metrics]:
    def epoch_body(carry: State, epoch: jax.Array) -> tuple[State, jax.Array]:
      return jax.vmap(run_epoch, in_axes=(0, None, 0, 0, 0))(
        carry, epoch, keys, hparams, train
      )

    def body(carry: State, epochs: jax.Array) -> tuple[State, Metrics]:
      carry, losses = jax.lax.scan(epoch_body, carry, epochs)
      epoch = epochs[-1] + 1
      dropout = evaluation_dropout(recipe, keys, hparams, epoch)
      correct = count_correct(carry.params, validation, dropout)
      accuracy = correct / validation.labels.shape[0]
      return jax.vmap(keep_best, in_axes=(0, 0, None))(
        carry, correct, epoch
      ), Metrics(jnp.mean(losses, axis=0), accuracy)

    epochs = first_epoch + jnp.arange(num_epochs)
    return jax.lax.scan(body, state, epochs.reshape(-1, validate_every))

  return run_epochs


def _make_run_epoch(
  recipe: Recipe, batch_size: int, unroll: int
) -> Callable[..., tuple[State, jax.Array]]:
  """Makes one epoch of one member; it returns (state, mean cross-entropy)."""

  def step(
    state: State,
    index: jax.Array,
    samples: Samples,
    mask: jax.Array | None,
    key: jax.Array,
    hparams: Hparams,
  ) -> tuple[State, jax.Array]:
    (loss, aux), grads = jax.value_and_grad(recipe.loss(hparams), has_aux=True)(
      state.params, samples, mask, jax.random.fold_in(key, index)
    )
    return update(
      recipe.optimizer(hparams), state, index, loss, grads
    ), aux.data_loss

  def run_epoch(
    state: State,
    epoch: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    train: Samples,
  ) -> tuple[State, jax.Array]:
    order_key = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE), epoch)
    noise_key = jax.random.fold_in(key, NOISE)
    rows, masks = batches(order_key, train.labels.shape[0], batch_size)
    first_step = epoch * rows.shape[0]

    def body(
      carry: State, item: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[State, jax.Array]:
      offset, batch, mask = item
      samples = jax.tree.map(lambda leaf: leaf[batch], train)
      return step(carry, first_step + offset, samples, mask, noise_key, hparams)

    items = jnp.arange(rows.shape[0]), rows, masks
    state, losses = jax.lax.scan(body, state, items, unroll=unroll)
    state = fail_if_broken(state, first_step + rows.shape[0] - 1)
    return state, jnp.mean(losses)

  return run_epoch


def update(
  optimizer: optax.GradientTransformation,
  state: State,
  index: jax.Array,
  loss: jax.Array,
  grads: PyTree,
) -> State:
  """Takes a step of the optimizer, unless the loss is or was not finite.

  Args:
    optimizer: Of the member.
    state: Of one member.
    index: Number of the step.
    loss: What was descended.
    grads: Its gradients.

  Returns:
    The state after the step. A failed member stands still; it cannot disturb
    the others.
  """
  failed = ~jnp.isfinite(loss) & (state.failed_step < 0)
  failed_step = jnp.where(failed, index, state.failed_step)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  params, opt_state = jax.tree.map(
    functools.partial(jnp.where, failed_step < 0),
    (params, opt_state),
    (state.params, state.opt_state),
  )
  return state._replace(
    params=params, opt_state=opt_state, failed_step=failed_step
  )


def fail_if_broken(state: State, step: jax.Array) -> State:
  """Marks a member as failed at a step if a parameter is not finite.

  A gradient may overflow where the loss does not; no later loss may tell.

  Args:
    state: Of one member.
    step: The step that is blamed.

  Returns:
    The state; one that had failed before keeps its step.
  """
  finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), state.params)
  failed = ~jnp.stack(jax.tree.leaves(finite)).all()
  failed_step = jnp.where(
    failed & (state.failed_step < 0), step, state.failed_step
  )
  return state._replace(failed_step=failed_step)


def batches(
  key: jax.Array, num_samples: int, batch_size: int
) -> tuple[jax.Array, jax.Array | None]:
  """Draws the order of one epoch's samples.

  Args:
    key: A key for this epoch.
    num_samples: Samples there are.
    batch_size: Samples in a step; 0, or more than there are, means all.

  Returns:
    Rows [steps, batch], and a mask of the same shape or None if all are real:
    the last batch is filled up with samples that are masked out. Of all that is
    computed they enter batch statistics alone.
  """
  size = min(batch_size or num_samples, num_samples)
  order = jax.random.permutation(key, num_samples)
  missing = -num_samples % size
  if not missing:
    return order.reshape(-1, size), None
  rows = jnp.concatenate([order, order[:missing]]).reshape(-1, size)
  mask = jnp.arange(num_samples + missing) < num_samples
  return rows, mask.reshape(-1, size)


def keep_best(state: State, correct: jax.Array, epoch: jax.Array) -> State:
  """Keeps the parameters of an epoch that is strictly better than the best.

  Args:
    state: Of one member, after the epoch.
    correct: Validation images that it classifies correctly.
    epoch: The epoch, counted from 1.

  Returns:
    The state with its best parameters.
  """
  better = correct > state.best_correct
  best_params = jax.tree.map(
    functools.partial(jnp.where, better), state.params, state.best_params
  )
  return state._replace(
    best_params=best_params,
    best_correct=jnp.where(better, correct, state.best_correct),
    best_epoch=jnp.where(better, epoch, state.best_epoch),
  )
