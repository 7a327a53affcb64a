"""Models of Haiku, against layers that are written out by hand."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import bean_jax
from tests.bean_jax.models.checks import check, loss_of

DIM = 4
INPUTS = jax.random.normal(jax.random.key(1), (5, DIM))
BITS = jax.random.key_data(jax.random.key(2))
START = hk.initializers.RandomNormal(0.5)


def _check(network, by_hand, *inputs, raw=()):
  """Checks a function that calls modules."""
  model = hk.without_apply_rng(hk.transform(network))
  params = model.init(jax.random.key(0), *inputs)

  def loss_fn(params, *inputs):
    outputs = model.apply(params, *inputs)
    return loss_of(outputs), outputs

  check(loss_fn, params, *inputs, by_hand=by_hand, raw=raw)


def _linear(layer, inputs):
  return inputs @ layer["w"] + jnp.broadcast_to(
    layer["b"], (*inputs.shape[:-1], len(layer["b"]))
  )


def test_perceptron_in_nested_modules():
  def network(inputs):
    return hk.nets.MLP([6, 5, 3], activation=jnp.tanh, b_init=START)(inputs)

  def by_hand(params, inputs):
    layers, hidden = {}, inputs
    for index in range(3):
      layer = params[f"mlp/~/linear_{index}"]
      layers[f"mlp/~/linear_{index}/w"] = (hidden, layer["w"])
      hidden = jnp.tanh(_linear(layer, hidden))
    del layers["mlp/~/linear_0/w"]
    return layers

  _check(network, by_hand, INPUTS, raw=["mlp/~/linear_0/w"])


def test_state_and_draws():
  def network(inputs):
    hidden = hk.Linear(6, name="fc1")(inputs)
    hidden = hk.BatchNorm(True, True, 0.9, name="norm")(
      hidden, is_training=True
    )
    hidden = hk.dropout(hk.next_rng_key(), 0.5, jnp.tanh(hidden))
    return hk.Linear(3, name="fc2")(hidden), hidden

  model = hk.transform_with_state(network)
  params, state = model.init(jax.random.key(0), INPUTS)

  def loss_fn(params, inputs, state, bits):
    key = jax.random.wrap_key_data(bits)
    (outputs, hidden), state = model.apply(params, state, key, inputs)
    return loss_of(outputs), (hidden, state)

  def by_hand(params, *args):
    _, (hidden, _) = loss_fn(params, *args)
    return {"fc2/w": (hidden, params["fc2"]["w"])}

  check(loss_fn, params, INPUTS, state, BITS, by_hand=by_hand, raw=["fc1/w"])


def test_layer_stack_of_attention():
  """Blocks whose kernels a scan goes over; the scan has raw data nowhere."""

  def block(tokens):
    mixed = hk.MultiHeadAttention(
      2, 3, model_size=DIM, w_init=START, name="attention"
    )(tokens, tokens, tokens)
    return tokens + hk.Linear(DIM, name="fc")(jnp.tanh(mixed))

  def network(tokens):
    tokens = hk.Linear(DIM, name="first")(tokens)
    return hk.experimental.layer_stack(2)(block)(tokens)

  (name,) = {"__layer_stack_no_per_layer"}

  def by_hand(params, tokens):
    tokens = _linear(params["first"], tokens)
    layers = {}
    for step in range(2):
      prefix = f"{name}/attention"
      at = {
        path: jax.tree.map(lambda leaf, step=step: leaf[step], layer)
        for path, layer in params.items()
        if path != "first"
      }

      def note(path, inputs, at=at, step=step):
        layers[f"{path}/w[{step}]"] = (inputs, at[path]["w"])
        return _linear(at[path], inputs)

      query, key, value = (
        note(f"{prefix}/{n}", tokens).reshape(2, 5, 2, 3)
        for n in ("query", "key", "value")
      )
      scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(3.0)
      mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
      mixed = note(f"{prefix}/linear", mixed.reshape(2, 5, 6))
      tokens += note(f"{name}/fc", jnp.tanh(mixed))
    return layers

  tokens = jnp.stack([INPUTS, -INPUTS])
  _check(network, by_hand, tokens, raw=["first/w"])


@pytest.mark.parametrize("core", (hk.VanillaRNN, hk.GRU, hk.LSTM))
def test_cores_in_dynamic_unroll(core):
  def network(sequence):
    outputs, _ = hk.dynamic_unroll(
      core(3), sequence, core(3).initial_state(sequence.shape[1])
    )
    return hk.Linear(2, name="head")(outputs[-1])

  sequence = jnp.stack([INPUTS, -INPUTS, INPUTS**2])
  model = hk.without_apply_rng(hk.transform(network))
  params = model.init(jax.random.key(0), sequence)
  found = bean_jax.find_layers(model.apply, params, sequence)
  chosen = {layer.path: layer for layer in found if not layer.left_out}
  # What a core multiplies with data and state at once is neurons.
  assert (
    set(chosen)
    == {
      hk.VanillaRNN: {"vanilla_rnn/linear_1/w", "head/w"},
      hk.GRU: {"gru/w_h[:, 0:6]", "gru/w_h[:, 6:9]", "head/w"},
      hk.LSTM: {"lstm/linear/w", "head/w"},
    }[core]
  )
  sizes = {layer.path: layer.num_neurons for layer in found}
  assert sizes["head/w"] == 3
  if core == hk.LSTM:
    assert sizes["lstm/linear/w"] == DIM + 3


def test_projections_under_vmap_inside():
  def network(inputs):
    hidden = jnp.tanh(hk.Linear(6, b_init=START, name="fc1")(inputs))
    layer = hk.Linear(3, name="fc2")
    return hk.vmap(layer, split_rng=False)(hidden)

  def by_hand(params, inputs):
    hidden = jnp.tanh(_linear(params["fc1"], inputs))
    return {"fc2/w": (hidden, params["fc2"]["w"])}

  _check(network, by_hand, INPUTS, raw=["fc1/w"])


def test_transformed_pair_is_told_the_line_that_works():
  model = hk.transform(lambda inputs: hk.Linear(3)(inputs))
  with pytest.raises(TypeError, match=r"its apply is: pass model\.apply"):
    bean_jax.find_layers(model, {}, INPUTS)
