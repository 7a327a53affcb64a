"""Tests of experiments.architectures.unfolded_lenet5: as LeNet5 computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import datasets
from experiments.architectures import models, networks, unfolded_lenet5
from experiments.architectures.dropout import Dropout
from experiments.architectures.networks import Variables
from tests.experiments.members import assert_close_by_leaf, pick

NUM_MEMBERS = 3
LAYERS = ("conv1", "conv2", "fc1", "fc2", "fc3")
LENET5 = networks.make(networks.Spec("lenet5"))


@pytest.fixture(scope="module")
def params():
  """Parameters of some members; drawn by NumPy, which compiles nothing."""
  shapes = jax.eval_shape(LENET5.init, jax.random.key(0)).params
  generator = np.random.default_rng(0)

  def draw(leaf):
    scale = np.prod(leaf.shape[:-1], dtype=int) ** -0.5
    size = (NUM_MEMBERS, *leaf.shape)
    return generator.uniform(-scale, scale, size).astype(np.float32)

  return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def digits():
  return datasets.load("digits").test


def noise(num_images):
  generator = np.random.default_rng(num_images)
  return generator.integers(0, 256, (num_images, 28, 28, 1), np.uint8)


def module_apply(params, images):
  return models.LeNet5().apply({"params": params}, images)


def unfolded_apply(params, images, dropout=None):
  inputs = LENET5.prepare(images)
  return LENET5.apply(Variables(params, {}), inputs, dropout)[0]


@jax.jit
def predict(params, images, dropout=None):
  return LENET5.predict(Variables(params, {}), images, dropout)


def loss_and_grads(apply):
  """Maps (params, images, labels) to (loss, (logits, hidden)), gradients.

  The loss sees the logits and all inputs of dense layers, as BEAN does.
  """

  def loss_fn(params, images, labels):
    logits, hidden = apply(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    loss = jnp.mean(losses)
    for rows in hidden.values():
      loss += jnp.mean(jnp.var(rows, axis=1))
    return loss, (logits, hidden)

  return jax.value_and_grad(loss_fn, has_aux=True)


@pytest.mark.parametrize("num_images", (1, 6))
def test_equals_module_with_gradients(num_images, params, digits):
  """Mapped over members, which have images of their own."""
  # The backgrounds of digits make all four numbers of a pooling window equal.
  images = np.concatenate([noise(3), digits.images[::90][:3]])[-num_images:]
  images = np.stack([images, images[::-1], 255 - images])
  labels = np.stack([digits.labels[i::80][:num_images] for i in range(3)])
  expected, actual = (
    jax.jit(jax.vmap(loss_and_grads(apply)))(params, images, labels)
    for apply in (module_apply, unfolded_apply)
  )
  assert set(expected[1]) == set(LAYERS)
  assert jax.tree.all(jax.tree.map(np.any, expected))
  assert_close_by_leaf(actual, expected, 1e-5)


@pytest.mark.parametrize("num_images", (1, 32, 75))
def test_predict_takes_the_largest_logit(num_images, params, digits):
  assert unfolded_lenet5.PREDICT_BLOCK == 32
  images = np.concatenate([digits.images, noise(20)])[-num_images:]
  classes = predict(params, images)
  logits, _ = jax.vmap(module_apply, in_axes=(0, None))(params, images)
  assert classes.shape == (NUM_MEMBERS, num_images)
  np.testing.assert_array_equal(classes, logits.argmax(axis=-1))
  assert num_images == 1 or len(np.unique(classes)) > 1


def test_apply_drops_what_the_module_drops(params, digits):
  images, dropout = digits.images[::90][:5], Dropout(0.4, jax.random.key(5))

  @jax.jit
  def run(params, images, dropout):
    return (
      models.LeNet5().apply({"params": params}, images, dropout),
      unfolded_apply(params, images, dropout),
    )

  expected, actual = run(pick(params, 0), images, dropout)
  assert_close_by_leaf(actual, expected, 1e-5)
  for layer, dropped in (("fc1", 0), ("fc2", 0.4), ("fc3", 0.4)):
    zeros = np.asarray(actual[1][layer] == 0)
    np.testing.assert_array_equal(zeros, expected[1][layer] == 0)
    _, (_, plain) = run(pick(params, 0), images, dropout._replace(rate=0.0))
    found = np.mean(zeros, where=np.asarray(plain[layer] > 0))
    np.testing.assert_allclose(found, dropped, atol=0.1 * (dropped > 0))


def test_predict_drops_as_often_as_the_module(params, digits):
  """Of copies of one image as many get each class, whoever draws."""
  images = np.repeat(digits.images[90][None], 960, axis=0)
  one = pick(params, 0)
  keys = jax.vmap(jax.random.key)(jnp.arange(4, dtype=jnp.uint32))
  dropout = Dropout(jnp.array([0.5, 0.5, 0.0]), keys[:3])
  classes = np.asarray(
    predict(
      jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), one), images, dropout
    )
  )
  logits, _ = models.LeNet5().apply(
    {"params": one}, images, Dropout(0.5, keys[3])
  )
  expected = np.bincount(logits.argmax(axis=-1), minlength=10)
  for row in classes[:2]:
    counts = np.bincount(row, minlength=10)
    # Otherwise dropout would hardly matter.
    assert np.sort(counts)[-2] > 50
    # Five standard deviations of a difference.
    error = 5 * np.sqrt(2 * np.maximum(expected, 1))
    assert np.all(np.abs(counts - expected) < error)
    # A draw of its own for every block of images ...
    blocks = row.reshape(-1, unfolded_lenet5.PREDICT_BLOCK)
    assert len(np.unique(blocks, axis=0)) > 0.5 * len(blocks)
  # ... and for every member; a rate of 0 drops nothing.
  assert np.any(classes[0] != classes[1])
  logits, _ = module_apply(one, images[:1])
  np.testing.assert_array_equal(classes[2], logits.argmax())


@pytest.mark.parametrize("dtype", (np.uint8, np.float32))
def test_windows_are_pixels_of_the_image(dtype):
  images = noise(2).astype(dtype)
  windows = np.asarray(jax.jit(unfolded_lenet5.prepare)(images))
  assert windows.dtype == dtype
  expected = np.zeros((2, 196, 36), dtype)
  for window, pixel in np.ndindex(expected.shape[1:]):
    row = 2 * (window // 14) + pixel // 6 - 2
    column = 2 * (window % 14) + pixel % 6 - 2
    if 0 <= row < 28 and 0 <= column < 28:
      expected[:, window, pixel] = images[:, row, column, 0]
  np.testing.assert_array_equal(windows, expected)
