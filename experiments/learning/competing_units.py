r"""Krotov and Hopfield's competing hidden units, and a read-out of them.

Hidden units learn without labels. Unit i with weights W_i gets from an image v,
of pixels in [0, 1], the current

.. math:: I_i = \sum_j \mathrm{sign}(W_{ij}) |W_{ij}|^{p-1} v_j,

and units are ranked by it. The first is moved towards the image and the k-th
away from it, g = 1 and :math:`-\Delta`; all others stay, g = 0. A batch changes

.. math:: W_i \leftarrow W_i + \varepsilon \frac{D_i}{\max |D|}, \qquad
  D_i = \sum_v g_i (v - I_i W_i),

where the maximum is over all entries, so that the largest change is
:math:`\varepsilon`; it falls from epoch to epoch, as :math:`\varepsilon_0 (1 -
e / E)`. The rule drives the p-norm of each W_i to 1.

Then the weights are frozen, and a read-out S learns from labels:

.. math:: c = \tanh(\beta S h), \qquad h = \max(W v, 0)^n, \qquad
  \sum_v \sum_a |c_a - t_a|^m,

with targets t of 1 at the class and -1 elsewhere.

Known of the source are these equations and, from the published notebook, which
has no read-out, the defaults of the first part: 100 units, p = 2, k = 2, Delta
= 0.4, rate 0.02, 200 epochs, batches of 100, W normal of variance 1, and a
floor of 1e-30 below the maximum. n = 4.5, m = 6, beta = 1 and 300 epochs are
those of reimplementations.

What was chosen here:

- Features h are divided by the largest that the training images have, so that
  beta has a meaning for any n: else the first step of Adam saturates tanh.
- The read-out begins at 0 and is trained by Adam at a constant rate, in batches
  as large as those of the first part.
- An epoch's last batch may be smaller; the notebook leaves it out.
- Non-negative units begin as the absolute values, and are projected to 0 or
  above after every step. The read-out is free.

References:
  Krotov and Hopfield, `Unsupervised learning by competing hidden units
  <https://doi.org/10.1073/pnas.1820458116>`_, PNAS, 2019, and its notebook,
  github.com/DimaKrotov/Biological_Learning.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from experiments.architectures.networks import Variables
from experiments.learning import learner, streams
from experiments.learning.learner import Hparams, Samples, State

PyTree = Any
NUM_CLASSES = 10
# Purpose of a member's key, far from those of `learner`.
READOUT = 2001


class Settings(NamedTuple):
  """Sizes and powers.

  Attributes:
    num_units: Hidden units.
    norm: p.
    rank: k, the place of the unit that is moved away, from 2.
    step_size: Rate of the first epoch of competition.
    competing_epochs: Epochs without labels.
    readout_epochs: Epochs of the read-out.
    lap_epochs: Epochs from one validation to the next, a divisor of both.
    batch_size: Images in a step; 0 for all.
    nonnegative: Whether hidden weights stay at 0 or above.
    feature_power: n.
    loss_power: m.
    gain: beta.
  """

  num_units: int = 100
  norm: float = 2.0
  rank: int = 2
  step_size: float = 0.02
  competing_epochs: int = 200
  readout_epochs: int = 300
  lap_epochs: int = 50
  batch_size: int = 100
  nonnegative: bool = False
  feature_power: float = 4.5
  loss_power: float = 6.0
  gain: float = 1.0


def compete(
  weights: ArrayLike,
  inputs: ArrayLike,
  *,
  norm: float = 2.0,
  rank: int = 2,
  inhibition: ArrayLike = 0.4,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Computes how a batch changes the hidden weights, of largest entry 1.

  Args:
    weights: W [units, n].
    inputs: Images [batch, n].
    norm: p.
    rank: k, from 2 to the number of units.
    inhibition: Delta.
    where: Real images [batch], or None if all are.

  Returns:
    D / max |D| [units, n], 0 if nothing changes.

  Raises:
    ValueError: If `rank` is below 2 or beyond the units.

  Example:
    >>> image = jnp.array([[1.0, 0.5]])
    >>> compete(jnp.eye(2), image, inhibition=0.25).tolist()
    [[0.0, 1.0], [-0.5, 0.0]]
  """
  weights, inputs = jnp.asarray(weights), jnp.asarray(inputs)
  if not 2 <= rank <= len(weights):
    raise ValueError(
      f"rank: expected 2 to the number of units, {len(weights)}, got {rank}"
    )
  powers = jnp.sign(weights) * jnp.abs(weights) ** (norm - 1)
  currents = inputs @ powers.T
  _, ranked = jax.lax.top_k(currents, rank)
  moved = jax.nn.one_hot(ranked[:, 0], len(weights), dtype=currents.dtype)
  away = jax.nn.one_hot(ranked[:, -1], len(weights), dtype=currents.dtype)
  moved -= inhibition * away
  if where is not None:
    moved = jnp.where(jnp.asarray(where)[:, None], moved, 0)
  scale = jnp.sum(moved * currents, axis=0)
  change = moved.T @ inputs - scale[:, None] * weights
  return change / jnp.maximum(jnp.max(jnp.abs(change)), 1e-30)


