"""Models of Equinox, against layers that are written out by hand."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models.checks import check, loss_of

DIM = 4
INPUTS = jax.random.normal(jax.random.key(1), (5, DIM))


def _keys(count):
  return jax.random.split(jax.random.key(0), count)


_check = functools.partial(
  check, jit=eqx.filter_jit, value_and_grad=eqx.filter_value_and_grad
)


def _loss_of_batch(model, inputs):
  """Returns the loss of a whole model, functions among its leaves included."""
  outputs = jax.vmap(model)(inputs)
  return loss_of(outputs), outputs


def _linear(layer, inputs):
  return inputs @ layer.weight.T + jnp.broadcast_to(
    layer.bias, (len(inputs), len(layer.bias))
  )


def test_perceptron():
  model = eqx.nn.MLP(
    DIM, 3, 6, depth=2, activation=jax.nn.gelu, key=jax.random.key(0)
  )

  def by_hand(model, inputs):
    layers, hidden = {}, inputs
    for index, layer in enumerate(model.layers):
      layers[f"layers/{index}/weight"] = (hidden, layer.weight.T)
      hidden = jax.nn.gelu(_linear(layer, hidden))
    del layers["layers/0/weight"]
    return layers

  raw = ["layers/0/weight"]
  _check(_loss_of_batch, model, INPUTS, by_hand=by_hand, raw=raw)


class Attention(eqx.Module):
  """Attention after a layer, over samples as a sequence."""

  before: eqx.nn.Linear
  attention: eqx.nn.MultiheadAttention

  def __call__(self, tokens):
    hidden = jnp.tanh(jax.vmap(self.before)(tokens))
    return self.attention(hidden, hidden, hidden)


def test_attention():
  model = Attention(
    eqx.nn.Linear(DIM, 6, key=jax.random.key(0)),
    eqx.nn.MultiheadAttention(2, 6, key=jax.random.key(1)),
  )
  tokens = jnp.stack([INPUTS, -INPUTS])

  def by_hand(model, tokens):
    hidden = jnp.tanh(jax.vmap(lambda x: _linear(model.before, x))(tokens))
    names = ("query", "key", "value")
    kernels = {
      name: getattr(model.attention, f"{name}_proj").weight.T for name in names
    }
    query, key, value = (
      (hidden @ kernels[name]).reshape(2, 5, 2, 3) for name in names
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(3.0)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return {
      **{
        f"attention/{name}_proj/weight": (hidden, kernels[name])
        for name in names
      },
      "attention/output_proj/weight": (
        mixed.reshape(2, 5, 6),
        model.attention.output_proj.weight.T,
      ),
    }

  raw = ["before/weight"]
  _check(_loss_of_batch, model, tokens, by_hand=by_hand, raw=raw)


class Recurrent(eqx.Module):
  """A cell that a scan calls, and a head."""

  cell: eqx.Module
  head: eqx.nn.Linear

  def __call__(self, sequence):
    def step(state, inputs):
      return self.cell(inputs, state), state

    start = jnp.zeros(3)
    if isinstance(self.cell, eqx.nn.LSTMCell):
      start = (start, start)
    last, before = jax.lax.scan(step, start, sequence)
    if isinstance(self.cell, eqx.nn.LSTMCell):
      (last, _), (before, _) = last, before
    return self.head(last), (last, before)


@pytest.mark.parametrize("cell", (eqx.nn.GRUCell, eqx.nn.LSTMCell))
def test_cells_within_a_scan(cell):
  model = Recurrent(
    cell(DIM, 3, key=jax.random.key(0)),
    eqx.nn.Linear(3, 2, key=jax.random.key(1)),
  )
  sequences = jnp.stack([INPUTS, -INPUTS])

  def loss_fn(model, sequences):
    outputs, (last, before) = jax.vmap(model)(sequences)
    return loss_of(outputs), {
      "cell/weight_hh": (before, model.cell.weight_hh.T),
      "head/weight": (last, model.head.weight.T),
    }

  _check(loss_fn, model, sequences, raw=["cell/weight_ih"])


class Reading(eqx.Module):
  """Reads attributes of its layers, and shares the weight of one."""

  shared: eqx.nn.Shared
  fc: eqx.nn.Linear

  def __init__(self):
    embedding = eqx.nn.Embedding(7, DIM, key=jax.random.key(0))
    head = eqx.nn.Linear(DIM, 7, use_bias=False, key=jax.random.key(1))
    self.shared = eqx.nn.Shared(
      (embedding, head),
      where=lambda pair: pair[1].weight,
      get=lambda pair: pair[0].weight,
    )
    self.fc = eqx.nn.Linear(DIM, DIM, key=jax.random.key(2))

  def __call__(self, token):
    embedding, head = self.shared()
    embedded = embedding(token)
    hidden = jnp.tanh(self.fc(embedded)) / self.fc.out_features
    return head(hidden), (embedded, hidden)


def test_attributes_and_shared_weights():
  def loss_fn(model, tokens):
    outputs, (embedded, hidden) = jax.vmap(model)(tokens)
    embedding, _ = model.shared()
    return loss_of(outputs), {
      "fc/weight": (embedded, model.fc.weight.T),
      "shared/pytree/0/weight": (hidden, embedding.weight.T),
    }

  _check(loss_fn, Reading(), jnp.array([0, 3, 3, 6]))


def test_stacked_layers_by_filter_vmap():
  @eqx.filter_vmap
  def make(key):
    return eqx.nn.Linear(DIM, DIM, key=key)

  model = {"first": make(_keys(1)), "deep": make(_keys(3))}

  def loss_fn(model, inputs):
    first = jax.tree.map(lambda leaf: leaf[0], model["first"])
    hidden = jnp.tanh(jax.vmap(first)(inputs))
    dynamic, static = eqx.partition(model["deep"], eqx.is_array)

    def step(hidden, layer):
      layer = eqx.combine(layer, static)
      return jnp.tanh(jax.vmap(layer)(hidden)), hidden

    outputs, before = jax.lax.scan(step, hidden, dynamic)
    return loss_of(outputs), {
      f"deep/weight[{i}]": (before[i], dynamic.weight[i].T) for i in range(3)
    }

  _check(loss_fn, model, INPUTS, raw=["first/weight"])


def test_norms_and_dropout_with_state():
  class Network(eqx.Module):
    fc1: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    fc2: eqx.nn.Linear

    def __init__(self):
      self.fc1 = eqx.nn.Linear(DIM, 5, key=jax.random.key(0))
      self.norm = eqx.nn.BatchNorm(5, axis_name="batch", mode="batch")
      self.dropout = eqx.nn.Dropout(0.5)
      self.fc2 = eqx.nn.Linear(5, 3, key=jax.random.key(1))

    def __call__(self, inputs, state, key):
      hidden, state = self.norm(self.fc1(inputs), state)
      hidden = self.dropout(jnp.tanh(hidden), key=key)
      return self.fc2(hidden), hidden, state

  model, state = eqx.nn.make_with_state(Network)()
  bits = jax.random.key_data(jax.random.key(3))

  def loss_fn(model, inputs, state, bits):
    keys = jax.random.split(jax.random.wrap_key_data(bits), len(inputs))
    outputs, hidden, state = jax.vmap(
      model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, 0, None)
    )(inputs, state, keys)
    return loss_of(outputs), (state, hidden)

  def by_hand(model, inputs, state, bits):
    _, (_, hidden) = loss_fn(model, inputs, state, bits)
    return {"fc2/weight": (hidden, model.fc2.weight.T)}

  raw = ["fc1/weight"]
  _check(loss_fn, model, INPUTS, state, bits, by_hand=by_hand, raw=raw)


def test_models_are_captured_by_the_line_that_errors_name():
  model = eqx.nn.MLP(DIM, 3, 6, depth=1, key=jax.random.key(0))
  with pytest.raises(ValueError, match="lambda model, inputs"):
    bean_jax.capture(model)(INPUTS[0])
  output, activations, kernels = eqx.filter_jit(
    bean_jax.capture(lambda model, inputs: jax.vmap(model)(inputs))
  )(model, INPUTS)
  np.testing.assert_array_equal(
    output, eqx.filter_jit(eqx.filter_vmap(model))(INPUTS)
  )
  assert list(activations) == ["layers/1/weight"]
  expected = model.layers[1].weight.T
  np.testing.assert_array_equal(kernels["layers/1/weight"], expected)
