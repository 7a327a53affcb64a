"""Which rows of a layer's batch are looked at, and which of them are real."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from bean_jax import _rows
from tests import reference

PATH = "last"
# Batch axes of an image model, of a transformer, of words by time, and one
# whose length is prime.
BATCHES = ((12,), (8, 64), (16, 7, 9), (31, 2), (1, 5))


def _init(key, num_neurons=6):
  keys = jax.random.split(key, 2)
  return {
    "first": jax.random.normal(keys[0], (3, num_neurons)),
    PATH: jax.random.normal(keys[1], (num_neurons, 4)),
  }


def _loss_fn(params, inputs):
  hidden = jnp.tanh(inputs @ params["first"])
  return jnp.mean(hidden @ params[PATH]), hidden


def _draw(batch, seed=0):
  return jax.random.normal(jax.random.key(seed), (*batch, 3))


def _penalty(params, inputs, **options):
  return bean_jax.penalties(_loss_fn, **options)(params, inputs)[1][PATH]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("at_most", (1, 5, 16, 30))
def test_every_position_is_taken_equally_often(batch, at_most):
  rows = _rows.evenly_spaced(math.prod(batch), at_most)
  assert len(rows) == len(set(rows)) == min(at_most, math.prod(batch))
  for positions, length in zip(
    np.unravel_index(rows, batch), batch, strict=True
  ):
    counts = np.bincount(positions, minlength=length)
    if len(rows) == math.prod(batch):
      assert len(set(counts)) == 1
    elif length == batch[-1]:
      # The last axis is that of the steps in a sequence.
      assert np.ptp(counts) <= 1, (counts, length)
    else:
      assert np.ptp(counts) <= 3, (counts, length)


@pytest.mark.parametrize(
  ("num_rows", "at_most"),
  tuple(itertools.product((64, 100, 999, 4096), (8, 33))),
)
def test_no_stretch_of_the_batch_is_left_out(num_rows, at_most):
  rows = _rows.evenly_spaced(num_rows, at_most)
  around = np.append(rows, rows[0] + num_rows)
  # By the three-distance theorem the gaps are at most about 2.6 mean ones.
  assert np.max(np.diff(around)) < 3 * num_rows / at_most


@pytest.mark.parametrize("at_most", (12, 40))
def test_enough_samples_are_all(at_most):
  params, inputs = _init(jax.random.key(0)), _draw((12,))
  np.testing.assert_array_equal(
    _penalty(params, inputs, samples=at_most), _penalty(params, inputs)
  )


def test_samples_estimate_the_mean_over_positions_without_bias():
  # Activations that grow along the sequence: rows of one position would tell
  # another penalty.
  params = _init(jax.random.key(0))
  inputs = _draw((32, 16)) * jnp.linspace(0.1, 2.0, 16).reshape(1, 16, 1)
  exact = _penalty(params, inputs)
  estimates = [
    _penalty(
      params, jax.random.permutation(jax.random.key(i), inputs), samples=64
    )
    for i in range(40)
  ]
  error = np.std(estimates) / math.sqrt(len(estimates))
  assert abs(np.mean(estimates) - exact) < 4 * error
  assert error < 0.02 * exact
  at_one_position = _penalty(params, inputs[:, ::16])
  assert abs(at_one_position - exact) > 0.3 * exact


def test_samples_are_those_rows_and_their_gradient():
  params, inputs = _init(jax.random.key(0)), _draw((24,))
  rows = _rows.evenly_spaced(24, 7)

  def by_hand(params):
    hidden = jnp.tanh(inputs @ params["first"])[rows]
    return bean_jax.layer_penalty(hidden, params[PATH])

  ours = jax.value_and_grad(lambda p: _penalty(p, inputs, samples=7))(params)
  expected = jax.value_and_grad(by_hand)(params)
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5),
    ours,
    expected,
  )


@pytest.mark.parametrize(
  "where", (None, np.arange(6) % 3 > 0), ids=("all", "masked")
)
def test_rows_stand_for_as_many_as_their_batch_has(where):
  # A layer that is called on 24 rows and on 6, and 5 of each are looked at.
  params, batches = _init(jax.random.key(0)), (_draw((6, 4)), 2 * _draw((6,)))

  def loss_fn(params, *batches):
    return sum(_loss_fn(params, batch)[0] for batch in batches)

  where_fn = None if where is None else lambda *_: where
  penalties_fn = bean_jax.penalties(loss_fn, samples=5, where_fn=where_fn)
  _, terms = penalties_fn(params, *batches)
  means, weights = [], []
  for batch in batches:
    num_rows = math.prod(batch.shape[:-1])
    rows = _rows.evenly_spaced(num_rows, 5)
    real = np.ones(6, bool) if where is None else where
    rows = rows[np.repeat(real, num_rows // 6)[rows]]
    hidden = np.tanh(batch @ params["first"]).reshape(num_rows, -1)[rows]
    means.append(reference.layer_penalty(hidden, params[PATH]))
    weights.append(num_rows * len(rows) / 5)
  expected = np.average(means, weights=weights)
  np.testing.assert_allclose(terms[PATH], expected, rtol=1e-5)


@pytest.mark.parametrize(
  "batch, shape",
  (((6, 4), (6,)), ((6, 4), (6, 4)), ((6, 4), (24,)), ((24,), (6, 4))),
)
@pytest.mark.parametrize("samples", (None, 10))
def test_masks_fit_the_first_axes_of_a_batch(batch, shape, samples):
  params, inputs = _init(jax.random.key(0)), _draw(batch)
  where = np.arange(math.prod(shape)).reshape(shape) % 3 > 0
  ours = _penalty(
    params, inputs, where_fn=lambda params, inputs: where, samples=samples
  )
  whole = where if where.size == 24 else np.repeat(where, 4)
  rows = np.arange(24) if samples is None else _rows.evenly_spaced(24, samples)
  hidden = np.tanh(inputs @ params["first"]).reshape(24, -1)[rows]
  expected = reference.layer_penalty(
    hidden[whole.reshape(-1)[rows]], params[PATH]
  )
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_no_real_sample_is_no_penalty():
  params, inputs = _init(jax.random.key(0)), _draw((6,))
  ours = _penalty(params, inputs, where_fn=lambda *_: np.zeros(6, bool))
  assert ours == 0


@pytest.mark.parametrize(
  "where, message",
  (
    (np.ones(5, bool), r"\[6, 4\].*\[5\]"),
    # In another order the right number of entries would mask other samples.
    (np.ones((4, 6), bool), r"\[6, 4\].*\[4, 6\]"),
    (np.bool_(True), r"\[6, 4\].*\[\]"),
    (np.ones(6, np.float32), "boolean.*float"),
  ),
)
def test_a_mask_that_does_not_fit_names_the_layer(where, message):
  params, inputs = _init(jax.random.key(0)), _draw((6, 4))
  with pytest.raises((TypeError, ValueError), match=f"'last'.*{message}"):
    _penalty(params, inputs, where_fn=lambda *_: where)


@pytest.mark.parametrize("samples", (0, -3, 2.5, True, "all"))
def test_samples_that_are_no_count(samples):
  params, inputs = _init(jax.random.key(0)), _draw((6,))
  with pytest.raises((TypeError, ValueError), match="samples must be"):
    _penalty(params, inputs, samples=samples)