def features(
  weights: ArrayLike, inputs: ArrayLike, *, power: float
) -> jax.Array:
  """Computes what the read-out sees: max(W v, 0)^n, [batch, units].

  Args:
    weights: W [units, n].
    inputs: Images [batch, n].
    power: n.

  Example:
    >>> features(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 1.0]]), power=2.0)
    Array([[9.]], dtype=float32)
  """
  return jnp.maximum(jnp.asarray(inputs) @ jnp.asarray(weights).T, 0) ** power


def readout_loss(
  readout: ArrayLike,
  hidden: ArrayLike,
  labels: ArrayLike,
  *,
  gain: float = 1.0,
  power: float = 6.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Computes the mean over images of the sum over classes of |c - t|^m.

  Args:
    readout: S [classes, units].
    hidden: Features [batch, units].
    labels: Classes [batch].
    gain: beta.
    power: m.
    where: Real images [batch], or None if all are.

  Returns:
    A scalar.

  Example:
    >>> hidden, labels = jnp.ones((2, 4)), jnp.array([0, 2])
    >>> float(readout_loss(jnp.zeros((3, 4)), hidden, labels))
    3.0
  """
  readout = jnp.asarray(readout)
  outputs = jnp.tanh(gain * (jnp.asarray(hidden) @ readout.T))
  targets = 2 * jax.nn.one_hot(labels, len(readout), dtype=outputs.dtype) - 1
  losses = jnp.sum(jnp.abs(outputs - targets) ** power, axis=1)
  return jnp.mean(losses, where=where)


@functools.cache
def make_learner(settings: Settings) -> learner.Learner:
  """Makes the learner: competition first, then the read-out.

  A member's strength is Delta, its learning rate that of Adam. The objective is
  the loss of the read-out, in both parts; there is no other `train_loss`.

  Args:
    settings: Sizes and powers.

  Returns:
    The learner. Its variables are {"hidden": {"kernel": [n, units]}, "readout":
    {"kernel": [units, classes]}}.

  Raises:
    ValueError: If a setting makes no sense.
  """
  _check(settings)
  every = settings.lap_epochs
  num_competing = settings.competing_epochs // every

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> State:
    num_inputs = _flatten(data.inputs).shape[1]
    kernel = jax.random.normal(
      jax.random.fold_in(key, learner.INIT), (num_inputs, settings.num_units)
    )
    if settings.nonnegative:
      kernel = jnp.abs(kernel)
    readout = jnp.zeros((settings.num_units, NUM_CLASSES))
    variables = Variables(
      {"hidden": {"kernel": kernel}, "readout": {"kernel": readout}}, {}
    )
    return State(variables, _adam(hparams).init(readout))

  def lap(
    state: State,
    number: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    data: Samples,
  ) -> tuple[State, learner.Report]:
    data = data._replace(inputs=_flatten(data.inputs))
    epochs = number * every + jnp.arange(every)
    state, losses = jax.lax.cond(
      number < num_competing,
      lambda state: _compete_lap(settings, epochs, key, hparams, data, state),
      lambda state: _readout_lap(settings, epochs, key, hparams, data, state),
      state,
    )
    num_samples = len(data.labels)
    num_steps = -(-num_samples // (settings.batch_size or num_samples))
    failed = learner.first_failure(
      losses, state.variables, (epochs + 1) * num_steps - 1
    )
    loss = jnp.mean(losses)
    metrics = {"objective": loss, "train_loss": loss}
    return state, learner.Report(metrics, failed)

  def predict(variables: Variables, images: jax.Array, *_: Any) -> jax.Array:
    inputs = _flatten(images)

    def of_member(params: PyTree) -> jax.Array:
      hidden = _features(settings, params, inputs)
      # Neither tanh nor a factor changes the order of classes.
      return jnp.argmax(hidden @ params["readout"]["kernel"], axis=1)

    return jax.lax.map(of_member, variables.params)

  return learner.Learner(
    init=init,
    lap=lap,
    predict=predict,
    num_laps=num_competing + settings.readout_epochs // every,
    epochs=every,
  )


def _compete_lap(
  settings: Settings,
  epochs: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
  state: State,
) -> tuple[State, jax.Array]:
  """Trains the hidden units for some epochs."""
  params = state.variables.params

  def step(
    weights: jax.Array, item: tuple[jax.Array, jax.Array, jax.Array | None]
  ) -> tuple[jax.Array, None]:
    rate, rows, mask = item
    weights += rate * compete(
      weights,
      data.inputs[rows],
      norm=settings.norm,
      rank=settings.rank,
      inhibition=hparams.strength,
      where=mask,
    )
    return jnp.maximum(weights, 0) if settings.nonnegative else weights, None

  def run_epoch(weights: jax.Array, epoch: jax.Array) -> tuple[jax.Array, None]:
    rows, masks = _batches(settings, learner.SHUFFLE, key, epoch, data)
    rate = settings.step_size * (1 - epoch / settings.competing_epochs)
    rates = jnp.full(len(rows), rate)
    return jax.lax.scan(step, weights, (rates, rows, masks))

  weights, _ = jax.lax.scan(run_epoch, params["hidden"]["kernel"].T, epochs)
  params = {**params, "hidden": {"kernel": weights.T}}
  state = state._replace(variables=Variables(params, {}))
  losses = jnp.full(len(epochs), _whole_loss(settings, params, data))
  return state, losses


def _readout_lap(
  settings: Settings,
  epochs: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
  state: State,
) -> tuple[State, jax.Array]:
  """Trains the read-out for some epochs, on features that are made once."""
  params = state.variables.params
  hidden = _features(settings, params, data.inputs)

  def step(
    carry: tuple[jax.Array, optax.OptState],
    item: tuple[jax.Array, jax.Array | None],
  ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
    (readout, opt_state), (rows, mask) = carry, item
    loss, grads = jax.value_and_grad(readout_loss)(
      readout.T,
      hidden[rows],
      data.labels[rows],
      gain=settings.gain,
      power=settings.loss_power,
      where=mask,
    )
    updates, opt_state = _adam(hparams).update(grads.T, opt_state, readout)
    return (optax.apply_updates(readout, updates), opt_state), loss

  def run_epoch(carry: Any, epoch: jax.Array) -> tuple[Any, jax.Array]:
    batches = _batches(settings, READOUT, key, epoch, data)
    carry, losses = jax.lax.scan(step, carry, batches)
    return carry, jnp.mean(losses)

  start = (params["readout"]["kernel"], state.memory)
  (readout, opt_state), losses = jax.lax.scan(run_epoch, start, epochs)
  params = {**params, "readout": {"kernel": readout}}
  return State(Variables(params, {}), opt_state), losses


def _whole_loss(settings: Settings, params: PyTree, data: Samples) -> jax.Array:
  return readout_loss(
    params["readout"]["kernel"].T,
    _features(settings, params, data.inputs),
    data.labels,
    gain=settings.gain,
    power=settings.loss_power,
  )


def _features(
  settings: Settings, params: PyTree, inputs: jax.Array
) -> jax.Array:
  """Returns features [batch, units], the largest of which is 1."""
  hidden = features(
    params["hidden"]["kernel"].T, inputs, power=settings.feature_power
  )
  return hidden / jnp.maximum(jnp.max(hidden), 1e-30)


def _batches(
  settings: Settings,
  purpose: int,
  key: jax.Array,
  epoch: jax.Array,
  data: Samples,
) -> tuple[jax.Array, jax.Array | None]:
  key = jax.random.fold_in(jax.random.fold_in(key, purpose), epoch)
  return streams.batches(key, len(data.labels), settings.batch_size)


def _adam(hparams: Hparams) -> optax.GradientTransformation:
  return optax.adam(hparams.learning_rate)


def _flatten(images: jax.Array) -> jax.Array:
  """Returns images [n, ...] as rows [n, pixels] of numbers from 0 to 1."""
  return images.reshape(len(images), -1).astype(jnp.float32) / 255


def _check(settings: Settings) -> None:
  for name in ("num_units", "competing_epochs", "readout_epochs", "lap_epochs"):
    if getattr(settings, name) < 1:
      raise ValueError(
        f"{name}: expected at least 1, got {getattr(settings, name)}"
      )
  if settings.batch_size < 0:
    raise ValueError(
      f"batch_size: expected at least 0, got {settings.batch_size}"
    )
  if not 2 <= settings.rank <= settings.num_units:
    raise ValueError(
      f"rank: expected 2 to the number of units, {settings.num_units}, got "
      f"{settings.rank}"
    )
  for name in ("competing_epochs", "readout_epochs"):
    if getattr(settings, name) % settings.lap_epochs:
      raise ValueError(
        f"{name}: expected a multiple of lap_epochs, {settings.lap_epochs}, "
        f"got {getattr(settings, name)}"
      )
  # Comparisons with NaN are false.
  for name in ("norm", "step_size", "feature_power", "loss_power", "gain"):
    low = 1 if name in ("norm", "loss_power") else 0
    if not low <= getattr(settings, name) < float("inf"):
      raise ValueError(
        f"{name}: expected a finite number from {low}, got "
        f"{getattr(settings, name)}"
      )
