"""The adapter for Linen, against networks that are written out by hand."""

from collections.abc import Callable
import functools
import sys

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from bean_jax import linen
from tests import reference

DIM = 4
NUM_STEPS = 3


def _dense(layer, inputs):
  return inputs @ layer["kernel"] + jnp.broadcast_to(
    layer["bias"], (*inputs.shape[:-1], layer["bias"].shape[-1])
  )


def _at(layer, index):
  return jax.tree.map(lambda leaf: leaf[index], layer)


class Block(nn.Module):
  """A layer with something nonlinear before it."""

  @nn.compact
  def __call__(self, inputs, _=None):
    return nn.Dense(DIM, name="fc")(jnp.tanh(inputs)), None


class Lifted(nn.Module):
  """Two blocks with a lifted one, of a class, between them."""

  lift: Callable

  @nn.compact
  def __call__(self, inputs):
    hidden, _ = Block(name="first")(inputs)
    hidden, _ = self.lift(Block)(name="lifted")(hidden, None)
    return nn.Dense(2, name="last")(hidden)


class Shared(nn.Module):
  """One layer that is called twice, and one that never is."""

  def setup(self):
    self.fc = nn.Dense(DIM)
    self.unused = nn.Dense(DIM)

  def __call__(self, inputs):
    if self.is_initializing():
      self.unused(inputs)
    return self.fc(jnp.tanh(self.fc(inputs)))


class Methods(nn.Module):
  """Two layers called by a function, which `kind` of transformation lifts."""

  kind: str = "none"

  def setup(self):
    self.fc1 = nn.Dense(DIM)
    self.fc2 = nn.Dense(DIM)

  def both(self, inputs):
    return self.fc2(jnp.tanh(self.fc1(inputs)))

  def __call__(self, inputs):
    if self.is_initializing() or self.kind == "none":
      return self.both(inputs)
    return getattr(self, self.kind)(inputs)

  def remat(self, inputs):
    return nn.remat(Methods.both)(self, inputs)

  def jit(self, inputs):
    return nn.jit(Methods.both)(self, inputs)

  def grad(self, inputs):
    return nn.value_and_grad(
      lambda module, inputs: jnp.sum(module.both(inputs) ** 2), self, inputs
    )

  def cond(self, inputs):
    branches = (Methods.both, lambda module, inputs: module.fc1(inputs))
    return nn.cond(jnp.sum(inputs) > 0, *branches, self, inputs)

  def switch(self, inputs):
    return nn.switch(0, [Methods.both, Methods.both], self, inputs)

  def while_loop(self, inputs):
    return nn.while_loop(
      lambda _, carry: jnp.sum(carry) > 1e3, Methods.both, self, inputs
    )

  def custom_vjp(self, inputs):
    def forward(module, inputs):
      return nn.vjp(Methods.both, module, inputs)

    return nn.custom_vjp(
      Methods.both, forward, lambda vjp_fn, tangent: vjp_fn(tangent)
    )(self, inputs)

  def plain_vmap(self, inputs):
    return jax.vmap(self.both)(inputs)

  def plain_remat(self, inputs):
    return jax.checkpoint(self.both)(inputs)


def _scan(block, **axes):
  axes = axes or {"params": 0, "intermediates": 0}
  return nn.scan(
    block,
    variable_axes=axes,
    split_rngs={"params": True},
    length=NUM_STEPS,
  )


def _share_in_scan(block):
  return nn.scan(
    block,
    variable_broadcast="params",
    variable_axes={"intermediates": 0},
    split_rngs={"params": False},
    length=NUM_STEPS,
  )


def _vmap(block):
  return nn.vmap(
    block,
    variable_axes={"params": 0, "intermediates": 0},
    split_rngs={"params": True},
    in_axes=None,
    out_axes=-1,
    axis_size=NUM_STEPS,
  )


def _share_in_vmap(block):
  return nn.vmap(
    block,
    variable_axes={"params": None, "intermediates": 0},
    split_rngs={"params": False},
    in_axes=(0, None),
  )


