"""Tests of experiments.learning.predictive_coding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learning import predictive_coding
from tests.experiments.members import assert_close_by_leaf as assert_close

WIDTHS = (5, 7, 6, 4, 3)
BATCH = 3


def layer(place):
  """A layer of tanh units, or a linear one at the end."""

  def run(params, x):
    x = x @ params[place]["kernel"] + params[place]["bias"]
    return jnp.tanh(x) if place < len(WIDTHS) - 2 else x

  return run


LAYERS = [layer(place) for place in range(len(WIDTHS) - 1)]


def draw(dtype=np.float64):
  """Parameters, inputs and targets."""
  generator = np.random.default_rng(0)
  params = [
    {
      "kernel": generator.normal(size=shape).astype(dtype),
      "bias": generator.normal(size=shape[1]).astype(dtype),
    }
    for shape in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
  ]
  inputs = generator.normal(size=(BATCH, WIDTHS[0])).astype(dtype)
  targets = generator.normal(size=(BATCH, WIDTHS[-1])).astype(dtype)
  return params, inputs, targets


def squares(outputs, targets):
  return jnp.sum((outputs - targets) ** 2)


def whole(params, inputs, targets):
  for run in LAYERS:
    inputs = run(params, inputs)
  return squares(inputs, targets)


def learn(rule, **settings):
  return jax.jit(
    predictive_coding.value_and_grad(LAYERS, squares, rule=rule, **settings)
  )


def oracle(params, inputs, targets, *, strict, step_size, num_sweeps):
  """The definitions, sample by sample and layer by layer, in float64."""
  depth = len(params)
  grads = [{n: np.zeros_like(p) for n, p in leaf.items()} for leaf in params]

  def forward(place, x):
    """The layer's outputs, and their slopes by what the units sum up."""
    sums = x @ params[place]["kernel"] + params[place]["bias"]
    if place == depth - 1:
      return sums, np.ones_like(sums)
    return np.tanh(sums), 1 - np.tanh(sums) ** 2

  for x, target in zip(inputs, targets, strict=True):
    predictions = [x]
    for place in range(depth):
      predictions.append(forward(place, predictions[-1])[0])
    beliefs = [v.copy() for v in predictions]
    at = beliefs if strict else predictions
    errors = [None] * depth + [2 * (predictions[depth] - target)]
    for _ in range(num_sweeps):
      if strict:
        top, _ = forward(depth - 1, beliefs[depth - 1])
        errors[depth] = 2 * (top - target)
      # From the output down, so that each reads beliefs that did not move yet.
      for place in reversed(range(1, depth)):
        predicted, _ = forward(place - 1, at[place - 1])
        errors[place] = predicted - beliefs[place]
        _, slopes = forward(place, at[place])
        above = params[place]["kernel"] @ (slopes * errors[place + 1])
        beliefs[place] = beliefs[place] + step_size * (errors[place] - above)
    for place in range(depth):
      _, slopes = forward(place, at[place])
      error = slopes * errors[place + 1]
      grads[place]["bias"] += error
      grads[place]["kernel"] += np.outer(at[place], error)
  return grads


@pytest.mark.parametrize(
  "dtype,tolerance", ((np.float32, 1e-5), (np.float64, 1e-10))
)
@pytest.mark.parametrize(
  "rule,settings",
  (
    ("exact", {}),
    ("fixed", {"step_size": 1.0, "num_sweeps": len(LAYERS)}),
    ("fixed", {"step_size": 1.0, "num_sweeps": 20}),
  ),
)
def test_exact_rules_are_backpropagation(rule, settings, dtype, tolerance):
  with jax.enable_x64(dtype is np.float64):
    arguments = draw(dtype)
    loss, grads = learn(rule, **settings)(*arguments)
    expected_loss, expected = jax.jit(jax.value_and_grad(whole))(*arguments)
    assert grads[0]["kernel"].dtype == dtype
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    assert_close(grads, expected, tolerance)


def test_a_rule_that_there_is_not():
  with pytest.raises(KeyError, match="loose"):
    learn("loose")


def test_too_few_sweeps_do_not_reach_the_first_layer():
  """An error goes down one layer a sweep."""
  params, inputs, targets = draw(np.float32)
  expected = jax.grad(whole)(params, inputs, targets)
  for num_sweeps in range(1, len(LAYERS)):
    run = learn("fixed", step_size=1.0, num_sweeps=num_sweeps)
    _, grads = run(params, inputs, targets)
    reached = len(LAYERS) - num_sweeps
    assert_close(grads[reached:], expected[reached:], 1e-5)
    assert not np.any(grads[reached - 1]["kernel"])


@pytest.mark.parametrize("strict", (False, True))
@pytest.mark.parametrize("step_size,num_sweeps", ((0.1, 2), (0.3, 7)))
def test_rules_are_those_of_the_definition(strict, step_size, num_sweeps):
  settings = {"step_size": step_size, "num_sweeps": num_sweeps}
  with jax.enable_x64(True):
    arguments = draw()
    loss, grads = learn("strict" if strict else "fixed", **settings)(*arguments)
    expected = oracle(*arguments, strict=strict, **settings)
    np.testing.assert_allclose(loss, whole(*arguments), rtol=1e-12)
    assert_close(grads[1:], expected[1:], 1e-10)
    if num_sweeps >= len(LAYERS):
      assert_close(grads[:1], expected[:1], 1e-10)
      # So that the comparison is of something else than backpropagation.
      exact = jax.grad(whole)(*arguments)
      with pytest.raises(AssertionError):
        assert_close(grads, exact, 1e-3)


@pytest.mark.parametrize("rule", ("fixed", "strict"))
def test_members_and_jit(rule):
  """Mapped over members with rates of their own, as one after another."""
  params, inputs, targets = draw(np.float32)
  members = jax.tree.map(lambda leaf: np.stack([leaf, -0.5 * leaf]), params)
  rates = np.float32([0.1, 0.4])

  def run(params, rate):
    return predictive_coding.value_and_grad(
      LAYERS, squares, rule=rule, step_size=rate
    )(params, inputs, targets)

  together = jax.jit(jax.vmap(run))(members, rates)
  for place, rate in enumerate(rates):
    own = jax.tree.map(lambda leaf, place=place: leaf[place], members)
    assert_close(
      jax.tree.map(lambda leaf, place=place: leaf[place], together),
      run(own, rate),
      1e-5,
    )


@pytest.mark.parametrize("rule", ("fixed", "strict"))
def test_memory_does_not_grow_with_the_sweeps(rule):
  arguments = draw(np.float32)
  sizes = {
    learn(rule, num_sweeps=number)
    .lower(*arguments)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
    for number in (3, 300)
  }
  assert len(sizes) == 1


def test_a_parameter_of_two_layers_gets_the_sum():
  def tied(params, x):
    return jnp.tanh(x @ params)

  params = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
  x = np.ones((2, 4), np.float32)

  def loss_fn(params):
    return squares(tied(params, tied(params, x)), 0.0)

  _, grads = predictive_coding.value_and_grad(
    [tied, tied], squares, rule="fixed", step_size=1.0, num_sweeps=2
  )(params, x, 0.0)
  assert_close(grads, jax.grad(loss_fn)(params), 1e-5)
