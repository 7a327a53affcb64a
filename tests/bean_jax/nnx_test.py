"""The adapter for NNX, against networks that are written out by hand."""

from collections.abc import Callable
import functools
import sys

from flax import errors, nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from bean_jax import nnx as bean_nnx
from tests import reference

DIM = 4
NUM_STEPS = 3
STACKED = nnx.StateAxes({nnx.Intermediate: 0, ...: None})


def _dense(layer, inputs):
  return inputs @ layer["kernel"] + jnp.broadcast_to(
    layer["bias"], (*inputs.shape[:-1], layer["bias"].shape[-1])
  )


class Block(nnx.Module):
  """A layer with something nonlinear before it."""

  def __init__(self, rngs):
    self.fc = nnx.Linear(DIM, DIM, rngs=rngs)

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


def _twice(block, inputs):
  return block(block(inputs))


def _scan(block, inputs):
  return nnx.scan(_call, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
    block, inputs
  )


def _scan_of_remat(block, inputs):
  return nnx.scan(nnx.remat(_call), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
    block, inputs
  )


def _share_in_scan(block, inputs):
  return nnx.scan(
    _call,
    in_axes=(STACKED, nnx.Carry),
    out_axes=nnx.Carry,
    length=NUM_STEPS,
  )(block, inputs)


def _vmap(block, inputs):
  return nnx.vmap(_call, in_axes=(0, None), out_axes=-1)(block, inputs)[..., 1]


def _share_in_vmap(block, inputs):
  return nnx.vmap(_call, in_axes=(STACKED, 0))(block, inputs)


def _cond(block, inputs):
  return nnx.cond(
    jnp.sum(inputs) > 0, _call, lambda block, x: block(2 * x), block, inputs
  )


def _once(layer, inputs):
  inputs = jnp.tanh(inputs)
  return _dense(layer, inputs), {"": (inputs, layer["kernel"])}


def _at(layers, step):
  return jax.tree.map(lambda leaf: leaf[step], layers)


def _one_after_another(layers, inputs):
  found = {}
  for step in range(NUM_STEPS):
    inputs, layer = _once(_at(layers, step), inputs)
    found[f"[{step}]"] = layer[""]
  return inputs, found


def _again_and_again(layer, inputs, *, times):
  rows = []
  for _ in range(times):
    inputs, found = _once(layer, inputs)
    rows.append(found[""][0])
  return inputs, {"": (jnp.concatenate(rows), layer["kernel"])}


def _side_by_side(layers, inputs):
  steps = [_once(_at(layers, step), inputs) for step in range(NUM_STEPS)]
  return steps[1][0], {
    f"[{i}]": found[""] for i, (_, found) in enumerate(steps)
  }


def _of_either_branch(layer, inputs):
  scale = jnp.where(jnp.sum(inputs) > 0, 1.0, 2.0)
  return _once(layer, scale * inputs)


# How the block is called, whether it is a stack, and the same by hand.
SITUATIONS = {
  "nested": (_call, False, _once),
  "remat": (nnx.remat(_call), False, _once),
  "jit": (nnx.jit(_call), False, _once),
  "shared": (_twice, False, functools.partial(_again_and_again, times=2)),
  "scan": (_scan, True, _one_after_another),
  "scan_of_remat": (_scan_of_remat, True, _one_after_another),
  "scan_of_shared": (
    _share_in_scan,
    False,
    functools.partial(_again_and_again, times=NUM_STEPS),
  ),
  "vmap": (_vmap, True, _side_by_side),
  "vmap_of_shared": (_share_in_vmap, False, _once),
  "cond": (_cond, False, _of_either_branch),
}


def _model(situation):
  lift, stacked, _ = SITUATIONS[situation]
  return Lifted(lift, stacked=stacked)


def _layers_by_hand(situation, params, inputs):
  inputs = jnp.tanh(inputs)
  hidden, found = SITUATIONS[situation][2](
    params["lifted"]["fc"], _dense(params["first"]["fc"], inputs)
  )
  return {
    "first/fc": (inputs, params["first"]["fc"]["kernel"]),
    **{f"lifted/fc{key}": layer for key, layer in found.items()},
    "last": (hidden, params["last"]["kernel"]),
  }