def _layers_of_lifted(params, inputs, middle):
  """Returns the layers of `Lifted`, whose lifted block `middle` is."""
  first, lifted, last = (params[name] for name in ("first", "lifted", "last"))
  inputs = jnp.tanh(inputs)
  hidden, found = middle(lifted["fc"], _dense(first["fc"], inputs))
  return {
    "first/fc": (inputs, first["fc"]["kernel"]),
    **{f"lifted/fc{key}": layer for key, layer in found.items()},
    "last": (hidden, last["kernel"]),
  }


def _once(layer, inputs):
  inputs = jnp.tanh(inputs)
  return _dense(layer, inputs), {"": (inputs, layer["kernel"])}


def _one_after_another(layers, inputs):
  found = {}
  for step in range(NUM_STEPS):
    inputs, layer = _once(_at(layers, step), inputs)
    found[f"[{step}]"] = layer[""]
  return inputs, found


def _again_and_again(layer, inputs):
  rows = []
  for _ in range(NUM_STEPS):
    inputs, found = _once(layer, inputs)
    rows.append(found[""][0])
  return inputs, {"": (jnp.concatenate(rows), layer["kernel"])}


def _side_by_side(layers, inputs):
  steps = [_once(_at(layers, step), inputs) for step in range(NUM_STEPS)]
  outputs = jnp.stack([output for output, _ in steps], axis=-1)
  return outputs, {f"[{i}]": found[""] for i, (_, found) in enumerate(steps)}


def _layers_of_methods(params, inputs):
  hidden = jnp.tanh(_dense(params["fc1"], inputs))
  return {
    "fc1": (inputs, params["fc1"]["kernel"]),
    "fc2": (hidden, params["fc2"]["kernel"]),
  }


def _layers_of_shared(params, inputs):
  hidden = jnp.tanh(_dense(params["fc"], inputs))
  both = jnp.concatenate([inputs, hidden])
  return {"fc": (both, params["fc"]["kernel"])}


def _lifted(lift, middle):
  return Lifted(lift), functools.partial(_layers_of_lifted, middle=middle)


SITUATIONS = {
  "nested": _lifted(lambda block: block, _once),
  "remat": _lifted(nn.remat, _once),
  "jit": _lifted(nn.jit, _once),
  "scan": _lifted(_scan, _one_after_another),
  "scan_of_remat": _lifted(
    lambda block: _scan(nn.remat(block)), _one_after_another
  ),
  "scan_of_shared": _lifted(_share_in_scan, _again_and_again),
  "vmap": _lifted(_vmap, _side_by_side),
  "vmap_of_shared": _lifted(_share_in_vmap, _once),
  "shared": (Shared(), _layers_of_shared),
  **{
    kind: (Methods(kind.removeprefix("method_")), _layers_of_methods)
    for kind in ("method_remat", "method_jit", "method_grad")
  },
}


@pytest.fixture(name="inputs", scope="module")
def _inputs():
  return jax.random.normal(jax.random.key(1), (6, DIM))


def _penalty_by_hand(layers):
  return sum(bean_jax.layer_penalty(*layer) for layer in layers.values())


def _penalty(apply_fn, variables, inputs, **kwargs):
  _, activations = apply_fn(variables, inputs, **kwargs)
  kernels = linen.kernels(variables, activations)
  return bean_jax.bean_penalty(activations, kernels)


