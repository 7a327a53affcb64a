"""Tests of experiments.learning.imitation and its pseudo examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.architectures.networks import Variables
from experiments.learning import (
  gaussian_process,
  imitation,
  learner,
  pseudo_examples,
)
from experiments.learning.learner import Hparams, Samples
from experiments.learning.options import Options
from experiments.learning.streams import Shots
from tests.experiments import members, tiny
from tests.experiments.members import assert_close, assert_equal, pick

# Tests run on two devices, among which members are dealt out.
SEEDS = (0, 1, 2, 3)
DIGITS = tiny.load_digits(50)
VALIDATION = jax.tree.map(jnp.asarray, Samples(*DIGITS.validation))
# 150, 210 and 270 pseudo examples, in 2, 3 and 3 steps of 100.
OPTIONS = Options(
  first_pseudo=150, last_pseudo=270, pseudo_periods=3, pseudo_epochs=2
)
RATE = 0.01
NETWORK = tiny.NETWORK
PARAMS = NETWORK.init(jax.random.key(0)).params


def make_hparams(learning_rate=RATE, strength=0.02):
  numbers = (learning_rate, strength)
  return Hparams(*(jnp.broadcast_to(jnp.float32(n), 4) for n in numbers))


def draw(num_shots=1):
  """The shots of each seed, as images."""
  return jax.tree.map(jnp.asarray, Shots(num_shots).load(DIGITS, SEEDS))


def run(options=OPTIONS, *, hparams=None, num_shots=1, first=0):
  """Trains a population from a period on; carry, and curves [laps, members]."""
  stream = Shots(num_shots)
  made = imitation.make_learner(
    NETWORK, stream, imitation.schedule(options), options
  )
  (*_, carry), curves = members.train(
    made,
    stream,
    draw(num_shots),
    VALIDATION,
    seeds=SEEDS,
    hparams=hparams or make_hparams(),
    # One program for all periods, whichever is the first.
    laps=(1,) * (made.num_laps - first),
    first=first,
  )
  return carry, curves


# What becomes of members that do not fail.
healthy = functools.cache(run)


@jax.jit
def fit(train):
  """The reference model of one member."""
  return gaussian_process.fit(
    pseudo_examples.points(train.inputs), train.labels, num_classes=10
  )


@jax.jit
def predict(posterior, images):
  return gaussian_process.predict(posterior, pseudo_examples.points(images))


mix = jax.jit(pseudo_examples.interpolate_pairs, static_argnames="num_examples")
divergence = jax.jit(functools.partial(pseudo_examples.divergence, NETWORK))
ascend = jax.jit(
  functools.partial(pseudo_examples.ascend, NETWORK),
  static_argnames="num_steps",
)


def logits_of(params, images):
  inputs = NETWORK.prepare(images)
  (logits, _), _ = NETWORK.apply(Variables(params, {}), inputs)
  return logits


@pytest.fixture(scope="module")
def reference():
  """The reference model of the first member, and pseudo examples."""
  first = pick(draw(), 0)
  return fit(first), mix(jax.random.key(5), first.inputs, num_examples=20)


@pytest.mark.parametrize(
  "sizes,counts,first_steps",
  (
    ((70, 130, 3), (70, 100, 130), (0, 5, 10)),
    ((70, 80, 3), (70, 75, 80), (0, 5, 10)),
    ((170, 170, 2), (170, 170), (0, 10)),
    ((70, 90, 1), (70,), (0,)),
  ),
)
def test_pseudo_examples_grow_in_equal_steps(sizes, counts, first_steps):
  periods = pseudo_examples.periods(
    Options(
      **dict(zip(Options._fields[6:9], sizes, strict=True)), pseudo_epochs=5
    )
  )
  assert periods.number.tolist() == list(range(len(counts)))
  assert tuple(periods.num_examples) == counts
  # What there was before moves, and only that.
  assert tuple(periods.num_moved) == (0, *counts[:-1])
  assert tuple(periods.num_steps) == tuple(-(-n // 100) for n in counts)
  assert tuple(periods.first_step) == first_steps


def test_mixtures_are_of_two_different_images():
  # The value of a pixel is the share of the image that has it.
  images = 255 * jnp.eye(4, dtype=jnp.uint8).reshape(4, 2, 2, 1)
  mixed = mix(jax.random.key(0), images, num_examples=500)
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


def test_divergence_is_that_of_kullback_and_leibler(reference):
  posterior, images = reference
  targets = np.asarray(predict(posterior, images)[0], np.float64)
  predictions = np.float64(jax.nn.softmax(logits_of(PARAMS, images)))
  np.testing.assert_allclose(
    divergence(PARAMS, posterior, images.astype(jnp.float32) / 255),
    np.sum(targets * np.log(targets / predictions), axis=1),
    rtol=1e-4,
  )


def test_pseudo_examples_move_uphill(reference):
  posterior, images = reference
  before = divergence(PARAMS, posterior, images.astype(jnp.float32) / 255)
  for num_steps in (1, 2):
    moved = ascend(PARAMS, posterior, images, 0.02, num_steps=num_steps)
    after = divergence(PARAMS, posterior, moved.astype(jnp.float32) / 255)
    assert np.all(after > before + 0.01)
    before = after
  # The first step of Adam is its learning rate, here 51 of 255.
  grad_fn = jax.jit(
    jax.grad(lambda x: jnp.sum(divergence(PARAMS, posterior, x)))
  )
  signs = np.sign(grad_fn(images.astype(jnp.float32) / 255))
  moved = ascend(PARAMS, posterior, images, 0.2, num_steps=1)
  expected = np.clip(np.float32(images) + 51 * signs, 0, 255)
  assert np.mean((expected == 0) | (expected == 255)) > 0.2
  right = np.abs(np.float32(moved) - expected) <= 1
  assert np.mean(right) > 0.999


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def member_grad(params, pseudo, shots):
  """Of the loss, by the formulas."""
  images, targets, weights = pseudo
  logarithms = jnp.log(targets) - jax.nn.log_softmax(logits_of(params, images))
  imitated = jnp.mean(weights * jnp.sum(targets * logarithms, axis=1))
  rows = jnp.arange(len(shots.labels))
  logits = logits_of(params, shots.inputs)
  labelled = -jnp.mean(jax.nn.log_softmax(logits)[rows, shots.labels])
  return labelled + imitated, jnp.stack([labelled, imitated])


@pytest.mark.slow
def test_equals_training_by_hand():
  hparams = make_hparams(strength=jnp.array([0.01, 0.02, 0.03, 0.04]))
  carry, curves = run(hparams=hparams, num_shots=3)
  np.testing.assert_array_equal(carry.failed_step, -1)
  row = 3
  shots, own = pick(draw(3), row), pick(hparams, row)
  key = jax.random.key(SEEDS[row])
  optimizer = optax.nadam(own.learning_rate)
  params = NETWORK.init(jax.random.fold_in(key, learner.INIT)).params
  opt_state, posterior = optimizer.init(params), fit(shots)
  # Made for all periods at once, in whole batches.
  pseudo = mix(
    jax.random.fold_in(key, imitation.PAIRS), shots.inputs, num_examples=300
  )
  correct, moved = [], 0
  for period, count in enumerate((150, 210, 270)):
    uphill = ascend(params, posterior, pseudo, own.strength)
    pseudo = pseudo.at[:moved].set(uphill[:moved])
    moved = count
    targets, uncertainty = predict(posterior, pseudo)
    weights = 2.0 * 0.5 ** (uncertainty / jnp.mean(uncertainty[:count]))
    for epoch in (2 * period, 2 * period + 1):
      order_key, shots_key = (
        jax.random.fold_in(jax.random.fold_in(key, purpose), epoch)
        for purpose in (learner.SHUFFLE, imitation.SHOTS)
      )
      order = jnp.argsort(jax.random.uniform(order_key, 300)[:count])
      losses = []
      for step, start in enumerate(range(0, count, 100)):
        rows = order[start : start + 100]
        step_key = jax.random.fold_in(shots_key, step)
        labelled = jax.random.permutation(step_key, 30)[:25]
        grads, both = member_grad(
          params,
          (pseudo[rows], targets[rows], weights[rows]),
          pick(shots, labelled),
        )
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        losses.append(both)
    labelled, imitated = np.mean(losses, axis=0)
    for name, expected in (
      ("train_loss", labelled),
      ("imitation_loss", imitated),
      ("objective", labelled + imitated),
    ):
      np.testing.assert_allclose(curves[name][period, row], expected, rtol=1e-3)
    classes = logits_of(params, VALIDATION.inputs).argmax(axis=-1)
    correct.append(np.sum(classes == VALIDATION.labels))
  variables, memory = pick(carry.state, row)
  assert_close(variables.params, params, atol=5e-3)
  np.testing.assert_array_equal(curves["correct"][:, row], correct)
  assert carry.best_epoch[row] == 2 * (int(np.argmax(correct)) + 1)
  # Rounded to whole numbers, a pixel may fall on either side.
  difference = np.int32(memory.pseudo) - np.int32(pseudo)
  assert np.abs(difference).max() <= 1
  assert np.mean(difference != 0) < 0.01


def test_cost_is_that_of_its_steps():
  # Twice 8 steps of 100 pseudo examples and all shots, and five steps of the
  # 2 and 3 blocks of 100 that move.
  ascent = 5 * (2 + 3) * 5 * 100
  for shots, at_once in ((10, 10), (100, 25)):
    expected = 2 * 8 * (3 * (100 + at_once) + 5) + ascent
    assert imitation.cost(OPTIONS, shots) == expected


# The first step's loss is as it should be, whatever the rate.
def test_failed_member_stands_still_and_the_others_go_on():
  rates = jnp.array([RATE, jnp.nan, RATE, RATE])
  carry, curves = run(hparams=make_hparams(rates))
  assert 1 <= carry.failed_step[1] < 4
  others = np.array((0, 2, 3))
  np.testing.assert_array_equal(carry.failed_step[others], -1)
  expected, expected_curves = healthy()
  assert_equal(pick(carry, others), pick(expected, others))
  assert_equal(
    *(
      jax.tree.map(lambda leaf: leaf[:, others], tree)
      for tree in (curves, expected_curves)
    )
  )
  # Two programs, whose roundings may differ.
  key = jax.random.key(SEEDS[1])
  params = NETWORK.init(jax.random.fold_in(key, learner.INIT)).params
  assert_close(pick(carry.state.variables.params, 1), params)
  # Nor do its pseudo examples move.
  pairs_key = jax.random.fold_in(key, imitation.PAIRS)
  pseudo = mix(pairs_key, draw().inputs[1], num_examples=300)
  assert_equal(carry.state.memory.pseudo[1], pseudo)


def test_failure_in_a_later_period_has_its_global_step():
  hparams = make_hparams(jnp.array([RATE, jnp.nan, RATE, RATE]))
  carry, _ = run(hparams=hparams, first=1)
  # Two epochs of two steps come before.
  np.testing.assert_array_equal(carry.failed_step, (-1, 5, -1, -1))


def test_failure_that_no_loss_tells():
  one_step = Options(
    first_pseudo=5, last_pseudo=5, pseudo_periods=1, pseudo_epochs=1
  )
  hparams = make_hparams(jnp.array([RATE, jnp.nan, RATE, RATE]))
  carry, curves = run(one_step, hparams=hparams)
  assert np.all(np.isfinite(curves["objective"]))
  np.testing.assert_array_equal(carry.failed_step, (-1, 0, -1, -1))


def test_network_and_reference_learn_digits():
  _, curves = healthy()
  assert np.mean(curves["correct"][-1] / len(VALIDATION.labels)) > 0.3
  assert np.all(curves["imitation_loss"][-1] < curves["imitation_loss"][0])
  classes = jax.jit(imitation.classify)(draw(), VALIDATION.inputs)
  assert np.all(np.mean(classes == VALIDATION.labels, axis=1) > 0.4)
  for member in range(len(SEEDS)):
    probabilities, _ = predict(fit(pick(draw(), member)), VALIDATION.inputs)
    np.testing.assert_array_equal(
      classes[member], jnp.argmax(probabilities, axis=1)
    )
