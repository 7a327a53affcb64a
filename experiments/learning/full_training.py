"""Training on a whole dataset: epochs of a population as pure functions.

Where `training` gives every member a few images of its own, here all members
share one dataset, which lies on the device once as uint8; a member has its own
order of the images, drawn anew in every epoch. Networks may have BatchNorm,
whose statistics are kept beside the parameters. Members may be at different
epochs, and each can be told to stand still, so that its result does not depend
on the others: a member that has converged waits while others go on.

One call is one epoch, a `jax.lax.scan` over its steps; between epochs the host
sees the losses, decides who goes on, and writes checkpoints.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.architectures import networks
from experiments.architectures.networks import Network, Variables
from experiments.learning import devices, methods, training

PyTree = Any


class Augmentation(NamedTuple):
  """How training images are changed at random, anew in every step.

  Attributes:
    flip: Whether half of them are mirrored, left to right.
    crop: Whether they are shifted by up to 4 pixels, with black beyond the
      border.
  """

  flip: bool = False
  crop: bool = False


class Setting(NamedTuple):
  """What a compiled epoch is made for.

  Attributes:
    network: The network.
    method: Name in `methods.METHODS`.
    options: Choices that methods depend on.
    batch_size: Images in a step; 0, or more than there are, means all.
    augmentation: How training images are changed.
    num_shards: Devices that share a batch, each taking as many of its images,
      along `devices.BATCH_AXIS`; 1 where each device has members of its own.
  """

  network: Network
  method: str
  options: methods.Options = methods.Options()
  batch_size: int = 100
  augmentation: Augmentation = Augmentation()
  num_shards: int = 1


class State(NamedTuple):
  """What a member carries from epoch to epoch.

  Attributes:
    variables: Parameters and batch statistics.
    opt_state: State of the optimizer.
    failed_step: Step of the first non-finite loss, or the last step of the
      epoch after which a parameter was not finite; -1 if neither. A member
      that fails keeps what it had before that epoch.
    best: Variables after the epoch of best validation accuracy.
    best_correct: Validation images classified correctly then; -1 before.
    best_epoch: That epoch, counted from 1; 0 before.
  """

  variables: Variables
  opt_state: optax.OptState
  failed_step: jax.Array
  best: Variables
  best_correct: jax.Array
  best_epoch: jax.Array


class Metrics(NamedTuple):
  """What an epoch of each member gave [members].

  Attributes:
    objective: Mean over its steps of what training descends, the cross-entropy
      and what a method adds to it.
    train_loss: Mean cross-entropy over its steps.
    correct: Validation images classified correctly after it.
  """

  objective: jax.Array
  train_loss: jax.Array
  correct: jax.Array


def make_init(
  setting: Setting,
) -> Callable[[jax.Array, training.Hparams], State]:
  """Makes the function that begins a population's training.

  Args:
    setting: What is trained.

  Returns:
    A function of (keys [members], hparams) that returns a `State`.
  """
  optimizer = methods.METHODS[setting.method].optimizer

  def init(key: jax.Array, hparams: training.Hparams) -> State:
    variables = setting.network.init(jax.random.fold_in(key, training.INIT))
    return State(
      variables=variables,
      opt_state=optimizer(hparams, setting.options).init(variables.params),
      failed_step=jnp.int32(-1),
      best=variables,
      best_correct=jnp.int32(-1),
      best_epoch=jnp.int32(0),
    )

  return jax.vmap(init)


def make_count_correct(
  network: Network, num_shards: int = 1
) -> Callable[[Variables, training.Samples], jax.Array]:
  """Makes the function that evaluates a population on shared samples.

  Args:
    network: The network.
    num_shards: As in `Setting`; the devices have a part of the samples each.

  Returns:
    A function of (variables of each member, samples) that returns how many of
    the samples each member classifies correctly [members].
  """

  def count_correct(
    variables: Variables, samples: training.Samples
  ) -> jax.Array:
    classes = network.predict(variables, samples.inputs)
    correct = classes == samples.labels[None, :]
    return _all_shards(num_shards, jnp.sum(correct, axis=1, dtype=jnp.int32))

  return count_correct


def make_run_epoch(setting: Setting) -> Callable[..., tuple[State, Metrics]]:
  """Makes the function that trains a population for one epoch.

  Args:
    setting: What is trained, and how.

  Returns:
    A function of (state, epochs done before [members], keys [members], hparams,
    whether to train each [members], training samples and validation samples,
    which are shared) that returns (state, Metrics), for `jax.jit` or
    `devices.spread`. The metrics of who is not trained mean nothing.

  Raises:
    ValueError: If the batch size is negative, or no multiple of the devices
      that share a batch.
  """
  if setting.batch_size < 0:
    raise ValueError(f"batch_size must be at least 0, got {setting.batch_size}")
  if setting.batch_size % setting.num_shards:
    raise ValueError(
      f"batch_size must be a multiple of the {setting.num_shards} devices that "
      f"share a batch, got {setting.batch_size}"
    )
  count_correct = make_count_correct(setting.network, setting.num_shards)
  run_steps = _make_run_steps(setting)

  def run_epoch(
    state: State,
    epochs: jax.Array,
    keys: jax.Array,
    hparams: training.Hparams,
    active: jax.Array,
    train: training.Samples,
    validation: training.Samples,
  ) -> tuple[State, Metrics]:
    state, objective, loss = jax.vmap(run_steps, (0, 0, 0, 0, 0, None))(
      state, epochs, keys, hparams, active, train
    )
    correct = count_correct(state.variables, validation)
    eligible = active & (state.failed_step < 0)
    state = jax.vmap(_keep_best)(
      state, jnp.where(eligible, correct, -1), epochs + 1
    )
    return state, Metrics(objective, loss, correct)

  return run_epoch


def augment(
  images: jax.Array, augmentation: Augmentation, key: jax.Array
) -> jax.Array:
  """Changes images at random, each in its own way.

  Args:
    images: Images [n, height, width, channels].
    augmentation: What may happen to them.
    key: A key for these images.

  Returns:
    Images of the same shape and type.
  """
  flip_key, crop_key = jax.random.split(key)
  num_images = images.shape[0]
  if augmentation.flip:
    mirrored = jax.random.bernoulli(flip_key, shape=(num_images, 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
  if augmentation.crop:
    corners = jax.random.randint(crop_key, (num_images, 2), 0, 9)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    images = jax.vmap(
      lambda image, corner: jax.lax.dynamic_slice(
        image, (*corner, 0), images.shape[1:]
      )
    )(padded, corners)
  return images


def has_converged(
  losses: Sequence[float], *, patience: int, tolerance: float
) -> bool:
  """Tells whether a learning curve falls no more.

  It does not if none of its last `patience` values is below 1 - tolerance times
  the lowest before them. The criterion has no unit, so that it means the same
  whatever a method adds to the loss; and Adam's steps upwards, from which it
  recovers within a few epochs, do not end a training.

  Args:
    losses: A loss after each epoch.
    patience: Epochs that are waited for a new low; 0 for a curve that never
      converges.
    tolerance: Least relative decrease that counts as one.

  Returns:
    Whether it has converged; never in the first `patience` epochs.

  Example:
    >>> has_converged([4.0, 2.0, 3.0, 1.0], patience=2, tolerance=0.01)
    False
    >>> has_converged([4.0, 1.0, 3.0, 1.0], patience=2, tolerance=0.01)
    True
  """
  if patience < 1 or len(losses) <= patience:
    return False
  lowest = np.min(losses[:-patience])
  return bool(np.min(losses[-patience:]) >= (1 - tolerance) * lowest)


def _make_run_steps(
  setting: Setting,
) -> Callable[..., tuple[State, jax.Array, jax.Array]]:
  """Makes one epoch of one member, without its validation.

  It returns (state, mean objective, mean cross-entropy).
  """
  method = methods.METHODS[setting.method]

  def step(
    variables: Variables,
    opt_state: optax.OptState,
    samples: training.Samples,
    mask: jax.Array | None,
    key: jax.Array,
    hparams: training.Hparams,
  ) -> tuple[Variables, optax.OptState, jax.Array, jax.Array]:
    image_key, noise_key = jax.random.split(key)
    images = augment(samples.inputs, setting.augmentation, image_key)
    samples, mask, noise_key, weight = _own_shard(
      setting, samples._replace(inputs=images), mask, noise_key
    )
    loss_fn = _with_batch_stats(setting, hparams, variables.batch_stats, weight)
    (objective, (loss, batch_stats)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(variables.params, samples, mask, noise_key)
    objective, loss, grads = _all_shards(
      setting.num_shards, (objective, loss, grads)
    )
    updates, opt_state = method.optimizer(hparams, setting.options).update(
      grads, opt_state, variables.params
    )
    params = optax.apply_updates(variables.params, updates)
    return Variables(params, batch_stats), opt_state, objective, loss

  def run_steps(
    state: State,
    epoch: jax.Array,
    key: jax.Array,
    hparams: training.Hparams,
    active: jax.Array,
    train: training.Samples,
  ) -> tuple[State, jax.Array, jax.Array]:
    order_key = jax.random.fold_in(
      jax.random.fold_in(key, training.SHUFFLE), epoch
    )
    noise_key = jax.random.fold_in(key, training.NOISE)
    rows, masks = training.batches(
      order_key, len(train.labels), setting.batch_size
    )
    steps = epoch * len(rows) + jnp.arange(len(rows))

    def body(carry: tuple, item: tuple) -> tuple[tuple, tuple]:
      index, batch, mask = item
      samples = jax.tree.map(lambda leaf: leaf[batch], train)
      step_key = jax.random.fold_in(noise_key, index)
      *carry, objective, loss = step(*carry, samples, mask, step_key, hparams)
      return tuple(carry), (objective, loss)

    (variables, opt_state), (objectives, losses) = jax.lax.scan(
      body, (state.variables, state.opt_state), (steps, rows, masks)
    )
    failed_step = _first_failure(objectives, variables, steps)
    state = _advance(state, variables, opt_state, failed_step, active)
    return state, jnp.mean(objectives), jnp.mean(losses)

  return run_steps


def _own_shard(
  setting: Setting,
  samples: training.Samples,
  mask: jax.Array | None,
  key: jax.Array,
) -> tuple[training.Samples, jax.Array | None, jax.Array, jax.Array | float]:
  """Returns the part of a batch that a device takes, and that part's weight.

  The weights, the shares of real samples, make the sum over devices of means
  over samples the mean over all samples.
  """
  if setting.num_shards == 1:
    return samples, mask, key, 1.0
  place = jax.lax.axis_index(devices.BATCH_AXIS)

  def own(leaf: jax.Array) -> jax.Array:
    # Dealt out in turn, so that also of an epoch's last batch, which is filled
    # up at its end, everybody has real samples.
    dealt = leaf.reshape(-1, setting.num_shards, *leaf.shape[1:])
    return jax.lax.dynamic_index_in_dim(dealt, place, 1, keepdims=False)

  samples, key = jax.tree.map(own, samples), jax.random.fold_in(key, place)
  if mask is None:
    return samples, None, key, 1 / setting.num_shards
  own_mask = own(mask)
  weight = jnp.sum(own_mask) / jnp.sum(mask)
  # The mean over no samples would not be a number.
  return samples, own_mask | ~jnp.any(own_mask), key, weight


def _all_shards(num_shards: int, tree: PyTree) -> PyTree:
  """Sums over the devices that share a batch."""
  if num_shards == 1:
    return tree
  return jax.lax.psum(tree, devices.BATCH_AXIS)


def _with_batch_stats(
  setting: Setting,
  hparams: training.Hparams,
  batch_stats: PyTree,
  weight: jax.Array | float,
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, PyTree]]]:
  """Returns a method's loss of a network with batch statistics, weighted.

  Its auxiliary output is (cross-entropy, new batch statistics). Methods need
  not know of them: the network which they are given keeps them aside.
  """

  def loss_fn(
    params: PyTree, *args: Any
  ) -> tuple[jax.Array, tuple[jax.Array, PyTree]]:
    kept = []

    def apply(
      params: PyTree, images: jax.Array, dropout: Any = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
      output, new_batch_stats = setting.network.apply(
        Variables(params, batch_stats), images, dropout
      )
      kept.append(new_batch_stats)
      return output

    model = networks.as_model(setting.network, apply)
    method = methods.METHODS[setting.method]
    loss, aux = method.loss(hparams, model, setting.options)(params, *args)
    (new_batch_stats,) = kept
    return weight * loss, (weight * aux.data_loss, new_batch_stats)

  return loss_fn


def _first_failure(
  objectives: jax.Array, variables: Variables, steps: jax.Array
) -> jax.Array:
  """Returns the step at which an epoch failed, or -1."""
  bad = ~jnp.isfinite(objectives)
  # A gradient may overflow where the loss does not; no later loss may tell.
  finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), variables)
  broken = ~jnp.stack(jax.tree.leaves(finite)).all()
  last_resort = jnp.where(broken, steps[-1], -1)
  return jnp.where(jnp.any(bad), steps[jnp.argmax(bad)], last_resort)


def _advance(
  state: State,
  variables: Variables,
  opt_state: optax.OptState,
  failed_step: jax.Array,
  active: jax.Array,
) -> State:
  """Takes over what an epoch made of a member, unless that is not to count."""
  variables, opt_state = jax.tree.map(
    functools.partial(jnp.where, active & (failed_step < 0)),
    (variables, opt_state),
    (state.variables, state.opt_state),
  )
  return state._replace(
    variables=variables,
    opt_state=opt_state,
    failed_step=jnp.where(active, failed_step, state.failed_step),
  )


def _keep_best(state: State, correct: jax.Array, epoch: jax.Array) -> State:
  """Keeps the variables of an epoch that is strictly better than the best."""
  better = correct > state.best_correct
  best = jax.tree.map(
    functools.partial(jnp.where, better), state.variables, state.best
  )
  return state._replace(
    best=best,
    best_correct=jnp.where(better, correct, state.best_correct),
    best_epoch=jnp.where(better, epoch, state.best_epoch),
  )
