"""Tests of benchmarks.floors against XLA's own counts."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import floors, penalties
from experiments.architectures import models


def _flops(function, *arguments):
  return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.fixture(scope="module")
def lenet5():
  module = models.LeNet5()
  images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.uint8)
  params = jax.eval_shape(module.init, jax.random.key(0), images)
  return module, params, images


def test_lenet5_has_that_many_parameters(lenet5):
  _, params, _ = lenet5
  assert sum(p.size for p in jax.tree.leaves(params)) == floors.LENET5_PARAMS


def test_lenet5_forward_is_what_xla_counts(lenet5):
  module, *arguments = lenet5
  counted = _flops(module.apply, *arguments)
  # XLA leaves out the padding of conv1 and adds biases, ReLU and pooling.
  assert 0.95 * floors.LENET5_FORWARD <= counted <= 1.05 * floors.LENET5_FORWARD


def test_dense_is_what_xla_counts():
  layer = 7, 30, 20
  counted = _flops(
    penalties.dense, jnp.ones(layer[:2], jnp.float32), jnp.ones((30, 20))
  )
  assert counted == pytest.approx(floors.dense(*layer).flops, rel=0.01)


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("layer", ((64, 256, 256), (4, 400, 120), (50, 300, 9)))
def test_floor_of_the_penalty_is_below_what_is_done_but_not_far(order, layer):
  arguments = penalties.draw(*layer)
  counted = _flops(penalties.value_and_gradients(order, "squared"), *arguments)
  floor = floors.penalty(*layer, order).flops
  assert floor <= counted <= 3 * floor


def test_step_grows_with_members_batch_and_order():
  one = floors.training_step(1, 1, 0)
  twenty = floors.training_step(20, 1, 0)
  assert twenty == tuple(20 * number for number in one)
  assert floors.training_step(1, 8, 0).flops == 8 * one.flops
  first = floors.training_step(1, 1, 1).flops
  assert one.flops < first < floors.training_step(1, 1, 2).flops


def test_rates_are_measured():
  rates = floors.measure(quick=True)
  assert rates.flops > 0
  assert [size for size, _ in rates.copies] == [2**20]
  assert all(rate > 0 for _, rate in rates.copies)


# What a greater copy reaches a smaller one could, too.
@pytest.mark.parametrize(
  "copies,expected",
  (
    (((10, 100.0), (1000, 10.0)), {1: 1.0, 10: 1.0, 999: 1.0, 1000: 10.0}),
    (
      ((10, 50.0), (100, 100.0), (1000, 10.0)),
      {1: 1.0, 10: 1.0, 100: 1.0, 1000: 10.0},
    ),
  ),
)
def test_working_sets_move_at_the_rate_of_copies(copies, expected):
  rates = floors.Rates(1e30, copies)
  for working_set, seconds in expected.items():
    work = floors.Work(0, 100, working_set)
    assert floors.seconds(work, rates) == seconds
