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

What is known of the source (Kimura et al., 2018), from a note on it: this loss;
the weight `pseudo_examples.fidelity_weights`; Gaussian processes with the RBF
kernel as reference, averaged; mixtures of pairs of different labelled examples;
1,250 pseudo examples at first and 10,000 at last, in 8 periods of 25 epochs;
Nadam for the network and Adam for the pseudo examples, both from a rate of
0.02; batches of 100 (said of another experiment). Its network is a CNN of 3
layers, not described further.

What had to be chosen:

- The network is that of all other rows, and so is the rate, 0.0005. Nadam at a
  rate of 0.02 leaves LeNet-5 behind the plain network; rates from 0.0005 to
  0.002 differ little.
- The reference model, its length scales and alpha_eps, and that its uncertainty
  is the standard deviation of the predicted label: see `gaussian_process`. The
  source approximates the posterior variationally.
- Mixtures have uniformly random shares. All are drawn at the beginning, and
  later periods use more of them; new ones do not move before they were used.
- Adam begins anew whenever the pseudo examples move, for `ascent_steps` steps
  on each alone, and they are rounded to 256 levels, as images are: so a
  network's training images take a quarter of the memory.
- lambda_1 = 1, L_up = 2, L_mean = 1. A smaller lambda_1 costs accuracy with 10
  shots a class, a larger one changes little; so does any ratio of the others
  from 1 to 10.
- A step takes a batch of pseudo examples and `shots_per_step` labelled ones,
  drawn anew.
- The network is validated after each period, not after each epoch.

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
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import gaussian_process, learner, pseudo_examples
from experiments.learning.learner import Hparams, Samples, State
from experiments.learning.pseudo_examples import Period, Settings, periods

PyTree = Any

# Purposes of a member's key, far from those of `learner`.
PAIRS, SHOTS = 1001, 1002

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


class _Lesson(NamedTuple):
  """What a network learns in a period.

  Attributes:
    inputs: Pseudo examples, prepared [capacity, ...].
    targets: Class probabilities that g gives them [capacity, classes].
    weights: Their weights [capacity].
    shots: Labelled examples, prepared.
  """

  inputs: jax.Array
  targets: jax.Array
  weights: jax.Array
  shots: Samples


def schedule(settings: Settings) -> learner.Schedule:
  """Returns how long a network is trained, and when it is validated."""
  return learner.Schedule(
    epochs=settings.num_periods * settings.epochs,
    batch_size=settings.batch_size,
    validate_every=settings.epochs,
  )


