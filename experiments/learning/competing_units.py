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

Then the weights are frozen, and a read-out S learns from labels,

.. math:: c = \tanh(\beta S h), \qquad h = \max(W v, 0)^n / \lambda, \qquad
  \sum_v \sum_a |c_a - t_a|^m,

with targets t of 1 at the class and -1 elsewhere (`models.CompetingUnits`).

Known of the source are these equations, without :math:`\lambda`, and, from the
published notebook, which has no read-out, the defaults of the first part: p =
2, k = 2, Delta = 0.4, rate 0.02, 200 epochs, batches of 100, W normal of
variance 1, and a floor of 1e-30 below the maximum, for 100 units. A script of
others has p = 3, k = 7 and rate 0.04 for the paper's 2,000 units. n = 4.5, m =
6 and 300 epochs are those of reimplementations.

What was chosen here:

- Features are divided by the largest that the training images have,
  :math:`\lambda`, so that beta has a meaning for any n: else the first step of
  Adam saturates tanh. beta is 1,000 over the number of units, of which a step
  of Adam moves z by the sum.
- The read-out begins at 0 and is trained by Adam at a constant rate, in batches
  as large as those of the first part.
- An epoch's last batch may be smaller; the notebook leaves it out.
- An epoch of competition passes over few images so often that it has at least
  10 steps, each of all images if they are fewer than a batch: with one step for
  an epoch the weights do not come near norm 1.
- Non-negative units begin with the entries below 0 put to 0, and are projected
  in the same way after every step. The read-out is free.

References:
  Krotov and Hopfield, `Unsupervised learning by competing hidden units
  <https://doi.org/10.1073/pnas.1820458116>`_, PNAS, 2019, and its notebook,
  github.com/DimaKrotov/Biological_Learning.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import (
  competition,
  learner,
  nonnegative as excitatory,
  streams,
)
from experiments.learning.learner import Hparams, Samples, State

# Purposes of a member's key, far from those of `learner`.
READOUT, LAP = 2001, 2002
# Epochs from one validation to the next, at most.
LAP_EPOCHS = 20
# Of competition, in an epoch.
LEAST_STEPS = 10


class Settings(NamedTuple):
  """Powers, rates and how long.

  Attributes:
    norm: p.
    rank: k, the place of the unit that is moved away, from 2.
    step_size: Rate of the first epoch of competition.
    competing_epochs: Epochs without labels.
    readout_epochs: Epochs of the read-out.
    batch_size: Images in a step; 0 for all.
    nonnegative: Whether hidden weights stay at 0 or above.
    loss_power: m.
  """

  norm: float = 2.0
  rank: int = 2
  step_size: float = 0.02
  competing_epochs: int = 200
  readout_epochs: int = 300
  batch_size: int = 100
  nonnegative: bool = False
  loss_power: float = 6.0


def schedule(settings: Settings) -> learner.Schedule:
  """Returns how long a network is trained, and when it is validated."""
  parts = settings.competing_epochs, settings.readout_epochs
  return learner.Schedule(
    epochs=sum(parts),
    batch_size=settings.batch_size,
    validate_every=math.gcd(*parts, LAP_EPOCHS),
  )


