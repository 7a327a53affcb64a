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

The equations, without :math:`\lambda`, are the source's. Its notebook, which
has no read-out, has p = 2, k = 2, Delta = 0.4, rate 0.02, 200 epochs, batches
of 100, W normal of variance 1, and a floor of 1e-30 below the maximum, for 100
units; a script of others p = 3, k = 7 and rate 0.04 for the paper's 2,000
units. n = 4.5, m = 6 and 300 epochs are those of reimplementations.

What was chosen here:

- Features are divided by the largest that the training images have,
  :math:`\lambda`, so that beta has a meaning for any n: else the first step of
  Adam saturates tanh. beta is 1,000 over the number of units, of which a step
  of Adam moves z by the sum.
- The read-out begins at 0 and is trained by Adam at a constant rate. An epoch's
  last batch may be smaller; the notebook leaves it out.
- An epoch of competition passes over few images so often that it has at least
  10 steps: with one step for an epoch the weights do not come near norm 1.
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
from jax.typing import ArrayLike
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import descent, learner, nonnegative, streams
from experiments.learning.learner import Hparams, Samples, Schedule, State
from experiments.learning.options import Options

# m.
READOUT_POWER = 6.0
# Purposes of a member's key, far from those of `learner`.
READOUT, LAP = 2001, 2002
BATCH_SIZE = 100
# Epochs from one validation to the next, at most.
LAP_EPOCHS = 20
# Of competition, in an epoch.
LEAST_STEPS = 10


class Rule(NamedTuple):
  """What the methods differ in.

  Attributes:
    norm: p.
    rank: k, the place of the unit that is moved away, from 2.
    step_size: Rate of the first epoch of competition.
    nonnegative: Whether hidden weights stay at 0 or above.
  """

  norm: float = 2.0
  rank: int = 2
  step_size: float = 0.02
  nonnegative: bool = False


