"""Tests of experiments.attacks.gradient_sign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from experiments.architectures import networks
from experiments.attacks import gradient_sign
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
DIGITS = tiny.load_few_digits()
IMAGES, LABELS = DIGITS.test
PGD = {"num_steps": 40, "step_size": 0.01, "random": False}
WEIGHTS = GENERATOR.normal(size=(6, 3))
ROWS = GENERATOR.uniform(0.3, 0.7, size=(5, 6))
CLASSES = np.array([0, 1, 2, 1, 0])


def draw_keys():
  """Two, as many as there are members."""
  return jax.random.split(jax.random.key(0))


def fgsm(*args, epsilon):
  return gradient_sign.pgd(
    *args, epsilon=epsilon, step_size=epsilon, num_steps=1, random=False
  )


def linear_slopes(rows):
  """The gradient of a linear network's cross-entropy in closed form."""
  shares = special.softmax(rows @ WEIGHTS, axis=1)
  return (shares - np.eye(3)[CLASSES]) @ WEIGHTS.T


@pytest.mark.parametrize("epsilon", (0.0, 0.1, 0.6))
def test_fgsm_of_a_linear_network(epsilon):
  with jax.enable_x64(True):
    attacked = jax.jit(
      lambda rows, epsilon: fgsm(
        lambda x: x @ WEIGHTS, rows, CLASSES, jax.random.key(0), epsilon=epsilon
      )
    )(ROWS, epsilon)
  expected = np.clip(ROWS + epsilon * np.sign(linear_slopes(ROWS)), 0, 1)
  np.testing.assert_allclose(attacked, expected, rtol=1e-12)


def test_fgsm_of_a_network_that_is_not_linear():
  """By finite differences in float64."""
  generator = np.random.default_rng(1)
  hidden = generator.normal(size=(6, 8))
  readout = generator.normal(size=(8, 3))

  def logits_fn(rows):
    return jnp.tanh(rows @ hidden) @ readout

  def losses(rows):
    logits = np.tanh(rows @ hidden) @ readout
    return special.logsumexp(logits, axis=1) - logits[range(5), CLASSES]

  changes = 1e-6 * np.eye(6)
  slopes = np.stack(
    [losses(ROWS + change) - losses(ROWS - change) for change in changes], 1
  ) / (2 * 1e-6)
  # No sign is in doubt, and the step is not that of the linear network.
  assert np.min(np.abs(slopes)) > 1e-4
  assert np.any(np.sign(slopes) != np.sign(linear_slopes(ROWS)))
  with jax.enable_x64(True):
    found = gradient_sign.input_gradient(logits_fn, ROWS, CLASSES)
    attacked = fgsm(logits_fn, ROWS, CLASSES, jax.random.key(0), epsilon=0.1)
  np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-8)
  expected = np.clip(ROWS + 0.1 * np.sign(slopes), 0, 1)
  np.testing.assert_allclose(attacked, expected, rtol=1e-12)


@pytest.mark.parametrize("step_size,num_steps", ((0.04, 12), (0.01, 40)))
def test_pgd_of_a_linear_network_step_by_step(step_size, num_steps):
  options = {"step_size": step_size, "num_steps": num_steps, "random": False}
  with jax.enable_x64(True):
    attacked = gradient_sign.pgd(
      lambda x: x @ WEIGHTS,
      ROWS,
      CLASSES,
      jax.random.key(0),
      epsilon=0.1,
      **options,
    )
  expected = ROWS
  for _ in range(num_steps):
    moved = expected + step_size * np.sign(linear_slopes(expected))
    expected = np.clip(np.clip(moved, ROWS - 0.1, ROWS + 0.1), 0, 1)
  np.testing.assert_allclose(attacked, expected, rtol=1e-12)


def test_random_starts_lie_in_the_box():
  rows = np.float32([*ROWS, np.zeros(6), np.ones(6)])
  classes = np.append(CLASSES, (0, 1))
  options = {**PGD, "num_steps": 0, "random": True}
  starts = jax.jit(
    jax.vmap(
      lambda key: gradient_sign.pgd(
        lambda x: x @ WEIGHTS, rows, classes, key, epsilon=0.2, **options
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
  keys = draw_keys() if keys is None else keys
  attack = functools.partial(attack, **options)
  return jax.jit(
    functools.partial(gradient_sign.evaluate, NETWORK, attack=attack)
  )(members, IMAGES, LABELS, keys)


def plain(members):
  logits, _ = jax.vmap(evaluate, (0, None))(members, IMAGES)
  return np.mean(np.argmax(logits, axis=-1) == LABELS, axis=1)


def test_success_grows_with_epsilon(members):
  accuracy = {}
  pgd = functools.partial(gradient_sign.pgd, **PGD)
  for attack in (fgsm, pgd):
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
  assert np.all(accuracy[pgd] <= accuracy[fgsm])


def test_members_blocks_and_keys(members, monkeypatch):
  """Each member as by itself, whatever the blocks."""
  attacked = functools.partial(robustness, attack=fgsm, epsilon=0.02)
  whole = attacked(members).accuracy
  one = jax.tree.map(lambda leaf: leaf[1:], members)
  alone = attacked(one, keys=draw_keys()[1:]).accuracy
  np.testing.assert_allclose(alone, whole[1:], atol=1e-6)
  monkeypatch.setattr(gradient_sign, "BLOCK", 33)
  np.testing.assert_allclose(attacked(members).accuracy, whole, atol=1e-6)
  # Of images that fill the last block none counts.
  sure = {**members, "bias": np.float32([[1e3] + [0] * 9] * 2)}
  expected = np.mean(LABELS == 0)
  np.testing.assert_allclose(attacked(sure).accuracy, expected, atol=1e-6)
  start = functools.partial(
    robustness, attack=gradient_sign.pgd, epsilon=0.3, step_size=0, num_steps=0
  )
  np.testing.assert_allclose(
    start(members, random=False).accuracy, plain(members), atol=1e-6
  )
  starts = [
    start(members, keys=keys, random=True)
    for keys in (draw_keys(), draw_keys()[::-1])
  ]
  assert not np.array_equal(starts[0].accuracy, starts[1].accuracy)


def test_vanishing_gradients_are_reported(members):
  """Not as robustness: a step without direction attacks nothing."""
  # So sure that the cross-entropy of right answers underflows.
  sure = jax.tree.map(lambda leaf: 1e4 * leaf, members)
  for shares in robustness(sure, fgsm, epsilon=0.3):
    np.testing.assert_allclose(shares, plain(members), atol=0.05)


def test_lenet5_takes_what_is_attacked():
  network = networks.make(networks.Spec())
  keys = jax.random.split(jax.random.key(0), 1)
  variables = jax.jit(jax.vmap(network.init))(keys)
  attack = functools.partial(fgsm, epsilon=0.0)
  images, labels = IMAGES[:20], LABELS[:20]
  found = jax.jit(
    functools.partial(gradient_sign.evaluate, network, attack=attack)
  )(variables, images, labels, keys)
  plain = network.predict(variables, images) == labels
  np.testing.assert_allclose(found.accuracy, plain.mean(axis=1), atol=1e-6)