def cost(settings: Settings, num_samples: int) -> int:
  """Estimates the work of one member, without validation.

  Args:
    settings: How long it is trained.
    num_samples: Training images.

  Returns:
    The work in images that pass forward, as `methods.cost` counts it. The
    read-out's features are made once in a lap.
  """
  size = min(settings.batch_size or num_samples, num_samples)
  steps = -(-num_samples // size)
  laps = settings.readout_epochs // schedule(settings).epochs_per_lap
  competing = settings.competing_epochs * steps * _passes(settings, num_samples)
  readout = settings.readout_epochs * steps + laps * num_samples
  return competing * (size + 5) + readout


@functools.cache
def make_learner(
  network: Network, stream: streams.Stream, settings: Settings
) -> learner.Learner:
  """Makes the learner: competition first, then the read-out.

  A member's strength is Delta, its learning rate that of Adam. The objective is
  the loss of the read-out, in both parts.

  Args:
    network: A network of `models.CompetingUnits`.
    stream: What it sees. Images that are changed at random are changed anew in
      every lap.
    settings: Powers, rates and how long.

  Returns:
    The learner.

  Raises:
    ValueError: If a setting makes no sense.
  """
  _check(settings)
  planned = schedule(settings)
  num_competing = settings.competing_epochs // planned.epochs_per_lap
  if settings.nonnegative:
    network = excitatory.network(network)

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> State:
    del data
    variables = network.init(jax.random.fold_in(key, learner.INIT))
    readout = variables.params["readout"]["kernel"]
    return State(variables, optax.adam(hparams.learning_rate).init(readout))

  def lap(
    state: State,
    number: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    data: Samples,
  ) -> tuple[State, learner.Report]:
    lap_key = jax.random.fold_in(jax.random.fold_in(key, LAP), number)
    everything = jnp.arange(len(data.labels))
    data = stream.batch(network, data, everything, None, lap_key).samples
    every = planned.epochs_per_lap
    epochs = number * every + jnp.arange(every)
    state, losses = jax.lax.cond(
      number < num_competing,
      functools.partial(_compete_lap, network, settings),
      functools.partial(_readout_lap, network, settings),
      *(state, epochs, key, hparams, data),
    )
    num_steps = -(
      -len(data.labels) // (settings.batch_size or len(data.labels))
    )
    failed = learner.first_failure(
      losses[0], state.variables, (epochs + 1) * num_steps - 1
    )
    objective, train_loss = jnp.mean(losses, axis=1)
    metrics = {"objective": objective, "train_loss": train_loss}
    return state, learner.Report(metrics, failed)

  return learner.Learner(
    init=init,
    lap=lap,
    predict=learner.plain_predict(network),
    num_laps=planned.epochs // planned.epochs_per_lap,
    epochs=planned.epochs_per_lap,
    prepare=functools.partial(stream.prepare, network),
    first_objective=num_competing,
  )


def _compete_lap(
  network: Network,
  settings: Settings,
  state: State,
  epochs: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[State, jax.Array]:
  """Trains the hidden units for some epochs."""
  params = state.variables.params
  # What follows is in passes over the images.
  passes, num_losses = _passes(settings, len(data.labels)), len(epochs)
  epochs = epochs[0] * passes + jnp.arange(len(epochs) * passes)
  num_epochs = settings.competing_epochs * passes
  # The inputs of the network are images.
  inputs = data.inputs.reshape(len(data.inputs), -1).astype(jnp.float32) / 255

  def step(
    weights: jax.Array, item: tuple[jax.Array, jax.Array, jax.Array | None]
  ) -> tuple[jax.Array, None]:
    rate, rows, mask = item
    weights = competition.compete(
      weights,
      inputs[rows],
      rate,
      norm=settings.norm,
      rank=settings.rank,
      inhibition=hparams.strength,
      nonnegative=settings.nonnegative,
      where=mask,
    )
    return weights, None

  def run_epoch(weights: jax.Array, epoch: jax.Array) -> tuple[jax.Array, None]:
    rows, masks = _batches(settings, learner.SHUFFLE, key, epoch, data)
    rate = settings.step_size * (1 - epoch / num_epochs)
    rates = jnp.full(len(rows), rate)
    return jax.lax.scan(step, weights, (rates, rows, masks))

  weights, _ = jax.lax.scan(run_epoch, params["hidden"]["kernel"].T, epochs)
  params = {**params, "hidden": {"kernel": weights.T}}
  # Features are measured anew, since they have changed.
  nothing_met = jax.tree.map(jnp.zeros_like, state.variables.batch_stats)
  (logits, _), batch_stats = network.apply(
    Variables(params, nothing_met), data.inputs, None
  )
  losses = _losses(settings, logits, data.labels)
  losses = jnp.broadcast_to(jnp.stack(losses)[:, None], (2, num_losses))
  return state._replace(variables=Variables(params, batch_stats)), losses


def _readout_lap(
  network: Network,
  settings: Settings,
  state: State,
  epochs: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[State, jax.Array]:
  """Trains the read-out for some epochs, on features that are made once."""
  (params, _), optimizer = state.variables, optax.adam(hparams.learning_rate)
  (_, hidden), batch_stats = network.apply(state.variables, data.inputs, None)
  features = hidden["readout"]

  def loss_fn(
    readout: jax.Array, rows: jax.Array, mask: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    # Its bias stays 0.
    loss, cross_entropy = _losses(
      settings, features[rows] @ readout, data.labels[rows], mask
    )
    return loss, jnp.stack([loss, cross_entropy])

  def step(
    carry: tuple[jax.Array, optax.OptState],
    item: tuple[jax.Array, jax.Array | None],
  ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
    readout, opt_state = carry
    grads, losses = jax.grad(loss_fn, has_aux=True)(readout, *item)
    updates, opt_state = optimizer.update(grads, opt_state, readout)
    return (optax.apply_updates(readout, updates), opt_state), losses

  def run_epoch(carry: Any, epoch: jax.Array) -> tuple[Any, jax.Array]:
    batches = _batches(settings, READOUT, key, epoch, data)
    carry, losses = jax.lax.scan(step, carry, batches)
    return carry, jnp.mean(losses, axis=0)

  start = (params["readout"]["kernel"], state.memory)
  (readout, opt_state), losses = jax.lax.scan(run_epoch, start, epochs)
  params = {**params, "readout": {**params["readout"], "kernel": readout}}
  return State(Variables(params, batch_stats), opt_state), losses.T


def _losses(
  settings: Settings,
  logits: jax.Array,
  labels: jax.Array,
  where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of the read-out, and the mean cross-entropy."""
  power = settings.loss_power
  loss = competition.readout_loss(logits, labels, power=power, where=where)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return loss, jnp.mean(losses, where=where)


def _batches(
  settings: Settings,
  purpose: int,
  key: jax.Array,
  epoch: jax.Array,
  data: Samples,
) -> tuple[jax.Array, jax.Array | None]:
  key = jax.random.fold_in(jax.random.fold_in(key, purpose), epoch)
  return streams.batches(key, len(data.labels), settings.batch_size)


def _passes(settings: Settings, num_samples: int) -> int:
  """Returns how often competition passes over the images in an epoch."""
  return -(
    -LEAST_STEPS // -(-num_samples // (settings.batch_size or num_samples))
  )


def _num_steps(
  settings: Settings, num_samples: int, epochs: jax.Array
) -> jax.Array:
  """Returns how many steps the first epochs have."""
  steps = -(-num_samples // (settings.batch_size or num_samples))
  competing = jnp.minimum(epochs, settings.competing_epochs)
  more = _passes(settings, num_samples) - 1
  return steps * (epochs + more * competing)


def _check(settings: Settings) -> None:
  for name in ("competing_epochs", "readout_epochs"):
    if getattr(settings, name) < 1:
      raise ValueError(
        f"{name}: expected at least 1, got {getattr(settings, name)}"
      )
  if settings.batch_size < 0:
    raise ValueError(
      f"batch_size: expected at least 0, got {settings.batch_size}"
    )
  if settings.rank < 2:
    raise ValueError(f"rank: expected at least 2, got {settings.rank}")
  # Comparisons with NaN are false.
  for name in ("norm", "step_size", "loss_power"):
    low = 0 if name == "step_size" else 1
    if not low <= getattr(settings, name) < float("inf"):
      raise ValueError(
        f"{name}: expected a finite number from {low}, got "
        f"{getattr(settings, name)}"
      )