def compete(
  weights: ArrayLike,
  inputs: ArrayLike,
  rule: Rule,
  step_size: ArrayLike = 1.0,
  *,
  inhibition: ArrayLike,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Moves the hidden weights as a batch of images tells.

  At most two units move for an image, so that a step costs little more than the
  currents do.

  Returns:
    W + step_size D / max |D| for W [units, n] and images [batch, n], with Delta
    for the inhibition; W if nothing changes. `where` tells real images [batch].

  Raises:
    ValueError: If there is no unit of the rule's rank, or it is the winner's.

  Example:
    >>> image = jnp.array([[1.0, 0.5]])
    >>> compete(jnp.eye(2), image, Rule(), inhibition=0.25).tolist()
    [[1.0, 1.0], [-0.5, 1.0]]
  """
  weights, inputs = jnp.asarray(weights), jnp.asarray(inputs)
  if not 2 <= rule.rank <= len(weights):
    raise ValueError(
      f"rank: expected a number from 2 to {len(weights)}, the number of units, "
      f"got {rule.rank}"
    )
  powers = jnp.sign(weights) * jnp.abs(weights) ** (rule.norm - 1)
  currents, units = (
    jnp.concatenate([_place(leaf, 0), _place(leaf, rule.rank - 1)])
    for leaf in jax.lax.top_k(inputs @ powers.T, rule.rank)
  )
  signs = jnp.ones(len(inputs)) if where is None else jnp.asarray(where)
  signs = jnp.concatenate([signs, -inhibition * signs]).astype(inputs.dtype)
  # A unit that moves for several images stands in as many rows, which are
  # equal: the sum of all of them.
  same = jnp.where(units[:, None] == units, signs, 0)
  moved = weights[units]
  sums = same[:, : len(inputs)] + same[:, len(inputs) :]
  change = sums @ inputs - (same @ currents)[:, None] * moved
  factor = step_size / jnp.maximum(jnp.max(jnp.abs(change)), 1e-30)
  moved += factor * change
  if rule.nonnegative:
    moved = jnp.maximum(moved, 0)
  return weights.at[units].set(moved)


def _place(ranked: jax.Array, place: int) -> jax.Array:
  """Returns a column of what `top_k` gave.

  Of a slice of that XLA for CPUs makes a sort of everything, which takes
  several times as long as the rest of a step.
  """
  chosen = jnp.arange(ranked.shape[1]) == place
  return jnp.sum(jnp.where(chosen, ranked, 0), axis=1)


def readout_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Computes the mean over images of the sum over classes of |tanh z - t|^m.

  Of logits z [batch, classes] and labels [batch]; `where` tells real images.

  Example:
    >>> float(readout_loss(jnp.zeros((2, 3)), jnp.array([0, 2])))
    3.0
  """
  outputs = jnp.tanh(jnp.asarray(logits))
  targets = 2 * jax.nn.one_hot(labels, outputs.shape[1]) - 1
  losses = jnp.sum(jnp.abs(outputs - targets) ** READOUT_POWER, axis=1)
  return jnp.mean(losses, where=where)


def schedule(options: Options) -> Schedule:
  """Returns how long a network is trained, and when it is validated."""
  parts = options.competing_epochs, options.readout_epochs
  return Schedule(sum(parts), BATCH_SIZE, math.gcd(*parts, LAP_EPOCHS))


def cost(options: Options, num_samples: int) -> int:
  """Estimates the work of one member, as `methods.cost` counts it.

  The read-out's features are made once in a lap.
  """
  planned = schedule(options)
  steps = planned.steps(num_samples)
  competing = options.competing_epochs * steps * _passes(planned, num_samples)
  laps = options.readout_epochs // planned.validate_every
  readout = options.readout_epochs * steps + laps * num_samples
  return competing * (min(BATCH_SIZE, num_samples) + 5) + readout


class _Training(NamedTuple):
  """What both parts of a training need: a member's own, and what all share."""

  network: Network
  rule: Rule
  schedule: Schedule
  competing_epochs: int
  key: jax.Array
  hparams: Hparams
  data: Samples

  def batches(
    self, purpose: int, epoch: jax.Array
  ) -> tuple[jax.Array, jax.Array | None]:
    """Draws the order of an epoch's images."""
    key = jax.random.fold_in(jax.random.fold_in(self.key, purpose), epoch)
    return streams.batches(key, len(self.data.labels), self.schedule.batch_size)


def make_learner(
  network: Network,
  stream: streams.Stream,
  schedule: Schedule,
  options: Options,
  rule: Rule,
) -> learner.Learner:
  """Makes the learner: competition first, then the read-out.

  A member's strength is Delta, its learning rate that of Adam. The objective is
  the loss of the read-out, in both parts. Images that are changed at random are
  changed anew in every lap. The network is one of `models.CompetingUnits`.
  """
  every = schedule.validate_every
  num_competing = options.competing_epochs // every
  if rule.nonnegative:
    network = nonnegative.network(network)

  def init(key: jax.Array, hparams: Hparams, _data: Samples) -> State:
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
    training = _Training(
      network, rule, schedule, options.competing_epochs, key, hparams, data
    )
    epochs = number * every + jnp.arange(every)
    state, losses = jax.lax.cond(
      number < num_competing,
      functools.partial(_compete, training),
      functools.partial(_read_out, training),
      state,
      epochs,
    )
    last_steps = (epochs + 1) * schedule.steps(len(data.labels)) - 1
    failed = learner.first_failure(losses[0], state.variables, last_steps)
    objective, train_loss = jnp.mean(losses, axis=1)
    metrics = {"objective": objective, "train_loss": train_loss}
    return state, learner.Report(metrics, failed)

  return learner.Learner(
    init=init,
    lap=lap,
    predict=learner.plain_predict(network),
    num_laps=schedule.epochs // every,
    epochs=every,
    prepare=streams.preparation(stream, network),
    first_objective=num_competing,
  )


def _compete(
  training: _Training, state: State, epochs: jax.Array
) -> tuple[State, jax.Array]:
  """Trains the hidden units for some epochs."""
  network, rule, data = training.network, training.rule, training.data
  params, batch_stats = state.variables
  # What follows is in passes over the images.
  passes = _passes(training.schedule, len(data.labels))
  num_passes = training.competing_epochs * passes
  numbers = epochs[0] * passes + jnp.arange(len(epochs) * passes)
  # The inputs of the network are images.
  inputs = data.inputs.reshape(len(data.inputs), -1).astype(jnp.float32) / 255

  def step(weights: jax.Array, item: tuple) -> tuple[jax.Array, None]:
    rate, rows, mask = item
    delta, batch = training.hparams.strength, inputs[rows]
    return compete(
      weights, batch, rule, rate, inhibition=delta, where=mask
    ), None

  def run_pass(weights: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
    rows, masks = training.batches(learner.SHUFFLE, number)
    rate = rule.step_size * (1 - number / num_passes)
    rates = jnp.full(len(rows), rate)
    return jax.lax.scan(step, weights, (rates, rows, masks))

  weights, _ = jax.lax.scan(run_pass, params["hidden"]["kernel"].T, numbers)
  params = {**params, "hidden": {"kernel": weights.T}}
  # Features are measured anew, since they have changed.
  nothing_met = jax.tree.map(jnp.zeros_like, batch_stats)
  (logits, _), batch_stats = network.apply(
    Variables(params, nothing_met), data.inputs, None
  )
  losses = jnp.repeat(_losses(logits, data.labels)[:, None], len(epochs), 1)
  return State(Variables(params, batch_stats), state.memory), losses


def _read_out(
  training: _Training, state: State, epochs: jax.Array
) -> tuple[State, jax.Array]:
  """Trains the read-out for some epochs, on features that are made once."""
  params, data = state.variables.params, training.data
  optimizer = optax.adam(training.hparams.learning_rate)
  (_, hidden), batch_stats = training.network.apply(
    state.variables, data.inputs, None
  )
  features = hidden["readout"]

  def loss_fn(
    readout: jax.Array, rows: jax.Array, mask: jax.Array | None
  ) -> tuple[jax.Array, jax.Array]:
    # Its bias stays 0.
    losses = _losses(features[rows] @ readout, data.labels[rows], mask)
    return losses[0], losses

  def step(carry: tuple, item: tuple) -> tuple[tuple, jax.Array]:
    readout, opt_state = carry
    grads, losses = jax.grad(loss_fn, has_aux=True)(readout, *item)
    updates, opt_state = optimizer.update(grads, opt_state, readout)
    return (optax.apply_updates(readout, updates), opt_state), losses

  def run_epoch(carry: Any, epoch: jax.Array) -> tuple[Any, jax.Array]:
    carry, losses = jax.lax.scan(step, carry, training.batches(READOUT, epoch))
    return carry, jnp.mean(losses, axis=0)

  start = params["readout"]["kernel"], state.memory
  (readout, opt_state), losses = jax.lax.scan(run_epoch, start, epochs)
  params = {**params, "readout": {**params["readout"], "kernel": readout}}
  return State(Variables(params, batch_stats), opt_state), losses.T


def _losses(
  logits: jax.Array, labels: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Returns the loss of the read-out, and the mean cross-entropy."""
  loss = readout_loss(logits, labels, where)
  return jnp.stack([loss, descent.cross_entropy(logits, labels, where)])


def _passes(schedule: Schedule, num_samples: int) -> int:
  """Returns how often competition passes over the images in an epoch."""
  return -(-LEAST_STEPS // schedule.steps(num_samples))