def _params(model):
  return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _penalty(model, inputs, **kwargs):
  _, activations = bean_nnx.capture(model)(inputs, **kwargs)
  kernels = bean_nnx.kernels(model, activations)
  return bean_jax.bean_penalty(activations, kernels)


def _penalty_by_hand(layers):
  return sum(bean_jax.layer_penalty(*layer) for layer in layers.values())


def _assert_trees_close(ours, expected, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.fixture(name="inputs", scope="module")
def _inputs():
  return jax.random.normal(jax.random.key(1), (6, DIM))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_penalty_and_gradient_are_those_by_hand(inputs, situation):
  model = _model(situation)
  by_hand = jax.jit(
    jax.value_and_grad(
      lambda params: _penalty_by_hand(
        _layers_by_hand(situation, params, inputs)
      )
    )
  )
  penalty, gradient = nnx.jit(nnx.value_and_grad(_penalty))(model, inputs)
  expected = by_hand(_params(model))
  np.testing.assert_allclose(penalty, expected[0], rtol=1e-6)
  _assert_trees_close(nnx.to_pure_dict(gradient), expected[1])


@pytest.mark.parametrize("situation", ("nested", "scan", "shared"))
def test_activations_and_output_are_those_of_the_model(inputs, situation):
  model = _model(situation)
  output, activations = bean_nnx.capture(model)(inputs)
  np.testing.assert_array_equal(output, model(inputs))
  kernels = bean_nnx.kernels(model, activations)
  layers = _layers_by_hand(situation, _params(model), inputs)
  _assert_trees_close(activations, {path: layers[path][0] for path in layers})
  _assert_trees_close(kernels, {path: layers[path][1] for path in layers})


def test_penalty_is_that_of_the_definition(inputs):
  model = _model("nested")
  layers = _layers_by_hand("nested", _params(model), inputs)
  expected = sum(reference.layer_penalty(*layer) for layer in layers.values())
  np.testing.assert_allclose(_penalty(model, inputs), expected, rtol=1e-6)


@pytest.mark.parametrize("situation", ("scan", "shared"))
def test_model_is_left_as_it_was(inputs, situation):
  model = _model(situation)
  graphdef, state = nnx.split(model)
  classes = [type(module) for _, module in nnx.iter_modules(model)]
  bean_nnx.capture(model)(inputs)
  with pytest.raises(TypeError):
    bean_nnx.capture(model)(jnp.ones((2, DIM + 1)))
  assert nnx.graphdef(model) == graphdef
  _assert_trees_close(nnx.state(model), state, rtol=0, atol=0)
  assert classes == [type(module) for _, module in nnx.iter_modules(model)]


def test_transformations_of_jax_with_the_model_merged_inside(inputs):
  graphdef, state = nnx.split(_model("nested"))

  def penalty_of(state, inputs):
    return _penalty(nnx.merge(graphdef, state), inputs)

  value_and_grad = jax.jit(jax.value_and_grad(penalty_of))
  members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), state)
  penalties, gradients = jax.jit(jax.vmap(value_and_grad, in_axes=(0, None)))(
    members, inputs
  )
  for step in range(2):
    penalty, gradient = value_and_grad(_at(members, step), inputs)
    np.testing.assert_allclose(penalties[step], penalty, rtol=1e-5)
    _assert_trees_close(_at(gradients, step), gradient)

  def step_fn(carry, rows):
    return carry, penalty_of(state, rows)

  _, in_scan = jax.lax.scan(step_fn, 0, jnp.stack([inputs, 3 * inputs]))
  np.testing.assert_allclose(in_scan[0], penalty_of(state, inputs), rtol=1e-5)


def test_inside_vmap_over_samples(inputs):
  model = _model("nested")
  _, whole = bean_nnx.capture(model)(inputs)
  _, by_sample = nnx.vmap(
    lambda model, row: bean_nnx.capture(model)(row), in_axes=(None, 0)
  )(model, inputs)
  _assert_trees_close(by_sample, whole)


