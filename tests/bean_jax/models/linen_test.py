"""Models of Flax Linen, against layers that are written out by hand."""

from collections.abc import Callable
import functools

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models import by_hand
from tests.bean_jax.models.by_hand import DIM, INPUTS, NUM_STEPS, TOKENS
from tests.bean_jax.models.checks import assert_equal, check, loss_of

DENSE = functools.partial(nn.Dense, bias_init=nn.initializers.normal())


def _check(model, layers_of, *inputs, **options):
  """Checks a model whose only variables are parameters."""
  params = model.init(jax.random.key(0), *inputs)["params"]

  def loss_fn(params, *inputs):
    outputs = model.apply({"params": params}, *inputs)
    return loss_of(jax.tree.leaves(outputs)[0]), outputs

  check(loss_fn, params, *inputs, by_hand=layers_of, **options)


class Block(nn.Module):
  """A layer with something nonlinear before it."""

  @nn.compact
  def __call__(self, inputs, _=None):
    return DENSE(DIM, name="fc")(jnp.tanh(inputs)), None


class Lifted(nn.Module):
  """Two blocks with a lifted one, of a class, between them."""

  lift: Callable

  @nn.compact
  def __call__(self, inputs):
    hidden, _ = Block(name="first")(inputs)
    hidden, _ = self.lift(Block)(name="lifted")(hidden, None)
    if hidden.ndim == 3:  # All blocks of a stack saw the same.
      hidden = hidden[..., 1]
    return nn.Dense(2, name="last")(hidden)


class Shared(nn.Module):
  """One layer that is called twice, and one that never is."""

  def setup(self):
    self.fc = DENSE(DIM)
    self.unused = DENSE(DIM)

  def __call__(self, inputs):
    if self.is_initializing():
      self.unused(inputs)
    return self.fc(jnp.tanh(self.fc(inputs)))


class Methods(nn.Module):
  """Two layers called by a method, which `lift` transforms."""

  lift: Callable

  def setup(self):
    self.fc1 = DENSE(DIM)
    self.fc2 = DENSE(DIM)

  def both(self, inputs):
    return self.fc2(jnp.tanh(self.fc1(inputs)))

  def __call__(self, inputs):
    if self.is_initializing():
      return self.both(inputs)
    return self.lift(self, inputs)


METHODS = {
  "remat": nn.remat(Methods.both),
  "jit": nn.jit(Methods.both),
  "vmap": lambda module, inputs: jax.vmap(module.both)(inputs),
  "checkpoint": lambda module, inputs: jax.checkpoint(module.both)(inputs),
  "jax.jit": lambda module, inputs: jax.jit(module.both)(inputs),
  "grad": lambda module, inputs: nn.value_and_grad(
    lambda module, inputs: jnp.sum(module.both(inputs) ** 2), module, inputs
  ),
}


def _lift(transform, block, **options):
  own = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
  return transform(block, **{**own, **options})


_scan = functools.partial(_lift, nn.scan, length=NUM_STEPS)
_vmap = functools.partial(_lift, nn.vmap, in_axes=(0, None))
SHARED = {"split_rngs": {"params": False}}
LIFTED = {
  "nested": (lambda block: block, by_hand.once),
  "remat": (nn.remat, by_hand.once),
  "jit": (nn.jit, by_hand.once),
  "scan": (_scan, by_hand.one_after_another),
  "scan of other axis": (
    functools.partial(_scan, variable_axes={"params": 1}),
    functools.partial(by_hand.one_after_another, axis=1),
  ),
  "scan of remat": (
    lambda block: _scan(nn.remat(block)),
    by_hand.one_after_another,
  ),
  "scan of shared": (
    functools.partial(
      _scan, variable_axes={}, variable_broadcast="params", **SHARED
    ),
    by_hand.again_and_again,
  ),
  "vmap": (
    functools.partial(_vmap, in_axes=None, out_axes=-1, axis_size=NUM_STEPS),
    by_hand.side_by_side,
  ),
  "vmap of own inputs": (
    functools.partial(_vmap, axis_size=len(INPUTS)),
    functools.partial(by_hand.each_its_own_rows, num=len(INPUTS)),
  ),
  "vmap of shared": (
    functools.partial(_vmap, variable_axes={"params": None}, **SHARED),
    by_hand.once,
  ),
}


