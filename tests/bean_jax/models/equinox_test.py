"""Models of Equinox, whole: functions among their leaves, kernels [M, N].

Every loss function here returns, by path, the inputs [..., N] and the kernel
[N, M] of each of its layers of neurons.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models.checks import check

eqx = pytest.importorskip("equinox")

DIM = 4
INPUTS = np.float32(np.random.default_rng(0).normal(size=(5, DIM)))
TOKENS = np.float32(np.random.default_rng(1).normal(size=(2, 3, DIM)))


def _value_and_grad(fn, **options):
  """Differentiates by arrays alone; the rest of a model has no gradient."""

  def value_and_grad(model, *args):
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    return jax.value_and_grad(
      lambda arrays: fn(eqx.combine(arrays, rest), *args), **options
    )(arrays)

  return value_and_grad


def _jit(fn):
  def jitted(model, *args):
    arrays, rest = eqx.partition(model, eqx.is_array)

    @jax.jit
    def of_arrays(arrays, *args):
      value, gradient, _ = fn(eqx.combine(arrays, rest), *args)
      return value, gradient

    return *of_arrays(arrays, *args), ((), ())

  return jitted


check_equinox = functools.partial(
  check, jit=_jit, value_and_grad=_value_and_grad
)


def _loss(outputs):
  return jnp.mean(jnp.tanh(outputs) ** 2)


def mlp(model, inputs):
  hidden = inputs
  layers = {}
  for index, layer in enumerate(model.layers):
    layers[f"layers/{index}/weight"] = (hidden, layer.weight.T)
    hidden = jnp.tanh(jax.vmap(layer)(hidden))
  del layers["layers/0/weight"]
  return _loss(jax.vmap(model)(inputs)), layers


def attention(model, tokens):
  """The projections are called in a vmap of their own, within another."""
  embed, part = model
  hidden = jnp.tanh(jax.vmap(jax.vmap(embed))(tokens))
  outputs = jax.vmap(lambda x: part(x, x, x))(hidden)
  projections = ("query_proj", "key_proj", "value_proj")
  query, key, value = (
    jnp.einsum("bsd,md->bsm", hidden, getattr(part, name).weight).reshape(
      2, 3, 2, -1
    )
    for name in projections
  )
  scores = jnp.einsum("bshk,bthk->bhst", query, key) / np.sqrt(
    query.shape[-1], dtype=np.float32
  )
  mixed = jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores), value)
  layers = {
    f"1/{name}/weight": (hidden, getattr(part, name).weight.T)
    for name in projections
  }
  layers["1/output_proj/weight"] = (
    mixed.reshape(2, 3, -1),
    part.output_proj.weight.T,
  )
  return _loss(outputs), layers


def recurrent(model, tokens):
  """A fused cell of three gates, whose steps share a kernel."""
  cell, head = model

  def of_sequence(sequence):
    def step(state, token):
      new = cell(token, state)
      return new, (state, new)

    return jax.lax.scan(step, jnp.zeros(3), sequence)[1]

  before, states = jax.vmap(of_sequence)(tokens)
  outputs = jax.vmap(jax.vmap(head))(states)
  return _loss(outputs), {
    "0/weight_hh": (before, cell.weight_hh.T),
    "1/weight": (states, head.weight.T),
  }


class Shared(eqx.Module):
  """A layer that is called twice, and of which an attribute is read."""

  embed: eqx.nn.Linear
  layer: eqx.nn.Linear
  activation: object = jnp.tanh
  name: str = "shared"

  def __call__(self, inputs):
    hidden = self.activation(self.embed(inputs))
    hidden_2 = self.activation(self.layer(hidden) * self.layer.weight[0, 0])
    return hidden, hidden_2, self.layer(hidden_2)


def shared(model, inputs):
  hidden, hidden_2, outputs = jax.vmap(model)(inputs)
  rows = jnp.concatenate([hidden, hidden_2])
  return _loss(outputs), {"layer/weight": (rows, model.layer.weight.T)}


def checkpointed(model, inputs):
  first, second = model

  def of_one(row):
    hidden = jnp.tanh(first(row))
    return hidden, jax.checkpoint(lambda layer, x: layer(x))(second, hidden)

  hidden, outputs = jax.vmap(of_one)(inputs)
  return _loss(outputs), {"1/weight": (hidden, second.weight.T)}


def _linear(key, inputs, outputs):
  return eqx.nn.Linear(inputs, outputs, key=jax.random.key(key))


CASES = {
  mlp: (
    eqx.nn.MLP(DIM, 3, 6, 2, activation=jnp.tanh, key=jax.random.key(0)),
    INPUTS,
    "layers/0/weight",
  ),
  attention: (
    (
      _linear(0, DIM, 6),
      eqx.nn.MultiheadAttention(2, 6, key=jax.random.key(1)),
    ),
    TOKENS,
    "0/weight",
  ),
  recurrent: (
    (eqx.nn.GRUCell(DIM, 3, key=jax.random.key(0)), _linear(1, 3, 2)),
    TOKENS,
    "0/weight_ih",
  ),
  shared: (
    Shared(_linear(0, DIM, 6), _linear(1, 6, 6)),
    INPUTS,
    "embed/weight",
  ),
  checkpointed: ((_linear(0, DIM, 6), _linear(1, 6, 3)), INPUTS, "0/weight"),
}


@pytest.mark.parametrize("loss_fn", CASES, ids=lambda fn: fn.__name__)
def test_layers_are_those_by_hand(loss_fn):
  model, inputs, raw = CASES[loss_fn]
  # The attention by hand is that of Equinox but for the rounding.
  check_equinox(loss_fn, model, inputs, raw=[raw])


def test_filtered_checkpoint():
  def loss_fn(model, inputs):
    hidden = jnp.tanh(jax.vmap(model[0])(inputs))
    return _loss(jax.vmap(eqx.filter_checkpoint(model[1]))(hidden))

  model, inputs, raw = CASES[checkpointed]
  found = bean_jax.find_layers(loss_fn, model, inputs)
  assert [layer.path for layer in found] == [raw, "1/weight"]
  expected = bean_jax.penalties(checkpointed)(model, inputs)[1]
  ours = bean_jax.penalties(loss_fn)(model, inputs)[1]
  np.testing.assert_allclose(ours["1/weight"], expected["1/weight"], rtol=1e-6)


def test_under_the_wrappers_of_equinox():
  model, inputs, _ = CASES[mlp]
  bean_loss_fn = bean_jax.regularize(lambda *args: mlp(*args)[0], alpha=3.0)
  loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(bean_loss_fn))(
    model, inputs
  )
  plain, layers = mlp(model, inputs)
  penalty = sum(bean_jax.layer_penalty(*layer) for layer in layers.values())
  np.testing.assert_allclose(loss, plain + 3 * penalty, rtol=1e-5)
  assert gradient.activation is None
  assert np.any(gradient.layers[1].weight)


def test_a_model_that_is_called_itself_says_what_works():
  model, inputs, _ = CASES[mlp]
  with pytest.raises(ValueError, match="lambda model, inputs: model"):
    bean_jax.capture(model)(inputs[0])
