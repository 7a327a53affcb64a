"""Models of Flax NNX, against layers that are written out by hand."""

from collections.abc import Callable
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from tests.bean_jax.models import by_hand
from tests.bean_jax.models.by_hand import DIM, INPUTS, NUM_STEPS, TOKENS
from tests.bean_jax.models.checks import (
  assert_close,
  assert_equal,
  check,
  loss_of,
)

SHARED = nnx.StateAxes({...: None})


def _value_and_grad(fn, **options):
  """Differentiates by the pure state, as a tree of arrays."""

  def value_and_grad(model, *args):
    value, gradient = nnx.value_and_grad(fn, **options)(model, *args)
    return value, nnx.to_pure_dict(gradient)

  return value_and_grad


def _jit(fn):
  """Compiles a function that also returns modules, of which the states."""

  def states(model, *args):
    *results, modules = fn(model, *args)
    return *results, tuple(
      nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngKey)))
      for module in modules
    )

  return nnx.jit(states)


_check = functools.partial(
  check, jit=_jit, value_and_grad=_value_and_grad, copy=nnx.clone
)


def _check_model(model, layers_of, *inputs, **options):
  """Checks a model; `layers_of` takes its parameters as dicts of arrays."""

  def loss_fn(model, *inputs):
    outputs = model(*inputs)
    return loss_of(jax.tree.leaves(outputs)[0]), outputs

  def of_model(model, *inputs):
    return layers_of(nnx.to_pure_dict(nnx.state(model, nnx.Param)), *inputs)

  _check(loss_fn, model, *inputs, by_hand=of_model, **options)


class Block(nnx.Module):
  """A layer with something nonlinear before it."""

  def __init__(self, rngs):
    self.fc = nnx.Linear(
      DIM, DIM, bias_init=nnx.initializers.normal(), rngs=rngs
    )

  def __call__(self, inputs):
    return self.fc(jnp.tanh(inputs))


class Lifted(nnx.Module):
  """Two layers, between which `lift` calls a block, or a stack of blocks."""

  def __init__(self, lift: Callable, *, stacked: bool = False):
    rngs = nnx.Rngs(0)
    self.first = Block(rngs)
    if stacked:
      make = nnx.split_rngs(splits=NUM_STEPS)(nnx.vmap(Block))
      self.lifted = make(rngs)
    else:
      self.lifted = Block(rngs)
    self.last = nnx.Linear(DIM, 2, rngs=rngs)
    self.unused = nnx.Linear(DIM, 2, rngs=rngs)
    self.lift = lift

  def __call__(self, inputs):
    hidden = self.lift(self.lifted, self.first(inputs))
    return self.last(hidden)


def _call(block, inputs):
  return block(inputs)


def _scan(block, inputs, call=_call):
  return nnx.scan(call, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
    block, inputs
  )


def _plain_scan(block, inputs):
  """A scan of jax over the split stack."""
  graph, state = nnx.split(block)

  def step(inputs, state):
    return nnx.merge(graph, state)(inputs), None

  return jax.lax.scan(step, inputs, state)[0]


def _vmap(block, inputs):
  return nnx.vmap(_call, in_axes=(0, None), out_axes=-1)(block, inputs)[..., 1]


def _vmap_of_own_inputs(block, inputs):
  rows = inputs.reshape(NUM_STEPS, -1, DIM)
  return nnx.vmap(_call)(block, rows).reshape(-1, DIM)


def _unbound_remat(block, inputs):
  return nnx.remat(nnx.Linear.__call__)(block.fc, jnp.tanh(inputs))


