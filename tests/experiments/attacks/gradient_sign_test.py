"""Tests of experiments.attacks.gradient_sign."""

import functools

import jax
import numpy as np
import pytest
from scipy import special

from experiments.architectures import networks
from experiments.attacks import gradient_sign
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
DIGITS = tiny.load_few_digits()
IMAGES, LABELS = DIGITS.test
WEIGHTS = GENERATOR.normal(size=(6, 3))
ROWS = GENERATOR.uniform(0.3, 0.7, size=(5, 6))
CLASSES = np.array([0, 1, 2, 1, 0])


def linear_slopes(rows):
  """The gradient of a linear network's cross-entropy in closed form."""
  shares = special.softmax(rows @ WEIGHTS, axis=1)
  return (shares - np.eye(3)[CLASSES]) @ WEIGHTS.T


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


# As in the literature, by default.
@pytest.mark.parametrize("options", ({"step_size": 0.04, "num_steps": 12}, {}))
def test_pgd_of_a_linear_network_step_by_step(options):
  step_size, num_steps = options.values() or (0.01, 40)
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


def evaluate(variables, images):
  """Classifies by the nearest mean of a class."""
  rows = images.reshape(len(images), -1) / 255
  return rows @ variables["kernel"] + variables["bias"], {}


NETWORK = tiny.NETWORK._replace(evaluate=evaluate)


@pytest.fixture(scope="module")
def members():
  """Two members, of different training images."""
  rows, labels = (
    DIGITS.train.images.reshape(2, 30, -1) / 255,
    DIGITS.train.labels,
  )
  means = np.float32(
    [
      [half[own == c].mean(axis=0) for c in range(10)]
      for half, own in zip(rows, labels.reshape(2, 30), strict=True)
    ]
  )
  bias = -(means**2).sum(axis=2) / 2
  return {"kernel": means.transpose(0, 2, 1), "bias": bias}


def robustness(members, attack, keys=None, **options):
  attack = functools.partial(attack, **options)
  return jax.jit(
    functools.partial(gradient_sign.evaluate, NETWORK, attack=attack)
  )(members, IMAGES, LABELS, keys=keys)


def plain(members):
  logits, _ = jax.vmap(evaluate, (0, None))(members, IMAGES)
  return np.mean(np.argmax(logits, axis=-1) == LABELS, axis=1)


def test_success_grows_with_epsilon(members):
  accuracy = {}
  for attack in (gradient_sign.fgsm, gradient_sign.pgd):
    found = [
      robustness(members, attack, epsilon=epsilon)
      for epsilon in (0.0, 0.02, 0.05, 0.3)
    ]
    np.testing.assert_array_equal([one.zero_gradients for one in found], 0)
    rows = accuracy[attack] = np.stack([one.accuracy for one in found])
    np.testing.assert_allclose(rows[0], plain(members), atol=1e-6)
    assert np.all(rows[0] > 0.4)
    assert np.all(np.diff(rows, axis=0) <= 0)
    assert np.all(rows[-1] < 0.1)
  # Many steps are no weaker than one.
  assert np.all(accuracy[gradient_sign.pgd] <= accuracy[gradient_sign.fgsm])


def test_members_blocks_and_keys(members, monkeypatch):
  """Each member as by itself, whatever the blocks."""
  fgsm = functools.partial(robustness, attack=gradient_sign.fgsm, epsilon=0.02)
  whole = fgsm(members).accuracy
  one = jax.tree.map(lambda leaf: leaf[1:], members)
  np.testing.assert_allclose(fgsm(one).accuracy, whole[1:], atol=1e-6)
  monkeypatch.setattr(gradient_sign, "BLOCK", 33)
  np.testing.assert_allclose(fgsm(members).accuracy, whole, atol=1e-6)
  # Of images that fill the last block none counts.
  sure = {**members, "bias": np.float32([[1e3] + [0] * 9] * 2)}
  expected = np.mean(LABELS == 0)
  np.testing.assert_allclose(fgsm(sure).accuracy, expected, atol=1e-6)
  keys = jax.random.split(jax.random.key(0))
  random, still = (
    robustness(members, gradient_sign.pgd, each, epsilon=0.3, num_steps=0)
    for each in (keys, None)
  )
  assert not np.array_equal(random.accuracy, still.accuracy)


def test_vanishing_gradients_are_reported(members):
  """Not as robustness: a step without direction attacks nothing."""
  # So sure that the cross-entropy of right answers underflows.
  sure = jax.tree.map(lambda leaf: 1e4 * leaf, members)
  for shares in robustness(sure, gradient_sign.fgsm, epsilon=0.3):
    np.testing.assert_allclose(shares, plain(members), atol=0.05)


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