def _assert_trees_close(ours, expected, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_penalty_and_gradient_are_those_by_hand(inputs, situation):
  model, layers_by_hand = SITUATIONS[situation]
  params = model.init(jax.random.key(0), inputs)["params"]
  apply_fn = linen.capture(model)

  def ours(params, inputs):
    return _penalty(apply_fn, {"params": params}, inputs)

  def by_hand(params, inputs):
    return _penalty_by_hand(layers_by_hand(params, inputs))

  penalty, gradient = jax.jit(jax.value_and_grad(ours))(params, inputs)
  expected = jax.jit(jax.value_and_grad(by_hand))(params, inputs)
  np.testing.assert_allclose(penalty, expected[0], rtol=1e-6)
  _assert_trees_close(gradient, expected[1])


@pytest.mark.parametrize("situation", ("nested", "scan", "shared"))
def test_activations_and_output_are_those_of_the_model(inputs, situation):
  model, layers_by_hand = SITUATIONS[situation]
  variables = model.init(jax.random.key(0), inputs)
  output, activations = linen.capture(model)(variables, inputs)
  np.testing.assert_array_equal(output, model.apply(variables, inputs))
  layers = layers_by_hand(variables["params"], inputs)
  kernels = linen.kernels(variables["params"], activations)
  for ours, place in ((activations, 0), (kernels, 1)):
    expected = {path: layer[place] for path, layer in layers.items()}
    rows = {path: rows.reshape(-1, DIM) for path, rows in expected.items()}
    if place == 0:
      ours = {path: rows.reshape(-1, DIM) for path, rows in ours.items()}
      expected = rows
    _assert_trees_close(ours, expected)


def test_penalty_is_that_of_the_definition(inputs):
  model = Methods()
  variables = model.init(jax.random.key(0), inputs)
  layers = _layers_of_methods(variables["params"], inputs)
  expected = sum(reference.layer_penalty(*layer) for layer in layers.values())
  penalty = _penalty(linen.capture(model), variables, inputs)
  np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_inside_vmap_over_seeds_and_over_samples(inputs):
  model = Methods()
  apply_fn = linen.capture(model)

  def penalty_of(key):
    variables = model.init(key, inputs)
    return _penalty(apply_fn, variables, inputs)

  keys = jax.random.split(jax.random.key(0), 3)
  members = jax.jit(jax.vmap(penalty_of))(keys)
  for member, key in zip(members, keys, strict=True):
    np.testing.assert_allclose(member, penalty_of(key), rtol=1e-5)

  variables = model.init(jax.random.key(0), inputs)
  _, whole = apply_fn(variables, inputs)
  _, by_sample = jax.vmap(apply_fn, in_axes=(None, 0))(variables, inputs)
  _assert_trees_close(by_sample, whole)


def test_steps_within_scan(inputs):
  model = Methods()
  variables = model.init(jax.random.key(0), inputs)
  apply_fn = linen.capture(model)

  def step(carry, rows):
    return carry, _penalty(apply_fn, variables, rows)

  batches = jnp.stack([inputs, 2 * inputs])
  _, penalties = jax.jit(lambda rows: jax.lax.scan(step, 0, rows))(batches)
  for penalty, rows in zip(penalties, batches, strict=True):
    expected = _penalty(apply_fn, variables, rows)
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_inside_remat_of_the_loss(inputs):
  model = Methods()
  variables = model.init(jax.random.key(0), inputs)

  def loss_fn(variables):
    return _penalty(linen.capture(model), variables, inputs)

  recomputed = jax.jit(jax.value_and_grad(jax.checkpoint(loss_fn)))(variables)
  _assert_trees_close(
    recomputed, jax.jit(jax.value_and_grad(loss_fn))(variables)
  )


def test_stacks_of_stacks_in_remat_scan(inputs):
  class Tanh(nn.Module):
    @nn.compact
    def __call__(self, inputs):
      return nn.Dense(DIM, name="fc")(jnp.tanh(inputs))

  model = nn.remat_scan(Tanh, lengths=(2, 2))()
  variables = model.init(jax.random.key(0), inputs)
  layer = variables["params"]["fc"]
  expected = {}
  hidden = inputs
  for index in np.ndindex(2, 2):
    hidden, found = _once(_at(layer, index), hidden)
    expected[f"fc[{index[0]}][{index[1]}]"] = found[""]
  _, activations = linen.capture(model)(variables, inputs)
  _assert_trees_close(activations, {k: v[0] for k, v in expected.items()})
  kernels = linen.kernels(variables, activations)
  _assert_trees_close(kernels, {k: v[1] for k, v in expected.items()})


class Encoder(nn.Module):
  """A block of a transformer, with dropout."""

  @nn.compact
  def __call__(self, tokens, _):
    attended = nn.MultiHeadDotProductAttention(
      2, dropout_rate=0.5, deterministic=False, name="attention"
    )(nn.LayerNorm()(tokens))
    tokens += nn.Dropout(0.5, deterministic=False)(attended)
    hidden = nn.gelu(nn.Dense(8, name="ff1")(tokens))
    return tokens + nn.Dense(DIM, name="ff2")(hidden), hidden


def test_scanned_transformer_with_dropout():
  model = nn.scan(
    nn.remat(Encoder),
    variable_axes={"params": 0, "intermediates": 0},
    split_rngs={"params": True, "dropout": True},
    length=NUM_STEPS,
  )()
  tokens = jax.random.normal(jax.random.key(0), (2, 5, DIM))
  rngs = {"dropout": jax.random.key(2)}
  variables = model.init({"params": jax.random.key(1), **rngs}, tokens, None)
  (_, hidden), activations = linen.capture(model)(
    variables, tokens, None, rngs=rngs
  )
  for step in range(NUM_STEPS):
    np.testing.assert_array_equal(activations[f"ff2[{step}]"], hidden[step])
  names = ("query", "key", "value", "out")
  assert set(activations) == {
    f"{name}[{step}]"
    for name in ("ff1", "ff2", *(f"attention/{name}" for name in names))
    for step in range(NUM_STEPS)
  }
  kernels = linen.kernels(variables, activations)
  assert bean_jax.bean_penalty(activations, kernels) > 0


@pytest.mark.parametrize(
  "layer, shape",
  (
    (nn.Dense(5), (2, 3, 4)),
    (nn.DenseGeneral((5, 3)), (2, 3, 4)),
    (nn.DenseGeneral(5, axis=(-1, 1)), (2, 3, 7, 4)),
    (nn.DenseGeneral((2, 5), axis=(-2, -1)), (2, 3, 4)),
  ),
  ids=("dense", "features", "unordered_axes", "axes"),
)
def test_activations_times_kernel_are_the_product_of_the_layer(layer, shape):
  inputs = jax.random.normal(jax.random.key(0), shape)
  variables = layer.init(jax.random.key(1), inputs)
  output, activations = linen.capture(layer)(variables, inputs)
  kernels = linen.kernels(variables, activations)
  assert list(kernels) == list(activations) == [""]
  bias = variables["params"]["bias"].reshape(1, -1)
  product = activations[""].reshape(-1, kernels[""].shape[0]) @ kernels[""]
  expected = output.reshape(product.shape) - np.broadcast_to(
    bias, product.shape
  )
  np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-5)


