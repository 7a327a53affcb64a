"""Tests of experiments.methods."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets, methods, models, results, training
from tests.experiments import tiny

ORDERS = {"bean1": 1, "bean2": 2}
DIGITS = tiny.load_digits(20)

every_method = pytest.mark.parametrize("name", list(methods.METHODS))


@pytest.fixture(scope="module")
def lenet5():
  """Parameters of LeNet-5, and what enters its dense layers for digits."""
  shapes = jax.eval_shape(models.LENET5.init, jax.random.key(0))
  generator = np.random.default_rng(0)

  def draw(leaf):
    # So large that tanh matters.
    scale = 4 * np.prod(leaf.shape[:-1], dtype=int) ** -0.5
    return generator.uniform(-scale, scale, leaf.shape).astype(np.float32)

  params = jax.tree.map(draw, shapes)
  inputs = models.LENET5.prepare(DIGITS.train.images[[3, 50, 400]])
  _, hidden = jax.jit(models.LENET5.apply)(params, inputs)
  assert [rows.shape[1] for rows in hidden.values()] == [400, 120, 84]
  return params, hidden


def penalty(name, lenet5, *, strength=1.0, mask=None, **options):
  """What a method adds to the loss of LeNet-5, here a loss of 0."""
  params, hidden = lenet5

  # What enters the layers, and nothing else: its loss is that of ten classes.
  def apply(params, inputs, dropout=None):
    del params, inputs, dropout
    return jnp.zeros((len(hidden["fc1"]), 10)), hidden

  model = models.LENET5._replace(apply=apply)
  loss_fn = methods.recipe(name, model, methods.Options(**options)).loss(
    training.Hparams(5e-4, strength)
  )
  labels = jnp.zeros(len(hidden["fc1"]), int)
  loss, aux = jax.jit(loss_fn)(
    params, training.Samples(None, labels), mask, jax.random.key(0)
  )
  np.testing.assert_allclose(aux.data_loss, np.log(10), rtol=1e-6)
  return np.float64(loss) - np.float64(aux.data_loss)


def naive_penalty(
  lenet5, *, order, gamma=1.0, distance="squared", factors=(1, 1, 1)
):
  """The penalty as in the authors' code: plain means, and no factor 1 / M."""
  params, hidden = lenet5
  total = 0.0
  for layer, factor in zip(("fc1", "fc2", "fc3"), factors, strict=True):
    rows = np.asarray(hidden[layer], np.float64)
    kernel = np.asarray(params[layer]["kernel"], np.float64)
    weights = np.abs(np.tanh(gamma * kernel))
    distances = np.abs(rows[:, :, None] - rows[:, None, :])
    if distance == "squared":
      distances **= 2
    total += factor * np.mean((weights @ weights.T) ** order * distances)
  return total


@pytest.mark.parametrize("name,order", ORDERS.items())
@pytest.mark.parametrize(
  "options",
  ({}, {"gamma": 2.5}, {"distance": "absolute"}),
  ids=str,
)
def test_code_units_are_the_authors(name, order, options, lenet5):
  np.testing.assert_allclose(
    penalty(name, lenet5, strength=3.0, **options),
    3.0 * naive_penalty(lenet5, order=order, **options),
    rtol=1e-5,
  )


@pytest.mark.parametrize("name,order", ORDERS.items())
def test_paper_units_have_the_factors_of_the_paper(name, order, lenet5):
  factors = [width**-order for width in (120, 84, 10)]
  np.testing.assert_allclose(
    penalty(name, lenet5, alpha_units="paper"),
    naive_penalty(lenet5, order=order, factors=factors),
    rtol=1e-5,
  )


def test_every_layer_is_penalized(lenet5):
  params, hidden = lenet5
  whole = penalty("bean1", lenet5)
  for layer in models.LENET5.layers:
    without = {**params, layer: jax.tree.map(np.zeros_like, params[layer])}
    assert penalty("bean1", (without, hidden)) < 0.999 * whole


