"""Tests of experiments.models."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, stats

from experiments import datasets, models

# Number of inputs of a unit, whose root bounds its initial parameters.
FAN_IN = {
  "lenet5": {"conv1": 25, "conv2": 150, "fc1": 400, "fc2": 120, "fc3": 84},
  "mlp500": {"fc1": 784, "fc2": 500},
}
NUM_PARAMETERS = {
  "lenet5": {
    "conv1": 156,
    "conv2": 2_416,
    "fc1": 48_120,
    "fc2": 10_164,
    "fc3": 850,
  },
  "mlp500": {"fc1": 784 * 500 + 500, "fc2": 500 * 10 + 10},
}
NUM_MEMBERS = 20

every_model = pytest.mark.parametrize("name", list(models.MODELS))


@pytest.fixture(scope="module")
def inits():
  """Maps the seeds of members to their parameters, for every model."""

  def make(model):
    init = jax.jit(jax.vmap(model.init))
    return lambda seeds: jax.device_get(init(jax.vmap(jax.random.key)(seeds)))

  return {name: make(model) for name, model in models.MODELS.items()}


@pytest.fixture(scope="module")
def population(inits):
  """Parameters of some members of every model."""
  return {name: init(jnp.arange(NUM_MEMBERS)) for name, init in inits.items()}


@pytest.fixture(scope="module")
def images():
  """Three digits and three images of noise."""
  digits = datasets.load("digits").test.images[::200]
  noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
  return np.concatenate([digits, noise])


def member(params, index):
  return jax.tree.map(lambda leaf: leaf[index], params)


def max_pool(x):
  """The largest of every 2 x 2 window, [n, 2 r, 2 c, k] to [n, r, c, k]."""
  n, rows, columns, channels = x.shape
  windows = x.reshape(n, rows // 2, 2, columns // 2, 2, channels)
  return windows.max(axis=(2, 4))


def convolve(x, layer):
  """What deep learning calls a convolution, within the border."""
  kernel = np.asarray(layer["kernel"], np.float64)
  maps = [
    [
      sum(
        signal.correlate(image[..., i], kernel[..., i, o], mode="valid")
        for i in range(kernel.shape[2])
      )
      for o in range(kernel.shape[3])
    ]
    for image in x
  ]
  return np.moveaxis(np.array(maps), 1, -1) + layer["bias"]


def lenet5(params, images):
  """LeNet-5 of the authors' code in float64, written from its layers."""
  x = images.astype(np.float64) / 255
  x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
  x = max_pool(np.maximum(convolve(x, params["conv1"]), 0))
  x = max_pool(np.maximum(convolve(x, params["conv2"]), 0))
  x = x.reshape(len(images), 400)
  hidden = {}
  for name in ("fc1", "fc2", "fc3"):
    hidden[name] = x
    layer = params[name]
    x = x @ layer["kernel"].astype(np.float64) + layer["bias"]
    if name != "fc3":
      x = np.maximum(x, 0)
  return x, hidden


@every_model
def test_numbers_of_parameters(name, population):
  counts = {
    layer: sum(leaf[0].size for leaf in jax.tree.leaves(params))
    for layer, params in population[name].items()
  }
  assert counts == NUM_PARAMETERS[name]
  total = {"lenet5": 61_706, "mlp500": 397_510}[name]
  assert sum(counts.values()) == total


@every_model
def test_initial_parameters_fill_the_range_of_the_fan_in(name, population):
  for layer, params in population[name].items():
    for leaf in ("kernel", "bias"):
      values = np.ravel(params[leaf]) * FAN_IN[name][layer] ** 0.5
      assert np.abs(values).max() <= 1 + 1e-6, (layer, leaf)
      test = stats.kstest(values[:50_000], stats.uniform(-1, 2).cdf)
      assert test.pvalue > 1e-3, (layer, leaf)


@every_model
def test_members_differ_and_their_keys_decide(name, inits, population):
  turned = inits[name](jnp.arange(NUM_MEMBERS)[::-1])
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.tree.map(lambda leaf: leaf[::-1], turned),
    population[name],
  )
  for leaf in jax.tree.leaves(population[name]):
    assert len(np.unique(leaf.reshape(NUM_MEMBERS, -1), axis=0)) == NUM_MEMBERS


@every_model
def test_hidden_enter_their_layers(name, population, images):
  model = models.MODELS[name]
  params = member(population[name], 0)
  logits, hidden = jax.jit(model.apply)(params, model.prepare(images))
  kernels = models.dense_kernels(params, model.layers)
  assert list(kernels) == list(model.layers)
  assert logits.shape == (6, 10)
  assert set(model.layers) <= set(hidden)
  names = list(hidden)
  for layer in names:
    kernel = params[layer]["kernel"]
    assert hidden[layer].shape == (6, kernel.shape[0])
    outputs = hidden[layer] @ kernel + params[layer]["bias"]
    if layer == names[-1]:
      expected = logits
    else:
      expected = hidden[names[names.index(layer) + 1]]
      outputs = np.maximum(outputs, 0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ("module", "model"))
def test_lenet5_equals_its_definition(which, population, images):
  params = member(population["lenet5"], 1)
  if which == "module":
    logits, hidden = jax.jit(models.LeNet5().apply)({"params": params}, images)
  else:
    model = models.LENET5
    logits, hidden = jax.jit(model.apply)(params, model.prepare(images))
  expected, expected_hidden = lenet5(params, images)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
  assert list(hidden) == list(expected_hidden)
  for layer, values in expected_hidden.items():
    assert values.std() > 1e-3
    np.testing.assert_allclose(hidden[layer], values, rtol=1e-5, atol=1e-6)


def test_mlp_sees_pixels_from_0_to_1(population, images):
  model = models.MLP500
  _, hidden = model.apply(
    member(population["mlp500"], 0), model.prepare(images)
  )
  np.testing.assert_array_equal(
    hidden["fc1"], images.reshape(6, 784) / np.float32(255)
  )


@every_model
def test_predict_takes_the_largest_logit(name, population, images):
  model = models.MODELS[name]
  params = jax.tree.map(lambda leaf: leaf[:3], population[name])
  classes = jax.jit(model.predict)(params, images)
  assert classes.shape == (3, 6)
  for index in range(3):
    logits, _ = model.apply(member(params, index), model.prepare(images))
    np.testing.assert_array_equal(classes[index], logits.argmax(axis=1))
  assert len(np.unique(classes)) > 1


def test_examples_of_docstrings():
  assert doctest.testmod(models).failed == 0