def test_attention_projections():
  model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
  inputs = jax.random.normal(jax.random.key(0), (3, 5, 4))
  variables = model.init(jax.random.key(1), inputs)
  output, activations = linen.capture(model)(variables, inputs)
  kernels = linen.kernels(variables, activations)
  assert jax.tree.map(jnp.shape, activations) == {
    "query": (3, 5, 4),
    "key": (3, 5, 4),
    "value": (3, 5, 4),
    "out": (3, 5, 6),
  }
  np.testing.assert_array_equal(
    kernels["query"], variables["params"]["query"]["kernel"].reshape(4, 6)
  )
  np.testing.assert_allclose(
    activations["out"] @ kernels["out"], output, rtol=1e-4, atol=1e-5
  )


def test_recurrent_cells_with_declared_intermediates():
  model = nn.RNN(nn.SimpleCell(3), variable_axes={"intermediates": 0})
  inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
  variables = model.init(jax.random.key(1), inputs)
  outputs, activations = linen.capture(model)(variables, inputs)
  kernels = linen.kernels(variables, activations)
  assert {path: kernel.shape for path, kernel in kernels.items()} == {
    "cell/i": (4, 3),
    "cell/h": (3, 3),
  }
  inputs_in_time = jnp.swapaxes(inputs, 0, 1)
  before = jnp.swapaxes(outputs, 0, 1)[:-1]
  np.testing.assert_array_equal(activations["cell/i"], inputs_in_time)
  np.testing.assert_array_equal(activations["cell/h"][1:], before)


