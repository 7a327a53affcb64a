"""The same network in five libraries: three lines, and the same penalty."""

import difflib
import inspect

from flax import linen as nn, nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from bean_jax import linen, nnx as bean_nnx
from tests import reference

SIZES = {"fc1": (12, 9), "fc2": (9, 7), "head": (7, 4)}
# So great that the loss of the data is a thousandth of the sum.
ALPHA = 1e3


def _draw():
  rng = np.random.default_rng(0)
  params = {
    name: {
      "kernel": np.float32(rng.normal(size=size) / np.sqrt(size[0])),
      "bias": np.float32(0.1 * rng.normal(size=size[1])),
    }
    for name, size in SIZES.items()
  }
  images = np.float32(rng.normal(size=(16, 12)))
  return params, images, rng.integers(4, size=16)


PARAMS, IMAGES, LABELS = _draw()


def cross_entropy(logits):
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def dense(layer, inputs):
  return inputs @ layer["kernel"] + jnp.broadcast_to(
    layer["bias"], (len(inputs), len(layer["bias"]))
  )


class Bare:
  """Arrays alone."""

  def plain(self, params):
    h1 = jax.nn.relu(dense(params["fc1"], IMAGES))
    h2 = jax.nn.relu(dense(params["fc2"], h1))
    loss = cross_entropy(dense(params["head"], h2))
    return loss

  def bean(self, params):
    h1 = jax.nn.relu(dense(params["fc1"], IMAGES))
    h2 = jax.nn.relu(dense(params["fc2"], h1))
    loss = cross_entropy(dense(params["head"], h2))
    kernels = [params[name]["kernel"] for name in SIZES]
    loss += ALPHA * bean_jax.bean_penalty([IMAGES, h1, h2], kernels)
    return loss

  def value_and_grad(self, loss_fn):
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(PARAMS)
    return loss, gradient["fc1"]["kernel"]


class Linen:
  """An unmodified model of Flax Linen."""

  model = nn.Sequential(
    [nn.Dense(9), nn.relu, nn.Dense(7), nn.relu, nn.Dense(4)]
  )

  def plain(self, params):
    logits = self.model.apply({"params": params}, IMAGES)
    loss = cross_entropy(logits)
    return loss

  def bean(self, params):
    logits, h = linen.capture(self.model)({"params": params}, IMAGES)
    loss = cross_entropy(logits)
    loss += ALPHA * bean_jax.bean_penalty(h, linen.kernels(params, h))
    return loss

  def value_and_grad(self, loss_fn):
    names = ("layers_0", "layers_2", "layers_4")
    params = dict(zip(names, PARAMS.values(), strict=True))
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
    return loss, gradient["layers_0"]["kernel"]


class Nnx:
  """An unmodified model of Flax NNX."""

  def plain(self, model):
    logits = model(IMAGES)
    loss = cross_entropy(logits)
    return loss

  def bean(self, model):
    logits, h = bean_nnx.capture(model)(IMAGES)
    loss = cross_entropy(logits)
    loss += ALPHA * bean_jax.bean_penalty(h, bean_nnx.kernels(model, h))
    return loss

  def value_and_grad(self, loss_fn):
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(*size, rngs=rngs) for size in SIZES.values()]
    for layer, values in zip(layers, PARAMS.values(), strict=True):
      layer.kernel.set_value(jnp.asarray(values["kernel"]))
      layer.bias.set_value(jnp.asarray(values["bias"]))
    model = nnx.Sequential(layers[0], nnx.relu, layers[1], nnx.relu, layers[2])
    loss, gradient = nnx.jit(nnx.value_and_grad(loss_fn))(model)
    return loss, nnx.to_pure_dict(gradient)["layers"][0]["kernel"]


class Equinox:
  """An unmodified model of Equinox, and the functions of the example."""

  def __init__(self):
    self.equinox = pytest.importorskip("equinox")
    self.example = pytest.importorskip("examples.equinox_model")

  def plain(self, model):
    logits = jax.vmap(model)(IMAGES)
    loss = cross_entropy(logits)
    return loss

  def bean(self, model):
    capture, kernels = self.example.capture, self.example.kernels
    logits, h = jax.vmap(capture(model))(IMAGES)
    loss = cross_entropy(logits)
    loss += ALPHA * bean_jax.bean_penalty(h, kernels(model, h))
    return loss

  def value_and_grad(self, loss_fn):
    nn, relu = self.equinox.nn, self.equinox.nn.Lambda(jax.nn.relu)
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    layers = [
      nn.Linear(*size, key=key)
      for size, key in zip(SIZES.values(), keys, strict=True)
    ]
    layers = [
      self.equinox.tree_at(
        lambda layer: (layer.weight, layer.bias),
        layer,
        (jnp.asarray(values["kernel"].T), jnp.asarray(values["bias"])),
      )
      for layer, values in zip(layers, PARAMS.values(), strict=True)
    ]
    model = nn.Sequential([layers[0], relu, layers[1], relu, layers[2]])
    loss, gradient = self.equinox.filter_jit(
      self.equinox.filter_value_and_grad(loss_fn)
    )(model)
    return loss, gradient.layers[0].weight.T


class Haiku:
  """An unmodified model of Haiku, and the functions of the example."""

  def __init__(self):
    self.haiku = pytest.importorskip("haiku")
    self.example = pytest.importorskip("examples.haiku_model")
    self.model = self.haiku.without_apply_rng(
      self.haiku.transform(
        lambda images: self.haiku.nets.MLP([9, 7, 4])(images)
      )
    )

  def plain(self, params):
    logits = self.model.apply(params, IMAGES)
    loss = cross_entropy(logits)
    return loss

  def bean(self, params):
    capture, kernels = self.example.capture, self.example.kernels
    logits, h = capture(self.model.apply)(params, IMAGES)
    loss = cross_entropy(logits)
    loss += ALPHA * bean_jax.bean_penalty(h, kernels(params, h))
    return loss

  def value_and_grad(self, loss_fn):
    params = {
      f"mlp/~/linear_{index}": {"w": values["kernel"], "b": values["bias"]}
      for index, values in enumerate(PARAMS.values())
    }
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
    return loss, gradient["mlp/~/linear_0"]["w"]


each_library = pytest.mark.parametrize(
  "library", (Bare, Linen, Nnx, Equinox, Haiku)
)


def _penalty_by_definition():
  hidden, total = np.float64(IMAGES), 0.0
  for layer in PARAMS.values():
    total += reference.layer_penalty(hidden, layer["kernel"])
    hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
  return total


@each_library
def test_the_penalty_is_the_same_to_six_digits(library):
  program = library()
  plain, _ = program.value_and_grad(program.plain)
  bean, gradient = program.value_and_grad(program.bean)
  assert plain < 1e-2 * bean
  expected = _penalty_by_definition()
  np.testing.assert_allclose((bean - plain) / ALPHA, expected, rtol=1e-6)
  _, by_arrays = Bare().value_and_grad(Bare().bean)
  np.testing.assert_allclose(gradient, by_arrays, rtol=1e-4, atol=1e-3)


def _body(function):
  """Returns the lines of a function, but for its name and our imports."""
  lines = inspect.getsource(function).splitlines()[1:]
  return [line for line in lines if "self.example.capture" not in line]


@each_library
def test_at_most_three_lines_change(library):
  difference = difflib.ndiff(_body(library.plain), _body(library.bean))
  changed = [line for line in difference if line.startswith("+ ")]
  # And one that imports.
  assert 1 + len(changed) <= 3, changed
