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
the fidelity weight (`fidelity_weights`); Gaussian processes with the RBF kernel
as reference, averaged; mixtures of pairs of different labelled examples; 1,250
pseudo examples at first and 10,000 at last, in 8 periods of 25 epochs; Nadam
for the network and Adam for the pseudo examples, both from a rate of 0.02;
batches of 100 (said of another experiment). Its network is a CNN of 3 layers,
not described further.

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

The hyper-parameter that makes a difference is `Hparams.ascent_rate`; `GRID` has
the source's value and 0, which leaves the pseudo examples where they are.

References:
  Kimura, Ghahramani, Takeuchi, Iwata, Ueda, `Few-shot learning of neural
  networks from scratch by pseudo example optimization
  <https://arxiv.org/abs/1802.03039>`_, 2018.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from experiments.architectures import models
from experiments.learning import devices, gaussian_process, training

PyTree = Any

# Purposes of a member's key, far from those of `training`.
PAIRS, SHOTS = 1001, 1002

# Values of `Hparams.ascent_rate` to choose from.
GRID = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Settings(NamedTuple):
  """Choices that decide shapes and loops, the same for all members.

  Attributes:
    first: Pseudo examples in the first period.
    last: Pseudo examples in the last period.
    num_periods: Periods, in each of which the pseudo examples stand still.
    epochs: Passes over the pseudo examples in a period.
    batch_size: Pseudo examples in a step.
    shots_per_step: Labelled examples in a step, or all if there are fewer.
    ascent_steps: Steps of the pseudo examples between two periods.
    num_classes: Classes.
    alpha_eps: Of the reference model, see `gaussian_process.fit`.
    length_scales: Of the reference model, see `gaussian_process.fit`.
    members_at_once: Members that a device trains side by side: one is fastest
      on a CPU, all on a GPU.
  """

  first: int = 1250
  last: int = 10_000
  num_periods: int = 8
  epochs: int = 25
  batch_size: int = 100
  shots_per_step: int = 25
  ascent_steps: int = 5
  num_classes: int = 10
  alpha_eps: float = 0.01
  length_scales: tuple[float, ...] = gaussian_process.LENGTH_SCALES
  members_at_once: int = 1


class Hparams(NamedTuple):
  """Numbers that may differ from member to member.

  Attributes:
    learning_rate: Nadam's, of the network.
    ascent_rate: Adam's, of the pseudo examples, in pixels from 0 to 1.
    label_weight: Weight of the labelled examples in the loss, lambda_1.
    max_weight: Weight of a pseudo example of whose class the reference model
      is sure, L_up.
    mean_weight: Weight at the mean uncertainty, L_mean.
  """

  learning_rate: ArrayLike = 5e-4
  ascent_rate: ArrayLike = 0.02
  label_weight: ArrayLike = 1.0
  max_weight: ArrayLike = 2.0
  mean_weight: ArrayLike = 1.0


class State(NamedTuple):
  """What a member carries from period to period.

  Attributes:
    network: State of the network. `best_epoch` counts epochs, though there is
      one validation a period.
    pseudo: Pseudo examples, uint8 [capacity, ...]. Later periods use more of
      them.
  """

  network: training.State
  pseudo: jax.Array


class Period(NamedTuple):
  """A stretch of training on pseudo examples that stand still.

  Attributes:
    number: Counted from 0.
    num_moved: Pseudo examples that there were before, which move first.
    num_examples: Pseudo examples that it trains on.
    first_step: Steps of the network before it.
  """

  number: ArrayLike
  num_moved: ArrayLike
  num_examples: ArrayLike
  first_step: ArrayLike


class Metrics(NamedTuple):
  """Learning curves [periods, members].

  Attributes:
    train_loss: Mean cross-entropy of the labelled examples in the last epoch
      of a period.
    imitation_loss: Mean weighted divergence of the pseudo examples in it.
    validation_accuracy: Fraction of validation images classified correctly
      after it.
  """

  train_loss: jax.Array
  imitation_loss: jax.Array
  validation_accuracy: jax.Array


class _Lesson(NamedTuple):
  """What a network learns in a period.

  Attributes:
    inputs: Pseudo examples, prepared [capacity, ...].
    targets: Class probabilities that g gives them [capacity, classes].
    weights: Their weights [capacity].
    shots: Labelled examples, prepared.
    hparams: Hyper-parameters of the member.
  """

  inputs: jax.Array
  targets: jax.Array
  weights: jax.Array
  shots: training.Samples
  hparams: Hparams