class Training(nn.Module):
  """Everything that has a state or draws, and the user's own sow."""

  dtype: type = jnp.float32
  by_hand: bool = False

  @nn.compact
  def __call__(self, inputs, *, train):
    layers = {"fc1": inputs}
    hidden = nn.Dense(5, dtype=self.dtype, name="fc1")(inputs)
    hidden = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(
      hidden
    )
    self.sow("intermediates", "mine", hidden)
    hidden = nn.Dropout(0.5, deterministic=not train)(nn.relu(hidden))
    layers["fc2"] = hidden
    logits = nn.Dense(3, dtype=self.dtype, name="fc2")(hidden)
    return (logits, layers) if self.by_hand else logits


def test_penalty_with_dropout_and_batch_norm_is_that_by_hand(inputs):
  variables = Training().init(jax.random.key(0), inputs, train=False)
  kwargs = {
    "train": True,
    "rngs": {"dropout": jax.random.key(2)},
    "mutable": ["batch_stats"],
  }

  def ours(params):
    (_, state), activations = linen.capture(Training())(
      variables | {"params": params}, inputs, **kwargs
    )
    kernels = linen.kernels(params, activations)
    return bean_jax.bean_penalty(activations, kernels), state

  def by_hand(params):
    (_, layers), state = Training(by_hand=True).apply(
      variables | {"params": params}, inputs, **kwargs
    )
    kernels = {name: params[name]["kernel"] for name in layers}
    return bean_jax.bean_penalty(layers, kernels), state

  (penalty, state), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    variables["params"]
  )
  expected = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(
    variables["params"]
  )
  assert np.any(gradient["BatchNorm_0"]["scale"] != 0)
  np.testing.assert_allclose(penalty, expected[0][0], rtol=1e-6)
  _assert_trees_close(state, expected[0][1])
  _assert_trees_close(gradient, expected[1])


@pytest.mark.parametrize(
  "mutable",
  (
    False,
    "batch_stats",
    ["batch_stats"],
    ["batch_stats", "intermediates"],
    True,
    flax.core.DenyList("params"),
    [],
  ),
  ids=str,
)
def test_output_is_that_of_apply(inputs, mutable):
  model = Training()
  variables = model.init(jax.random.key(0), inputs, train=False)
  kwargs = {
    "train": mutable not in (False, []),
    "rngs": {"dropout": jax.random.key(2)},
    "mutable": mutable,
  }
  output, activations = linen.capture(model)(variables, inputs, **kwargs)
  expected = model.apply(variables, inputs, **kwargs)
  assert jax.tree.structure(output) == jax.tree.structure(expected)
  _assert_trees_close(output, expected, rtol=0, atol=0)
  assert list(activations) == ["fc1", "fc2"]


def test_method_and_captured_intermediates_are_handed_on(inputs):
  model = Methods()
  variables = model.init(jax.random.key(0), inputs)
  apply_fn = linen.capture(model)
  output, activations = apply_fn(
    variables, inputs, method="both", capture_intermediates=True
  )
  expected = model.apply(
    variables, inputs, method="both", capture_intermediates=True
  )
  assert jax.tree.structure(output) == jax.tree.structure(expected)
  assert list(activations) == ["fc1", "fc2"]


