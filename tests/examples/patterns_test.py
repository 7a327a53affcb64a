"""What the functions to copy for Equinox and Haiku cover and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax

eqx = pytest.importorskip("equinox")
hk = pytest.importorskip("haiku")
in_equinox = pytest.importorskip("examples.equinox_model")
in_haiku = pytest.importorskip("examples.haiku_model")

TOKENS = np.float32(np.random.default_rng(0).normal(size=(3, 5, 4)))


class Transformer(eqx.Module):
  """Attention, which calls its projections in a vmap, and two layers."""

  attention: eqx.nn.MultiheadAttention
  fc: eqx.nn.Linear
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key, 3)
    self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[0])
    self.fc = eqx.nn.Linear(4, 6, key=keys[1])
    self.head = eqx.nn.Linear(6, 2, key=keys[2])

  def encode(self, tokens):
    pooled = self.attention(tokens, tokens, tokens).mean(axis=0)
    return jnp.tanh(self.fc(pooled))

  def __call__(self, tokens):
    return self.head(self.encode(tokens))


class Checkpointed(eqx.Module):
  """A layer that is called in a checkpoint."""

  fc: eqx.nn.Linear

  def __call__(self, tokens):
    return eqx.filter_checkpoint(self.fc)(tokens[0])


class Twice(eqx.Module):
  """A layer that is called twice."""

  fc: eqx.nn.Linear

  def __call__(self, tokens):
    return self.fc(self.fc(tokens[0]))


def _linear():
  return eqx.nn.Linear(4, 4, key=jax.random.key(1))


@pytest.mark.parametrize(
  "model, layer",
  (
    (Transformer(jax.random.key(0)), "attention/query_proj"),
    (Checkpointed(_linear()), "fc"),
    (Twice(_linear()), "fc"),
  ),
  ids=("vmap", "checkpoint", "twice"),
)
def test_equinox_refuses_by_name(model, layer):
  call_fn = jax.vmap(in_equinox.capture(model))
  for function in (call_fn, jax.jit(call_fn)):
    with pytest.raises(ValueError, match=f"^layer '{layer}': "):
      function(TOKENS)


def test_equinox_leaves_layers_out():
  model = Transformer(jax.random.key(0))

  def penalty_fn(model):
    capture = in_equinox.capture(model, lambda name: name == "head")
    outputs, inputs = jax.vmap(capture)(TOKENS)
    assert jax.tree.map(jnp.shape, inputs) == {"head": (3, 6)}
    kernels = in_equinox.kernels(model, inputs)
    return bean_jax.bean_penalty(inputs, kernels), outputs

  def by_hand(model):
    hidden = jax.vmap(model.encode)(TOKENS)
    penalty = bean_jax.layer_penalty(hidden, model.head.weight.T)
    return penalty, jax.vmap(model)(TOKENS)

  ours, expected = (
    eqx.filter_jit(eqx.filter_value_and_grad(function, has_aux=True))(model)
    for function in (penalty_fn, by_hand)
  )
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def _transform(function):
  return hk.without_apply_rng(hk.transform(function))


def _in_scan(tokens):
  layer = hk.Linear(4)
  layer(tokens)
  return hk.scan(lambda x, _: (layer(x), None), tokens, None, length=2)[0]


@pytest.mark.parametrize(
  "function",
  (
    _in_scan,
    lambda tokens: hk.remat(hk.Linear(4))(tokens),
    lambda tokens: hk.vmap(hk.Linear(4), split_rng=False)(tokens),
  ),
  ids=("scan", "remat", "vmap"),
)
def test_haiku_refuses_by_name(function):
  model = _transform(function)
  params = model.init(jax.random.key(0), TOKENS)
  call_fn = in_haiku.capture(model.apply)
  for call in (call_fn, jax.jit(call_fn)):
    with pytest.raises(ValueError, match="^layer 'linear': "):
      call(params, TOKENS)
  capture = in_haiku.capture(model.apply, lambda name: name != "linear")
  outputs, inputs = capture(params, TOKENS)
  np.testing.assert_allclose(outputs, model.apply(params, TOKENS), rtol=1e-6)
  assert not inputs


def test_haiku_joins_shared_layers_and_captures_attention():
  def function(tokens):
    layer = hk.Linear(4, name="shared")
    hidden = layer(jnp.tanh(layer(tokens)))
    attention = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.Constant(1))
    return attention(hidden, hidden, hidden)

  model = _transform(function)
  params = model.init(jax.random.key(0), TOKENS)

  def penalty_fn(params):
    outputs, inputs = in_haiku.capture(model.apply)(params, TOKENS)
    kernels = in_haiku.kernels(params, inputs)
    return bean_jax.bean_penalty(inputs, kernels), (outputs, inputs)

  gradients, (outputs, inputs) = jax.jit(jax.grad(penalty_fn, has_aux=True))(
    params
  )
  np.testing.assert_allclose(outputs, model.apply(params, TOKENS), rtol=1e-5)
  names = ("key", "linear", "query", "value")
  assert set(inputs) == {
    "shared",
    *(f"multi_head_attention/{name}" for name in names),
  }
  first = TOKENS.reshape(-1, 4)
  shared = params["shared"]
  second = np.tanh(first @ shared["w"] + shared["b"])
  np.testing.assert_allclose(
    inputs["shared"], np.concatenate([first, second]), rtol=1e-5, atol=1e-6
  )
  assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