@pytest.mark.parametrize("name", LIFTED)
def test_lifted_blocks(name):
  lift, middle = LIFTED[name]
  layers_of = functools.partial(by_hand.lifted, middle)
  _check(Lifted(lift), layers_of, INPUTS, raw=["first/fc/kernel"])


@pytest.mark.parametrize("name", METHODS)
def test_lifted_methods(name):
  def layers_of(params, inputs):
    hidden = jnp.tanh(by_hand.dense(params["fc1"], inputs))
    return {"fc2/kernel": (hidden, params["fc2"]["kernel"])}

  _check(Methods(METHODS[name]), layers_of, INPUTS, raw=["fc1/kernel"])


def _layers_of_shared(params, inputs):
  hidden = jnp.tanh(by_hand.dense(params["fc"], inputs))
  return {"fc/kernel": (hidden, params["fc"]["kernel"])}


def test_layer_that_is_called_twice():
  # The call on raw data is not one of neurons.
  _check(Shared(), _layers_of_shared, INPUTS)


def test_stacks_of_stacks_in_remat_scan():
  class Tanh(Block):
    @nn.compact
    def __call__(self, inputs):
      return DENSE(DIM, name="fc")(jnp.tanh(inputs))

  class Stacks(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      hidden = DENSE(DIM, name="first")(inputs)
      return nn.remat_scan(Tanh, lengths=(2, 2))(name="stacks")(hidden)

  def layers_of(params, inputs):
    layers, hidden = {}, by_hand.dense(params["first"], inputs)
    for i, j in np.ndindex(2, 2):
      layer = by_hand.at(by_hand.at(params["stacks"]["fc"], i), j)
      hidden, found = by_hand.once(layer, hidden)
      layers[f"stacks/fc/kernel[{i}][{j}]"] = found[""]
    return layers

  _check(Stacks(), layers_of, INPUTS, raw=["first/kernel"], to_the_bit=False)


class Encoder(nn.Module):
  """A block of a transformer, with dropout."""

  @nn.compact
  def __call__(self, tokens, _):
    normed = nn.LayerNorm(name="norm1")(tokens)
    attended = nn.MultiHeadDotProductAttention(
      2, dropout_rate=0.5, deterministic=False, name="attention"
    )(normed)
    tokens += attended
    hidden = nn.gelu(nn.Dense(6, name="ff1")(tokens))
    hidden = nn.Dropout(0.5, deterministic=False)(hidden)
    outputs = tokens + nn.Dense(DIM, name="ff2")(hidden)
    return outputs, (normed, attended, tokens, hidden)


def test_scanned_transformer_with_dropout():
  model = nn.scan(
    nn.remat(Encoder),
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    length=2,
  )()
  params = model.init(
    {"params": jax.random.key(1), "dropout": jax.random.key(2)}, TOKENS, None
  )["params"]
  bits = jax.random.key_data(jax.random.key(2))

  def loss_fn(params, tokens, bits):
    rngs = {"dropout": jax.random.wrap_key_data(bits)}
    outputs, inner = model.apply({"params": params}, tokens, None, rngs=rngs)
    return loss_of(outputs), inner

  layers = bean_jax.find_layers(loss_fn, params, TOKENS, bits)
  names = ("ff1", "ff2", *(f"attention/{n}" for n in ("query", "key", "value")))
  assert {layer.path for layer in layers if not layer.left_out} == {
    f"{name}/kernel[{step}]"
    for name in (*names, "attention/out")
    for step in range(2)
  }
  (_, inner), activations, kernels = jax.jit(bean_jax.capture(loss_fn))(
    params, TOKENS, bits
  )
  normed, attended, tokens, hidden = inner
  for step in range(2):
    for name, expected in (
      ("attention/query", normed),
      ("attention/value", normed),
      ("ff1", tokens),
      ("ff2", hidden),
    ):
      path = f"{name}/kernel[{step}]"
      np.testing.assert_array_equal(activations[path], expected[step])
      array = functools.reduce(dict.get, name.split("/"), params)["kernel"]
      np.testing.assert_array_equal(
        kernels[path], array[step].reshape(kernels[path].shape)
      )
    path = f"attention/out/kernel[{step}]"
    output = activations[path] @ kernels[path]
    np.testing.assert_allclose(output, attended[step], rtol=1e-5, atol=1e-6)


class After(nn.Module):
  """A layer of neurons: one more is before it."""

  layer: nn.Module

  @nn.compact
  def __call__(self, *inputs):
    hidden, *others = [
      jnp.tanh(DENSE(x.shape[-1], name=f"before{i}")(x))
      for i, x in enumerate(inputs)
    ]
    return self.layer(hidden, *others)


def _check_after(layer, layers_of, *inputs):
  """Checks a layer, of which `layers_of` takes params and inputs."""

  def of_model(params, *inputs):
    hidden = [
      jnp.tanh(by_hand.dense(params[f"before{i}"], x))
      for i, x in enumerate(inputs)
    ]
    found = layers_of(params["layer"], *hidden)
    return {f"layer/{path}": layer for path, layer in found.items()}

  raw = [f"before{i}/kernel" for i in range(len(inputs))]
  _check(After(layer), of_model, *inputs, raw=raw)


@pytest.mark.parametrize(
  "layer, shape, axes",
  (
    (nn.DenseGeneral((5, 3)), (2, 3, 4), (2,)),
    (nn.DenseGeneral(5, axis=(-1, 1)), (2, 3, 7, 4), (3, 1)),
    (nn.DenseGeneral((2, 5), axis=(-2, -1)), (2, 3, 4), (1, 2)),
    (nn.Einsum((4, 3), "abc,cd->abd"), (2, 3, 4), (2,)),
    (nn.Einsum((3, 4, 2), "abc,bcd->ad"), (2, 3, 4), (1, 2)),
  ),
  ids=("features", "unordered_axes", "axes", "einsum", "einsum_of_two"),
)
def test_layers_of_several_axes(layer, shape, axes):
  def layers_of(params, inputs):
    others = [i for i in range(inputs.ndim) if i not in axes]
    # The axes are summed over in the order of the kernel.
    summed = axes if isinstance(layer, nn.Einsum) else sorted(axes)
    rows = jnp.transpose(inputs, (*others, *summed))
    size = int(np.prod([shape[i] for i in axes]))
    kernel = params["kernel"].reshape(size, -1)
    return {"kernel": (rows.reshape(-1, size), kernel)}

  inputs = jax.random.normal(jax.random.key(0), shape)
  _check_after(layer, layers_of, inputs)


def test_batch_dims_are_layers_of_a_stack():
  def layers_of(params, inputs):
    return {f"kernel[{i}]": (inputs[i], params["kernel"][i]) for i in range(2)}

  _check_after(nn.DenseGeneral(3, batch_dims=(0,)), layers_of, TOKENS)


def test_cross_attention():
  layer = nn.MultiHeadDotProductAttention(2, qkv_features=6, use_bias=False)
  layers_of = functools.partial(by_hand.attention, nn.dot_product_attention)
  _check_after(layer, layers_of, TOKENS, -TOKENS)


def test_simple_recurrent_cell():
  layers_of = functools.partial(by_hand.simple_cell, ("i", "h"))
  _check_after(nn.RNN(nn.SimpleCell(3)), layers_of, TOKENS)


@pytest.mark.parametrize(
  "cell, inner, outer",
  (
    (nn.LSTMCell, ("hi", "hf", "hg", "ho"), ("ii", "if", "ig", "io")),
    (nn.OptimizedLSTMCell, ("hi", "hf", "hg", "ho"), ("ii", "if", "ig", "io")),
    (nn.GRUCell, ("hr", "hz", "hn"), ("ir", "iz", "in")),
  ),
)
def test_gated_cells(cell, inner, outer):
  """The kernels of a fused cell are joined, and found as what they are."""
  model = After(nn.RNN(cell(3)))
  params = model.init(jax.random.key(0), TOKENS)["params"]

  def loss_fn(params, inputs):
    outputs = model.apply({"params": params}, inputs)
    return loss_of(outputs), outputs

  found = bean_jax.find_layers(loss_fn, params, TOKENS)
  chosen = {layer.path: layer for layer in found if not layer.left_out}
  (_, outputs), activations, kernels = jax.jit(bean_jax.capture(loss_fn))(
    params, TOKENS
  )
  before = jnp.moveaxis(outputs, 1, 0)[:-1]
  cell_params = params["layer"]["cell"]
  if cell == nn.OptimizedLSTMCell:
    # All gates are one product, named after the largest of its parameters.
    inner, outer = inner[:1], outer[:1]
  assert set(chosen) == {
    f"layer/cell/{name}/kernel" for name in (*inner, *outer)
  }
  for name in inner:
    path = f"layer/cell/{name}/kernel"
    np.testing.assert_array_equal(activations[path][1:], before)
    np.testing.assert_array_equal(
      kernels[path][:, :3], cell_params[name]["kernel"]
    )


class Training(nn.Module):
  """Everything that has a state or draws, and the operands of its layers."""

  dtype: type = jnp.float32

  @nn.compact
  def __call__(self, inputs, *, train):
    hidden = DENSE(5, dtype=self.dtype, name="fc1")(inputs)
    hidden = nn.BatchNorm(
      use_running_average=not train, dtype=self.dtype, name="norm"
    )(hidden)
    self.sow("intermediates", "mine", hidden)
    hidden = nn.Dropout(0.5, deterministic=not train)(nn.relu(hidden))
    layer = nn.Dense(3, dtype=self.dtype, name="fc2")
    logits = layer(hidden)
    kernel = layer.variables["params"]["kernel"].astype(self.dtype)
    return logits, {"fc2/kernel": (hidden, kernel)}


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
def test_state_and_draws_of_training(dtype):
  model = Training(dtype)
  variables = model.init(jax.random.key(0), INPUTS, train=False)
  bits = jax.random.key_data(jax.random.key(2))

  def loss_fn(params, inputs, statistics, bits):
    (logits, layers), state = model.apply(
      {"params": params, "batch_stats": statistics},
      inputs,
      train=True,
      rngs={"dropout": jax.random.wrap_key_data(bits)},
      mutable=["batch_stats", "intermediates"],
    )
    return loss_of(logits), (layers, state)

  check(
    loss_fn,
    variables["params"],
    INPUTS,
    variables["batch_stats"],
    bits,
    by_hand=lambda *args: loss_fn(*args)[1][0],
    raw=["fc1/kernel"],
    # Sums in half precision depend on their order.
    tolerance=1e-6 if dtype == jnp.float32 else 1e-2,
  )


def test_apply_of_all_variables():
  # Of the collections that apply takes, "params" alone are parameters.
  model = Training()
  variables = model.init(jax.random.key(0), INPUTS, train=False)
  apply_fn = functools.partial(model.apply, train=False)
  found = bean_jax.find_layers(apply_fn, variables, INPUTS)
  assert [(layer.path, layer.left_out) for layer in found] == [
    ("fc1/kernel", "its inputs are raw data"),
    ("fc2/kernel", ""),
  ]
  frozen = flax.core.freeze(variables)
  assert bean_jax.find_layers(apply_fn, frozen, INPUTS) == found
  (_, layers), activations, kernels = jax.jit(bean_jax.capture(apply_fn))(
    variables, INPUTS
  )
  captured = {p: (activations[p], kernels[p]) for p in activations}
  assert_equal(captured, layers)


@pytest.mark.parametrize("norm", ("weight", "spectral"))
def test_kernels_are_those_that_a_normalization_computes_with(norm):
  class Normed(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      hidden = jnp.tanh(DENSE(DIM, name="before")(inputs))
      layer = nn.Dense(3, use_bias=False, name="fc")
      if norm == "weight":
        return nn.WeightNorm(layer)(hidden), hidden
      return nn.SpectralNorm(layer)(hidden, update_stats=True), hidden

  model = Normed()
  variables = dict(model.init(jax.random.key(0), INPUTS))
  params = dict(variables.pop("params"))
  params["fc"] = {"kernel": 2 * params["fc"]["kernel"]}

  def loss_fn(params, inputs):
    (outputs, hidden), _ = model.apply(
      {"params": params, **variables}, inputs, mutable=["batch_stats"]
    )
    return loss_of(outputs), (outputs, hidden)

  found = bean_jax.find_layers(loss_fn, params, INPUTS)
  assert [layer.path for layer in found if not layer.left_out] == ["fc/kernel"]
  (_, (outputs, hidden)), activations, kernels = jax.jit(
    bean_jax.capture(loss_fn)
  )(params, INPUTS)
  np.testing.assert_array_equal(activations["fc/kernel"], hidden)
  assert np.any(kernels["fc/kernel"] != params["fc"]["kernel"])
  np.testing.assert_allclose(
    hidden @ kernels["fc/kernel"], outputs, rtol=1e-5, atol=1e-6
  )


class Halved(nn.Dense):
  """A subclass, which changes its inputs before it is a dense layer."""

  def __call__(self, inputs):
    return super().__call__(inputs / 2)


class Monotone(nn.Dense):
  """A subclass with a call of its own, and a field named axis."""

  axis: int = 0

  @nn.compact
  def __call__(self, inputs):
    kernel = self.param("kernel", self.kernel_init, (DIM, self.features))
    return inputs @ jax.nn.softplus(kernel)


class Own(nn.Module):
  """A dense class of one's own."""

  def setup(self):
    self.weights = self.param("w", nn.initializers.normal(1.0), (3, DIM))

  def __call__(self, inputs):
    return jnp.einsum("bn,mn->bm", inputs, self.weights)


class Heads(nn.Module):
  """A layer whose name is that of one in a stack."""

  @nn.compact
  def __call__(self, inputs):
    return nn.Dense(3, name="head[1]")(inputs)


BOXED = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))


