r"""Imitation networks: a network that learns from a Gaussian process.

A reference model g is fitted to the few labelled examples, and the network f
imitates it on pseudo examples, mixtures of pairs of the labelled ones, whose
number grows from period to period. It descends

.. math:: \frac{\lambda_1}{N_L} \sum_{(x, y)} H(y, f(x))
  + \frac{1}{N_P} \sum_x \lambda_2(x) D(g(x) \| f(x))

over labelled examples (x, y) and pseudo examples x: cross-entropy and
Kullback-Leibler divergence. Within a period the pseudo examples stand still;
between periods they ascend the same divergence, towards where the network does
not yet do as the reference does.

Known of the source (Kimura et al., 2018), from a note on it, are this loss; the
weight `pseudo_examples.fidelity_weights`; Gaussian processes with the RBF
kernel as reference, averaged; mixtures of pairs of different labelled examples;
1,250 pseudo examples at first and 10,000 at last, in 8 periods of 25 epochs;
Nadam for the network and Adam for the pseudo examples, both from a rate of
0.02; batches of 100 (said of another experiment). Its network is a CNN of 3
layers.

What had to be chosen:

- The network is that of all other rows, and so is the rate, 0.0005. Nadam at a
  rate of 0.02 leaves LeNet-5 behind the plain network; rates from 0.0005 to
  0.002 differ little.
- The reference model and its uncertainty: see `gaussian_process`. The source
  approximates the posterior variationally.
- Mixtures have uniformly random shares. All are drawn at the beginning, and
  later periods use more of them; new ones do not move before they were used.
- Adam begins anew whenever the pseudo examples move, for `ASCENT_STEPS` steps
  on each alone, and they are rounded to 256 levels, as images are: so a
  network's training images take a quarter of the memory.
- lambda_1 = 1, L_up = 2, L_mean = 1. A smaller lambda_1 costs accuracy with 10
  shots a class, a larger one changes little; so does any ratio of the others
  from 1 to 10.
- A step takes a batch of pseudo examples and `SHOTS_PER_STEP` labelled ones,
  drawn anew. The network is validated after each period.

The hyper-parameter that makes a difference is the rate of Adam, in pixels from
0 to 1, which is the method's strength; `GRID` has the source's value and 0,
which leaves the pseudo examples where they are.

References:
  Kimura, Ghahramani, Takeuchi, Iwata, Ueda, `Few-shot learning of neural
  networks from scratch by pseudo example optimization
  <https://arxiv.org/abs/1802.03039>`_, 2018.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import (
  descent,
  gaussian_process,
  learner,
  pseudo_examples,
)
from experiments.learning.learner import Hparams, Samples, Schedule, State
from experiments.learning.options import Options
from experiments.learning.pseudo_examples import BATCH_SIZE, periods
from experiments.learning.streams import Stream

PyTree = Any

# Purposes of a member's key, far from those of `learner`.
PAIRS, SHOTS = 1001, 1002
NUM_CLASSES = 10
# Labelled examples in a step, or all if there are fewer.
SHOTS_PER_STEP = 25
# Rates of Adam, of the pseudo examples, to choose from.
GRID = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Memory(NamedTuple):
  """What a member remembers beside its network.

  Attributes:
    opt_state: State of Nadam.
    pseudo: Pseudo examples, uint8 [capacity, ...]. Later periods use more of
      them.
  """

  opt_state: optax.OptState
  pseudo: jax.Array


def schedule(options: Options) -> Schedule:
  """Returns how long a network is trained: a validation after each period."""
  epochs = options.pseudo_epochs
  return Schedule(options.pseudo_periods * epochs, BATCH_SIZE, epochs)


def cost(options: Options, num_shots: int) -> int:
  """Estimates the work of one member, as `methods.cost` counts it."""
  images = BATCH_SIZE + min(num_shots, SHOTS_PER_STEP)
  planned = periods(options)
  steps = options.pseudo_epochs * np.sum(planned.num_steps)
  blocks = np.sum(-(-planned.num_moved // BATCH_SIZE))
  ascent = pseudo_examples.ASCENT_STEPS * blocks * 5 * BATCH_SIZE
  return int(steps * (3 * images + 5) + ascent)


def make_learner(
  network: Network, _stream: Stream, _schedule: Schedule, options: Options
) -> learner.Learner:
  """Makes the learner, a lap of which is a period.

  Its loops are as long as the period asks for: one compiled program serves all
  periods. The network has no batch statistics.
  """
  capacity = BATCH_SIZE * int(periods(options).num_steps[-1])

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> State:
    variables = network.init(jax.random.fold_in(key, learner.INIT))
    pseudo = pseudo_examples.interpolate_pairs(
      jax.random.fold_in(key, PAIRS), data.inputs, num_examples=capacity
    )
    opt_state = optax.nadam(hparams.learning_rate).init(variables.params)
    return State(variables, Memory(opt_state, pseudo))

  return learner.Learner(
    init=init,
    lap=functools.partial(_lap, network, options),
    predict=learner.plain_predict(network),
    num_laps=options.pseudo_periods,
    epochs=options.pseudo_epochs,
    rivals=(("reference", classify),),
  )


def classify(data: Samples, images: jax.Array) -> jax.Array:
  """Classifies images that members share by the reference models alone.

  Returns classes [members, m].
  """
  queries = pseudo_examples.points(images)

  def of_member(member: Samples) -> jax.Array:
    prediction = gaussian_process.predict_blocks(_fit(member), queries)
    return jnp.argmax(prediction.probabilities, axis=1)

  return jax.lax.map(of_member, data)


def _fit(train: Samples) -> gaussian_process.Posterior:
  """Fits the reference model of one member."""
  return gaussian_process.fit(
    pseudo_examples.points(train.inputs), train.labels, num_classes=NUM_CLASSES
  )


def _loss(
  network: Network,
  params: PyTree,
  pseudo: tuple[jax.Array, jax.Array, jax.Array],
  mask: jax.Array,
  shots: Samples,
) -> tuple[jax.Array, jax.Array]:
  """Returns what a step descends, and both of its terms [2].

  Of inputs, targets and weights of pseudo examples, of which the mask tells
  those that are real, and of labelled examples.
  """
  inputs, targets, weights = pseudo
  inputs = jnp.concatenate([inputs, shots.inputs])
  (logits, _), _ = network.apply(Variables(params, {}), inputs, None)
  divergences = optax.losses.kl_divergence(
    jax.nn.log_softmax(logits[:BATCH_SIZE]), targets
  )
  imitation = jnp.mean(weights * divergences, where=mask)
  cross_entropy = descent.cross_entropy(logits[BATCH_SIZE:], shots.labels)
  return cross_entropy + imitation, jnp.stack([cross_entropy, imitation])


# Parameters, state of Nadam, sums over an epoch of the cross-entropy and the
# divergence [2], step of the first loss that was not finite (-1 before).
_Carry = tuple[PyTree, optax.OptState, jax.Array, jax.Array]


def _lap(
  network: Network,
  options: Options,
  state: State,
  number: jax.Array,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[State, learner.Report]:
  """Trains one member for a period; reports the losses of its last epoch."""
  period = _period(options, number)
  num_epochs = options.pseudo_epochs
  (params, _), (opt_state, pseudo) = state
  posterior = _fit(data)
  pseudo = pseudo_examples.move(
    network, period, params, posterior, pseudo, hparams.strength
  )
  targets = pseudo_examples.targets_and_weights(period, posterior, pseudo)
  examples = network.prepare(pseudo), *targets
  shots = data._replace(inputs=network.prepare(data.inputs))
  optimizer = optax.nadam(hparams.learning_rate)
  grad_fn = jax.value_and_grad(functools.partial(_loss, network), has_aux=True)

  def run_epoch(epoch: jax.Array, carry: _Carry) -> _Carry:
    order_key, shots_key = _keys(key, period.number * num_epochs + epoch)
    order = _order(order_key, len(pseudo), period.num_examples)
    first_step = period.first_step + epoch * period.num_steps

    def take_step(step: jax.Array, carry: _Carry) -> _Carry:
      params, opt_state, losses, failed_step = carry
      rows, mask = _batch(order, step, period.num_examples)
      step_key = jax.random.fold_in(shots_key, step)
      labelled = jax.random.permutation(step_key, len(data.labels))
      labelled = labelled[:SHOTS_PER_STEP]
      (loss, both), grads = grad_fn(
        params,
        jax.tree.map(lambda leaf: leaf[rows], examples),
        mask,
        jax.tree.map(lambda leaf: leaf[labelled], shots),
      )
      updates, opt_state = optimizer.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      failed = ~jnp.isfinite(loss) & (failed_step < 0)
      failed_step = jnp.where(failed, first_step + step, failed_step)
      return params, opt_state, losses + both, failed_step

    params, opt_state, _, failed_step = carry
    carry = params, opt_state, jnp.zeros(2), failed_step
    return jax.lax.fori_loop(0, period.num_steps, take_step, carry)

  carry = params, opt_state, jnp.zeros(2), jnp.int32(-1)
  carry = jax.lax.fori_loop(0, num_epochs, run_epoch, carry)
  params, opt_state, losses, failed_step = carry
  variables = Variables(params, {})
  last_step = period.first_step + num_epochs * period.num_steps - 1
  # What was met in a step, else what the last one left.
  late = learner.first_failure(jnp.zeros(1), variables, last_step[None])
  failed_step = jnp.where(failed_step >= 0, failed_step, late)
  report = learner.Report(_metrics(losses / period.num_steps), failed_step)
  return State(variables, Memory(opt_state, pseudo)), report


def _period(options: Options, number: jax.Array) -> pseudo_examples.Period:
  return jax.tree.map(
    lambda column: jnp.asarray(column, jnp.int32)[number], periods(options)
  )


def _keys(key: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the keys of an epoch's order and of its labelled examples."""
  order_key, shots_key = (
    jax.random.fold_in(jax.random.fold_in(key, purpose), epoch)
    for purpose in (learner.SHUFFLE, SHOTS)
  )
  return order_key, shots_key


def _order(key: jax.Array, capacity: int, num_examples: jax.Array) -> jax.Array:
  """Returns a random order of the examples; those of later periods are last."""
  places = jax.random.uniform(key, (capacity,))
  real = jnp.arange(capacity) < num_examples
  return jnp.argsort(jnp.where(real, places, 2))


def _batch(
  order: jax.Array, step: jax.Array, num_examples: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the examples of a step, and which of them are real."""
  start = step * BATCH_SIZE
  rows = jax.lax.dynamic_slice_in_dim(order, start, BATCH_SIZE)
  return rows, start + jnp.arange(BATCH_SIZE) < num_examples


def _metrics(losses: jax.Array) -> dict[str, jax.Array]:
  cross_entropy, imitation = losses
  return {
    "objective": cross_entropy + imitation,
    "train_loss": cross_entropy,
    "imitation_loss": imitation,
  }
