"""Tests of experiments.architectures.resnet18."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.architectures import resnet18
from experiments.architectures.dropout import Dropout
from tests import reference

# Narrow, and with half the stages; shortcuts of both kinds are among them.
SMALL = resnet18.ResNet18(num_features=(3, 4))


@pytest.fixture(scope="module")
def shapes():
  """Shapes of the variables of the whole network, for color images."""
  images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
  init = resnet18.ResNet18(dtype=jnp.bfloat16).init
  return jax.eval_shape(lambda key: init(key, images, train=False), key())


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def variables(images):
  """Variables of the small network, with statistics that are not usual."""
  shapes = jax.eval_shape(
    lambda key: SMALL.init(key, images, train=False), key()
  )
  generator = np.random.default_rng(1)

  def draw(leaf):
    if len(leaf.shape) == 1:
      return generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    deviation = math.prod(leaf.shape[:-1]) ** -0.5
    return generator.normal(0, deviation, leaf.shape).astype(np.float32)

  return jax.tree.map(draw, shapes)


def key():
  return jax.random.key(0)


def size(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_number_of_parameters(shapes):
  assert size(shapes["params"]) == 11_173_962
  assert size(shapes["params"]["head"]) == 512 * 10 + 10
  # A mean and a variance for each of the 4,800 channels.
  assert size(shapes["batch_stats"]) == 2 * 4_800
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    np.dtype(np.float32)
  }


class Definition:
  """The network in float64, written from its layers.

  Attributes:
    statistics: Means and variances of the batch, by layer, in training.
  """

  def __init__(self, variables, train):
    self.params = jax.tree.map(np.float64, variables["params"])
    self.running = jax.tree.map(np.float64, variables["batch_stats"])
    self.train = train
    self.statistics = {}

  def __call__(self, images):
    x = (images / 255 - 0.5) / 0.5
    x = self.conv(x, "conv", stride=1)
    x = np.maximum(self.norm(x, "norm"), 0)
    for stage in (1, 2):
      x = self.block(x, f"block{stage}a", stride=1 if stage == 1 else 2)
      x = self.block(x, f"block{stage}b", stride=1)
    x = x.mean(axis=(1, 2))
    head = self.params["head"]
    return x @ head["kernel"] + head["bias"], x

  def block(self, x, name, stride):
    y = self.conv(x, name, "conv1", stride=stride)
    y = np.maximum(self.norm(y, name, "norm1"), 0)
    y = self.norm(self.conv(y, name, "conv2", stride=1), name, "norm2")
    if "shortcut" in self.params[name]:
      x = self.conv(x, name, "shortcut", stride=stride)
      x = self.norm(x, name, "shortcut_norm")
    return np.maximum(x + y, 0)

  def conv(self, x, *path, stride):
    kernel = self.pick(self.params, path)["kernel"]
    outputs = reference.convolve(x, kernel, border=kernel.shape[0] // 2)
    return outputs[:, ::stride, ::stride]

  def norm(self, x, *path):
    layer, running = (
      self.pick(tree, path) for tree in (self.params, self.running)
    )
    mean, var = running["mean"], running["var"]
    if self.train:
      mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
      self.statistics[path] = mean, var
    return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]

  @staticmethod
  def pick(tree, path):
    for name in path:
      tree = tree[name]
    return tree


def test_evaluation_equals_the_definition(variables, images):
  logits, hidden = jax.jit(lambda *args: SMALL.apply(*args, train=False))(
    variables, images
  )
  expected, pooled = Definition(variables, train=False)(images)
  assert list(hidden) == ["head"]
  np.testing.assert_allclose(hidden["head"], pooled, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  assert pooled.std() > 0.1


def test_training_takes_and_keeps_the_statistics_of_the_batch(
  variables, images
):
  (logits, hidden), changed = jax.jit(
    lambda *args: SMALL.apply(*args, train=True, mutable=["batch_stats"])
  )(variables, images)
  definition = Definition(variables, train=True)
  expected, pooled = definition(images)
  np.testing.assert_allclose(hidden["head"], pooled, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
  assert len(definition.statistics) == len(
    jax.tree.leaves(changed, is_leaf=lambda tree: "mean" in tree)
  )
  for path, (mean, var) in definition.statistics.items():
    kept = Definition.pick(changed["batch_stats"], path)
    old = Definition.pick(variables["batch_stats"], path)
    for name, value in (("mean", mean), ("var", var)):
      np.testing.assert_allclose(
        kept[name], 0.9 * old[name] + 0.1 * value, rtol=1e-3, atol=1e-4
      )


@pytest.mark.slow
def test_initial_kernels_fill_the_range_of_the_fan_in():
  module = resnet18.ResNet18(num_features=(16, 16))
  images = jnp.zeros((1, 8, 8, 3), jnp.uint8)
  params = jax.jit(lambda key: module.init(key, images, train=False))(key())[
    "params"
  ]
  block = params["block2a"]
  for kernel, fan_in in (
    (params["conv"]["kernel"], 27),
    (block["conv1"]["kernel"], 144),
    (block["shortcut"]["kernel"], 16),
    (params["head"]["kernel"], 16),
    (params["head"]["bias"], 16),
  ):
    values = np.ravel(kernel) * fan_in**0.5
    assert np.abs(values).max() <= 1 + 1e-6
    assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-3
  np.testing.assert_array_equal(block["norm1"]["scale"], 1)
  np.testing.assert_array_equal(block["norm1"]["bias"], 0)


@pytest.mark.parametrize("size,stride", ((3, 1), (3, 2), (1, 2)))
def test_unfolded_convolution_and_its_gradients(size, stride):
  draw = np.random.default_rng(3).normal
  # Not square, so that no axis stands for another.
  arrays = (draw(size=(2, 8, 6, 3)), draw(size=(size, size, 3, 5)))
  options = [stride, stride], [(size // 2, size // 2)] * 2

  def compute(convolve, *arrays, **others):
    outputs, pull_back = jax.vjp(
      lambda x, kernel: convolve(x, kernel, *options, **others), *arrays
    )
    return outputs, pull_back(jnp.cos(outputs))

  with jax.enable_x64(True):
    chex.assert_trees_all_close(
      compute(resnet18.unfolded, *arrays),
      compute(
        jax.lax.conv_general_dilated,
        *arrays,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      ),
      rtol=1e-12,
    )


def test_bfloat16_is_near_and_ends_in_float32(variables, images):
  def logits_of(dtype):
    module = SMALL.clone(dtype=dtype)
    logits, hidden = jax.jit(lambda *args: module.apply(*args, train=False))(
      variables, images
    )
    assert logits.dtype == hidden["head"].dtype == jnp.float32
    return np.asarray(logits)

  exact, rough = logits_of(jnp.float32), logits_of(jnp.bfloat16)
  errors = np.abs(rough - exact) / np.abs(exact).max()
  assert 1e-5 < errors.max() < 0.05


def test_dropout_drops_what_enters_the_dense_layer(variables, images):
  apply = jax.jit(lambda *args: SMALL.apply(*args, train=False))
  _, hidden = apply(variables, images)
  _, dropped = apply(variables, images, Dropout(0.5, key()))
  kept = dropped["head"] != 0
  assert 0 < kept.sum() < kept.size
  np.testing.assert_allclose(
    dropped["head"][kept], 2 * hidden["head"][kept], rtol=1e-6
  )