def test_mixed_precision(inputs):
  model = Training(dtype=jnp.bfloat16)
  variables = model.init(jax.random.key(0), inputs, train=False)
  apply_fn = linen.capture(model)
  _, activations = apply_fn(variables, inputs, train=False)
  assert activations["fc1"].dtype == jnp.float32
  assert activations["fc2"].dtype == jnp.bfloat16
  value_and_grad = jax.value_and_grad(
    lambda variables: _penalty(apply_fn, variables, inputs, train=False)
  )
  penalty, gradient = jax.jit(value_and_grad)(variables)
  assert penalty.dtype == jnp.float32
  expected = sum(
    reference.layer_penalty(
      np.float64(activations[name]), variables["params"][name]["kernel"]
    )
    for name in ("fc1", "fc2")
  )
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_integer_inputs_become_what_the_layer_makes_of_them():
  layer = nn.Dense(3)
  inputs = jnp.arange(8).reshape(2, 4)
  variables = layer.init(jax.random.key(0), inputs)
  _, activations = linen.capture(layer)(variables, inputs)
  assert activations[""].dtype == jnp.float32
  np.testing.assert_array_equal(activations[""], inputs)


class Normalized(nn.Dense):
  """A subclass, which changes its inputs before it is a dense layer."""

  def __call__(self, inputs):
    return super().__call__(inputs / 2)


def test_subclasses_are_captured_where_they_are_dense(inputs):
  layer = Normalized(3)
  variables = layer.init(jax.random.key(0), inputs)
  _, activations = linen.capture(layer)(variables, inputs)
  np.testing.assert_array_equal(activations[""], inputs / 2)


class Scale(nn.Module):
  """A module that is asked for its number before it belongs to another."""

  @nn.nowrap
  def halves(self):
    return 0.5

  def number(self):
    return 2 * self.halves()


class Scaled(nn.Module):
  @nn.compact
  def __call__(self, inputs):
    return nn.Dense(3)(inputs) * Scale(parent=None).number()


def test_methods_of_unbound_modules_are_called(inputs):
  variables = Scaled().init(jax.random.key(0), inputs)
  output, activations = linen.capture(Scaled())(variables, inputs)
  np.testing.assert_array_equal(output, Scaled().apply(variables, inputs))
  assert list(activations) == ["Dense_0"]


def test_boxed_params(inputs):
  layer = nn.Dense(
    3,
    kernel_init=nn.with_partitioning(
      nn.initializers.lecun_normal(), (None, "model")
    ),
  )
  variables = layer.init(jax.random.key(0), inputs)
  assert isinstance(variables["params"]["kernel"], nn.Partitioned)
  _, activations = linen.capture(layer)(variables, inputs)
  kernels = linen.kernels(variables, activations)
  expected = variables["params"]["kernel"].value
  np.testing.assert_array_equal(kernels[""], expected)


@pytest.mark.parametrize(
  "layers, chosen",
  (
    (None, ["first/fc", "last", "lifted/fc"]),
    ("*/fc", ["first/fc", "lifted/fc"]),
    ("l*", ["last", "lifted/fc"]),
    (lambda path: "fc" not in path, ["last"]),
  ),
  ids=("all", "suffix", "prefix", "predicate"),
)
def test_choice_of_layers(inputs, layers, chosen):
  model, _ = SITUATIONS["nested"]
  variables = model.init(jax.random.key(0), inputs)
  _, activations = linen.capture(model, layers=layers)(variables, inputs)
  assert sorted(activations) == chosen
  for found in (
    linen.kernels(variables, layers=layers),
    linen.kernels(variables["params"], layers=layers),
    linen.kernels(flax.core.freeze(variables), activations),
  ):
    assert sorted(found) == chosen


def test_kernels_of_uncalled_layers_need_the_activations(inputs):
  model, _ = SITUATIONS["shared"]
  variables = model.init(jax.random.key(0), inputs)
  _, activations = linen.capture(model)(variables, inputs)
  assert sorted(linen.kernels(variables)) == ["fc", "unused"]
  assert sorted(linen.kernels(variables, activations)) == ["fc"]
  with pytest.raises(ValueError, match="unused"):
    bean_jax.bean_penalty(activations, linen.kernels(variables))