def cost(settings: Settings, *, num_shots: int) -> int:
  """Estimates the work of one member, without validation.

  Args:
    settings: Sizes.
    num_shots: Labelled examples.

  Returns:
    The work in images that pass forward, as `methods.cost` counts it.
  """
  size = settings.batch_size
  images = size + min(num_shots, settings.shots_per_step)
  work = 0
  for period in periods(settings):
    steps = settings.epochs * -(-period.num_examples // size)
    blocks = settings.ascent_steps * -(-period.num_moved // size)
    work += steps * (3 * images + 5) + blocks * 5 * size
  return work


@functools.cache
def make_learner(network: Network, settings: Settings) -> learner.Learner:
  """Makes the learner, a lap of which is a period.

  Args:
    network: The network, without batch statistics.
    settings: Sizes.

  Returns:
    The learner. Its loops are as long as the period asks for: one compiled
    program serves all periods.

  Raises:
    ValueError: If a setting makes no sense.
  """
  _check(settings)
  size = settings.batch_size
  capacity = size * -(-settings.last // size)
  table = jax.tree.map(lambda *numbers: numbers, *periods(settings))

  def init(key: jax.Array, hparams: Hparams, data: Samples) -> State:
    variables = network.init(jax.random.fold_in(key, learner.INIT))
    pseudo = pseudo_examples.interpolate_pairs(
      jax.random.fold_in(key, PAIRS), data.inputs, num_examples=capacity
    )
    opt_state = _nadam(hparams).init(variables.params)
    return State(variables, Memory(opt_state, pseudo))

  def lap(
    state: State,
    number: jax.Array,
    key: jax.Array,
    hparams: Hparams,
    data: Samples,
  ) -> tuple[State, learner.Report]:
    period = jax.tree.map(
      lambda column: jnp.array(column, jnp.int32)[number],
      table,
      is_leaf=lambda node: type(node) is tuple,
    )
    return _run_period(network, settings, period, state, key, hparams, data)

  return learner.Learner(
    init=init,
    lap=lap,
    predict=learner.plain_predict(network),
    num_laps=settings.num_periods,
    epochs=settings.epochs,
    rivals=(("reference", functools.partial(classify, settings)),),
  )


def classify(settings: Settings, data: Samples, images: jax.Array) -> jax.Array:
  """Classifies by the reference models alone.

  Args:
    settings: Those of the reference model.
    data: Labelled examples of each member.
    images: Images [m, ...] that they share.

  Returns:
    Classes [members, m].
  """
  queries = pseudo_examples.points(images)

  def of_member(member: Samples) -> jax.Array:
    prediction = gaussian_process.predict_blocks(
      _fit(settings, member), queries
    )
    return jnp.argmax(prediction.probabilities, axis=1)

  return jax.lax.map(of_member, data)


def _check(settings: Settings) -> None:
  """Refuses settings that make no sense."""
  for name in ("first", "num_periods", "epochs", "batch_size"):
    if getattr(settings, name) < 1:
      raise ValueError(
        f"{name} must be at least 1, got {getattr(settings, name)}"
      )
  if settings.last < settings.first:
    raise ValueError(
      f"last must be at least first, got {settings.last} after {settings.first}"
    )


def _nadam(hparams: Hparams) -> optax.GradientTransformation:
  return optax.nadam(hparams.learning_rate)


def _fit(settings: Settings, train: Samples) -> gaussian_process.Posterior:
  """Fits the reference model of one member."""
  return gaussian_process.fit(
    pseudo_examples.points(train.inputs),
    train.labels,
    num_classes=settings.num_classes,
    alpha_eps=settings.alpha_eps,
    length_scales=settings.length_scales,
  )


class _Carry(NamedTuple):
  """What a member carries from step to step.

  Attributes:
    params: Parameters.
    opt_state: State of Nadam.
    losses: Sums over an epoch of the cross-entropy and the divergence [2].
    failed_step: Of the first loss that was not finite, -1 before.
  """

  params: PyTree
  opt_state: optax.OptState
  losses: jax.Array
  failed_step: jax.Array


def _run_period(
  network: Network,
  settings: Settings,
  period: Period,
  state: State,
  key: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[State, learner.Report]:
  """Trains one member for a period; reports the losses of its last epoch."""
  posterior = _fit(settings, data)
  pseudo = pseudo_examples.move(
    network,
    settings,
    period,
    state.variables.params,
    posterior,
    state.memory.pseudo,
    hparams.strength,
  )
  targets, weights = pseudo_examples.targets_and_weights(
    settings, period, posterior, pseudo
  )
  shots = data._replace(inputs=network.prepare(data.inputs))
  lesson = _Lesson(network.prepare(pseudo), targets, weights, shots)
  begin = _Carry(
    state.variables.params, state.memory.opt_state, jnp.zeros(2), jnp.int32(-1)
  )
  num_steps = -(-period.num_examples // settings.batch_size)

  def run_epoch(epoch: jax.Array, carry: _Carry) -> _Carry:
    return _run_epoch(
      network, settings, period, lesson, key, hparams, epoch, carry
    )

  carry = jax.lax.fori_loop(0, settings.epochs, run_epoch, begin)
  variables = Variables(carry.params, {})
  last_step = period.first_step + settings.epochs * num_steps - 1
  # What was met in a step, else what the last one left.
  failed_step = jnp.where(
    carry.failed_step >= 0,
    carry.failed_step,
    learner.first_failure(jnp.zeros(1), variables, last_step[None]),
  )
  losses = carry.losses / num_steps
  metrics = {
    "objective": settings.label_weight * losses[0] + losses[1],
    "train_loss": losses[0],
    "imitation_loss": losses[1],
  }
  state = State(variables, Memory(carry.opt_state, pseudo))
  return state, learner.Report(metrics, failed_step)


def _run_epoch(
  network: Network,
  settings: Settings,
  period: Period,
  lesson: _Lesson,
  key: jax.Array,
  hparams: Hparams,
  epoch: jax.Array,
  carry: _Carry,
) -> _Carry:
  """Trains one member for an epoch, whose losses are summed up anew."""
  size, num_shots = settings.batch_size, lesson.shots.labels.shape[0]
  number = period.number * settings.epochs + epoch
  order_key, shots_key = (
    jax.random.fold_in(jax.random.fold_in(key, purpose), number)
    for purpose in (learner.SHUFFLE, SHOTS)
  )
  places = jax.random.uniform(order_key, lesson.weights.shape)
  real = jnp.arange(places.shape[0]) < period.num_examples
  order = jnp.argsort(jnp.where(real, places, 2))
  num_steps = (period.num_examples + size - 1) // size
  first_step = period.first_step + epoch * num_steps

  def body(step: jax.Array, carry: _Carry) -> _Carry:
    rows = jax.lax.dynamic_slice_in_dim(order, step * size, size)
    step_key = jax.random.fold_in(shots_key, step)
    shots = jax.random.permutation(step_key, num_shots)
    return _step(
      network,
      settings,
      _nadam(hparams),
      carry,
      lesson,
      first_step + step,
      rows,
      step * size + jnp.arange(size) < period.num_examples,
      shots[: settings.shots_per_step],
    )

  carry = carry._replace(losses=jnp.zeros(2))
  return jax.lax.fori_loop(0, num_steps, body, carry)


def _step(
  network: Network,
  settings: Settings,
  optimizer: optax.GradientTransformation,
  carry: _Carry,
  lesson: _Lesson,
  index: jax.Array,
  rows: jax.Array,
  mask: jax.Array,
  shots: jax.Array,
) -> _Carry:
  """Takes a step and adds its cross-entropy and weighted divergence."""
  inputs = jnp.concatenate([lesson.inputs[rows], lesson.shots.inputs[shots]])

  def loss_fn(params: PyTree) -> tuple[jax.Array, jax.Array]:
    (logits, _), _ = network.apply(Variables(params, {}), inputs, None)
    divergences = optax.losses.kl_divergence(
      jax.nn.log_softmax(logits[: rows.shape[0]]), lesson.targets[rows]
    )
    imitation = jnp.mean(lesson.weights[rows] * divergences, where=mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits[rows.shape[0] :], lesson.shots.labels[shots]
    )
    cross_entropy = jnp.mean(losses)
    loss = settings.label_weight * cross_entropy + imitation
    return loss, jnp.stack([cross_entropy, imitation])

  (loss, losses), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    carry.params
  )
  updates, opt_state = optimizer.update(grads, carry.opt_state, carry.params)
  failed = ~jnp.isfinite(loss) & (carry.failed_step < 0)
  return _Carry(
    optax.apply_updates(carry.params, updates),
    opt_state,
    carry.losses + losses,
    jnp.where(failed, index, carry.failed_step),
  )
