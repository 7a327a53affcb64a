"""Tests of experiments.architectures.models, and of networks made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import datasets
from experiments.architectures import models, networks
from experiments.architectures.dropout import Dropout
from experiments.architectures.networks import Variables
from tests import reference
from tests.experiments.members import pick

# Number of inputs of a unit, whose root bounds its initial parameters.
FAN_IN = {
  "lenet5": {"conv1": 25, "conv2": 150, "fc1": 400, "fc2": 120, "fc3": 84},
  "mlp500": {"fc1": 784, "fc2": 500},
  "mlp300_100": {"fc1": 784, "fc2": 300, "fc3": 100},
}
NUM_MEMBERS = 20
NETWORKS = {name: networks.make(networks.Spec(name)) for name in networks.GRAY}

every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def population():
  """Parameters of some members of every network."""
  keys = jax.vmap(jax.random.key)(jnp.arange(NUM_MEMBERS))
  made = {}
  for name, network in NETWORKS.items():
    made[name], batch_stats = jax.jit(jax.vmap(network.init))(keys)
    assert batch_stats == {}
  return jax.device_get(made)


@pytest.fixture(scope="module")
def images():
  """Three digits and three images of noise."""
  digits = datasets.load("digits").test.images[::200]
  noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
  return np.concatenate([digits, noise])


def max_pool(x):
  """The largest of every 2 x 2 window, [n, 2 r, 2 c, k] to [n, r, c, k]."""
  n, rows, columns, channels = x.shape
  windows = x.reshape(n, rows // 2, 2, columns // 2, 2, channels)
  return windows.max(axis=(2, 4))


def lenet5(params, images):
  """LeNet-5 of the authors' code in float64, written from its layers."""
  x = images.astype(np.float64) / 255
  for name, border in (("conv1", 2), ("conv2", 0)):
    outputs = reference.convolve(x, params[name]["kernel"], border=border)
    x = max_pool(np.maximum(outputs + params[name]["bias"], 0))
  x = x.reshape(len(images), 400)
  hidden = {}
  for name in ("fc1", "fc2", "fc3"):
    hidden[name] = np.maximum(x, 0)
    layer = params[name]
    x = hidden[name] @ layer["kernel"].astype(np.float64) + layer["bias"]
  return x, hidden


@every_network
def test_numbers_of_parameters(name, population):
  total = {"lenet5": 61_706, "mlp500": 397_510, "mlp300_100": 266_610}
  params = population[name]
  assert sum(leaf[0].size for leaf in jax.tree.leaves(params)) == total[name]
  fan_in = {
    layer: leaves["kernel"][0, ..., 0].size for layer, leaves in params.items()
  }
  assert fan_in == FAN_IN[name]


@every_network
def test_initial_parameters_fill_the_range_of_the_fan_in(name, population):
  for layer, params in population[name].items():
    for leaf in ("kernel", "bias"):
      values = np.ravel(params[leaf]) * FAN_IN[name][layer] ** 0.5
      assert np.abs(values).max() <= 1 + 1e-6, (layer, leaf)
      test = stats.kstest(values[:50_000], stats.uniform(-1, 2).cdf)
      assert test.pvalue > 1e-3, (layer, leaf)


@every_network
def test_hidden_enter_their_layers(name, population, images):
  network = NETWORKS[name]
  params = pick(population[name], 0)
  (logits, hidden), batch_stats = jax.jit(network.apply)(
    Variables(params, {}), network.prepare(images)
  )
  assert batch_stats == {}
  assert logits.shape == (6, 10)
  assert set(network.layers) <= set(hidden)
  if name != "lenet5":
    pixels = images.reshape(6, 784) / np.float32(255)
    np.testing.assert_allclose(hidden["fc1"], pixels, rtol=1e-6)
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


# `apply` has unfolded_lenet5_test.
@pytest.mark.parametrize("which", ("module", "evaluate"))
def test_lenet5_equals_its_definition(which, population, images):
  params = pick(population["lenet5"], 1)
  variables, network = Variables(params, {}), NETWORKS["lenet5"]
  if which == "module":
    logits, hidden = jax.jit(models.LeNet5().apply)({"params": params}, images)
  else:
    logits, hidden = jax.jit(network.evaluate)(variables, images)
  expected, expected_hidden = lenet5(params, images)
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
  assert list(hidden) == list(expected_hidden)
  for layer, values in expected_hidden.items():
    assert values.std() > 1e-3
    np.testing.assert_allclose(hidden[layer], values, rtol=1e-5, atol=1e-6)


# LeNet-5 has its own: see unfolded_lenet5_test.
def test_predict_drops_by_member_and_by_image(population, images):
  params = jax.tree.map(
    lambda leaf: leaf[np.array([0, 0, 1])], population["mlp500"]
  )
  copies = np.repeat(images[:1], 30, axis=0)
  predict = jax.jit(NETWORKS["mlp500"].predict)

  def run(*seeds):
    keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
    rates = jnp.array([0.5, 0.5, 0.0])
    return np.asarray(
      predict(Variables(params, {}), copies, Dropout(rates, keys))
    )

  classes, others = run(0, 1, 2), run(3, 1, 4)
  # By the key of a member alone, even between equal ones.
  assert np.any(others[0] != classes[0])
  assert np.any(classes[0] != classes[1])
  np.testing.assert_array_equal(others[1:], classes[1:])
  for row in classes[:2]:
    assert len(np.unique(row)) > 1
  # A rate of 0 drops nothing, whatever the key.
  assert len(np.unique(classes[2])) == 1


@every_network
def test_every_leaf_and_every_member_has_its_own_stream(name, population):
  firsts = np.concatenate(
    [
      values.reshape(NUM_MEMBERS, -1)[:, :6] * FAN_IN[name][layer] ** 0.5
      for layer, leaves in population[name].items()
      for values in leaves.values()
    ]
  )
  # No number twice, but by chance: nor others in another order or sign.
  assert len(np.unique(np.abs(firsts).round(5))) > 0.99 * firsts.size