def test_training_within_scan(inputs):
  def step(carry, rows):
    model, optimizer = carry
    penalty, gradient = nnx.value_and_grad(_penalty)(model, rows)
    optimizer.update(model, gradient)
    return carry, penalty

  carries = []
  for _ in range(2):
    model = _model("nested")
    carries.append((model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)))
  axes = (nnx.Carry, 0)
  batches = jnp.stack([inputs, 2 * inputs, inputs])
  _, in_scan = nnx.jit(nnx.scan(step, in_axes=axes, out_axes=axes))(
    carries[0], batches
  )
  one_by_one = [step(carries[1], rows)[1] for rows in batches]
  np.testing.assert_allclose(in_scan, one_by_one, rtol=1e-5)
  assert in_scan[2] < in_scan[0]


def test_transformations_without_graphs(inputs):
  model = _model("scan")
  expected = _penalty(model, inputs)
  with nnx.set_graph_mode(False), nnx.set_graph_updates(False):
    penalty = nnx.jit(_penalty)(model, inputs)
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)


@pytest.mark.parametrize(
  "in_features, out_features, axis, shape",
  (
    (4, (5, 3), -1, (2, 3, 4)),
    ((7, 4), 5, (-1, 1), (2, 7, 3, 4)),
    ((3, 4), (2, 5), (-2, -1), (2, 3, 4)),
  ),
  ids=("features", "unordered_axes", "axes"),
)
def test_activations_times_kernel_are_the_product_of_the_layer(
  in_features, out_features, axis, shape
):
  layer = nnx.LinearGeneral(
    in_features, out_features, axis=axis, rngs=nnx.Rngs(0), use_bias=False
  )
  inputs = jax.random.normal(jax.random.key(0), shape)
  output, activations = bean_nnx.capture(layer)(inputs)
  kernels = bean_nnx.kernels(layer)
  assert list(kernels) == list(activations) == [""]
  product = activations[""].reshape(-1, kernels[""].shape[0]) @ kernels[""]
  np.testing.assert_allclose(
    product, output.reshape(product.shape), rtol=1e-4, atol=1e-5
  )


def test_attention_projections():
  model = nnx.MultiHeadAttention(
    num_heads=2, in_features=4, qkv_features=6, decode=False, rngs=nnx.Rngs(0)
  )
  inputs = jax.random.normal(jax.random.key(0), (3, 5, 4))
  output, activations = bean_nnx.capture(model)(inputs)
  kernels = bean_nnx.kernels(model)
  assert jax.tree.map(jnp.shape, activations) == {
    "query": (3, 5, 4),
    "key": (3, 5, 4),
    "value": (3, 5, 4),
    "out": (3, 5, 6),
  }
  np.testing.assert_array_equal(
    kernels["query"], model.query.kernel[...].reshape(4, 6)
  )
  np.testing.assert_allclose(
    activations["out"] @ kernels["out"], output, rtol=1e-4, atol=1e-5
  )


def test_recurrent_cells_with_stated_axes():
  model = nnx.RNN(
    nnx.SimpleCell(4, 3, rngs=nnx.Rngs(0)),
    state_axes=nnx.StateAxes({nnx.Intermediate: 0, ...: nnx.Carry}),
    rngs=nnx.Rngs(0),
  )
  inputs = jax.random.normal(jax.random.key(0), (2, 5, 4))
  outputs, activations = bean_nnx.capture(model)(inputs)
  inputs_in_time = jnp.swapaxes(inputs, 0, 1)
  before = jnp.swapaxes(outputs, 0, 1)[:-1]
  np.testing.assert_array_equal(activations["cell/dense_i"], inputs_in_time)
  np.testing.assert_array_equal(activations["cell/dense_h"][1:], before)
  assert set(bean_nnx.kernels(model)) == set(activations)


@pytest.mark.parametrize("make", (nnx.WeightNorm, nnx.SpectralNorm))
def test_kernels_are_those_that_a_normalization_computes_with(inputs, make):
  layer = nnx.Linear(DIM, 3, use_bias=False, rngs=nnx.Rngs(0))
  before = layer.kernel[...]
  model = make(layer, rngs=nnx.Rngs(1))
  output, activations = bean_nnx.capture(model)(inputs)
  (kernel,) = bean_nnx.kernels(model, activations).values()
  assert np.any(kernel != before)
  np.testing.assert_allclose(inputs @ kernel, output, rtol=1e-5, atol=1e-5)