def test_jitted_modules_remember_each_choice(inputs):
  # A class of nn.jit keeps what it traced, whoever captures or not.
  model = nn.jit(Methods)()
  variables = model.init(jax.random.key(0), inputs)
  for mutable in (["intermediates"], True):
    model.apply(variables, inputs, mutable=mutable)
    for layers, count in (("fc1", 1), (None, 2), ("*2", 1)):
      apply_fn = linen.capture(model, layers=layers)
      for _ in range(2):
        _, activations = apply_fn(variables, inputs, mutable=mutable)
        assert len(activations) == count


def test_three_lines_lower_the_penalty_and_compile_once(inputs):
  model, _ = SITUATIONS["scan_of_remat"]
  params = model.init(jax.random.key(0), inputs)["params"]
  apply_fn = linen.capture(model)
  num_traces = 0

  def loss_fn(params, inputs):
    nonlocal num_traces
    num_traces += 1
    logits, activations = apply_fn({"params": params}, inputs)
    return jnp.mean((logits - 1) ** 2), activations

  loss_fn = bean_jax.regularize(
    loss_fn, lambda params, aux: (aux, linen.kernels(params, aux)), alpha=10.0
  )
  tx = optax.adam(1e-2)

  @jax.jit
  def train_step(params, opt_state, inputs):
    gradient, _ = jax.grad(loss_fn, has_aux=True)(params, inputs)
    updates, opt_state = tx.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state

  before = _penalty(apply_fn, {"params": params}, inputs)
  opt_state = tx.init(params)
  for _ in range(30):
    params, opt_state = train_step(params, opt_state, inputs)
  assert num_traces == 1
  assert _penalty(apply_fn, {"params": params}, inputs) < 0.5 * before


def test_nothing_is_computed_twice(inputs):
  model, layers_by_hand = SITUATIONS["nested"]
  params = model.init(jax.random.key(0), inputs)["params"]
  apply_fn = linen.capture(model)

  def ours(params):
    output, activations = apply_fn({"params": params}, inputs)
    kernels = linen.kernels(params, activations)
    return jnp.sum(output) + bean_jax.bean_penalty(activations, kernels)

  def by_hand(params):
    layers = layers_by_hand(params, inputs)
    output = _dense(params["last"], layers["last"][0])
    return jnp.sum(output) + _penalty_by_hand(layers)

  ours, by_hand = (
    jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]
    for loss in (ours, by_hand)
  )
  assert ours <= 1.01 * by_hand


def test_no_tracer_leaks(inputs):
  model, _ = SITUATIONS["scan_of_remat"]
  variables = model.init(jax.random.key(0), inputs)
  apply_fn = linen.capture(model)
  with jax.checking_leaks():
    jax.jit(lambda variables: _penalty(apply_fn, variables, inputs))(variables)


class Spectral(nn.Module):
  """A layer that computes with another kernel than its own."""

  @nn.compact
  def __call__(self, inputs):
    normed = nn.SpectralNorm(nn.Dense(3, name="fc"))
    return normed(inputs, update_stats=False)


