"""Tests of experiments.learning.predictive_coding."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.architectures import networks
from experiments.learning import chains, predictive_coding

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
  """The definitions, sample by sample and neuron by neuron, in float64.

  Layers are gone through one by one, from the output down.
  """
  depth = len(params)
  grads = [{n: np.zeros_like(p) for n, p in leaf.items()} for leaf in params]

  def forward(place, x):
    """The layer's outputs, and their slopes by what the units sum up."""
    kernel, bias = params[place]["kernel"], params[place]["bias"]
    sums = np.array(
      [
        bias[j] + sum(x[i] * kernel[i, j] for i in range(len(x)))
        for j in range(len(bias))
      ]
    )
    if place == depth - 1:
      return sums, np.ones_like(sums)
    return np.tanh(sums), 1 - np.tanh(sums) ** 2

  def passed_down(place, x, error):
    """The transposed Jacobian of a layer at x times an error."""
    _, slopes = forward(place, x)
    kernel = params[place]["kernel"]
    return np.array(
      [
        sum(kernel[i, j] * slopes[j] * error[j] for j in range(len(error)))
        for i in range(len(x))
      ]
    )

  for x, target in zip(inputs, targets, strict=True):
    predictions = [x]
    for place in range(depth):
      predictions.append(forward(place, predictions[-1])[0])
    beliefs = [v.copy() for v in predictions]
    errors = [None] * (depth + 1)
    errors[depth] = 2 * (predictions[depth] - target)
    for _ in range(num_sweeps):
      if strict:
        top, _ = forward(depth - 1, beliefs[depth - 1])
        errors[depth] = 2 * (top - target)
      for place in reversed(range(1, depth)):
        if strict:
          predicted, _ = forward(place - 1, beliefs[place - 1])
        else:
          predicted = predictions[place]
        errors[place] = predicted - beliefs[place]
        at = beliefs if strict else predictions
        above = passed_down(place, at[place], errors[place + 1])
        beliefs[place] = beliefs[place] + step_size * (errors[place] - above)
    at = beliefs if strict else predictions
    for place in range(depth):
      _, slopes = forward(place, at[place])
      for j, error in enumerate(errors[place + 1]):
        grads[place]["bias"][j] += slopes[j] * error
        for i, value in enumerate(at[place]):
          grads[place]["kernel"][i, j] += value * slopes[j] * error
  return grads


