"""The same network in five libraries: one line, and the same penalty."""

from flax import linen as nn, nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from tests import reference

SIZES = {"fc1": (12, 9), "fc2": (9, 7), "head": (7, 4)}
# So great that the loss of the data is a thousandth of the sum.
ALPHA = 1e4


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


def _cross_entropy(logits):
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def _bare():
  """Arrays alone."""

  def dense(layer, inputs):
    return (
      jnp.einsum("sn,nm->sm", inputs, layer["kernel"]) + layer["bias"][None]
    )

  def loss_fn(params):
    hidden = jax.nn.relu(dense(params["fc1"], IMAGES))
    hidden = jax.nn.relu(dense(params["fc2"], hidden))
    return _cross_entropy(dense(params["head"], hidden))

  def value_and_grad(loss_fn):
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(PARAMS)
    return loss, gradient["fc2"]["kernel"]

  return loss_fn, value_and_grad


def _linen():
  """A model of Flax Linen."""
  model = nn.Sequential(
    [nn.Dense(9), nn.relu, nn.Dense(7), nn.relu, nn.Dense(4)]
  )

  def loss_fn(params):
    return _cross_entropy(model.apply({"params": params}, IMAGES))

  def value_and_grad(loss_fn):
    names = ("layers_0", "layers_2", "layers_4")
    params = dict(zip(names, PARAMS.values(), strict=True))
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
    return loss, gradient["layers_2"]["kernel"]

  return loss_fn, value_and_grad


def _nnx():
  """A model of Flax NNX."""

  def loss_fn(model):
    return _cross_entropy(model(IMAGES))

  def value_and_grad(loss_fn):
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(*size, rngs=rngs) for size in SIZES.values()]
    for layer, values in zip(layers, PARAMS.values(), strict=True):
      layer.kernel.set_value(jnp.asarray(values["kernel"]))
      layer.bias.set_value(jnp.asarray(values["bias"]))
    model = nnx.Sequential(layers[0], nnx.relu, layers[1], nnx.relu, layers[2])
    loss, gradient = nnx.jit(nnx.value_and_grad(loss_fn))(model)
    return loss, nnx.to_pure_dict(gradient)["layers"][2]["kernel"]

  return loss_fn, value_and_grad


def _equinox():
  """A model of Equinox."""
  eqx = pytest.importorskip("equinox")

  def loss_fn(model):
    return _cross_entropy(jax.vmap(model)(IMAGES))

  def value_and_grad(loss_fn):
    relu = eqx.nn.Lambda(jax.nn.relu)
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    layers = [
      eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        eqx.nn.Linear(*size, key=key),
        (jnp.asarray(PARAMS[name]["kernel"].T), PARAMS[name]["bias"]),
      )
      for (name, size), key in zip(SIZES.items(), keys, strict=True)
    ]
    model = eqx.nn.Sequential([layers[0], relu, layers[1], relu, layers[2]])
    loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss_fn))(model)
    return loss, gradient.layers[2].weight.T

  return loss_fn, value_and_grad


def _haiku():
  """A model of Haiku."""
  hk = pytest.importorskip("haiku")
  model = hk.without_apply_rng(
    hk.transform(lambda images: hk.nets.MLP([9, 7, 4])(images))
  )

  def loss_fn(params):
    return _cross_entropy(model.apply(params, IMAGES))

  def value_and_grad(loss_fn):
    params = {
      f"mlp/~/linear_{index}": {"w": values["kernel"], "b": values["bias"]}
      for index, values in enumerate(PARAMS.values())
    }
    loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
    return loss, gradient["mlp/~/linear_1"]["w"]

  return loss_fn, value_and_grad


def _expected():
  """Returns the penalty by definition, of the layers of neurons."""
  hidden, penalties = np.float64(IMAGES), []
  for layer in PARAMS.values():
    penalties.append(reference.layer_penalty(hidden, layer["kernel"]))
    hidden = np.maximum(hidden @ layer["kernel"] + layer["bias"], 0)
  return sum(penalties[1:])


@pytest.mark.parametrize("library", (_bare, _linen, _nnx, _equinox, _haiku))
def test_the_penalty_is_the_same_to_six_digits(library):
  loss_fn, value_and_grad = library()
  plain, _ = value_and_grad(loss_fn)
  bean, gradient = value_and_grad(bean_jax.regularize(loss_fn, alpha=ALPHA))
  assert plain < 1e-2 * bean
  np.testing.assert_allclose((bean - plain) / ALPHA, _expected(), rtol=1e-6)
  bare_fn, bare_value_and_grad = _bare()
  _, by_arrays = bare_value_and_grad(bean_jax.regularize(bare_fn, alpha=ALPHA))
  np.testing.assert_allclose(gradient, by_arrays, rtol=1e-4, atol=1e-3)