class Encoder(nnx.Module):
  """A block of a transformer, with dropout."""

  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(
      2, DIM, dropout_rate=0.5, deterministic=False, decode=False, rngs=rngs
    )
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.ff1 = nnx.Linear(DIM, 8, rngs=rngs)
    self.ff2 = nnx.Linear(8, DIM, rngs=rngs)

  def __call__(self, tokens):
    tokens += self.dropout(self.attention(tokens))
    hidden = nnx.gelu(self.ff1(tokens))
    return tokens + self.ff2(hidden), hidden


class Encoders(nnx.Module):
  """Blocks in a scan, each with a kernel and a mask of its own."""

  def __init__(self):
    make = nnx.split_rngs(splits=NUM_STEPS)(nnx.vmap(Encoder))
    self.blocks = make(nnx.Rngs(0))

  def __call__(self, tokens):
    lifted = nnx.scan(
      nnx.remat(_call), in_axes=(0, nnx.Carry), out_axes=(nnx.Carry, 0)
    )
    return lifted(self.blocks, tokens)


def test_scanned_transformer_with_dropout():
  model = Encoders()
  tokens = jax.random.normal(jax.random.key(0), (2, 5, DIM))
  (_, hidden), activations = bean_nnx.capture(model)(tokens)
  for step in range(NUM_STEPS):
    np.testing.assert_array_equal(
      activations[f"blocks/ff2[{step}]"], hidden[step]
    )
  names = ("query", "key", "value", "out")
  assert set(activations) == {
    f"blocks/{name}[{step}]"
    for name in ("ff1", "ff2", *(f"attention/{name}" for name in names))
    for step in range(NUM_STEPS)
  }
  kernels = bean_nnx.kernels(model, activations)
  assert bean_jax.bean_penalty(activations, kernels) > 0


def test_inside_remat_of_the_loss(inputs):
  model = _model("nested")
  recomputed = nnx.jit(nnx.value_and_grad(nnx.remat(_penalty)))(model, inputs)
  expected = nnx.jit(nnx.value_and_grad(_penalty))(model, inputs)
  np.testing.assert_allclose(recomputed[0], expected[0], rtol=1e-6)
  _assert_trees_close(recomputed[1], expected[1])


