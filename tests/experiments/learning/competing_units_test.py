"""Tests of experiments.learning.competing_units."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import models, networks
from experiments.learning import competing_units, competition
from experiments.learning.competing_units import Settings
from experiments.learning.learner import Hparams, Samples
from experiments.learning.streams import Augmentation, Shots, Whole
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(6, 5))
INPUTS = GENERATOR.uniform(size=(8, 5))
DIGITS = tiny.load_few_digits()
SAMPLES = Samples(
  jnp.asarray(DIGITS.train.images), jnp.asarray(DIGITS.train.labels)
)


NETWORK = networks.from_linen(
  models.CompetingUnits(20), (28, 28, 1), ("readout",), has_stats=True
)


def change_by_hand(weights, inputs, norm, rank, inhibition):
  """The rule image by image and weight by weight, in float64."""
  num_units, num_inputs = weights.shape
  change = np.zeros_like(weights)
  for image in inputs:
    currents = [
      sum(
        np.sign(weights[i, j]) * abs(weights[i, j]) ** (norm - 1) * image[j]
        for j in range(num_inputs)
      )
      for i in range(num_units)
    ]
    ranked = sorted(range(num_units), key=lambda i: -currents[i])
    for i, g in ((ranked[0], 1.0), (ranked[rank - 1], -inhibition)):
      for j in range(num_inputs):
        change[i, j] += g * (image[j] - currents[i] * weights[i, j])
  return change / np.abs(change).max()


@pytest.mark.parametrize("nonnegative", (False, True))
@pytest.mark.parametrize(
  "norm,rank,inhibition", ((2.0, 2, 0.4), (3.0, 6, 0.4), (2.5, 3, 0.0))
)
def test_rule_is_that_of_the_definition(norm, rank, inhibition, nonnegative):
  def by_hand(weights):
    change = change_by_hand(weights, INPUTS, norm, rank, inhibition)
    moved = weights + 0.3 * change
    return np.maximum(moved, 0) if nonnegative else moved

  start = np.abs(WEIGHTS) if nonnegative else WEIGHTS
  expected = by_hand(start)
  choices = {"norm": norm, "rank": rank, "inhibition": inhibition}
  with jax.enable_x64(True):
    run = jax.jit(
      lambda w, x, where=None: competition.compete(
        w, x, 0.3, where=where, nonnegative=nonnegative, **choices
      )
    )
    np.testing.assert_allclose(run(start, INPUTS), expected, atol=1e-12)
    # It does not matter in which order images and pixels come.
    images, pixels = np.arange(8)[::-1], np.arange(5)[::-1]
    mirrored = run(start[:, pixels], INPUTS[images][:, pixels])
    np.testing.assert_allclose(mirrored[:, pixels], expected, atol=1e-12)
    # Images that are masked out do not act.
    more = np.concatenate([INPUTS[:3], 9 * INPUTS[:2], INPUTS[3:]])
    real = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool)
    np.testing.assert_allclose(run(start, more, real), expected, atol=1e-12)
    members = np.stack([start, start[::-1, ::-1]])
    together = jax.vmap(run, (0, None))(members, INPUTS)
    np.testing.assert_allclose(together[0], expected, atol=1e-12)
    np.testing.assert_allclose(together[1], by_hand(members[1]), atol=1e-12)


def test_nothing_to_learn_from_changes_nothing():
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  same = competition.compete(weights, 0 * INPUTS)
  np.testing.assert_array_equal(same, weights)


def test_all_images_masked_out_change_nothing():
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  same = competition.compete(weights, INPUTS, where=np.zeros(8, bool))
  np.testing.assert_array_equal(same, weights)


@pytest.mark.parametrize("norm", (2.0, 3.0))
def test_winners_reach_p_norm_1(norm):
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  run = jax.jit(
    lambda w, rate: competition.compete(
      w, INPUTS, rate, norm=norm, inhibition=0.0
    )
  )
  for step in range(2000):
    weights = run(weights, 0.02 * (1 - step / 2000))
  powers = jnp.sign(weights) * jnp.abs(weights) ** (norm - 1)
  winners = np.unique(np.argmax(INPUTS @ powers.T, axis=1))
  norms = np.sum(np.abs(weights) ** norm, axis=1)[winners]
  np.testing.assert_allclose(norms, 1, atol=0.01)


def test_readout_is_that_of_the_definition():
  """The loss of what the network computes, by its read-out."""
  labels = np.arange(8) % 3
  weights, readout = WEIGHTS.T, GENERATOR.normal(size=(6, 3))
  largest = max(max(np.dot(w, v), 0) ** 4.5 for w in WEIGHTS for v in INPUTS)

  def by_hand(readout, rows):
    total = 0.0
    for row in rows:
      hidden = [max(np.dot(w, INPUTS[row]), 0) ** 4.5 for w in WEIGHTS]
      for a in range(3):
        z = sum(
          2 * h / largest * s
          for h, s in zip(hidden, readout[:, a], strict=True)
        )
        total += abs(np.tanh(z) - (1 if labels[row] == a else -1)) ** 6
    return total / len(rows)

  with jax.enable_x64(True):
    module = models.CompetingUnits(6, gain=2.0)
    params = {
      "hidden": {"kernel": weights},
      "readout": {
        "kernel": np.pad(readout, ((0, 0), (0, 7))),
        "bias": np.zeros(10),
      },
    }
    stats = {"largest": np.float64(0)}
    (logits, hidden), met = module.apply(
      {"params": params, "batch_stats": stats},
      255 * INPUTS,
      train=True,
      mutable=["batch_stats"],
    )
    # Pixels are numbers of 32 bits.
    np.testing.assert_allclose(met["batch_stats"]["largest"], largest, 1e-5)
    np.testing.assert_allclose(np.max(hidden["readout"]), 2, 1e-12)

    @jax.jit
    def run(readout, where=None):
      return competition.readout_loss(
        hidden["readout"] @ readout, labels, where=where
      )

    expected = by_hand(readout, range(8))
    np.testing.assert_allclose(run(readout), expected, 1e-4)
    np.testing.assert_allclose(hidden["readout"] @ readout, logits[:, :3])
    real = np.arange(8) != 5
    np.testing.assert_allclose(
      run(readout, real), by_hand(readout, np.flatnonzero(real)), 1e-4
    )


def test_evaluation_divides_by_what_training_met():
  variables = NETWORK.init(jax.random.key(0))
  images = SAMPLES.inputs[:4]
  (_, trained), stats = NETWORK.apply(variables, images, None)
  variables = variables._replace(batch_stats=stats)
  _, evaluated = NETWORK.evaluate(variables, images[:1])
  np.testing.assert_allclose(
    evaluated["readout"], trained["readout"][:1], rtol=1e-5
  )
  np.testing.assert_allclose(np.max(trained["readout"]), 10, rtol=1e-6)


SMALL = Settings(competing_epochs=20, readout_epochs=40, batch_size=6)
EVERYTHING = Whole()


def train(
  settings, rates=(0.01, 0.01), strengths=(0.4, 0.1), stream=EVERYTHING
):
  learner = competing_units.make_learner(NETWORK, stream, settings)
  # A member and its like of another strength.
  keys = jax.vmap(jax.random.key)(jnp.array([3, 3], jnp.uint32))
  hparams = Hparams(jnp.array(rates), jnp.array(strengths))
  init = jax.vmap(learner.init, (0, 0, None))
  run = jax.jit(jax.vmap(learner.lap, (0, None, 0, 0, None)))
  states, reports = [init(keys, hparams, SAMPLES)], []
  for number in range(learner.num_laps):
    state, report = run(states[-1], jnp.int32(number), keys, hparams, SAMPLES)
    states.append(state)
    reports.append(report)
  return learner, states, reports


@pytest.mark.parametrize("nonnegative", (False, True))
def test_it_learns(nonnegative):
  learner, states, reports = train(SMALL._replace(nonnegative=nonnegative))
  assert (learner.num_laps, learner.epochs) == (3, 20)
  assert learner.first_objective == 1
  hidden = [s.variables.params["hidden"]["kernel"] for s in states]
  readouts = [s.variables.params["readout"]["kernel"] for s in states]
  # First the hidden units, then the read-out, and never both.
  for lap in range(3):
    competes = lap < 1
    assert np.array_equal(hidden[lap], hidden[lap + 1]) != competes
    assert np.array_equal(readouts[lap], readouts[lap + 1]) == competes
  assert not np.array_equal(hidden[-1][0], hidden[-1][1])
  assert (np.min(hidden[0]) >= 0) == (np.min(hidden[-1]) >= 0) == nonnegative
  losses = np.array([report.metrics["objective"] for report in reports])
  entropies = np.array([report.metrics["train_loss"] for report in reports])
  # |c - t| is 1 of each class while the read-out is 0.
  np.testing.assert_allclose(losses[0], 10, rtol=1e-6)
  np.testing.assert_allclose(entropies[0], np.log(10), rtol=1e-6)
  assert np.all(losses[-1] < 0.6 * losses[0])
  assert np.all(entropies[-1] < entropies[0])
  for report in reports:
    np.testing.assert_array_equal(report.failed_step, -1)
  classes = learner.predict(states[-1].variables, SAMPLES.inputs)
  assert classes.shape == (2, 60)
  assert np.all(np.mean(classes == SAMPLES.labels, axis=1) > 0.7)
  # Of all training images.
  last = jax.tree.map(lambda leaf: leaf[0], states[-1].variables)
  _, evaluated = NETWORK.evaluate(last, SAMPLES.inputs)
  np.testing.assert_allclose(np.max(evaluated["readout"]), 10, rtol=1e-5)


def test_a_lap_is_its_steps():
  """Competition by hand, in the order of the batches, with a falling rate."""
  settings = SMALL._replace(batch_size=25)
  _, states, _ = train(settings, strengths=(0.4, 0.4))
  weights = np.float64(states[0].variables.params["hidden"]["kernel"][0]).T
  images = np.float64(SAMPLES.inputs).reshape(60, -1) / 255
  # Three steps are a pass, and ten at least an epoch.
  for number in range(20 * 4):
    key = jax.random.fold_in(jax.random.key(3), competing_units.learner.SHUFFLE)
    key = jax.random.fold_in(key, number)
    order = np.asarray(jax.random.permutation(key, 60))
    for start in (0, 25, 50):
      batch = images[order[start : start + 25]]
      change = change_by_hand_fast(weights, batch)
      weights = weights + 0.02 * (1 - number / 80) * change
  found = states[1].variables.params["hidden"]["kernel"][0].T
  np.testing.assert_allclose(found, weights, atol=1e-3)


def change_by_hand_fast(weights, inputs):
  """As `change_by_hand`, of the demonstration's settings."""
  change = np.zeros_like(weights)
  for image in inputs:
    currents = weights @ image
    ranked = np.argsort(-currents)
    for i, g in ((ranked[0], 1.0), (ranked[1], -0.4)):
      change[i] += g * (image - currents[i] * weights[i])
  return change / np.abs(change).max()


