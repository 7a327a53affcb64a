"""Modules of Flax NNX: what is found is what they say of themselves.

Every module here returns its outputs and, by path, the inputs [..., N] and the
kernel [N, M] of each of its layers of neurons.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models.checks import check

DIM = 4
INPUTS = np.float32(np.random.default_rng(0).normal(size=(5, DIM)))
TOKENS = np.float32(np.random.default_rng(1).normal(size=(2, 3, DIM)))

check_nnx = functools.partial(
  check, jit=nnx.jit, value_and_grad=nnx.value_and_grad, copy=nnx.clone
)


def loss_fn(model, inputs):
  outputs, layers = model(inputs)
  return jnp.mean(jnp.tanh(outputs) ** 2), layers


def kernel_of(layer):
  """Returns the kernel of a layer as it is now."""
  return layer.kernel.get_value()


class Base(nnx.Module):
  """A first layer, of raw data, a second, of neurons, and a head."""

  def __init__(self):
    rngs = nnx.Rngs(0, dropout=1)
    self.fc1 = nnx.Linear(DIM, 6, rngs=rngs)
    self.fc2 = nnx.Linear(6, 6, rngs=rngs)
    self.head = nnx.Linear(6, 3, rngs=rngs)

  def of_fc2(self, hidden):
    return self.fc2(hidden)

  def __call__(self, inputs):
    hidden = jnp.tanh(self.fc1(inputs))
    hidden_2 = jnp.tanh(self.of_fc2(hidden))
    return self.head(hidden_2), {
      "fc2/kernel": (hidden, kernel_of(self.fc2)),
      "head/kernel": (hidden_2, kernel_of(self.head)),
    }


class Checkpointed(Base):
  def of_fc2(self, hidden):
    return jax.checkpoint(lambda layer, x: layer(x))(self.fc2, hidden)


class Jitted(Base):
  def of_fc2(self, hidden):
    return jax.jit(lambda layer, x: layer(x))(self.fc2, hidden)


class VmappedByJax(Base):
  def of_fc2(self, hidden):
    return jax.vmap(lambda layer, x: layer(x), (None, 0))(self.fc2, hidden)


class VmappedByNnx(Base):
  def of_fc2(self, hidden):
    return nnx.vmap(lambda layer, x: layer(x), in_axes=(None, 0))(
      self.fc2, hidden
    )


class Unbound(Base):
  def of_fc2(self, hidden):
    return nnx.remat(nnx.Linear.__call__)(self.fc2, hidden)


class SplitAndMerged(Base):
  def of_fc2(self, hidden):
    return nnx.merge(*nnx.split(self.fc2))(hidden)


class Cloned(Base):
  def of_fc2(self, hidden):
    return nnx.clone(self.fc2)(hidden)


class ByHand(Base):
  def of_fc2(self, hidden):
    return hidden @ self.fc2.kernel + self.fc2.bias[None]


class WithState(Base):
  """Normalization and dropout, whose state changes."""

  def __init__(self):
    super().__init__()
    self.norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
    self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

  def __call__(self, inputs):
    hidden = jnp.tanh(self.norm(self.fc1(inputs)))
    hidden_2 = self.dropout(jnp.tanh(self.fc2(hidden)))
    return self.head(hidden_2), {
      "fc2/kernel": (hidden, kernel_of(self.fc2)),
      "head/kernel": (hidden_2, kernel_of(self.head)),
    }


class LowRank(Base):
  """A layer beside one of low rank."""

  def __init__(self):
    super().__init__()
    self.lora = nnx.LoRA(
      6, 2, 6, rngs=nnx.Rngs(3), b_initializer=nnx.initializers.normal(1.0)
    )

  def of_fc2(self, hidden):
    return self.fc2(hidden) + self.lora(hidden)

  def __call__(self, inputs):
    outputs, layers = super().__call__(inputs)
    hidden, _ = layers["fc2/kernel"]
    a, b = self.lora.lora_a.get_value(), self.lora.lora_b.get_value()
    return outputs, {
      **layers,
      "lora/lora_a": (hidden, a),
      "lora/lora_b": (hidden @ a, b),
    }


class WeightNormalized(Base):
  """Layers that compute with another kernel than their parameter."""

  def __init__(self):
    super().__init__()
    self.fc2 = nnx.WeightNorm(self.fc2, rngs=nnx.Rngs(4))

  def __call__(self, inputs):
    hidden = jnp.tanh(self.fc1(inputs))
    weight = kernel_of(self.fc2.layer_instance)
    outputs = self.fc2(hidden)
    norm = jnp.sqrt(jnp.sum(weight**2, axis=0, keepdims=True) + 1e-12)
    return outputs, {"fc2/layer_instance/kernel": (hidden, weight / norm)}


class Attention(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.embed = nnx.Linear(DIM, 6, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 6, rngs=rngs, decode=False)

  def __call__(self, tokens):
    hidden = jnp.tanh(self.embed(tokens))
    part = self.attention
    heads = nnx.dot_product_attention(
      part.query(hidden), part.key(hidden), part.value(hidden)
    )
    layers = {
      f"attention/{name}/kernel": (
        hidden,
        kernel_of(getattr(part, name)).reshape(6, -1),
      )
      for name in ("query", "key", "value")
    }
    layers["attention/out/kernel"] = (
      heads.reshape(*heads.shape[:-2], -1),
      kernel_of(part.out).reshape(-1, 6),
    )
    return part.out(heads), layers


class Einsum(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.embed = nnx.Linear(DIM, 6, rngs=rngs)
    self.mix = nnx.Einsum("bln,nm->blm", (6, 3), (3,), rngs=rngs)

  def __call__(self, tokens):
    hidden = jnp.tanh(self.embed(tokens))
    return self.mix(hidden), {"mix/kernel": (hidden, kernel_of(self.mix))}


class Stacked(nnx.Module):
  """Layers whose kernels a scan goes over."""

  def __init__(self):
    self.embed = nnx.Linear(DIM, 6, rngs=nnx.Rngs(0))

    @nnx.split_rngs(splits=2)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs):
      return nnx.Linear(6, 6, rngs=rngs)

    self.blocks = make(nnx.Rngs(1))

  def scanned(self, hidden):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def step(hidden, block):
      return jnp.tanh(block(hidden)), hidden

    return step(hidden, self.blocks)

  def __call__(self, inputs):
    outputs, hidden = self.scanned(jnp.tanh(self.embed(inputs)))
    kernels = kernel_of(self.blocks)
    return outputs, {
      f"blocks/kernel[{i}]": (hidden[i], kernels[i]) for i in range(2)
    }


class StackedByJax(Stacked):
  """The same by a scan of JAX over modules."""

  def scanned(self, hidden):
    def step(hidden, block):
      return jnp.tanh(block(hidden)), hidden

    return jax.lax.scan(step, hidden, self.blocks)


class Recurrent(nnx.Module):
  """A recurrent cell: the steps share a kernel."""

  def __init__(self):
    self.cell = nnx.SimpleCell(DIM, 3, rngs=nnx.Rngs(0))
    self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(1))

  def __call__(self, tokens):
    states = nnx.RNN(self.cell)(tokens)
    before = jnp.pad(states[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return self.head(states), {
      "cell/dense_h/kernel": (before, kernel_of(self.cell.dense_h)),
      "head/kernel": (states, kernel_of(self.head)),
    }


MODELS = (
  Base,
  ByHand,
  Checkpointed,
  Cloned,
  Jitted,
  LowRank,
  SplitAndMerged,
  Unbound,
  VmappedByJax,
  VmappedByNnx,
  WithState,
)


@pytest.mark.parametrize("model", MODELS)
def test_models(model):
  check_nnx(loss_fn, model(), INPUTS, raw=["fc1/kernel"])


def test_weight_normalization():
  # Its layer is given the kernel that it computes, rounded as that is fused.
  check_nnx(
    loss_fn,
    WeightNormalized(),
    INPUTS,
    raw=["fc1/kernel"],
    to_the_bit=False,
  )


@pytest.mark.parametrize("model", (Attention, Einsum))
def test_models_of_tokens(model):
  check_nnx(loss_fn, model(), TOKENS, raw=["embed/kernel"])


@pytest.mark.parametrize("model", (Stacked, StackedByJax))
def test_stacks(model):
  check_nnx(loss_fn, model(), INPUTS, raw=["embed/kernel"])


def test_recurrent():
  check_nnx(loss_fn, Recurrent(), TOKENS, raw=["cell/dense_i/kernel"])


def test_state_changes_as_without_bean():
  plain, bean = WithState(), WithState()
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  for _ in range(2):
    nnx.jit(nnx.grad(loss_fn, has_aux=True))(plain, INPUTS)
    nnx.jit(nnx.grad(bean_loss_fn, has_aux=True))(bean, INPUTS)
  state = (nnx.BatchStat, nnx.RngCount)
  ours, expected, before = (
    nnx.to_pure_dict(nnx.state(model, nnx.Any(*state)))
    for model in (bean, plain, WithState())
  )
  jax.tree.map(np.testing.assert_array_equal, ours, expected)
  assert expected["dropout"]["rngs"]["count"] == 2
  assert not np.array_equal(expected["norm"]["mean"], before["norm"]["mean"])


@pytest.mark.parametrize("of_module", (True, False))
def test_capture_takes_modules_and_methods(of_module):
  model = Base()
  fn = model if of_module else model.__call__
  (outputs, layers), activations, kernels = bean_jax.capture(fn)(INPUTS)
  np.testing.assert_allclose(outputs, Base()(INPUTS)[0], rtol=1e-6)
  assert set(activations) == set(kernels) == set(layers)
  for path, (hidden, kernel) in layers.items():
    np.testing.assert_array_equal(activations[path], hidden)
    np.testing.assert_array_equal(kernels[path], kernel)


def test_branches_are_refused_by_name():
  class Branching(Base):
    def of_fc2(self, hidden):
      return nnx.cond(
        jnp.sum(hidden) > 0,
        lambda layer, x: layer(x),
        lambda layer, x: x,
        self.fc2,
        hidden,
      )

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  with pytest.raises(ValueError, match="'fc2/kernel': .*cond"):
    nnx.grad(bean_loss_fn, has_aux=True)(Branching(), INPUTS)


def test_a_module_that_is_closed_over_is_no_parameter():
  model = Base()
  closing_fn = bean_jax.regularize(
    lambda scale, inputs: scale * loss_fn(model, inputs)[0], alpha=1.0
  )
  with pytest.raises(ValueError, match="closed over"):
    closing_fn(jnp.float32(1), INPUTS)