def assert_close(actual, expected, tolerance):
  """Compares trees leaf by leaf, relative to the largest entry of a leaf."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


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
@pytest.mark.parametrize(
  "step_size,num_sweeps", ((0.1, 1), (0.1, 2), (0.3, 7), (0.05, 20))
)
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


def test_defaults_are_those_of_the_paper():
  with jax.enable_x64(True):
    arguments = draw()
    for rule in ("fixed", "strict"):
      usual = learn(rule)(*arguments)
      said = learn(rule, step_size=0.1, num_sweeps=20)(*arguments)
      assert_close(usual, said, 1e-12)


def test_fixed_predictions_come_near_backpropagation_with_more_sweeps():
  arguments = draw(np.float32)
  expected = jax.grad(whole)(*arguments)[0]["kernel"]
  run = jax.jit(
    lambda number: predictive_coding.value_and_grad(
      LAYERS, squares, rule="fixed", step_size=0.2, num_sweeps=number
    )(*arguments)[1][0]["kernel"]
  )
  distances = [
    float(jnp.linalg.norm(run(number) - expected)) for number in (5, 20, 40, 80)
  ]
  assert distances == sorted(distances, reverse=True)
  assert distances[-1] < 1e-4 * jnp.linalg.norm(expected)


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


@pytest.mark.parametrize("rule", predictive_coding.RULES)
def test_it_learns_with_optax(rule):
  params, inputs, targets = draw(np.float32)
  run = learn(rule)
  optimizer = optax.adam(0.03)
  state = optimizer.init(params)
  losses = []
  for _ in range(60):
    loss, grads = run(params, inputs, targets)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    losses.append(float(loss))
  assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
  "layers,settings,message",
  (
    ([], {"rule": "exact"}, "layers: expected at least one function"),
    (LAYERS, {"rule": "Exact"}, "one of exact, fixed, strict, got 'Exact'"),
    (LAYERS, {"rule": "fixed", "num_sweeps": 0}, "at least 1, got 0"),
  ),
)
def test_what_makes_no_sense_is_refused(layers, settings, message):
  with pytest.raises(ValueError, match=message):
    predictive_coding.value_and_grad(layers, squares, **settings)


def strict_by_jacobians(layers, params, x, error_of, *, rate, num_sweeps):
  """The strict rule for one sample of any chain, with whole Jacobians."""

  def flat(place, v):
    return np.asarray(layers[place](params, v)).reshape(-1)

  def jacobian(place, v):
    return np.asarray(jax.jacobian(layers[place], 1)(params, v)).reshape(
      -1, np.size(v)
    )

  depth = len(layers)
  beliefs = [x]
  for run in layers:
    beliefs.append(np.asarray(run(params, beliefs[-1])))
  errors = [None] * (depth + 1)
  for _ in range(num_sweeps):
    errors[depth] = error_of(flat(depth - 1, beliefs[depth - 1]))
    for place in reversed(range(1, depth)):
      errors[place] = flat(place - 1, beliefs[place - 1]) - beliefs[place][0]
      above = jacobian(place, beliefs[place]).T @ errors[place + 1]
      beliefs[place] = beliefs[place] + rate * (errors[place] - above)
  grads = jax.tree.map(np.zeros_like, params)
  for place, v in enumerate(beliefs[:-1]):
    slopes = jax.jacobian(layers[place])(params, v)
    grads = jax.tree.map(
      lambda grad, slope, place=place: (
        grad + np.tensordot(errors[place + 1], slope[0], 1)
      ),
      grads,
      slopes,
    )
  return grads


@pytest.mark.slow
@pytest.mark.parametrize("name", ("lenet5", "mlp300_100"))
def test_networks(name):
  """Of LeNet-5 and a perceptron: backpropagation, and the strict rule."""
  network = networks.make(networks.Spec(name))
  generator = np.random.default_rng(2)
  # Black and white: networks scale other images in float32.
  images = 255 * generator.integers(0, 2, (1, 28, 28, 1)).astype(np.uint8)
  inputs = network.prepare(images)
  with jax.enable_x64(True):
    variables = jax.tree.map(
      lambda leaf: (
        generator.uniform(-1, 1, leaf.shape)
        * 2
        * np.prod(leaf.shape[:-1], dtype=int, initial=4) ** -0.5
      ),
      jax.eval_shape(network.init, jax.random.key(0)),
    )
    params = variables.params
    layers = chains.cut(network, variables, inputs)

    def loss_fn(logits):
      return -jax.nn.log_softmax(logits)[0, 3]

    def whole(params):
      (logits, _), _ = network.apply(variables._replace(params=params), inputs)
      return loss_fn(logits)

    def run(rule, **settings):
      return predictive_coding.value_and_grad(
        layers, loss_fn, rule=rule, **settings
      )

    @jax.jit
    def everything(params):
      return (
        jax.value_and_grad(whole)(params),
        run("exact")(params, inputs),
        run("fixed", step_size=1.0, num_sweeps=len(layers))(params, inputs),
        run("strict", num_sweeps=6)(params, inputs),
      )

    expected, exact, fixed, (_, strict) = everything(params)
    assert_close(exact, expected, 1e-10)
    assert_close(fixed, expected, 1e-10)

    def error_of(logits):
      shares = np.exp(logits - logits.max())
      return shares / shares.sum() - np.eye(10)[3]

    by_hand = strict_by_jacobians(
      layers, params, inputs, error_of, rate=0.1, num_sweeps=6
    )
    assert_close(strict, by_hand, 1e-9)
    with pytest.raises(AssertionError):
      assert_close(strict, expected[1], 1e-2)


def test_examples_of_docstrings():
  assert doctest.testmod(predictive_coding).failed == 0
