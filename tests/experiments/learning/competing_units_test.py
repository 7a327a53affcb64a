"""Tests of experiments.learning.competing_units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import models, networks
from experiments.learning import competing_units, learner
from experiments.learning.competing_units import Rule
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.options import Options
from experiments.learning.streams import Augmentation, Whole
from tests.experiments import members, tiny

GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(6, 5))
INPUTS = GENERATOR.uniform(size=(8, 5))
SAMPLES = Samples(*map(jnp.asarray, tiny.load_few_digits().train))
NETWORK = networks.from_linen(
  models.CompetingUnits(20), (28, 28, 1), ("readout",), has_stats=True
)


def change_by_hand(weights, inputs, norm=2.0, rank=2, inhibition=0.4):
  """The rule image by image, in float64."""
  change = np.zeros_like(weights)
  for image in inputs:
    currents = (np.sign(weights) * np.abs(weights) ** (norm - 1)) @ image
    ranked = np.argsort(-currents)
    for i, g in ((ranked[0], 1.0), (ranked[rank - 1], -inhibition)):
      change[i] += g * (image - currents[i] * weights[i])
  return change / np.abs(change).max()


@pytest.mark.parametrize(
  "norm,rank,inhibition,nonnegative",
  ((2.0, 2, 0.4, False), (3.0, 6, 0.4, True), (2.5, 3, 0.0, False)),
)
def test_rule_is_that_of_the_definition(norm, rank, inhibition, nonnegative):
  rule = Rule(norm, rank, nonnegative=nonnegative)

  def by_hand(weights):
    change = change_by_hand(weights, INPUTS, norm, rank, inhibition)
    moved = weights + 0.3 * change
    return np.maximum(moved, 0) if nonnegative else moved

  start = np.abs(WEIGHTS) if nonnegative else WEIGHTS
  expected = by_hand(start)
  with jax.enable_x64(True):
    run = jax.jit(
      lambda w, x, where=None: competing_units.compete(
        w, x, rule, 0.3, inhibition=inhibition, where=where
      )
    )
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


@pytest.mark.parametrize("rank", (1, len(WEIGHTS) + 1))
def test_a_rank_without_a_unit_is_refused(rank):
  message = f"from 2 to {len(WEIGHTS)}, the number of units, got {rank}"
  with pytest.raises(ValueError, match=message):
    competing_units.compete(WEIGHTS, INPUTS, Rule(rank=rank), inhibition=0.4)


def test_nothing_to_learn_from_changes_nothing():
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  for inputs, where in ((0 * INPUTS, None), (INPUTS, np.zeros(8, bool))):
    same = competing_units.compete(
      weights, inputs, Rule(), inhibition=0.4, where=where
    )
    np.testing.assert_array_equal(same, weights)


def test_winners_reach_p_norm_1():
  weights = jnp.asarray(WEIGHTS, jnp.float32)
  compete = jax.jit(competing_units.compete, static_argnames="rule")
  run = functools.partial(compete, inputs=INPUTS, rule=Rule(3.0), inhibition=0)
  for step in range(2000):
    weights = run(weights, step_size=0.02 * (1 - step / 2000))
  powers = jnp.sign(weights) * jnp.abs(weights) ** 2
  winners = np.unique(np.argmax(INPUTS @ powers.T, axis=1))
  norms = np.sum(np.abs(weights) ** 3, axis=1)[winners]
  np.testing.assert_allclose(norms, 1, atol=0.01)


def test_readout_is_that_of_the_definition():
  """The loss of what the network computes, by its read-out."""
  labels, readout = np.arange(8) % 3, GENERATOR.normal(size=(6, 3))
  powers = np.maximum(INPUTS @ WEIGHTS.T, 0) ** 4.5
  hidden = 2 * powers / powers.max()
  targets = 2 * np.eye(3)[labels] - 1
  expected = np.sum(np.abs(np.tanh(hidden @ readout) - targets) ** 6, axis=1)
  with jax.enable_x64(True):
    params = {
      "hidden": {"kernel": WEIGHTS.T},
      "readout": {
        "kernel": np.pad(readout, ((0, 0), (0, 7))),
        "bias": np.zeros(10),
      },
    }
    (logits, found), met = models.CompetingUnits(6, gain=2.0).apply(
      {"params": params, "batch_stats": {"largest": np.float64(0)}},
      255 * INPUTS,
      train=True,
      mutable=["batch_stats"],
    )
    # Pixels are numbers of 32 bits.
    largest = met["batch_stats"]["largest"]
    np.testing.assert_allclose(largest, powers.max(), 1e-5)
    np.testing.assert_allclose(found["readout"], hidden, 1e-5, 1e-9)
    np.testing.assert_allclose(logits[:, :3], hidden @ readout, 1e-4, 1e-9)
    for real in (None, np.arange(8) != 5):
      loss = competing_units.readout_loss(logits[:, :3], labels, real)
      mean = np.mean(expected, where=True if real is None else real)
      np.testing.assert_allclose(loss, mean, 1e-4)


OPTIONS = Options(competing_epochs=20, readout_epochs=40)
DEMONSTRATION, EVERYTHING = Rule(), Whole()


def train(
  rule=DEMONSTRATION,
  rates=(0.01, 0.01),
  strengths=(0.4, 0.1),
  stream=EVERYTHING,
  batch_size=6,
):
  """A member and its like of another strength: states and reports by lap."""
  made = competing_units.make_learner(
    NETWORK, stream, Schedule(60, batch_size, 20), OPTIONS, rule
  )
  hparams = Hparams(jnp.array(rates), jnp.array(strengths))
  return made, *members.train_pair(made, hparams, SAMPLES)


@pytest.mark.parametrize("nonnegative", (False, True))
def test_it_learns(nonnegative):
  made, states, reports = train(Rule(nonnegative=nonnegative))
  assert (made.num_laps, made.epochs, made.first_objective) == (3, 20, 1)
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
  classes = made.predict(states[-1].variables, SAMPLES.inputs)
  assert np.all(np.mean(classes == SAMPLES.labels, axis=1) > 0.7)
  # Evaluation divides by the largest of all training images.
  last = jax.tree.map(lambda leaf: leaf[0], states[-1].variables)
  _, evaluated = NETWORK.evaluate(last, SAMPLES.inputs)
  np.testing.assert_allclose(np.max(evaluated["readout"]), 10, rtol=1e-5)
  _, one = NETWORK.evaluate(last, SAMPLES.inputs[:1])
  np.testing.assert_allclose(
    one["readout"], evaluated["readout"][:1], rtol=1e-5
  )


def test_a_lap_is_its_steps():
  """Competition by hand, in the order of the batches, with a falling rate."""
  _, states, _ = train(batch_size=25)
  weights = np.float64(states[0].variables.params["hidden"]["kernel"][0]).T
  images = np.float64(SAMPLES.inputs).reshape(60, -1) / 255
  # Three steps are a pass, and ten at least an epoch.
  for number in range(20 * 4):
    key = jax.random.fold_in(jax.random.key(3), learner.SHUFFLE)
    order = jax.random.permutation(jax.random.fold_in(key, number), 60)
    for start in (0, 25, 50):
      batch = images[np.asarray(order)[start : start + 25]]
      change = change_by_hand(weights, batch)
      weights = weights + 0.02 * (1 - number / 80) * change
  found = states[1].variables.params["hidden"]["kernel"][0].T
  np.testing.assert_allclose(found, weights, atol=1e-3)


def test_a_member_that_diverges_is_told():
  _, _, reports = train(rates=(np.inf, 0.01))
  failed = np.array([report.failed_step for report in reports])
  # In the first epoch of the read-out, after 20 of 10 steps.
  assert failed[0, 0] == -1
  assert 200 <= failed[1, 0] < 400
  np.testing.assert_array_equal(failed[:, 1], -1)


def test_random_changes_of_images_are_seen():
  kernels = [
    train(stream=Whole(Augmentation(crop=crop)))[1][1].variables.params
    for crop in (False, True)
  ]
  assert np.any(
    kernels[0]["hidden"]["kernel"] != kernels[1]["hidden"]["kernel"]
  )


def test_cost_is_that_of_its_steps():
  # 10 steps of 10 images and 5 more in an epoch, then 2 laps.
  assert competing_units.cost(OPTIONS, 10) == 20 * 10 * 15 + 40 + 2 * 10
