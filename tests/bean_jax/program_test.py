"""Found layers under transformations of JAX, what they cost, and errors."""

import ast
import re

from flax import linen as nn
import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
import numpy as np
import pytest

import bean_jax

NAMES = ("first", "middle", "last")
SPLIT, WHOLE = PartitionSpec("device"), PartitionSpec()


def _init(seed=0, sizes=(5, 6, 6, 3)):
  keys = jax.random.split(jax.random.key(seed), len(NAMES))
  return {
    name: 0.7 * jax.random.normal(key, size)
    for name, key, size in zip(
      NAMES, keys, zip(sizes, sizes[1:], strict=False), strict=True
    )
  }


def _draw_inputs(num_samples=8, seed=1):
  return jax.random.normal(jax.random.key(seed), (num_samples, 5))


def _layer(inputs, kernel):
  return jnp.tanh(inputs @ kernel)


def _loss_and_hidden(params, inputs, layer=_layer):
  """Returns the loss of a perceptron, and what enters each of its layers."""
  hidden = {}
  outputs = inputs
  for name in NAMES:
    hidden[name] = outputs
    outputs = layer(outputs, params[name])
  return jnp.mean((outputs - 0.5) ** 2), hidden


def _loss_fn(params, inputs, layer=_layer):
  return _loss_and_hidden(params, inputs, layer)[0]


def _mesh():
  return jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))


# Errors.


def _within_while(inputs, kernel):
  def step(carry):
    index, outputs = carry
    return index + 1, _layer(outputs, kernel)

  return jax.lax.while_loop(lambda carry: carry[0] < 2, step, (0, inputs))[1]


def _within_cond(inputs, kernel):
  return jax.lax.cond(
    jnp.sum(inputs) > 0, _layer, lambda inputs, _: inputs, inputs, kernel
  )


@jax.custom_jvp
def _within_custom_jvp(inputs, kernel):
  return _layer(inputs, kernel)


@_within_custom_jvp.defjvp
def _jvp(primals, tangents):
  return jax.jvp(_layer, primals, tangents)


@jax.custom_vjp
def _within_custom_vjp(inputs, kernel):
  return _layer(inputs, kernel)


_within_custom_vjp.defvjp(
  lambda inputs, kernel: jax.vjp(_layer, inputs, kernel),
  lambda vjp_fn, gradient: vjp_fn(gradient),
)


def _within_shard_map(inputs, kernel):
  return jax.shard_map(
    _layer, mesh=_mesh(), in_specs=(SPLIT, WHOLE), out_specs=SPLIT
  )(inputs, kernel)


def _within_pallas(inputs, kernel):
  def product(inputs_ref, kernel_ref, outputs_ref):
    outputs_ref[...] = _layer(inputs_ref[...], kernel_ref[...])

  return pl.pallas_call(
    product,
    out_shape=jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
    interpret=True,
  )(inputs, kernel)


CONTAINERS = {
  "jax.lax.while_loop": _within_while,
  "jax.lax.cond or switch": _within_cond,
  "jax.custom_jvp": _within_custom_jvp,
  "jax.custom_vjp": _within_custom_vjp,
  "jax.shard_map": _within_shard_map,
  "a Pallas kernel": _within_pallas,
}


def test_all_that_cannot_be_reached_is_named_at_once():
  keys = jax.random.split(jax.random.key(0), 2 + len(CONTAINERS))
  params = {
    name: jax.random.normal(key, (5, 5))
    for name, key in zip(("first", *CONTAINERS, "last"), keys, strict=True)
  }
  inputs = _draw_inputs()

  def hidden_fn(params, inputs):
    outputs = _layer(inputs, params["first"])
    for name, layer in CONTAINERS.items():
      outputs = layer(outputs, params[name])
    return outputs

  def loss_fn(params, inputs):
    hidden = hidden_fn(params, inputs)
    return jnp.mean(_layer(hidden, params["last"]) ** 2)

  with pytest.raises(ValueError, match="cannot be had") as info:
    bean_jax.regularize(loss_fn, alpha=1.0)(params, inputs)
  message = str(info.value)
  for name in CONTAINERS:
    assert f"'{name}': it is called within {name}" in message
  assert "'last'" not in message
  suggested = re.search(r"layers=(\[.*?\])", message)
  assert suggested
  layers = ast.literal_eval(suggested[1])
  _, penalties = bean_jax.penalties(loss_fn, layers=layers)(params, inputs)
  assert list(penalties) == ["last"]
  np.testing.assert_allclose(
    penalties["last"],
    bean_jax.layer_penalty(hidden_fn(params, inputs), params["last"]),
    rtol=1e-6,
  )


