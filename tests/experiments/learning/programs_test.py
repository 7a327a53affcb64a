"""Tests of experiments.learning.programs: compiled, and spread over devices."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import models
from experiments.architectures.dropout import Dropout, drop
from experiments.learning import devices, programs, training

NUM_MEMBERS = 4


def _apply(params, rows, dropout=None):
  return drop(rows, dropout, place=0) * params["scale"], {}


def _predict(params, rows, dropout=None):
  logits, _ = jax.vmap(_apply, in_axes=(0, None, 0))(params, rows, dropout)
  return logits.argmax(axis=-1)


# One parameter for each class: what compiles fastest.
MODEL = models.Model(
  init=lambda key: {"scale": jax.random.uniform(key, (3,))},
  prepare=lambda rows: rows,
  apply=_apply,
  predict=_predict,
  layers=(),
)
RECIPE = training.Recipe(
  MODEL, lambda hparams: training.cross_entropy(MODEL, hparams.strength)
)


@pytest.fixture(scope="module")
def program():
  return programs.make(RECIPE, batch_size=4, num_epochs=2)


@pytest.fixture(scope="module")
def arguments():
  """Hyper-parameters and training samples of each member, and validation."""
  generator = np.random.default_rng(0)

  def draw(*shape):
    return training.Samples(
      jnp.asarray(generator.uniform(size=(*shape, 3)), jnp.float32),
      jnp.asarray(generator.integers(0, 3, shape)),
    )

  hparams = training.Hparams(
    jnp.array([1e-3, 2e-3, 3e-3, 4e-3]), jnp.array([0.0, 0.5, 0.5, 0.1])
  )
  return hparams, draw(NUM_MEMBERS, 6), draw(50)


def train(program, arguments, order=range(NUM_MEMBERS)):
  """Trains members in some order; their state and metrics."""
  keys = jax.vmap(jax.random.key)(jnp.array(order, jnp.uint32))
  hparams, train, validation = arguments
  hparams, train = pick((hparams, train), order)
  beginning = program.init(keys, hparams)
  state, metrics = program.run_epochs(
    beginning, jnp.int32(0), keys, hparams, train, validation
  )
  # Its memory has become that of the new state.
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(beginning))
  return state, metrics


def pick(tree, order):
  return jax.tree.map(lambda leaf: leaf[jnp.array(order)], tree)


@pytest.fixture(scope="module")
def trained(program, arguments):
  return train(program, arguments)


def assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_equal_arguments_give_the_same_programs(program):
  assert programs.make(RECIPE, batch_size=4, num_epochs=2) is program
  assert program.num_epochs == 2
  for others in (
    {"batch_size": 5},
    {"num_epochs": 4},
    {"validate_every": 2},
    {"unroll": 2},
  ):
    sizes = {"batch_size": 4, "num_epochs": 2, **others}
    assert programs.make(RECIPE, **sizes) is not program


def test_members_are_the_same_on_every_device(program, arguments, trained):
  """To the bit; simulations_test has what one is when it is alone."""
  assert devices.mesh().size == 2
  state, metrics = trained
  assert metrics.train_loss.shape == (2, NUM_MEMBERS)
  assert metrics.validation_accuracy.shape == (2, NUM_MEMBERS)
  assert len(np.unique(metrics.train_loss)) == 2 * NUM_MEMBERS
  # Members change their devices, and their places.
  order = (3, 0, 2, 1)
  others, other_metrics = train(program, arguments, order)
  assert_equal(others, pick(state, order))
  assert_equal(
    other_metrics, jax.tree.map(lambda leaf: leaf[:, np.array(order)], metrics)
  )


def test_count_correct_with_dropout_and_without(program, arguments, trained):
  state, metrics = trained
  *_, validation = arguments
  plain = program.count_correct(state.params, validation, None)
  np.testing.assert_allclose(
    plain / 50, metrics.validation_accuracy[-1], rtol=1e-6
  )

  def count(rates, order):
    keys = jax.vmap(jax.random.key)(jnp.array(order, jnp.uint32))
    return program.count_correct(
      pick(state.params, order),
      validation,
      Dropout(jnp.array(rates)[jnp.array(order)], keys),
    )

  rates, order = (0.0, 0.5, 0.5, 0.9), np.array((3, 0, 2, 1))
  counts = count(rates, np.arange(NUM_MEMBERS))
  assert counts[0] == plain[0]
  assert np.all(counts[1:] != plain[1:])
  np.testing.assert_array_equal(count(rates, order), counts[order])


@pytest.mark.parametrize(
  "batch_size,width",
  ((1, 5), (20, 5), (25, 4), (50, 2), (51, 1), (100, 1), (1000, 1)),
)
def test_cpu_core_trains_as_many_as_its_cache_holds(batch_size, width):
  assert programs.fast_width(batch_size) == width


def test_gpu_trains_all_that_there_are(monkeypatch):
  gpu = types.SimpleNamespace(platform="gpu")
  mesh = types.SimpleNamespace(devices=np.array([gpu]))
  monkeypatch.setattr(devices, "mesh", lambda: mesh)
  assert programs.fast_width(1) == programs.fast_width(1000) == 1000
