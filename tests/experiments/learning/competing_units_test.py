"""Tests of experiments.learning.competing_units."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learning import competing_units
from experiments.learning.competing_units import Settings
from experiments.learning.learner import Hparams, Samples
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(6, 5))
INPUTS = GENERATOR.uniform(size=(8, 5))
DIGITS = tiny.load_few_digits()
SAMPLES = Samples(
  jnp.asarray(DIGITS.train.images), jnp.asarray(DIGITS.train.labels)
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


@pytest.mark.parametrize(
  "norm,rank,inhibition", ((2.0, 2, 0.4), (3.0, 6, 0.4), (2.5, 3, 0.0))
)
def test_rule_is_that_of_the_definition(norm, rank, inhibition):
  expected = change_by_hand(WEIGHTS, INPUTS, norm, rank, inhibition)
  choices = {"norm": norm, "rank": rank, "inhibition": inhibition}
  with jax.enable_x64(True):
    run = jax.jit(
      lambda w, x, where=None: competing_units.compete(
        w, x, where=where, **choices
      )
    )
    np.testing.assert_allclose(run(WEIGHTS, INPUTS), expected, atol=1e-12)
    # Images that are masked out do not act.
    more = np.concatenate([INPUTS[:3], 9 * INPUTS[:2], INPUTS[3:]])
    real = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool)
    np.testing.assert_allclose(run(WEIGHTS, more, real), expected, atol=1e-12)
    members = np.stack([WEIGHTS, -WEIGHTS])
    together = jax.vmap(run, (0, None))(members, INPUTS)
    np.testing.assert_allclose(together[0], expected, atol=1e-12)
    np.testing.assert_allclose(together[1], run(-WEIGHTS, INPUTS), atol=1e-12)


def test_nothing_to_learn_from_changes_nothing():
  change = competing_units.compete(WEIGHTS, 0 * INPUTS)
  np.testing.assert_array_equal(change, 0)


@pytest.mark.parametrize("norm", (2.0, 3.0))
def test_winners_reach_p_norm_1(norm):
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  run = jax.jit(
    lambda w, rate: (
      w + rate * competing_units.compete(w, INPUTS, norm=norm, inhibition=0.0)
    )
  )
  for step in range(2000):
    weights = run(weights, 0.02 * (1 - step / 2000))
  powers = jnp.sign(weights) * jnp.abs(weights) ** (norm - 1)
  winners = np.unique(np.argmax(INPUTS @ powers.T, axis=1))
  norms = np.sum(np.abs(weights) ** norm, axis=1)[winners]
  np.testing.assert_allclose(norms, 1, atol=0.01)


def test_readout_is_that_of_the_definition():
  readout = GENERATOR.normal(size=(3, 6))
  labels = np.arange(8) % 3

  def by_hand(readout, rows):
    total = 0.0
    for row in rows:
      hidden = [max(np.dot(w, INPUTS[row]), 0.0) ** 4.5 for w in WEIGHTS]
      for a in range(3):
        c = np.tanh(0.3 * sum(readout[a, i] * h for i, h in enumerate(hidden)))
        total += abs(c - (1 if labels[row] == a else -1)) ** 6
    return total / len(rows)

  with jax.enable_x64(True):

    @jax.jit
    def run(readout, where=None):
      hidden = competing_units.features(WEIGHTS, INPUTS, power=4.5)
      return competing_units.readout_loss(
        readout, hidden, labels, gain=0.3, power=6.0, where=where
      )

    np.testing.assert_allclose(run(readout), by_hand(readout, range(8)), 1e-12)
    real = np.arange(8) != 5
    np.testing.assert_allclose(
      run(readout, real), by_hand(readout, np.flatnonzero(real)), 1e-12
    )
    slopes = jax.grad(run)(readout)
    for place in np.ndindex(readout.shape):
      step = np.zeros_like(readout)
      step[place] = 1e-6
      above, below = (
        by_hand(readout + sign * step, range(8)) for sign in (1, -1)
      )
      np.testing.assert_allclose(
        slopes[place], (above - below) / 2e-6, rtol=1e-5, atol=1e-5
      )


SMALL = Settings(
  num_units=20,
  competing_epochs=20,
  readout_epochs=40,
  lap_epochs=10,
  batch_size=25,
)


def train(settings, rates=(0.1, 0.1), strengths=(0.4, 0.1)):
  learner = competing_units.make_learner(settings)
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
  assert (learner.num_laps, learner.epochs) == (6, 10)
  hidden = [s.variables.params["hidden"]["kernel"] for s in states]
  readouts = [s.variables.params["readout"]["kernel"] for s in states]
  # First the hidden units, then the read-out, and never both.
  for lap in range(6):
    competes = lap < 2
    assert np.array_equal(hidden[lap], hidden[lap + 1]) != competes
    assert np.array_equal(readouts[lap], readouts[lap + 1]) == competes
  assert not np.array_equal(hidden[-1][0], hidden[-1][1])
  assert (np.min(hidden[0]) >= 0) == (np.min(hidden[-1]) >= 0) == nonnegative
  losses = np.array([report.metrics["objective"] for report in reports])
  # |c - t| is 1 of each class while the read-out is 0.
  np.testing.assert_allclose(losses[:2], 10, rtol=1e-6)
  assert np.all(losses[-1] < 0.6 * losses[1])
  for report in reports:
    np.testing.assert_array_equal(report.failed_step, -1)
  classes = learner.predict(states[-1].variables, SAMPLES.inputs)
  assert classes.shape == (2, 60)
  assert np.all(np.mean(classes == SAMPLES.labels, axis=1) > 0.7)


def test_a_lap_is_its_steps():
  """Competition by hand, in the order of the batches, with a falling rate."""
  learner, states, _ = train(SMALL, strengths=(0.4, 0.4))
  kernel = np.float64(states[0].variables.params["hidden"]["kernel"][0])
  weights = kernel.T
  images = np.float64(SAMPLES.inputs).reshape(60, -1) / 255
  for epoch in range(10):
    key = jax.random.fold_in(jax.random.key(3), competing_units.learner.SHUFFLE)
    key = jax.random.fold_in(key, epoch)
    order = np.asarray(jax.random.permutation(key, 60))
    for start in (0, 25, 50):
      batch = images[order[start : start + 25]]
      change = change_by_hand_fast(weights, batch)
      weights = weights + 0.02 * (1 - epoch / 20) * change
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
  _, states, reports = train(SMALL, rates=(np.inf, 0.1))
  failed = np.array([report.failed_step for report in reports])
  # In the read-out, whose first epoch ends with step 62.
  np.testing.assert_array_equal(failed[:2, 0], -1)
  assert 62 <= failed[2, 0] < 90
  np.testing.assert_array_equal(failed[:, 1], -1)


def test_defaults_are_those_of_the_demonstration():
  settings = Settings()
  assert settings[:5] == (100, 2.0, 2, 0.02, 200)
  assert settings.batch_size == 100
  assert not settings.nonnegative


@pytest.mark.parametrize(
  "change,message",
  (
    ({"rank": 1}, "rank: expected 2 to the number of units, 100, got 1"),
    ({"rank": 101}, "rank: expected 2 to the number of units, 100, got 101"),
    ({"step_size": -0.1}, "step_size: expected a finite number from 0, got -0"),
    ({"step_size": float("nan")}, "step_size: .* got nan"),
    ({"norm": 0.5}, "norm: expected a finite number from 1"),
    ({"num_units": 0}, "num_units: expected at least 1"),
    ({"readout_epochs": 30}, "readout_epochs: expected a multiple"),
    ({"batch_size": -1}, "batch_size: expected at least 0"),
  ),
)
def test_what_makes_no_sense_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    competing_units.make_learner(Settings()._replace(**change))
  if "rank" in change:
    with pytest.raises(ValueError, match="rank"):
      competing_units.compete(WEIGHTS, INPUTS, rank=change["rank"])


def test_examples_of_docstrings():
  assert doctest.testmod(competing_units).failed == 0
