"""Tests of experiments.architectures.dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures.dropout import Dropout, drop

X = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (40, 250)), jnp.float32)


def kept(rate, *, seed=0, place=0):
  """Whether each entry was kept."""
  dropout = Dropout(rate, jax.random.key(seed))
  return np.asarray(drop(X, dropout, place=place)) > 0


def test_none_and_rate_0_change_nothing():
  assert drop(X, None, place=0) is X
  np.testing.assert_array_equal(
    drop(X, Dropout(0.0, jax.random.key(0)), place=0), X
  )


@pytest.mark.parametrize("rate", (0.1, 0.5, 0.75))
def test_fraction_and_scale(rate):
  dropped = np.asarray(drop(X, Dropout(rate, jax.random.key(0)), place=0))
  mask = dropped > 0
  # Five standard deviations of a mean of 10,000.
  error = 5 * (rate * (1 - rate) / X.size) ** 0.5
  np.testing.assert_allclose(np.mean(~mask), rate, atol=error)
  np.testing.assert_allclose(
    dropped[mask], np.asarray(X)[mask] / (1 - rate), rtol=1e-6
  )
  np.testing.assert_array_equal(dropped[~mask], 0)


def test_entries_are_independent():
  """Of a sample and of a neuron: no row and no column is dropped as one."""
  mask = kept(0.5)
  for axis in (0, 1):
    means = mask.mean(axis=axis)
    expected = 0.5 / mask.shape[axis] ** 0.5
    np.testing.assert_allclose(means.std(), expected, rtol=0.5)
  correlation = np.corrcoef(mask[:, 1:].ravel(), mask[:, :-1].ravel())[0, 1]
  assert abs(correlation) < 0.05


def test_key_and_place_decide():
  np.testing.assert_array_equal(kept(0.5), kept(0.5))
  for other in (kept(0.5, seed=1), kept(0.5, place=1)):
    # Half of the entries agree, as if by chance.
    np.testing.assert_allclose(np.mean(other == kept(0.5)), 0.5, atol=0.025)
