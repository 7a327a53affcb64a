"""Networks of Haiku: parameters by module, in transformations of its own.

Every network here returns its outputs and the inputs [..., N] of each of its
layers of neurons, by path.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.bean_jax.models.checks import check

hk = pytest.importorskip("haiku")

DIM = 4
INPUTS = np.float32(np.random.default_rng(0).normal(size=(5, DIM)))
TOKENS = np.float32(np.random.default_rng(1).normal(size=(2, 3, DIM)))


def perceptron(inputs):
  hidden = jnp.tanh(hk.Linear(6, name="first")(inputs))
  hidden_2 = jnp.tanh(hk.Linear(6, name="second")(hidden))
  return hk.Linear(3, name="head")(hidden_2), {
    "second/w": hidden,
    "head/w": hidden_2,
  }


def rematerialized(inputs):
  hidden = jnp.tanh(hk.Linear(6, name="first")(inputs))
  second = hk.Linear(6, name="second")
  hidden_2 = jnp.tanh(hk.remat(second)(hidden))
  return hidden_2, {"second/w": hidden}


def stack(inputs):
  """Layers whose kernels a scan goes over."""
  hidden = jnp.tanh(hk.Linear(6, name="first")(inputs))

  def block(hidden):
    return jnp.tanh(hk.Linear(6, name="inner")(hidden))

  outputs = hk.experimental.layer_stack(2, name="stack")(block)(hidden)
  return outputs, {"hidden": hidden}


def attention(tokens):
  hidden = jnp.tanh(hk.Linear(6, name="first")(tokens))
  part = hk.MultiHeadAttention(
    2, 3, w_init=hk.initializers.RandomNormal(), name="attention"
  )
  return part(hidden, hidden, hidden), {"hidden": hidden}


def with_state(inputs):
  norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
  hidden = jnp.tanh(norm(hk.Linear(6, name="first")(inputs), is_training=True))
  hidden_2 = hk.dropout(hk.next_rng_key(), 0.5, hidden)
  return hk.Linear(3, name="head")(hidden_2), {"head/w": hidden_2}


def _kernel(params, path):
  module, _, name = path.rpartition("/")
  return params[module][name]


def _make(network, inputs):
  """Returns a loss function, and what it takes."""
  model = hk.transform_with_state(network)
  params, state = model.init(jax.random.key(0), inputs)
  key = jax.random.key(1)

  def loss_fn(params, state, key, inputs):
    (outputs, hidden), state = model.apply(params, state, key, inputs)
    return jnp.mean(jnp.tanh(outputs) ** 2), (hidden, state)

  return loss_fn, (params, state, key, inputs)


@pytest.mark.parametrize("network", (perceptron, rematerialized, with_state))
def test_networks(network):
  loss_fn, args = _make(network, INPUTS)

  def by_hand(params, *args):
    _, (hidden, _) = loss_fn(params, *args)
    return {path: (hidden[path], _kernel(params, path)) for path in hidden}

  # Both losses are of the same dropped neurons.
  with jax.debug_key_reuse(False):
    check(loss_fn, *args, by_hand=by_hand, raw=["first/w"])


def test_a_stack():
  loss_fn, args = _make(stack, INPUTS)

  def by_hand(params, *args):
    _, (layers, _) = loss_fn(params, *args)
    hidden = layers.pop("hidden")
    (name,) = (name for name in params if name.endswith("inner"))
    for index in range(2):
      kernel, bias = params[name]["w"][index], params[name]["b"][index]
      layers[f"{name}/w[{index}]"] = (hidden, kernel)
      hidden = jnp.tanh(hidden @ kernel + bias[None])
    return layers

  # A stack splits its key, in both losses.
  with jax.debug_key_reuse(False):
    check(loss_fn, *args, by_hand=by_hand, raw=["first/w"], to_the_bit=False)


def test_attention():
  loss_fn, args = _make(attention, TOKENS)

  def by_hand(params, *args):
    _, (found, _) = loss_fn(params, *args)
    hidden = found["hidden"]

    def project(name):
      layer = params[f"attention/{name}"]
      rows = jnp.einsum("bsd,dm->bsm", hidden, layer["w"])
      return (rows + layer["b"].reshape(1, 1, -1)).reshape(2, 3, 2, 3)

    query, key, value = map(project, ("query", "key", "value"))
    scores = jnp.einsum("bshk,bthk->bhst", query, key) / np.sqrt(np.float32(3))
    mixed = jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores), value)
    layers = {
      f"attention/{name}/w": (hidden, params[f"attention/{name}"]["w"])
      for name in ("query", "key", "value")
    }
    kernel = params["attention/linear"]["w"]
    return layers | {"attention/linear/w": (mixed.reshape(2, 3, 6), kernel)}

  check(loss_fn, *args, by_hand=by_hand, raw=["first/w"])