# How the block is called, whether it is a stack, and the same by hand.
SITUATIONS = {
  "nested": (_call, False, by_hand.once),
  "remat": (nnx.remat(_call), False, by_hand.once),
  "jit": (nnx.jit(_call), False, by_hand.once),
  "shared": (
    lambda block, inputs: block(block(inputs)),
    False,
    functools.partial(by_hand.again_and_again, times=2),
  ),
  "scan": (_scan, True, by_hand.one_after_another),
  "scan of remat": (
    functools.partial(_scan, call=nnx.remat(_call)),
    True,
    by_hand.one_after_another,
  ),
  "scan of shared": (
    nnx.scan(
      _call, in_axes=(SHARED, nnx.Carry), out_axes=nnx.Carry, length=NUM_STEPS
    ),
    False,
    by_hand.again_and_again,
  ),
  "vmap": (_vmap, True, by_hand.side_by_side),
  "vmap of own inputs": (_vmap_of_own_inputs, True, by_hand.each_its_own_rows),
  "vmap of shared": (
    nnx.vmap(_call, in_axes=(SHARED, 0)),
    False,
    by_hand.once,
  ),
  "plain remat": (jax.checkpoint(_call), False, by_hand.once),
  "plain jit": (jax.jit(_call), False, by_hand.once),
  "plain vmap": (
    lambda block, inputs: jax.vmap(block)(inputs),
    False,
    by_hand.once,
  ),
  "plain scan": (_plain_scan, True, by_hand.one_after_another),
  "merged": (
    lambda block, inputs: nnx.merge(*nnx.split(block))(inputs),
    False,
    by_hand.once,
  ),
  "cloned": (
    lambda block, inputs: nnx.clone(block)(inputs),
    False,
    by_hand.once,
  ),
  "unbound remat": (_unbound_remat, False, by_hand.once),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_lifted_blocks(name):
  lift, stacked, middle = SITUATIONS[name]
  layers_of = functools.partial(by_hand.lifted, middle)
  model = Lifted(lift, stacked=stacked)
  _check_model(model, layers_of, INPUTS, raw=["first/fc/kernel"])


class After(nnx.Module):
  """A layer of neurons: one more is before it."""

  def __init__(self, layer):
    self.before = nnx.Linear(DIM, DIM, rngs=nnx.Rngs(7))
    self.layer = layer

  def __call__(self, inputs):
    return self.layer(jnp.tanh(self.before(inputs)))


def _check_after(layer, layers_of, inputs):
  """Checks a layer, of which `layers_of` takes params and inputs."""

  def of_model(params, inputs):
    hidden = jnp.tanh(by_hand.dense(params["before"], inputs))
    found = layers_of(params["layer"], hidden)
    return {f"layer/{path}": layer for path, layer in found.items()}

  _check_model(After(layer), of_model, inputs, raw=["before/kernel"])


def _general(in_features, out_features, axis):
  """Returns a layer of several axes, and the same by hand."""
  size = int(np.prod(in_features))
  return (
    functools.partial(nnx.LinearGeneral, in_features, out_features, axis=axis),
    lambda params, inputs: {
      "kernel": (inputs.reshape(-1, size), params["kernel"].reshape(size, -1))
    },
  )


def _layers_of_adaptation(params, inputs):
  first, second = (params["lora"][f"lora_{name}"] for name in "ab")
  return {
    "kernel": (inputs, params["kernel"]),
    "lora/lora_a": (inputs, first),
    "lora/lora_b": (inputs @ first, second),
  }


# Each makes a layer for random numbers; beside it stands the same by hand.
LAYERS = {
  "features": _general(DIM, (5, 3), -1),
  "unordered axes": _general((5, DIM), 3, (-1, 1)),
  "axes": _general((5, DIM), (2, 3), (-2, -1)),
  "batch axis": (
    functools.partial(nnx.LinearGeneral, DIM, 3, batch_axis={0: 2}),
    lambda params, inputs: {
      f"kernel[{i}]": (inputs[i], params["kernel"][i]) for i in range(2)
    },
  ),
  "einsum": (
    functools.partial(nnx.Einsum, "abc,dc->abd", (3, DIM)),
    lambda params, inputs: {"kernel": (inputs, params["kernel"].T)},
  ),
  "low-rank adaptation": (
    functools.partial(
      nnx.LoRALinear,
      DIM,
      3,
      lora_rank=2,
      b_initializer=nnx.initializers.normal(1.0),
    ),
    _layers_of_adaptation,
  ),
  "attention": (
    functools.partial(
      nnx.MultiHeadAttention,
      2,
      DIM,
      qkv_features=6,
      decode=False,
      use_bias=False,
    ),
    functools.partial(by_hand.attention, nnx.dot_product_attention),
  ),
  "simple recurrent cell": (
    lambda rngs: nnx.RNN(nnx.SimpleCell(DIM, 3, rngs=rngs), rngs=rngs),
    functools.partial(by_hand.simple_cell, ("dense_i", "dense_h")),
  ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
  make, layers_of = LAYERS[name]
  _check_after(make(rngs=nnx.Rngs(0)), layers_of, TOKENS)


@pytest.mark.parametrize("make", (nnx.WeightNorm, nnx.SpectralNorm))
def test_kernels_are_those_that_a_normalization_computes_with(make):
  layer = nnx.Linear(DIM, 3, use_bias=False, rngs=nnx.Rngs(0))
  original = layer.kernel[...]
  model = After(make(layer, rngs=nnx.Rngs(1)))
  expected = nnx.clone(model)(INPUTS)
  output, activations, kernels = bean_jax.capture(model)(INPUTS)
  assert list(kernels) == ["layer/layer_instance/kernel"]
  (kernel,), (rows,) = kernels.values(), activations.values()
  np.testing.assert_array_equal(output, expected)
  assert np.any(kernel != original)
  np.testing.assert_allclose(rows @ kernel, output, rtol=1e-5, atol=1e-6)


class Training(nnx.Module):
  """Everything that has a state or draws, and the operands of its layers."""

  def __init__(self, *, dtype=jnp.float32):
    rngs = nnx.Rngs(0)
    self.fc1 = nnx.Linear(DIM, 5, dtype=dtype, rngs=rngs)
    self.norm = nnx.BatchNorm(5, dtype=dtype, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.fc2 = nnx.Linear(5, 3, dtype=dtype, rngs=rngs)
    self.dtype = dtype

  def encode(self, inputs):
    return nnx.relu(self.norm(self.fc1(inputs)))

  def __call__(self, inputs, *, scale=1.0):
    hidden = self.dropout(self.encode(scale * inputs))
    kernel = self.fc2.kernel[...].astype(self.dtype)
    return self.fc2(hidden), {"fc2/kernel": (hidden, kernel)}


def _training_loss(model, inputs):
  logits, layers = model(inputs)
  return loss_of(logits), layers


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
def test_state_and_draws_are_those_of_the_model(dtype):
  tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
  model = Training(dtype=dtype)
  _check(_training_loss, model, INPUTS, raw=["fc1/kernel"], tolerance=tolerance)


def test_training_updates_all_state():
  models = Training(), Training()
  bean_loss_fn = bean_jax.regularize(_training_loss, alpha=0.0 * jnp.ones(()))
  counts = [0, 0]

  def train_step(which, model, optimizer, inputs):
    counts[which] += 1
    loss_fn = (bean_loss_fn, _training_loss)[which]
    (loss, _), gradient = nnx.value_and_grad(loss_fn, has_aux=True)(
      model, inputs
    )
    optimizer.update(model, gradient)
    return loss

  for which, model in enumerate(models):
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    step = nnx.jit(functools.partial(train_step, which))
    for _ in range(3):
      step(model, optimizer, INPUTS)
    assert model.dropout.rngs.count[...] == 3
  assert counts == [1, 1]
  ours, expected = (
    nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))) for model in models
  )
  assert_close(ours, expected)
  assert np.any(ours["norm"]["mean"] != 0)


def test_training_within_scan_lowers_the_penalty():
  model = Lifted(_scan, stacked=True)
  optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

  def loss_fn(model, inputs):
    return jnp.mean((model(inputs) - 1) ** 2)

  def step(carry, _):
    model, optimizer = carry
    gradient = nnx.grad(bean_jax.regularize(loss_fn, alpha=10.0))(model, INPUTS)
    optimizer.update(model, gradient)
    return carry, 0

  @nnx.jit
  def penalty(model):
    return sum(bean_jax.penalties(loss_fn)(model, INPUTS)[1].values())

  before = penalty(model)
  axes = (nnx.Carry, 0)
  nnx.jit(nnx.scan(step, in_axes=axes, out_axes=axes))(
    (model, optimizer), jnp.arange(30)
  )
  assert penalty(model) < 0.5 * before


def test_modules_and_methods_are_captured_where_they_are():
  model = Training()
  model.eval()
  (output, layers), activations, kernels = bean_jax.capture(model)(
    INPUTS, scale=2.0
  )
  expected, _ = model(INPUTS, scale=2.0)
  np.testing.assert_array_equal(output, expected)
  captured = {path: (activations[path], kernels[path]) for path in activations}
  assert_equal(captured, layers)
  (found,) = bean_jax.find_layers(model.encode, INPUTS)
  assert (found.path, found.left_out) == (
    "fc1/kernel",
    "its inputs are raw data",
  )
  _, activations, _ = bean_jax.capture(model.encode, layers="fc1/kernel")(
    INPUTS
  )
  np.testing.assert_array_equal(activations["fc1/kernel"], INPUTS)


def test_model_is_left_as_it_was():
  model = Lifted(_scan, stacked=True)
  graph, state = nnx.split(model)
  bean_jax.find_layers(model, INPUTS)
  bean_jax.capture(model)(INPUTS)
  with pytest.raises(TypeError):
    bean_jax.capture(model)(jnp.ones((2, DIM + 1)))
  assert nnx.graphdef(model) == graph
  assert_equal(nnx.state(model), state)


def test_several_modules_among_the_arguments():
  def loss_fn(models, teacher, inputs):
    hidden = jnp.tanh(models["body"](inputs))
    return loss_of(models["head"](hidden) - teacher(inputs)), hidden

  models = {
    name: nnx.Linear(DIM, DIM, rngs=nnx.Rngs(i))
    for i, name in enumerate(("body", "head"))
  }
  teacher = nnx.Linear(DIM, DIM, rngs=nnx.Rngs(2))
  (_, hidden), activations, kernels = bean_jax.capture(loss_fn)(
    models, teacher, INPUTS
  )
  assert list(kernels) == ["head/kernel"]
  np.testing.assert_array_equal(activations["head/kernel"], hidden)
  np.testing.assert_array_equal(
    kernels["head/kernel"], models["head"].kernel[...]
  )


def test_variables_of_ones_own_are_parameters():
  class Weight(nnx.Variable):
    pass

  class Own(nnx.Module):
    def __init__(self):
      self.fc1 = Weight(jnp.ones((DIM, 3)))
      self.fc2 = Weight(jnp.ones((3, 2)))

    def __call__(self, inputs):
      return jnp.tanh(inputs @ self.fc1[...]) @ self.fc2[...]

  found = bean_jax.find_layers(Own(), INPUTS)
  assert [layer.path for layer in found] == ["fc1", "fc2"]
  assert [bool(layer.left_out) for layer in found] == [True, False]


def test_bridges_to_linen():
  from flax import linen as nn
  from flax.nnx import bridge

  model = bridge.ToNNX(nn.Dense(3), rngs=nnx.Rngs(0))
  bridge.lazy_init(model, INPUTS)
  after = After(model)
  hidden = jnp.tanh(after.before(INPUTS))
  _, activations, kernels = bean_jax.capture(after)(INPUTS)
  assert list(kernels) == ["layer/kernel"]
  np.testing.assert_array_equal(activations["layer/kernel"], hidden)
  np.testing.assert_array_equal(kernels["layer/kernel"], model.kernel[...])

  back = bridge.to_linen(nnx.Linear, DIM, 3)
  variables = back.init(jax.random.key(0), INPUTS)

  def loss_fn(params, inputs):
    inputs = jnp.tanh(inputs * params["scale"])
    return loss_of(back.apply({**variables, "params": params["net"]}, inputs))

  params = {"net": variables["params"], "scale": jnp.float32(2)}
  (found,) = bean_jax.find_layers(loss_fn, params, INPUTS)
  assert (found.path, found.left_out) == ("net/kernel", "")


def _while_loop(block, inputs):
  return nnx.while_loop(
    lambda carry: carry[1] < 2,
    lambda carry: (carry[0], carry[1] + 1, carry[0](carry[2])),
    (block, 0, inputs),
  )[2]


def _cond(block, inputs):
  return nnx.cond(jnp.sum(inputs) > 0, _call, lambda _, x: x, block, inputs)


@pytest.mark.parametrize(
  "lift, reason",
  ((_while_loop, "jax.lax.while_loop"), (_cond, "jax.lax.cond")),
)
def test_what_cannot_be_had_is_named(lift, reason):
  model = Lifted(lift)
  with pytest.raises(ValueError, match=reason) as caught:
    bean_jax.capture(model)(INPUTS)
  assert "layers=['!lifted/fc/kernel']" in str(caught.value)
  expected = model(INPUTS)
  output, activations, _ = bean_jax.capture(model, layers="!lifted/*")(INPUTS)
  np.testing.assert_array_equal(output, expected)
  assert list(activations) == ["last/kernel"]


def test_model_from_outside_of_the_trace():
  model = Lifted(_call)
  with pytest.raises(ValueError, match="not closed over"):
    bean_jax.regularize(lambda inputs: loss_of(model(inputs)), alpha=1.0)(
      INPUTS
    )