def test_parameters_that_are_closed_over():
  params = _init()
  bean_loss_fn = bean_jax.regularize(
    lambda _, inputs: _loss_fn(params, inputs), alpha=1.0
  )
  with pytest.raises(ValueError, match="no matrix product .* not closed over"):
    bean_loss_fn(params, _draw_inputs())


def test_convolutions_alone():
  def loss_fn(params, images):
    return jnp.mean(jax.lax.conv(images, params["conv"], (1, 1), "SAME"))

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  with pytest.raises(ValueError, match=r"must have .* 'conv' \(a convolution"):
    bean_loss_fn({"conv": jnp.ones((3, 2, 1, 1))}, jnp.ones((1, 2, 4, 4)))


def test_constant_loss_gives_the_penalty_alone():
  params, inputs = _init(), _draw_inputs()
  bean_loss_fn = bean_jax.regularize(
    lambda *call: (0.0, _loss_fn(*call)), alpha=3.0
  )
  penalty, loss = bean_loss_fn(params, inputs)
  plain, hidden = _loss_and_hidden(params, inputs)
  assert loss == plain
  expected = sum(
    3.0 * bean_jax.layer_penalty(hidden[name], params[name])
    for name in NAMES[1:]
  )
  np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_kernels_that_differ():
  params = _init()

  def loss_fn(params, inputs):
    halved = {**params, "last": params["middle"] * jnp.tri(6)}
    return _loss_fn(params, inputs) + _loss_fn(halved, inputs)

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  with pytest.raises(ValueError, match="'middle': .* kernels that differ"):
    bean_loss_fn(params, _draw_inputs())


@pytest.mark.parametrize(
  ("layers", "unknown"),
  (
    ("head*", ["head*"]),
    (["last", "head*", "!tail"], ["head*", "!tail"]),
  ),
)
def test_patterns_that_match_nothing(layers, unknown):
  bean_loss_fn = bean_jax.regularize(_loss_fn, layers=layers, alpha=1.0)
  message = f"asks for {unknown}, .* there are {list(NAMES)}"
  with pytest.raises(
    ValueError, match=re.escape(message).replace(r"\.\*", ".*")
  ):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize("layers", (3, [3], b"last", jnp.ones(2)))
def test_layers_of_a_wrong_type(layers):
  bean_loss_fn = bean_jax.regularize(_loss_fn, layers=layers, alpha=1.0)
  with pytest.raises(TypeError, match="layers must be None, a path or a "):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  "alpha",
  (
    {"middle": 2.0, "last": 0.5},
    {"mid*": 2.0, "*": 0.5},
    {"middle": 2.0, "l*t": 0.5},
    {"middle": 2.0, "last": 0.5}.get,
  ),
)
def test_alpha_by_path(alpha):
  params, inputs = _init(), _draw_inputs()
  loss = bean_jax.regularize(_loss_fn, alpha=alpha)(params, inputs)
  plain, by_layer = bean_jax.penalties(_loss_fn)(params, inputs)
  expected = plain + 2.0 * by_layer["middle"] + 0.5 * by_layer["last"]
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("alpha", "message"),
  (
    ({"middle": 1.0}, r"without one are \['last'\]"),
    ({"*": 1.0, "first": 1.0}, r"without a layer \['first'\]"),
    ({"*": 1.0, "last": 1.0}, r"without a layer \['last'\]"),
  ),
)
def test_alpha_that_does_not_fit(alpha, message):
  bean_loss_fn = bean_jax.regularize(_loss_fn, alpha=alpha)
  with pytest.raises(ValueError, match=message):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  ("result_of", "error", "message"),
  (
    (lambda loss: (loss, 1.0, 2.0), TypeError, "got a tuple of 3"),
    (lambda loss: loss[None], ValueError, r"scalar loss, got shape \[1\]"),
    (lambda loss: {"loss": loss}, TypeError, r"\(loss, aux\), got dict"),
    (lambda loss: None, TypeError, "got NoneType"),
  ),
)
def test_loss_of_a_wrong_form(result_of, error, message):
  bean_loss_fn = bean_jax.regularize(
    lambda *call: result_of(_loss_fn(*call)), alpha=1.0
  )
  with pytest.raises(error, match=message):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  "find",
  (
    lambda module, *call: bean_jax.capture(module)(*call),
    bean_jax.find_layers,
  ),
)
def test_linen_module_instead_of_its_apply(find):
  module, inputs = nn.Dense(3), _draw_inputs()
  variables = module.init(jax.random.key(0), inputs)
  with pytest.raises(TypeError, match="pass model.apply"):
    find(module, variables, inputs)
