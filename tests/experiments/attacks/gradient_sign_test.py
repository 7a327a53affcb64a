"""Tests of experiments.attacks.gradient_sign."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.attacks import gradient_sign
from experiments.learning import methods
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Shots
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
DIGITS = tiny.load_few_digits()
IMAGES, LABELS = DIGITS.test


def shares(logits):
  """Class probabilities in NumPy."""
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


WEIGHTS = GENERATOR.normal(size=(6, 3))
ROWS = GENERATOR.uniform(0.3, 0.7, size=(5, 6))
CLASSES = np.array([0, 1, 2, 1, 0])


def linear_slopes(rows):
  """The gradient of a linear network's cross-entropy in closed form."""
  return (shares(rows @ WEIGHTS) - np.eye(3)[CLASSES]) @ WEIGHTS.T


@pytest.mark.parametrize("epsilon", (0.0, 0.1, 0.6))
def test_fgsm_of_a_linear_network(epsilon):
  with jax.enable_x64(True):
    attacked = jax.jit(
      lambda rows, epsilon: gradient_sign.fgsm(
        lambda x: x @ WEIGHTS, rows, CLASSES, epsilon=epsilon
      )
    )(ROWS, epsilon)
  expected = np.clip(ROWS + epsilon * np.sign(linear_slopes(ROWS)), 0, 1)
  np.testing.assert_allclose(attacked, expected, rtol=1e-12)


@pytest.mark.parametrize(
  "step_size, num_steps, options",
  (
    (0.04, 12, {"step_size": 0.04, "num_steps": 12}),
    # As in the literature.
    (0.01, 40, {}),
  ),
)
def test_pgd_of_a_linear_network_step_by_step(step_size, num_steps, options):
  with jax.enable_x64(True):
    attacked = gradient_sign.pgd(
      lambda x: x @ WEIGHTS, ROWS, CLASSES, epsilon=0.1, **options
    )
  expected = ROWS
  for _ in range(num_steps):
    moved = expected + step_size * np.sign(linear_slopes(expected))
    expected = np.clip(np.clip(moved, ROWS - 0.1, ROWS + 0.1), 0, 1)
  np.testing.assert_allclose(attacked, expected, rtol=1e-12)


def test_random_starts_lie_in_the_box():
  rows = np.float32([*ROWS, np.zeros(6), np.ones(6)])
  classes = np.append(CLASSES, (0, 1))
  starts = jax.jit(
    jax.vmap(
      lambda key: gradient_sign.pgd(
        lambda x: x @ WEIGHTS, rows, classes, epsilon=0.2, num_steps=0, key=key
      )
    )
  )(jax.random.split(jax.random.key(0), 500))
  low, high = np.clip(rows - 0.2, 0, 1), np.clip(rows + 0.2, 0, 1)
  assert np.all((starts >= low - 1e-6) & (starts <= high + 1e-6))
  # Uniform: mean and spread of every pixel.
  np.testing.assert_allclose(
    np.mean(starts, axis=0), (low + high) / 2, atol=0.03
  )
  np.testing.assert_allclose(
    np.std(starts, axis=0), (high - low) / 12**0.5, rtol=0.15
  )


def test_gradient_of_a_linear_network():
  with jax.enable_x64(True):
    slopes = gradient_sign.input_gradient(lambda x: x @ WEIGHTS, ROWS, CLASSES)
  np.testing.assert_allclose(slopes, linear_slopes(ROWS), rtol=1e-12)


@pytest.fixture(scope="module")
def members():
  """Two members of a small network, trained on a few digits."""
  seeds = (0, 1)
  learner = methods.learner(
    "vanilla", tiny.NETWORK, Shots(2), Schedule(60, 0, 60), methods.Options()
  )
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  data = Samples(
    jnp.asarray(DIGITS.train.images), jnp.asarray(DIGITS.train.labels)
  )
  data = learner.prepare(data)
  hparams = Hparams(jnp.float32(0.02), jnp.float32(0.0))

  @jax.jit
  @jax.vmap
  def train(key):
    state = learner.init(key, hparams, data)
    return learner.lap(state, jnp.int32(0), key, hparams, data)[0].variables

  return train(keys)


