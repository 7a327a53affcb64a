"""Tests of experiments.learning.imitation."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.architectures import networks
from experiments.architectures.networks import Variables
from experiments.learning import (
  gaussian_process,
  imitation,
  learner,
  pseudo_examples,
)
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Shots
from experiments.population import program
from tests.experiments import tiny

# Tests run on two devices, among which members are dealt out.
SEEDS = (0, 1, 2, 3)
DIGITS = tiny.load_digits(50)
VALIDATION = jax.tree.map(jnp.asarray, Samples(*DIGITS.validation))
# Eight, thirteen and eighteen pseudo examples; none fills its last batch.
SETTINGS = imitation.Settings(
  first=8,
  last=18,
  num_periods=3,
  epochs=5,
  batch_size=5,
  shots_per_step=4,
  ascent_steps=2,
  length_scales=(0.5, 1.0),
  label_weight=2.0,
  max_weight=1.5,
  mean_weight=0.8,
)
RATE = 0.01


def make_hparams(learning_rate=RATE, strength=0.02):
  return Hparams(
    *(
      jnp.broadcast_to(jnp.float32(value), len(SEEDS))
      for value in (learning_rate, strength)
    )
  )


def draw(seeds=SEEDS, num_shots=1):
  """The shots of each seed, as images."""
  return jax.tree.map(jnp.asarray, Shots(num_shots).load(DIGITS, seeds))


def run(
  settings=SETTINGS,
  *,
  seeds=SEEDS,
  hparams=None,
  network=tiny.NETWORK,
  num_shots=1,
  first=0,
):
  """Trains a population from a period on; carry, and curves [laps, members]."""
  made = imitation.make_learner(network, settings)
  stream = Shots(num_shots)
  # One program for all periods, whichever is the first.
  programs = program.make(made, stream, 1)
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = make_hparams() if hparams is None else hparams
  data = draw(seeds, num_shots)
  carry, curves = programs.init(keys, hparams, data), []
  for lap in range(first, made.num_laps):
    carry, metrics = programs.run(
      carry,
      np.int32(lap),
      keys,
      hparams,
      np.ones(len(seeds), bool),
      programs.prepare(data),
      VALIDATION,
    )
    curves.append(jax.device_get(metrics))
  curves = jax.tree.map(lambda *laps: np.concatenate(laps), *curves)
  return jax.device_get(carry), curves


@functools.cache
def healthy():
  """What becomes of members that do not fail."""
  return run()


def init_params(seed):
  key = jax.random.fold_in(jax.random.key(seed), learner.INIT)
  return tiny.NETWORK.init(key).params


def pick(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, rtol=1e-4, atol=1e-5):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    actual,
    expected,
  )


def pixels_of(images):
  return jnp.asarray(images, jnp.float32).reshape(len(images), -1) / 255


@jax.jit
def fit(train):
  """The reference model of one member."""
  return gaussian_process.fit(
    pixels_of(train.inputs),
    train.labels,
    num_classes=10,
    alpha_eps=SETTINGS.alpha_eps,
    length_scales=SETTINGS.length_scales,
  )


def fit_first_member():
  return fit(pick(draw(), 0))


@jax.jit
def predict(posterior, images):
  return gaussian_process.predict(posterior, pixels_of(images))


@jax.jit
def interpolate_pairs(key, images):
  return pseudo_examples.interpolate_pairs(key, images, num_examples=20)


@functools.cache
def mixtures():
  """Pseudo examples of the first seed."""
  return interpolate_pairs(jax.random.key(5), draw().inputs[0])


def _strict_apply(variables, rows, dropout=None):
  """Breaks the network where it gets something that is no image."""
  (logits, hidden), stats = tiny.NETWORK.apply(variables, rows, dropout)
  inside = jnp.all((rows >= 0) & (rows <= 255))
  return (jnp.where(inside, logits, jnp.nan), hidden), stats


STRICT = tiny.NETWORK._replace(apply=_strict_apply)


def logits_of(params, inputs):
  (logits, _), _ = tiny.NETWORK.apply(Variables(params, {}), inputs)
  return logits


@functools.partial(jax.jit, static_argnames=("num_steps", "network"))
def ascend(
  params, posterior, images, num_steps, learning_rate, network=tiny.NETWORK
):
  return pseudo_examples.ascend(
    network,
    params,
    posterior,
    images,
    num_steps=num_steps,
    learning_rate=learning_rate,
  )


@jax.jit
def divergence(params, posterior, pixels):
  return pseudo_examples.divergence(tiny.NETWORK, params, posterior, pixels)


def test_pseudo_examples_grow_in_equal_steps():
  periods = imitation.periods(imitation.Settings())
  counts = [period.num_examples for period in periods]
  np.testing.assert_array_equal(counts, 1250 * np.arange(1, 9))
  assert [period.number for period in periods] == list(range(8))
  # What there was before moves, and only that.
  assert [period.num_moved for period in periods] == [0, *counts[:-1]]
  # A network is validated after each.
  assert imitation.schedule(imitation.Settings()) == Schedule(200, 100, 25)


@pytest.mark.parametrize(
  "sizes,counts",
  (
    ((7, 13, 3), (7, 10, 13)),
    ((7, 8, 3), (7, 7, 8)),
    ((7, 7, 2), (7, 7)),
    ((7, 9, 1), (7,)),
  ),
)
def test_growth_of_other_sizes(sizes, counts):
  names = ("first", "last", "num_periods")
  settings = SETTINGS._replace(**dict(zip(names, sizes, strict=True)))
  periods = imitation.periods(settings)
  assert tuple(period.num_examples for period in periods) == counts
  # Five epochs of batches of five.
  steps = [5 * -(-count // 5) for count in counts]
  assert [period.first_step for period in periods] == [
    sum(steps[:number]) for number in range(len(steps))
  ]


def test_mixtures_are_of_two_different_images():
  # The value of a pixel is the share of the image that has it.
  images = jnp.zeros((4, 2, 2, 1), jnp.uint8)
  images = images.reshape(4, 4).at[jnp.arange(4), jnp.arange(4)].set(255)
  mixed = pseudo_examples.interpolate_pairs(
    jax.random.key(0), images.reshape(4, 2, 2, 1), num_examples=500
  )
  assert mixed.shape == (500, 2, 2, 1)
  assert mixed.dtype == jnp.uint8
  shares = np.asarray(mixed, np.float64).reshape(500, 4)
  np.testing.assert_allclose(shares.sum(axis=1), 255, atol=1)
  num_parts = (shares > 0).sum(axis=1)
  assert num_parts.max() == 2
  # Shares are uniform: few are so small that they round to nothing.
  assert np.mean(num_parts == 2) > 0.98
  larger = shares.max(axis=1) / 255
  np.testing.assert_allclose(larger.mean(), 0.75, atol=0.03)
  pairs = {tuple(np.flatnonzero(row)) for row in shares[num_parts == 2]}
  assert len(pairs) == 6


def test_weights_at_no_and_at_mean_uncertainty():
  weights = pseudo_examples.fidelity_weights(
    jnp.array([0.0, 0.3, 0.6]), 0.3, max_weight=5.0, mean_weight=2.0
  )
  # Twice the mean uncertainty takes off the same factor once more.
  np.testing.assert_allclose(weights, (5.0, 2.0, 0.8), rtol=1e-6)


def test_equal_bounds_weigh_all_alike():
  weights = pseudo_examples.fidelity_weights(
    jnp.array([0.0, 0.3, 0.9]), 0.3, max_weight=2.0, mean_weight=2.0
  )
  np.testing.assert_allclose(weights, 2.0)


def test_divergence_is_that_of_kullback_and_leibler():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  posterior, images = fit_first_member(), mixtures()
  targets, _ = predict(posterior, images)
  logits = logits_of(params, tiny.NETWORK.prepare(images))
  targets = np.asarray(targets, np.float64)
  predictions = np.asarray(jax.nn.softmax(logits), np.float64)
  np.testing.assert_allclose(
    divergence(params, posterior, images.astype(jnp.float32) / 255),
    np.sum(targets * np.log(targets / predictions), axis=1),
    rtol=1e-4,
  )


def test_gradient_of_the_divergence_in_the_pixels():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  posterior = fit_first_member()
  pixels = mixtures()[:3].astype(jnp.float32) / 255
  grad_fn = jax.jit(
    jax.grad(lambda x: jnp.sum(divergence(params, posterior, x)))
  )
  gradient = grad_fn(pixels)
  directions = np.random.default_rng(0).normal(size=(4, *pixels.shape))
  for direction in directions.astype(np.float32):
    above, below = (
      np.sum(divergence(params, posterior, pixels + side * direction))
      for side in (1e-3, -1e-3)
    )
    slope = np.sum(gradient * direction)
    assert abs(slope) > 0.1
    np.testing.assert_allclose((above - below) / 2e-3, slope, rtol=0.02)


def test_pseudo_examples_move_uphill():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  posterior, images = fit_first_member(), mixtures()
  before = divergence(params, posterior, images.astype(jnp.float32) / 255)
  for num_steps in (1, 2):
    moved = ascend(params, posterior, images, num_steps, 0.02)
    after = divergence(params, posterior, moved.astype(jnp.float32) / 255)
    assert np.all(after > before + 0.01)
    # Adam's steps are no longer than its learning rate, here 5.1 of 255.
    distance = np.abs(np.int32(moved) - np.int32(images)).max()
    assert 3 * num_steps <= distance <= 6 * num_steps
    before = after


def test_a_step_follows_the_gradient():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  posterior, images = fit_first_member(), mixtures()
  grad_fn = jax.jit(
    jax.grad(lambda x: jnp.sum(divergence(params, posterior, x)))
  )
  signs = np.sign(grad_fn(images.astype(jnp.float32) / 255))
  moved = ascend(params, posterior, images, 1, 0.2)
  # The first step of Adam is its learning rate, here 51 of 255.
  expected = np.clip(np.float32(images) + 51 * signs, 0, 255)
  assert np.mean((expected == 0) | (expected == 255)) > 0.2
  right = np.abs(np.float32(moved) - expected) <= 1
  assert np.mean(right) > 0.999


def test_pseudo_examples_never_leave_the_range():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  arguments = params, fit_first_member(), mixtures(), 2, 0.2
  assert_equal(ascend(*arguments, network=STRICT), ascend(*arguments))


def test_pseudo_examples_of_a_broken_network_stand_still():
  params = tiny.NETWORK.init(jax.random.key(0)).params
  params["fc2"]["bias"] = params["fc2"]["bias"].at[0].set(jnp.nan)
  moved = ascend(params, fit_first_member(), mixtures(), 2, 0.02)
  assert_equal(moved, mixtures())


class Member:
  """One member, trained step by step from the formulas."""

  def __init__(self, seed, shots, hparams):
    self.key = jax.random.key(seed)
    self.shots = shots
    self.hparams = hparams
    self.optimizer = optax.nadam(hparams.learning_rate)
    self.params = init_params(seed)
    self.opt_state = self.optimizer.init(self.params)
    self.posterior = fit(shots)
    # Made for all periods at once, in whole batches.
    self.pseudo = interpolate_pairs(
      jax.random.fold_in(self.key, imitation.PAIRS), shots.inputs
    )

  def move(self, count):
    moved = ascend(
      self.params,
      self.posterior,
      self.pseudo,
      SETTINGS.ascent_steps,
      self.hparams.strength,
    )
    self.pseudo = self.pseudo.at[:count].set(moved[:count])

  def train(self, count, epoch):
    """Trains for an epoch; returns the means of both losses."""
    pseudo = self.pseudo[:count]
    targets, uncertainty = predict(self.posterior, self.pseudo)
    high, mean = SETTINGS.max_weight, SETTINGS.mean_weight
    relative = uncertainty / jnp.mean(uncertainty[:count])
    weights = high * (mean / high) ** relative
    keys = [
      jax.random.fold_in(jax.random.fold_in(self.key, purpose), epoch)
      for purpose in (learner.SHUFFLE, imitation.SHOTS)
    ]
    order = jnp.argsort(jax.random.uniform(keys[0], len(self.pseudo))[:count])
    losses = []
    for step, start in enumerate(range(0, count, SETTINGS.batch_size)):
      rows = order[start : start + SETTINGS.batch_size]
      step_key = jax.random.fold_in(keys[1], step)
      labelled = jax.random.permutation(step_key, 10)[: SETTINGS.shots_per_step]
      losses.append(
        self._step(
          (pseudo[rows], targets[rows], weights[rows]),
          pick(self.shots, labelled),
        )
      )
    return np.mean(losses, axis=0)

  def _step(self, pseudo, shots):
    grads, losses = _member_grad(self.params, pseudo, shots)
    updates, self.opt_state = self.optimizer.update(grads, self.opt_state)
    self.params = optax.apply_updates(self.params, updates)
    return losses


def _member_loss(params, pseudo, shots):
  images, targets, weights = pseudo
  logits = logits_of(params, tiny.NETWORK.prepare(images))
  logarithms = jnp.log(targets) - jax.nn.log_softmax(logits)
  imitated = jnp.mean(weights * jnp.sum(targets * logarithms, axis=1))
  logits = logits_of(params, tiny.NETWORK.prepare(shots.inputs))
  rows = jnp.arange(len(shots.labels))
  labelled = -jnp.mean(jax.nn.log_softmax(logits)[rows, shots.labels])
  loss = SETTINGS.label_weight * labelled + imitated
  return loss, jnp.stack([labelled, imitated])


_member_grad = jax.jit(jax.grad(_member_loss, has_aux=True))


@pytest.mark.slow
def test_equals_training_by_hand():
  hparams = make_hparams(strength=jnp.array([0.01, 0.02, 0.03, 0.04]))
  carry, curves = run(hparams=hparams)
  np.testing.assert_array_equal(carry.failed_step, -1)
  row = 3
  member = Member(SEEDS[row], pick(draw(), row), pick(hparams, row))
  counts, moved = [], 0
  for period, count in enumerate((8, 13, 18)):
    if moved:
      member.move(moved)
    moved = count
    for epoch in range(5 * period, 5 * period + 5):
      labelled, imitated = member.train(count, epoch)
    for name, expected in (
      ("train_loss", labelled),
      ("imitation_loss", imitated),
      ("objective", SETTINGS.label_weight * labelled + imitated),
    ):
      np.testing.assert_allclose(curves[name][period, row], expected, rtol=1e-3)
    classes = logits_of(
      member.params, tiny.NETWORK.prepare(VALIDATION.inputs)
    ).argmax(axis=-1)
    counts.append(np.sum(classes == VALIDATION.labels))
  variables, memory = pick(carry.state, row)
  assert_close(variables, Variables(member.params, {}), atol=5e-3)
  np.testing.assert_array_equal(curves["correct"][:, row], counts)
  assert carry.best_epoch[row] == 5 * (int(np.argmax(counts)) + 1)
  # Rounded to whole numbers, a pixel may fall on either side.
  difference = np.int32(memory.pseudo) - np.int32(member.pseudo)
  assert np.abs(difference).max() <= 1
  assert np.mean(difference != 0) < 0.01


def test_work_grows_with_every_size():
  work = imitation.cost(SETTINGS, num_shots=10)
  for field in ("first", "last", "epochs", "num_periods", "ascent_steps"):
    larger = SETTINGS._replace(**{field: getattr(SETTINGS, field) + 3})
    assert imitation.cost(larger, num_shots=10) > work, field
  # Two steps of four shots; more shots than a step takes make no difference.
  assert imitation.cost(SETTINGS, num_shots=100) == work
  assert imitation.cost(SETTINGS, num_shots=2) < work


def test_work_of_one_period_by_hand():
  settings = SETTINGS._replace(last=8, num_periods=1)
  # Two steps an epoch, of five pseudo examples and four shots.
  assert imitation.cost(settings, num_shots=10) == 5 * 2 * (3 * 9 + 5)


def test_members_do_not_depend_on_their_company():
  hparams = make_hparams(strength=jnp.array([0.01, 0.02, 0.03, 0.04]))
  carry, curves = run(hparams=hparams)
  order = np.array([2, 3, 1, 0])
  others, other_curves = run(
    seeds=[SEEDS[member] for member in order], hparams=pick(hparams, order)
  )
  assert_equal(others, pick(carry, order))
  assert_equal(other_curves, jax.tree.map(lambda leaf: leaf[:, order], curves))
  twice = np.array([3, 1, 3, 1])
  others, _ = run(
    seeds=[SEEDS[member] for member in twice], hparams=pick(hparams, twice)
  )
  assert_equal(others, pick(carry, twice))


# The first step's loss is as it should be, whatever the rate.
@pytest.mark.parametrize("strange", (jnp.inf, jnp.nan, 3e38))
def test_failed_member_stands_still_and_the_others_go_on(strange):
  carry, curves = run(
    hparams=make_hparams(jnp.array([RATE, strange, RATE, RATE]))
  )
  failed_step = carry.failed_step
  assert 1 <= failed_step[1] < 4
  np.testing.assert_array_equal(failed_step[[0, 2, 3]], -1)
  # Of two, three and four steps an epoch, as Adam counts them.
  adam, *_ = carry.state.memory.opt_state
  np.testing.assert_array_equal(adam.count, (45, 0, 45, 45))
  for member in (0, 2, 3):
    expected, others = (
      (
        pick(carry, member),
        jax.tree.map(lambda leaf, m=member: leaf[:, m], curves),
      )
      for carry, curves in (healthy(), (carry, curves))
    )
    assert_equal(others, expected)
  # Two programs, whose roundings may differ.
  params = pick(carry.state.variables.params, 1)
  assert_close(params, init_params(SEEDS[1]), atol=1e-6)
  # Nor do its pseudo examples move.
  pairs_key = jax.random.fold_in(jax.random.key(SEEDS[1]), imitation.PAIRS)
  assert_equal(
    carry.state.memory.pseudo[1],
    interpolate_pairs(pairs_key, draw().inputs[1]),
  )


def test_failure_in_a_later_period_has_its_global_step():
  hparams = make_hparams(jnp.array([RATE, jnp.nan, RATE, RATE]))
  carry, _ = run(hparams=hparams, first=1)
  # Five epochs of two steps come before.
  np.testing.assert_array_equal(carry.failed_step, (-1, 11, -1, -1))


def test_failure_that_no_loss_tells():
  one_step = SETTINGS._replace(first=5, last=5, num_periods=1, epochs=1)
  hparams = make_hparams(jnp.array([RATE, jnp.nan, RATE, RATE]))
  carry, curves = run(one_step, hparams=hparams)
  assert np.all(np.isfinite(curves["objective"]))
  np.testing.assert_array_equal(carry.failed_step, (-1, 0, -1, -1))


def test_network_and_reference_learn_digits():
  _, curves = healthy()
  accuracy = curves["correct"][-1] / len(VALIDATION.labels)
  assert np.all(accuracy > 0.2)
  assert np.mean(accuracy) > 0.3
  assert np.all(curves["imitation_loss"][-1] < curves["imitation_loss"][0])
  ((name, classify),) = imitation.make_learner(tiny.NETWORK, SETTINGS).rivals
  assert name == "reference"
  classes = jax.jit(classify)(draw(), VALIDATION.inputs)
  assert classes.shape == (4, len(VALIDATION.labels))
  assert np.all(np.mean(classes == VALIDATION.labels, axis=1) > 0.4)
  for member in range(len(SEEDS)):
    probabilities, _ = predict(fit(pick(draw(), member)), VALIDATION.inputs)
    np.testing.assert_array_equal(
      classes[member], jnp.argmax(probabilities, axis=1)
    )


@pytest.mark.parametrize(
  "field,value",
  (("first", 0), ("num_periods", 0), ("epochs", 0), ("batch_size", 0)),
)
def test_sizes_of_nothing_are_refused(field, value):
  with pytest.raises(ValueError, match=f"{field} must be at least 1"):
    imitation.make_learner(tiny.NETWORK, SETTINGS._replace(**{field: value}))


def test_shrinking_is_refused():
  with pytest.raises(ValueError, match="got 6 after 8"):
    imitation.make_learner(tiny.NETWORK, SETTINGS._replace(last=6))


def test_examples():
  result = doctest.testmod(pseudo_examples)
  assert result.attempted > 0
  assert result.failed == 0


@pytest.mark.slow
def test_lenet5_imitates():
  settings = imitation.Settings(
    first=50, last=100, num_periods=2, epochs=15, batch_size=50, ascent_steps=3
  )
  carry, curves = run(
    settings,
    hparams=make_hparams(learning_rate=2e-3, strength=RATE),
    network=networks.make(networks.Spec()),
    num_shots=3,
  )
  np.testing.assert_array_equal(carry.failed_step, -1)
  assert np.all(curves["correct"][-1] > 0.5 * len(VALIDATION.labels))