@pytest.mark.parametrize(
  "layer, path, kernel_of, scale",
  (
    (nn.Dense(3, kernel_init=BOXED), "kernel", lambda p: p.value, 1),
    (Heads(), "head[1]/kernel", lambda p: p, 1),
    (Halved(3), "kernel", lambda p: p, 0.5),
    (Monotone(3), "kernel", jax.nn.softplus, 1),
    (Own(), "w", jnp.transpose, 1),
  ),
  ids=("boxed", "named", "halved", "monotone", "own"),
)
def test_classes_and_names_of_ones_own(layer, path, kernel_of, scale):
  def layers_of(params, inputs):
    kernel = kernel_of(functools.reduce(dict.get, path.split("/"), params))
    return {path: (scale * inputs, kernel)}

  _check_after(layer, layers_of, INPUTS)


def test_head_that_is_tied_to_the_embedding_by_apply():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      embed = nn.Embed(7, DIM, name="embed")
      hidden = jnp.tanh(nn.Dense(DIM, name="fc")(embed(tokens)))
      kernel = embed.variables["params"]["embedding"].T
      head = nn.Dense(7, use_bias=False)
      return head.apply({"params": {"kernel": kernel}}, hidden), hidden

  model = Tied()
  tokens = jnp.array([[0, 3], [6, 2]])
  params = model.init(jax.random.key(0), tokens)["params"]

  def loss_fn(params, tokens):
    logits, hidden = model.apply({"params": params}, tokens)
    table = params["embed"]["embedding"]
    return loss_of(logits), {
      "fc/kernel": (table[tokens], params["fc"]["kernel"]),
      "embed/embedding": (hidden, table.T),
    }

  check(loss_fn, params, tokens)


def test_model_that_runs_another_and_reads_its_intermediates():
  inner = Shared()

  class Outer(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      variables = self.param("inner", lambda key: inner.init(key, inputs))
      outputs, state = inner.apply(
        variables, inputs, capture_intermediates=True
      )
      first, _ = state["intermediates"]["fc"]["__call__"]
      return nn.Dense(2, name="head")(outputs + first), outputs + first

  model = Outer()
  params = model.init(jax.random.key(0), INPUTS)["params"]

  def loss_fn(params, inputs):
    outputs, hidden = model.apply({"params": params}, inputs)
    inner = params["inner"]["params"]
    return loss_of(outputs), {
      "inner/params/fc/kernel": _layers_of_shared(inner, inputs)["fc/kernel"],
      "head/kernel": (hidden, params["head"]["kernel"]),
    }

  check(loss_fn, params, INPUTS)


def test_method_that_is_called_by_its_name():
  model = Methods(METHODS["grad"])
  variables = model.init(jax.random.key(0), INPUTS)
  apply_fn = bean_jax.capture(functools.partial(model.apply, method="both"))
  _, activations, _ = apply_fn(variables, INPUTS)
  assert list(activations) == ["fc2/kernel"]