def robustness(members, attack, keys=None):
  return jax.jit(
    functools.partial(gradient_sign.evaluate, tiny.NETWORK, attack=attack)
  )(members, IMAGES, LABELS, keys=keys)


def test_success_grows_with_epsilon(members):
  plain = tiny.NETWORK.predict(members, IMAGES) == LABELS
  accuracy = {}
  for attack in (gradient_sign.fgsm, gradient_sign.pgd):
    found = [
      robustness(members, functools.partial(attack, epsilon=epsilon))
      for epsilon in (0.0, 0.02, 0.05, 0.3)
    ]
    np.testing.assert_array_equal([one.zero_gradients for one in found], 0)
    rows = accuracy[attack] = np.stack([one.accuracy for one in found])
    np.testing.assert_allclose(rows[0], plain.mean(axis=1), atol=1e-6)
    assert np.all(rows[0] > 0.5)
    assert np.all(np.diff(rows, axis=0) <= 0)
    assert np.all(rows[-1] < 0.1)
  # Many steps are no weaker than one.
  assert np.all(accuracy[gradient_sign.pgd] <= accuracy[gradient_sign.fgsm])


def test_members_blocks_and_keys(members, monkeypatch):
  """Each member as by itself, whatever the blocks."""
  attack = functools.partial(gradient_sign.fgsm, epsilon=0.05)
  whole = robustness(members, attack)
  monkeypatch.setattr(gradient_sign, "BLOCK", 33)
  blocks = robustness(members, attack)
  np.testing.assert_allclose(whole.accuracy, blocks.accuracy, atol=1e-6)
  one = jax.tree.map(lambda leaf: leaf[1:], members)
  alone = robustness(one, attack)
  np.testing.assert_allclose(alone.accuracy[0], whole.accuracy[1], atol=1e-6)
  started = functools.partial(gradient_sign.pgd, epsilon=0.1, num_steps=0)
  keys = jax.random.split(jax.random.key(0))
  random = robustness(members, started, keys)
  still = robustness(members, started)
  assert not np.array_equal(random.accuracy, still.accuracy)


def test_vanishing_gradients_are_reported(members):
  """Not as robustness: a step without direction attacks nothing."""
  params = members.params
  # So sure that the cross-entropy of right answers underflows.
  sure = {**params, "fc2": jax.tree.map(lambda leaf: 1e4 * leaf, params["fc2"])}
  found = robustness(
    networks.Variables(sure, {}),
    functools.partial(gradient_sign.fgsm, epsilon=0.3),
  )
  right = tiny.NETWORK.predict(members, IMAGES) == LABELS
  assert np.all(found.zero_gradients > 0.5)
  np.testing.assert_allclose(
    found.zero_gradients, right.mean(axis=1), atol=0.05
  )
  np.testing.assert_allclose(found.accuracy, found.zero_gradients, atol=0.05)


def test_lenet5_takes_what_is_attacked():
  network = networks.make(networks.Spec())
  keys = jax.random.split(jax.random.key(0), 1)
  variables = jax.jit(jax.vmap(network.init))(keys)
  attack = functools.partial(gradient_sign.fgsm, epsilon=0.0)
  images, labels = IMAGES[:20], LABELS[:20]
  found = jax.jit(
    functools.partial(gradient_sign.evaluate, network, attack=attack)
  )(variables, images, labels)
  plain = network.predict(variables, images) == labels
  np.testing.assert_allclose(found.accuracy, plain.mean(axis=1), atol=1e-6)


def test_examples_of_docstrings():
  assert doctest.testmod(gradient_sign).failed == 0