class Training(nnx.Module):
  """Everything that has a state or draws, and two methods."""

  def __init__(self, *, dtype=jnp.float32):
    rngs = nnx.Rngs(0)
    self.fc1 = nnx.Linear(DIM, 5, dtype=dtype, rngs=rngs)
    self.norm = nnx.BatchNorm(5, dtype=dtype, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.fc2 = nnx.Linear(5, 3, dtype=dtype, rngs=rngs)

  def encode(self, inputs):
    return nnx.relu(self.norm(self.fc1(inputs)))

  def __call__(self, inputs, *, scale=1.0):
    return self.by_hand(inputs, scale=scale)[0]

  def by_hand(self, inputs, *, scale=1.0):
    hidden = self.dropout(self.encode(scale * inputs))
    return self.fc2(hidden), {"fc1": scale * inputs, "fc2": hidden}


def test_penalty_with_dropout_and_batch_norm_is_that_by_hand(inputs):
  def by_hand(model, inputs):
    _, layers = model.by_hand(inputs)
    kernels = {name: getattr(model, name).kernel[...] for name in layers}
    return bean_jax.bean_penalty(layers, kernels)

  penalty, gradient = nnx.jit(nnx.value_and_grad(_penalty))(Training(), inputs)
  expected = nnx.jit(nnx.value_and_grad(by_hand))(Training(), inputs)
  assert np.any(gradient["norm"]["scale"][...] != 0)
  np.testing.assert_allclose(penalty, expected[0], rtol=1e-6)
  _assert_trees_close(gradient, expected[1])


def test_state_and_draws_are_those_of_the_model(inputs):
  captured, plain = Training(), Training()

  @nnx.jit
  def step(model, inputs):
    return bean_nnx.capture(model)(inputs, scale=2.0)

  for _ in range(2):
    output, activations = step(captured, inputs)
    expected = nnx.jit(lambda model, inputs: model(inputs, scale=2.0))(
      plain, inputs
    )
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(activations["fc1"], 2 * inputs)
    assert np.any(activations["fc2"] == 0)
  _assert_trees_close(
    nnx.state(captured, nnx.BatchStat), nnx.state(plain, nnx.BatchStat)
  )
  np.testing.assert_array_equal(
    captured.dropout.rngs.count[...], plain.dropout.rngs.count[...]
  )
  assert captured.dropout.rngs.count[...] == 2


def test_bound_method(inputs):
  model = Training()
  model.eval()
  output, activations = bean_nnx.capture(model.encode)(inputs)
  np.testing.assert_array_equal(output, model.encode(inputs))
  assert list(activations) == ["fc1"]
  assert list(bean_nnx.kernels(model, activations)) == ["fc1"]
  with pytest.raises(ValueError, match=r"must call .* \['fc2'\]"):
    bean_nnx.capture(model.encode, layers="fc2")(inputs)


def test_mixed_precision(inputs):
  model = Training(dtype=jnp.bfloat16)
  model.eval()
  _, activations = bean_nnx.capture(model)(inputs)
  assert activations["fc1"].dtype == jnp.float32
  assert activations["fc2"].dtype == jnp.bfloat16
  penalty, gradient = nnx.jit(nnx.value_and_grad(_penalty))(model, inputs)
  assert penalty.dtype == jnp.float32
  expected = sum(
    reference.layer_penalty(
      np.float64(activations[name]), getattr(model, name).kernel[...]
    )
    for name in ("fc1", "fc2")
  )
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


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
  model = _model("nested")
  _, activations = bean_nnx.capture(model, layers=layers)(inputs)
  assert sorted(activations) == chosen
  assert sorted(bean_nnx.kernels(model, activations)) == chosen
  found = set(bean_nnx.kernels(model, layers=layers)) - {"unused"}
  assert sorted(found) == chosen


def test_kernels_of_uncalled_layers_need_the_activations(inputs):
  model = _model("nested")
  _, activations = bean_nnx.capture(model)(inputs)
  assert "unused" in bean_nnx.kernels(model)
  assert "unused" not in bean_nnx.kernels(model, activations)
  with pytest.raises(ValueError, match="unused"):
    bean_jax.bean_penalty(activations, bean_nnx.kernels(model))


def test_three_lines_lower_the_penalty_and_compile_once(inputs):
  model = _model("scan_of_remat")
  num_traces = 0

  def loss_fn(model, inputs):
    nonlocal num_traces
    num_traces += 1
    logits, activations = bean_nnx.capture(model)(inputs)
    return jnp.mean((logits - 1) ** 2), activations

  loss_fn = bean_jax.regularize(
    loss_fn,
    lambda model, aux: (aux, bean_nnx.kernels(model, aux)),
    alpha=10.0,
  )

  @nnx.jit
  def train_step(model, optimizer, inputs):
    gradient, _ = nnx.grad(loss_fn, has_aux=True)(model, inputs)
    optimizer.update(model, gradient)

  before = _penalty(model, inputs)
  optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
  for _ in range(30):
    train_step(model, optimizer, inputs)
  assert num_traces == 1
  assert _penalty(model, inputs) < 0.5 * before


def test_jitted_parts_of_the_model_compile_once(inputs):
  num_traces = 0

  @nnx.jit
  def call(block, inputs):
    nonlocal num_traces
    num_traces += 1
    return block(inputs)

  model = Lifted(call)
  for _ in range(3):
    bean_nnx.capture(model)(inputs)
  assert num_traces == 1


def test_nothing_is_computed_twice(inputs):
  graphdef, state = nnx.split(_model("nested"))

  def ours(state):
    model = nnx.merge(graphdef, state)
    output, activations = bean_nnx.capture(model)(inputs)
    kernels = bean_nnx.kernels(model, activations)
    return jnp.sum(output) + bean_jax.bean_penalty(activations, kernels)

  def by_hand(state):
    params = nnx.to_pure_dict(state)
    layers = _layers_by_hand("nested", params, inputs)
    output = _dense(params["last"], layers["last"][0])
    return jnp.sum(output) + _penalty_by_hand(layers)

  ours, by_hand = (
    jax.jit(jax.grad(loss)).lower(state).compile().cost_analysis()["flops"]
    for loss in (ours, by_hand)
  )
  assert ours <= 1.01 * by_hand


def _plain_vmap(block, inputs):
  return jax.vmap(block)(inputs)


def _undeclared_vmap(block, inputs):
  return nnx.vmap(_call, in_axes=(None, 0))(block, inputs)


def _while_loop(block, inputs):
  return nnx.while_loop(
    lambda carry: carry[1] < 2,
    lambda carry: (carry[0], carry[1] + 1, carry[0](carry[2])),
    (block, 0, inputs),
  )[2]


def _one_branch(block, inputs):
  return nnx.cond(jnp.sum(inputs) > 0, _call, lambda _, x: x, block, inputs)


@pytest.mark.parametrize(
  "lift",
  (_plain_vmap, _undeclared_vmap, _one_branch, _while_loop),
  ids=lambda f: f.__name__,
)
def test_errors_of_transformations_name_the_layer_and_the_cure(inputs, lift):
  model = Lifted(lift)
  expected = model(inputs)
  with pytest.raises(Exception) as caught:  # noqa: PT011
    bean_nnx.capture(model)(inputs)
  notes = "".join(caught.value.__notes__)
  assert "lifted/fc" in notes
  assert "first/fc" not in notes
  output, activations = bean_nnx.capture(
    model, layers=lambda path: path != "lifted/fc"
  )(inputs)
  np.testing.assert_array_equal(output, expected)
  assert sorted(activations) == ["first/fc", "last"]


def test_model_from_outside_of_the_trace(inputs):
  model = _model("nested")
  with pytest.raises(errors.TraceContextError) as caught:
    jax.jit(lambda rows: bean_nnx.capture(model)(rows))(inputs)
  assert "make it an argument" in "".join(caught.value.__notes__)
  bean_nnx.capture(model)(inputs)


def test_errors_of_others_have_no_note():
  with pytest.raises(TypeError) as caught:
    bean_nnx.capture(_model("nested"))(jnp.ones((2, DIM + 1)))
  assert "capture" not in "".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize(
  "make, reason",
  (
    (
      lambda rngs: nnx.LoRALinear(DIM, 3, lora_rank=1, rngs=rngs),
      "LoRALinear must compute as nnx.Linear",
    ),
    (
      lambda rngs: nnx.LinearGeneral(DIM, 3, batch_axis={0: 6}, rngs=rngs),
      "batch_axis",
    ),
    (
      lambda rngs: nnx.Einsum("ab,bc->ac", (DIM, 3), rngs=rngs),
      "nnx.LinearGeneral",
    ),
  ),
  ids=("lora", "batch_axis", "einsum"),
)
def test_other_layers_are_refused_by_name(inputs, make, reason):
  model = nnx.Sequential(make(nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
  with pytest.raises(ValueError, match=f"layer 'layers/0': .*{reason}"):
    bean_nnx.capture(model)(inputs)
  _, activations = bean_nnx.capture(model, layers="layers/1")(inputs)
  assert list(activations) == ["layers/1"]


def test_wrong_layers(inputs):
  model = nnx.Sequential(nnx.Linear(DIM, 3, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match=r"'fc9'.*\['layers/0'\]"):
    bean_nnx.capture(model, layers="fc9")(inputs)
  with pytest.raises(ValueError, match=r"'fc9'.*\['layers/0'\]"):
    bean_nnx.kernels(model, layers="fc9")
  with pytest.raises(ValueError, match=r"'layers/7'.*\['layers/0'\]"):
    bean_nnx.kernels(model, {"layers/7": inputs})
  for function in (bean_nnx.capture, bean_nnx.kernels):
    with pytest.raises(TypeError, match=r"layers must be .* \['fc1'\]"):
      function(model, layers=["fc1"])


def test_without_flax_the_error_tells_the_cure(monkeypatch):
  monkeypatch.setitem(sys.modules, "flax", None)
  monkeypatch.delitem(sys.modules, "bean_jax.nnx")
  with pytest.raises(ImportError, match="pip install 'flax"):
    import bean_jax.nnx  # noqa: F401