def make_hparams(learning_rate: jax.Array, ascent_rate: jax.Array) -> Hparams:
  """Makes the hyper-parameters of a population, the others as usual.

  Args:
    learning_rate: Nadam's [members].
    ascent_rate: Adam's of the pseudo examples [members].

  Returns:
    Arrays [members].
  """
  usual = Hparams(learning_rate, ascent_rate)
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(jnp.float32(leaf), learning_rate.shape), usual
  )


def schedule(settings: Settings) -> list[Period]:
  """Lists the periods, whose pseudo examples grow in equal steps.

  Args:
    settings: Sizes.

  Returns:
    The periods, of Python integers.

  Example:
    >>> [period.num_examples for period in schedule(Settings())][:4]
    [1250, 2500, 3750, 5000]
  """
  periods, moved, step = [], 0, 0
  growth = settings.last - settings.first
  for number in range(settings.num_periods):
    count = settings.first + growth * number // max(settings.num_periods - 1, 1)
    periods.append(Period(number, moved, count, step))
    moved = count
    step += settings.epochs * -(-count // settings.batch_size)
  return periods


def cost(settings: Settings, *, num_shots: int) -> int:
  """Estimates the work of one member, without validation.

  Args:
    settings: Sizes.
    num_shots: Labelled examples.

  Returns:
    The work in images that pass forward, as `simulations.cost` counts it.
  """
  size = settings.batch_size
  images = size + min(num_shots, settings.shots_per_step)
  work = 0
  for period in schedule(settings):
    steps = settings.epochs * -(-period.num_examples // size)
    blocks = settings.ascent_steps * -(-period.num_moved // size)
    work += steps * (3 * images + 5) + blocks * 5 * size
  return work


def interpolate_pairs(
  key: jax.Array, images: ArrayLike, *, num_examples: int
) -> jax.Array:
  """Mixes pairs of different images, in uniformly random shares.

  Args:
    key: A key.
    images: Images [n, ...] from 0 to 255, at least two.
    num_examples: How many mixtures to make.

  Returns:
    Mixtures uint8 [num_examples, ...].
  """
  images = jnp.asarray(images, jnp.float32)
  num_images = images.shape[0]
  first_key, second_key, share_key = jax.random.split(key, 3)
  shape = (num_examples,)
  first = jax.random.randint(first_key, shape, 0, num_images)
  distance = jax.random.randint(second_key, shape, 1, num_images)
  second = (first + distance) % num_images
  share = jax.random.uniform(share_key, shape + (1,) * (images.ndim - 1))
  mixtures = images[second] + share * (images[first] - images[second])
  return jnp.round(mixtures).astype(jnp.uint8)


def fidelity_weights(
  uncertainty: ArrayLike,
  mean_uncertainty: ArrayLike,
  *,
  max_weight: ArrayLike,
  mean_weight: ArrayLike,
) -> jax.Array:
  """Weighs pseudo examples by how far the reference model is to be trusted.

  The weight is L_up exp(-log(L_up / L_mean) s / mean s).

  Args:
    uncertainty: Predictive uncertainties s [...].
    mean_uncertainty: Their mean.
    max_weight: Weight where there is no uncertainty, L_up.
    mean_weight: Weight at the mean uncertainty, L_mean.

  Returns:
    Weights [...].

  Example:
    >>> uncertainty = jnp.array([0.0, 0.5, 1.0])
    >>> weights = fidelity_weights(
    ...   uncertainty, 0.5, max_weight=4.0, mean_weight=2.0
    ... )
    >>> weights.round(4).tolist()
    [4.0, 2.0, 1.0]
  """
  rate = jnp.log(max_weight / mean_weight) / mean_uncertainty
  return max_weight * jnp.exp(-rate * jnp.asarray(uncertainty))


def divergence(
  model: models.Model,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  pixels: jax.Array,
) -> jax.Array:
  """Measures how far a network is from the reference model.

  Args:
    model: The network.
    params: Its parameters.
    posterior: The reference model.
    pixels: Images [n, ...] in [0, 1].

  Returns:
    Kullback-Leibler divergences D(g(x) || f(x)) [n].
  """
  targets = gaussian_process.predict(posterior, _flatten(pixels)).probabilities
  logits, _ = model.apply(params, model.prepare(255 * pixels))
  return optax.losses.kl_divergence(jax.nn.log_softmax(logits), targets)


def ascend(
  model: models.Model,
  params: PyTree,
  posterior: gaussian_process.Posterior,
  images: jax.Array,
  *,
  num_steps: int,
  learning_rate: ArrayLike,
) -> jax.Array:
  """Moves pseudo examples towards where the network is wrong.

  Steps of Adam up the `divergence`, within the range of pixels.

  Args:
    model: The network.
    params: Its parameters.
    posterior: The reference model.
    images: Pseudo examples uint8 [n, ...].
    num_steps: How many steps to take.
    learning_rate: Adam's, in pixels from 0 to 1.

  Returns:
    Moved pseudo examples uint8 [n, ...].
  """
  optimizer = optax.adam(learning_rate)

  def descent(params: PyTree, pixels: jax.Array) -> jax.Array:
    return -jnp.sum(divergence(model, params, posterior, pixels))

  def step(
    _: jax.Array, carry: tuple[jax.Array, optax.OptState]
  ) -> tuple[jax.Array, optax.OptState]:
    pixels, opt_state = carry
    # Asked for the gradients of the biases too, XLA for CPUs keeps that of the
    # first layer, which otherwise it computes anew wherever it is read: a
    # third of the time.
    slopes, grads = jax.grad(descent, (0, 1))(params, pixels)
    biases = [leaf for leaf in jax.tree.leaves(slopes) if leaf.ndim == 1]
    finite = jnp.isfinite(sum(map(jnp.sum, biases)))
    updates, opt_state = optimizer.update(grads, opt_state)
    moved = jnp.clip(optax.apply_updates(pixels, updates), 0, 1)
    return jnp.where(finite, moved, pixels), opt_state

  pixels = images.astype(jnp.float32) / 255
  carry = pixels, optimizer.init(pixels)
  pixels, _ = jax.lax.fori_loop(0, num_steps, step, carry)
  return jnp.round(255 * pixels).astype(jnp.uint8)


def make_init(model: models.Model, settings: Settings) -> Callable[..., State]:
  """Makes the function that begins a population's training.

  Args:
    model: The network.
    settings: Sizes.

  Returns:
    A function of (keys [members], hparams, training samples of each member)
    that returns a `State`. Parameters begin as in `training`.
  """
  recipe = training.Recipe(
    model, lambda hparams: training.cross_entropy(model), _nadam
  )
  init_network = training.make_init(recipe)
  size = settings.batch_size
  capacity = size * -(-settings.last // size)

  def mix(key: jax.Array, images: jax.Array) -> jax.Array:
    key = jax.random.fold_in(key, PAIRS)
    return interpolate_pairs(key, images, num_examples=capacity)

  def init(keys: jax.Array, hparams: Hparams, train: training.Samples) -> State:
    pseudo = jax.vmap(mix)(keys, train.inputs)
    return State(init_network(keys, hparams), pseudo)

  return init


def make_run_period(
  model: models.Model, settings: Settings
) -> Callable[..., tuple[State, Metrics]]:
  """Makes the function that trains a population for one period.

  Args:
    model: The network.
    settings: Sizes.

  Returns:
    A function of (state, period, keys [members], hparams, training samples of
    each member, validation samples that they share) that returns (state,
    `Metrics` [members]). Its loops are as long as the period asks for: one
    compiled program serves all periods.
  """
  count_correct = training.make_count_correct(model)

  def run_period(
    state: State,
    period: Period,
    keys: jax.Array,
    hparams: Hparams,
    train: training.Samples,
    validation: training.Samples,
  ) -> tuple[State, Metrics]:
    def of_member(member: tuple) -> tuple[State, jax.Array]:
      return _run_period(model, settings, period, *member)

    state, losses = jax.lax.map(
      of_member,
      (state, keys, hparams, train),
      batch_size=settings.members_at_once,
    )
    correct = count_correct(state.network.params, validation)
    epoch = (period.number + 1) * settings.epochs
    network = jax.vmap(training.keep_best, in_axes=(0, 0, None))(
      state.network, correct, epoch
    )
    accuracy = correct / validation.labels.shape[0]
    metrics = Metrics(losses[:, 0], losses[:, 1], accuracy)
    return state._replace(network=network), metrics

  return run_period


@functools.cache
def make_train(
  model: models.Model, settings: Settings
) -> Callable[..., tuple[State, Metrics]]:
  """Makes the function that trains a population from beginning to end.

  Args:
    model: The network.
    settings: Sizes.

  Returns:
    A function of (keys [members], hparams [members], training samples of each
    member, validation samples that they share, tick) that returns (state,
    Metrics). Inputs are images, uint8 [..., n, height, width, channels]. The
    function `tick` is called after every period with (its epochs, mean
    validation accuracy). The number of members is a multiple of the number of
    devices.

  Raises:
    ValueError: If a setting makes no sense.
  """
  _check(settings)
  many, shared = devices.MEMBERS, devices.SHARED
  init = devices.spread(
    make_init(model, settings), takes=(many, many, many), gives=many
  )
  run_period = devices.spread(
    make_run_period(model, settings),
    takes=(many, shared, many, many, many, shared),
    gives=(many, many),
    donate=(0,),
  )

  def train(
    keys: jax.Array,
    hparams: Hparams,
    train: training.Samples,
    validation: training.Samples,
    tick: Callable[[int, float], None],
  ) -> tuple[State, Metrics]:
    state = init(keys, hparams, train)
    curves = []
    for period in schedule(settings):
      traced = jax.tree.map(jnp.int32, period)
      state, metrics = run_period(
        state, traced, keys, hparams, train, validation
      )
      curves.append(jax.device_get(metrics))
      tick(settings.epochs, float(curves[-1].validation_accuracy.mean()))
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *curves)

  return train


@functools.cache
def make_classify(
  settings: Settings,
) -> Callable[[training.Samples, jax.Array], jax.Array]:
  """Makes the function that classifies by the reference model alone.

  Args:
    settings: Those of the reference model.

  Returns:
    A function of (training samples of each member, images [m, ...] that they
    share) that returns classes [members, m]. The number of members is a
    multiple of the number of devices.
  """

  def classify(train: training.Samples, images: jax.Array) -> jax.Array:
    queries = _flatten(images.astype(jnp.float32) / 255)

    def of_member(member: training.Samples) -> jax.Array:
      prediction = gaussian_process.predict_blocks(
        _fit(settings, member), queries
      )
      return jnp.argmax(prediction.probabilities, axis=1)

    return jax.lax.map(of_member, train)

  many, shared = devices.MEMBERS, devices.SHARED
  return devices.spread(classify, takes=(many, shared), gives=many)


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


def _flatten(images: jax.Array) -> jax.Array:
  return images.reshape(images.shape[0], -1)


def _fit(
  settings: Settings, train: training.Samples
) -> gaussian_process.Posterior:
  """Fits the reference model of one member."""
  return gaussian_process.fit(
    _flatten(train.inputs.astype(jnp.float32) / 255),
    train.labels,
    num_classes=settings.num_classes,
    alpha_eps=settings.alpha_eps,
    length_scales=settings.length_scales,
  )


def _run_period(
  model: models.Model,
  settings: Settings,
  period: Period,
  state: State,
  key: jax.Array,
  hparams: Hparams,
  train: training.Samples,
) -> tuple[State, jax.Array]:
  """Trains one member for a period; returns the last epoch's losses [2]."""
  posterior = _fit(settings, train)
  pseudo = _move(model, settings, period, state, posterior, hparams.ascent_rate)
  targets, weights = _imitate(settings, period, pseudo, posterior, hparams)
  shots = train._replace(inputs=model.prepare(train.inputs))
  lesson = _Lesson(model.prepare(pseudo), targets, weights, shots, hparams)

  def body(
    epoch: jax.Array, carry: tuple[training.State, jax.Array]
  ) -> tuple[training.State, jax.Array]:
    network, _ = carry
    return _run_epoch(model, settings, period, network, lesson, key, epoch)

  network, losses = jax.lax.fori_loop(
    0, settings.epochs, body, (state.network, jnp.zeros(2))
  )
  return State(network, pseudo), losses


def _move(
  model: models.Model,
  settings: Settings,
  period: Period,
  state: State,
  posterior: gaussian_process.Posterior,
  learning_rate: jax.Array,
) -> jax.Array:
  """Returns the pseudo examples after those of the last period have moved."""
  size = settings.batch_size

  def body(block: jax.Array, pseudo: jax.Array) -> jax.Array:
    start = block * size
    old = jax.lax.dynamic_slice_in_dim(pseudo, start, size)
    new = ascend(
      model,
      state.network.params,
      posterior,
      old,
      num_steps=settings.ascent_steps,
      learning_rate=learning_rate,
    )
    moved = start + jnp.arange(size) < period.num_moved
    moved &= state.network.failed_step < 0
    moved = moved.reshape((size,) + (1,) * (old.ndim - 1))
    new = jnp.where(moved, new, old)
    return jax.lax.dynamic_update_slice_in_dim(pseudo, new, start, 0)

  num_blocks = (period.num_moved + size - 1) // size
  return jax.lax.fori_loop(0, num_blocks, body, state.pseudo)


def _imitate(
  settings: Settings,
  period: Period,
  pseudo: jax.Array,
  posterior: gaussian_process.Posterior,
  hparams: Hparams,
) -> tuple[jax.Array, jax.Array]:
  """Returns targets [capacity, classes] and weights [capacity]."""
  size, capacity = settings.batch_size, pseudo.shape[0]

  def body(
    block: jax.Array, whole: gaussian_process.Prediction
  ) -> gaussian_process.Prediction:
    start = block * size
    images = jax.lax.dynamic_slice_in_dim(pseudo, start, size)
    queries = _flatten(images.astype(jnp.float32) / 255)
    return jax.tree.map(
      lambda leaf, part: jax.lax.dynamic_update_slice_in_dim(
        leaf, part, start, 0
      ),
      whole,
      gaussian_process.predict(posterior, queries),
    )

  empty = gaussian_process.Prediction(
    jnp.zeros((capacity, settings.num_classes)), jnp.zeros(capacity)
  )
  num_blocks = (period.num_examples + size - 1) // size
  targets, uncertainty = jax.lax.fori_loop(0, num_blocks, body, empty)
  real = jnp.arange(capacity) < period.num_examples
  weights = fidelity_weights(
    uncertainty,
    jnp.mean(uncertainty, where=real),
    max_weight=hparams.max_weight,
    mean_weight=hparams.mean_weight,
  )
  return targets, weights


def _run_epoch(
  model: models.Model,
  settings: Settings,
  period: Period,
  network: training.State,
  lesson: _Lesson,
  key: jax.Array,
  epoch: jax.Array,
) -> tuple[training.State, jax.Array]:
  """Trains one member for an epoch of a period; returns its losses [2]."""
  size, num_shots = settings.batch_size, lesson.shots.labels.shape[0]
  number = period.number * settings.epochs + epoch
  order_key, shots_key = (
    jax.random.fold_in(jax.random.fold_in(key, purpose), number)
    for purpose in (training.SHUFFLE, SHOTS)
  )
  places = jax.random.uniform(order_key, lesson.weights.shape)
  real = jnp.arange(places.shape[0]) < period.num_examples
  order = jnp.argsort(jnp.where(real, places, 2))
  num_steps = (period.num_examples + size - 1) // size
  first_step = period.first_step + epoch * num_steps

  def body(
    step: jax.Array, carry: tuple[training.State, jax.Array]
  ) -> tuple[training.State, jax.Array]:
    network, sums = carry
    rows = jax.lax.dynamic_slice_in_dim(order, step * size, size)
    step_key = jax.random.fold_in(shots_key, step)
    shots = jax.random.permutation(step_key, num_shots)
    network, losses = _step(
      model,
      network,
      lesson,
      first_step + step,
      rows,
      step * size + jnp.arange(size) < period.num_examples,
      shots[: settings.shots_per_step],
    )
    return network, sums + losses

  network, sums = jax.lax.fori_loop(0, num_steps, body, (network, jnp.zeros(2)))
  network = training.fail_if_broken(network, first_step + num_steps - 1)
  return network, sums / num_steps


def _step(
  model: models.Model,
  network: training.State,
  lesson: _Lesson,
  index: jax.Array,
  rows: jax.Array,
  mask: jax.Array,
  shots: jax.Array,
) -> tuple[training.State, jax.Array]:
  """Takes a step; returns its cross-entropy and weighted divergence [2]."""
  inputs = jnp.concatenate([lesson.inputs[rows], lesson.shots.inputs[shots]])

  def loss_fn(params: PyTree) -> tuple[jax.Array, jax.Array]:
    logits, _ = model.apply(params, inputs)
    divergences = optax.losses.kl_divergence(
      jax.nn.log_softmax(logits[: rows.shape[0]]), lesson.targets[rows]
    )
    imitation = jnp.mean(lesson.weights[rows] * divergences, where=mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits[rows.shape[0] :], lesson.shots.labels[shots]
    )
    cross_entropy = jnp.mean(losses)
    loss = lesson.hparams.label_weight * cross_entropy + imitation
    return loss, jnp.stack([cross_entropy, imitation])

  (loss, losses), grads = jax.value_and_grad(loss_fn, has_aux=True)(
    network.params
  )
  optimizer = _nadam(lesson.hparams)
  return training.update(optimizer, network, index, loss, grads), losses