REFUSED = {
  "undeclared_scan": (
    Lifted(lambda block: _scan(block, params=0)),
    "lifted/fc",
    "intermediates",
  ),
  "scan_of_other_axis": (
    Lifted(lambda block: _scan(block, params=0, intermediates=1)),
    "lifted/fc",
    "axis 0",
  ),
  "kernels_of_other_axis": (
    Lifted(lambda block: _scan(block, params=1, intermediates=0)),
    "lifted/fc",
    "axis 0",
  ),
  "undeclared_rnn": (nn.RNN(nn.SimpleCell(3)), "cell/i", "RNN"),
  "weight_norm": (
    nn.WeightNorm(nn.Dense(3)),
    "layer_instance",
    "map_variables",
  ),
  "spectral_norm": (Spectral(), "fc", "map_variables"),
  "einsum": (nn.Einsum((DIM, 3), "ab,bc->ac"), "", "nn.DenseGeneral"),
  "optimized_lstm": (nn.RNN(nn.OptimizedLSTMCell(3)), "cell", "nn.LSTMCell"),
  "batch_dims": (nn.DenseGeneral(3, batch_dims=(0,)), "", "batch_dims"),
  "cond": (Methods("cond"), "fc1", "cond"),
  "switch": (Methods("switch"), "fc1", "switch"),
  "while_loop": (Methods("while_loop"), "fc1", "while_loop"),
  "custom_vjp": (Methods("custom_vjp"), "fc1", "custom_vjp"),
  "plain_vmap": (Methods("plain_vmap"), "fc1", "nn.vmap"),
  "plain_remat": (Methods("plain_remat"), "fc1", "nn.remat"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_is_refused_by_name(name):
  model, path, reason = REFUSED[name]
  shape = (2, 6, DIM) if isinstance(model, nn.RNN) else (6, DIM)
  inputs = jax.random.normal(jax.random.key(1), shape)
  variables = model.init(jax.random.key(0), inputs)
  apply_fn = linen.capture(model)
  for function in (apply_fn, jax.jit(apply_fn)):
    with pytest.raises(ValueError, match=f"^layer '{path}': ") as caught:
      function(variables, inputs)
    assert reason in str(caught.value)
    assert f"layers=lambda path: path != '{path}'" in str(caught.value)


def test_what_is_refused_can_be_left_out():
  model, path, _ = REFUSED["undeclared_scan"]
  inputs = jnp.ones((6, DIM))
  variables = model.init(jax.random.key(0), inputs)
  apply_fn = linen.capture(model, layers=lambda other: other != path)
  _, activations = jax.jit(apply_fn)(variables, inputs)
  assert sorted(activations) == ["first/fc", "last"]


def test_stacks_that_cannot_be_told_apart_are_refused():
  class Steps(nn.Module):
    @nn.compact
    def __call__(self, inputs, _=None):
      return _share_in_scan(Block)(name="inner")(inputs, None)

  model = _scan(Steps)()
  inputs = jnp.ones((6, DIM))
  variables = model.init(jax.random.key(0), inputs, None)
  with pytest.raises(ValueError, match="'inner/fc': .* which kernels"):
    linen.capture(model)(variables, inputs, None)


def test_wrong_layers(inputs):
  model = Methods()
  variables = model.init(jax.random.key(0), inputs)
  with pytest.raises(ValueError, match=r"'fc9'.*\['fc1', 'fc2'\]"):
    linen.capture(model, layers="fc9")(variables, inputs)
  with pytest.raises(ValueError, match=r"'fc9'.*\['fc1', 'fc2'\]"):
    linen.kernels(variables, layers="fc9")
  for function in (linen.capture, linen.kernels):
    with pytest.raises(TypeError, match=r"layers must be .* \['fc1'\]"):
      function(model, layers=["fc1"])


def test_activations_of_another_model(inputs):
  variables = Methods().init(jax.random.key(0), inputs)
  with pytest.raises(ValueError, match=r"'fc3'.*\['fc1', 'fc2'\]"):
    linen.kernels(variables, {"fc3": inputs})
  for key, activations in (
    ("fc1", jnp.ones((6, DIM + 1))),
    ("fc1[0]", inputs),
    ("fc1[7]", jnp.ones((6, DIM))),
  ):
    with pytest.raises(ValueError, match="does not fit"):
      linen.kernels(variables, {key: activations})


def test_without_flax_the_error_tells_the_cure(monkeypatch):
  monkeypatch.setitem(sys.modules, "flax", None)
  monkeypatch.delitem(sys.modules, "bean_jax.linen")
  with pytest.raises(ImportError, match="pip install 'flax"):
    import bean_jax.linen  # noqa: F401
