"""Tests of experiments.learning.streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.learning import streams
from experiments.learning.learner import Samples
from tests.experiments import tiny

SEED = 7


@pytest.mark.parametrize("batch_size,steps", ((1, 10), (4, 3), (0, 1), (11, 1)))
def test_an_epoch_takes_every_sample_once(batch_size, steps):
  key = jax.random.key(SEED)
  rows, mask = streams.batches(key, 10, batch_size)
  assert rows.shape == (steps, min(batch_size or 10, 10))
  # The last batch is filled up with rows that are masked out.
  assert (mask is None) == (batch_size != 4)
  real = rows if mask is None else rows[mask]
  np.testing.assert_array_equal(
    real.reshape(-1), jax.random.permutation(jax.random.key(SEED), 10)
  )
  other, _ = streams.batches(jax.random.key(8), 10, batch_size)
  assert np.any(other != rows)


class TestShots:
  def test_members_draw_by_their_seeds(self):
    digits = datasets.load("digits")
    stream = streams.Shots(2)
    data = stream.load(digits, [5, 0])
    assert data.inputs.shape == (2, stream.num_samples(digits), 28, 28, 1)
    for place, seed in enumerate((5, 0)):
      rows = datasets.draw_shots(digits.train.labels, num_shots=2, seed=seed)
      np.testing.assert_array_equal(
        data.inputs[place], digits.train.images[rows]
      )
      np.testing.assert_array_equal(
        data.labels[place], digits.train.labels[rows]
      )

  def test_images_are_prepared_once(self):
    images = jnp.arange(2 * 784, dtype=jnp.uint8).reshape(2, 28, 28, 1)
    data = Samples(images, jnp.array([3, 4]))
    stream = streams.Shots(1)
    prepared = stream.prepare(tiny.NETWORK, data)
    batch = stream.batch(
      tiny.NETWORK, prepared, jnp.array([1]), None, jax.random.key(SEED)
    )
    np.testing.assert_array_equal(
      batch.samples.inputs, images.reshape(2, 784)[1:]
    )
    np.testing.assert_array_equal(batch.samples.labels, [4])
    assert not stream.has_converged([1.0] * 100)


class TestWhole:
  def test_images_are_prepared_batch_by_batch(self):
    digits = datasets.load("digits")
    stream = streams.Whole()
    data = stream.prepare(tiny.NETWORK, stream.load(digits, [3, 4]))
    assert data.inputs.shape == digits.train.images.shape
    rows = jnp.array([9, 2])
    data = jax.tree.map(jnp.asarray, data)
    batch = stream.batch(tiny.NETWORK, data, rows, None, jax.random.key(SEED))
    np.testing.assert_array_equal(
      batch.samples.inputs, digits.train.images[rows].reshape(2, 784)
    )

  def test_each_step_has_changes_of_its_own(self):
    data = Samples(*map(jnp.asarray, datasets.load("digits").train))
    stream = streams.Whole(streams.Augmentation(crop=True))
    one, same, other = (
      stream.batch(tiny.NETWORK, data, jnp.arange(5), None, key).samples.inputs
      for key in map(jax.random.key, (SEED, SEED, 8))
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


class TestAugment:
  IMAGES = jnp.asarray(
    np.random.default_rng(0).integers(1, 256, (200, 6, 5, 3), np.uint8)
  )

  def augmented(self, seed=0, **augmentation):
    images = jax.jit(streams.augment, static_argnums=1)(
      self.IMAGES,
      streams.Augmentation(**augmentation),
      jax.random.key(seed),
    )
    assert images.shape == self.IMAGES.shape
    assert images.dtype == jnp.uint8
    return np.asarray(images)

  def test_nothing(self):
    np.testing.assert_array_equal(self.augmented(), self.IMAGES)

  def test_flip_mirrors_about_half_of_them(self):
    images, originals = self.augmented(flip=True), np.asarray(self.IMAGES)
    same = np.all(images == originals, axis=(1, 2, 3))
    mirrored = np.all(images == originals[:, :, ::-1], axis=(1, 2, 3))
    np.testing.assert_array_equal(same, ~mirrored)
    assert 70 < mirrored.sum() < 130
    assert np.any(self.augmented(1, flip=True) != images)

  def test_crop_shifts_each_by_up_to_4_pixels(self):
    images = self.augmented(crop=True)
    padded = np.pad(self.IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = [
      [
        (row, column)
        for row in range(9)
        for column in range(9)
        if np.array_equal(
          padded[index, row : row + 6, column : column + 5], images[index]
        )
      ]
      for index in range(200)
    ]
    assert all(len(found) == 1 for found in shifts)
    for axis in (0, 1):
      assert {found[0][axis] for found in shifts} == set(range(9))


@pytest.mark.parametrize(
  "losses,patience,expected",
  (
    ([4, 3, 2, 1], 2, False),
    ([1, 1, 1], 2, True),
    ([1, 1], 2, False),
    ([9, 1, 1, 1], 2, True),
    ([1, 0.991, 0.991], 2, True),
    ([1, 0.99, 0.98], 2, False),
    # A new low that is followed by a step upwards is one.
    ([1, 0.9, 3], 2, False),
    ([1, 3, 0.9], 2, False),
    ([1, 3, 2], 2, True),
    # The lowest of all counts, however long ago it was.
    ([1, 3, 3, 3, 2], 2, True),
    ([1, 1], 1, True),
    ([1, 1, 1, 1], 0, False),
    ([], 1, False),
    ([1, np.nan, 1], 2, False),
  ),
)
def test_has_converged(losses, patience, expected):
  stream = streams.Whole(patience=patience, tolerance=0.01)
  assert stream.has_converged(losses) is expected