@pytest.mark.parametrize("name", ORDERS)
def test_masked_samples_are_not_penalized(name, lenet5):
  params, hidden = lenet5
  real = {layer: rows[:2] for layer, rows in hidden.items()}
  expected = penalty(name, (params, real))
  masked = penalty(name, lenet5, mask=jnp.array([True, True, False]))
  np.testing.assert_allclose(masked, expected, rtol=1e-5)
  assert abs(penalty(name, lenet5) / expected - 1) > 1e-3


@pytest.mark.parametrize("name", ORDERS)
def test_strength_0_is_vanilla(name):
  params = tiny.MODEL.init(jax.random.key(0))
  rows = [3, 50, 400]
  samples = training.Samples(
    tiny.MODEL.prepare(DIGITS.train.images[rows]), DIGITS.train.labels[rows]
  )

  def loss_and_grads(which):
    recipe = methods.recipe(which, tiny.MODEL, methods.Options())
    loss_fn = recipe.loss(training.Hparams(5e-4, 0.0))
    return jax.value_and_grad(loss_fn, has_aux=True)(
      params, samples, None, jax.random.key(0)
    )

  jax.tree.map(
    np.testing.assert_array_equal,
    loss_and_grads(name),
    loss_and_grads("vanilla"),
  )


def test_layer_alphas():
  kernels = {"fc1": np.ones((4, 3)), "fc2": np.ones((3, 5))}

  def alphas(order, units):
    return methods.layer_alphas(2.0, kernels, order=order, units=units)

  assert alphas(1, "code") == {"fc1": 6.0, "fc2": 10.0}
  assert alphas(2, "code") == {"fc1": 18.0, "fc2": 50.0}
  assert alphas(1, "paper") == alphas(2, "paper") == {"fc1": 2.0, "fc2": 2.0}


# A new method is covered by being in the table.


@every_method
def test_method_is_complete(name):
  method = methods.METHODS[name]
  assert set(method.options) <= set(methods.Options._fields)
  assert len(set(method.options)) == len(method.options)
  if method.hparam is None:
    assert method.grid == (0.0,)
    hparams = {}
  else:
    assert method.hparam not in methods.Options._fields
    assert len(method.grid) > 1
    assert list(method.grid) == sorted(set(method.grid))
    assert min(method.grid) > 0
    hparams = {method.hparam: method.grid[0]}
  # Both may be part of a file's name.
  assert name in results.cell_name("digits", 1, name, **hparams)


def test_titles_are_different():
  titles = [method.title for method in methods.METHODS.values()]
  assert len(set(titles)) == len(titles)


@every_method
def test_method_trains_a_population(name):
  method = methods.METHODS[name]
  seeds = (0, 1, 0)
  weak, strong = method.grid[0], method.grid[-1]
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = training.Hparams(
    jnp.full(3, 5e-4, jnp.float32),
    jnp.array((weak, weak, strong), jnp.float32),
  )
  rows = np.stack(
    [
      datasets.draw_shots(DIGITS.train.labels, num_shots=1, seed=seed)
      for seed in seeds
    ]
  )
  train = training.Samples(
    jax.vmap(tiny.MODEL.prepare)(jnp.asarray(DIGITS.train.images[rows])),
    jnp.asarray(DIGITS.train.labels[rows]),
  )
  recipe = methods.recipe(name, tiny.MODEL, methods.Options())
  run_epochs = jax.jit(
    training.make_run_epochs(recipe, batch_size=4, num_epochs=1)
  )
  state = training.make_init(recipe)(keys, hparams)
  before = jax.device_get(state.params)
  state, metrics = run_epochs(
    state, 0, keys, hparams, train, training.Samples(*DIGITS.validation)
  )
  np.testing.assert_array_equal(state.failed_step, -1)
  assert np.all(np.isfinite(metrics.train_loss))
  kernels = state.params["fc2"]["kernel"]
  for member in range(3):
    assert not np.array_equal(kernels[member], before["fc2"]["kernel"][member])
  # The strength is a member's own.
  assert np.array_equal(kernels[0], kernels[2]) == (weak == strong)


def test_examples_of_docstrings():
  assert doctest.testmod(methods).failed == 0