def test_a_member_that_diverges_is_told():
  _, states, reports = train(SMALL, rates=(np.inf, 0.01))
  failed = np.array([report.failed_step for report in reports])
  # In the first epoch of the read-out, after 20 of 10 steps.
  np.testing.assert_array_equal(failed[0, 0], -1)
  assert 200 <= failed[1, 0] < 400
  np.testing.assert_array_equal(failed[:, 1], -1)


def test_random_changes_of_images_are_seen():
  moved = [
    train(SMALL, stream=Whole(Augmentation(crop=crop)))[1][1]
    for crop in (False, True)
  ]
  kernels = [s.variables.params["hidden"]["kernel"] for s in moved]
  assert not np.array_equal(*kernels)


def test_defaults_are_those_of_the_demonstration():
  settings = Settings()
  assert settings[:4] == (2.0, 2, 0.02, 200)
  assert settings.batch_size == 100
  assert not settings.nonnegative
  assert models.CompetingUnits().num_units == 100


def test_cost_is_that_of_its_steps():
  settings = Settings(competing_epochs=20, readout_epochs=40)
  # 10 steps of 10 images and 5 more in an epoch, then 2 laps.
  assert competing_units.cost(settings, 10) == 20 * 10 * 15 + 40 + 2 * 10


@pytest.mark.parametrize(
  "change,message",
  (
    ({"rank": 1}, "rank: expected at least 2, got 1"),
    ({"step_size": -0.1}, "step_size: expected a finite number from 0, got -0"),
    ({"step_size": float("nan")}, "step_size: .* got nan"),
    ({"norm": 0.5}, "norm: expected a finite number from 1"),
    ({"readout_epochs": 0}, "readout_epochs: expected at least 1"),
    ({"batch_size": -1}, "batch_size: expected at least 0"),
  ),
)
def test_what_makes_no_sense_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    competing_units.make_learner(
      NETWORK, Shots(1), Settings()._replace(**change)
    )


@pytest.mark.parametrize("rank", (1, 7))
def test_places_that_no_unit_has_are_refused(rank):
  message = f"rank: expected 2 to the number of units, 6, got {rank}"
  with pytest.raises(ValueError, match=message):
    competition.compete(WEIGHTS, INPUTS, rank=rank)


def test_examples_of_docstrings():
  assert doctest.testmod(competition).failed == 0
