"""Found layers under transformations of JAX, what they cost, and errors."""

import ast
import functools
import re

from flax import linen as nn
import jax
from jax import export
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.models.checks import assert_close

NAMES = ("first", "middle", "last")
SPLIT, WHOLE = PartitionSpec("device"), PartitionSpec()


def _init(seed=0, sizes=(5, 6, 6, 3)):
  keys = jax.random.split(jax.random.key(seed), len(NAMES))
  return {
    name: 0.7 * jax.random.normal(keys[i], sizes[i : i + 2])
    for i, name in enumerate(NAMES)
  }


def _draw_inputs(num_samples=8, seed=1):
  return jax.random.normal(jax.random.key(seed), (num_samples, 5))


def _layer(inputs, kernel):
  return jnp.tanh(checkpoint_name(inputs @ kernel, "product"))


def _loss_and_hidden(params, inputs, layer=_layer):
  """Returns the loss of a perceptron, and what enters each of its layers."""
  hidden = {}
  outputs = inputs
  for name in NAMES:
    hidden[name] = outputs
    outputs = layer(outputs, params[name])
  return jnp.mean((outputs - 0.5) ** 2), hidden


def _loss_fn(params, inputs, layer=_layer):
  return _loss_and_hidden(params, inputs, layer)[0]


def _found(params, inputs, *, alpha=2.0, layer=_layer):
  loss_fn = functools.partial(_loss_fn, layer=layer)
  return bean_jax.regularize(loss_fn, alpha=alpha)(params, inputs)


def _by_hand(params, inputs, *, alpha=2.0, layer=_layer):
  loss, hidden = _loss_and_hidden(params, inputs, layer)
  return loss + sum(
    alpha * bean_jax.layer_penalty(hidden[name], params[name])
    for name in NAMES[1:]
  )


_assert_trees_close = functools.partial(assert_close, tolerance=1e-5)


def _over_devices(fn, in_specs, out_specs):
  mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))
  return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


# Errors.


def _within_while(inputs, kernel):
  def step(carry):
    return carry[0] + 1, _layer(carry[1], kernel)

  return jax.lax.while_loop(lambda carry: carry[0] < 2, step, (0, inputs))[1]


def _within_cond(inputs, kernel):
  return jax.lax.cond(
    jnp.sum(inputs) > 0, _layer, lambda inputs, _: inputs, inputs, kernel
  )


_within_jvp = jax.custom_jvp(_layer)
_within_jvp.defjvp(lambda *call: jax.jvp(_layer, *call))
_within_vjp = jax.custom_vjp(_layer)
_within_vjp.defvjp(
  lambda *call: jax.vjp(_layer, *call),
  lambda vjp_fn, gradient: vjp_fn(gradient),
)


def _within_pallas(inputs, kernel):
  def product(inputs_ref, kernel_ref, outputs_ref):
    outputs_ref[...] = _layer(inputs_ref[...], kernel_ref[...])

  shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
  return pl.pallas_call(product, shape, interpret=True)(inputs, kernel)


CONTAINERS = {
  "jax.lax.while_loop": _within_while,
  "jax.lax.cond or switch": _within_cond,
  "jax.custom_jvp": _within_jvp,
  "jax.custom_vjp": _within_vjp,
  "jax.shard_map": lambda *call: _over_devices(_layer, (SPLIT, WHOLE), SPLIT)(
    *call
  ),
  "a Pallas kernel": _within_pallas,
}


def test_all_that_cannot_be_reached_is_named_at_once():
  names = ("first", *CONTAINERS, "last")
  keys = jax.random.split(jax.random.key(0), len(names))
  params = {
    name: jax.random.normal(key, (5, 5))
    for name, key in zip(names, keys, strict=True)
  }
  inputs = _draw_inputs()

  def hidden_fn(params, inputs):
    outputs = _layer(inputs, params["first"])
    for name, layer in CONTAINERS.items():
      outputs = layer(outputs, params[name])
    return outputs

  def loss_fn(params, inputs):
    return jnp.mean(_layer(hidden_fn(params, inputs), params["last"]) ** 2)

  with pytest.raises(ValueError, match="cannot be had") as info:
    bean_jax.regularize(loss_fn, alpha=1.0)(params, inputs)
  message = str(info.value)
  for name in CONTAINERS:
    assert f"'{name}': it is called within {name}" in message
  assert "'last'" not in message
  suggested = re.search(r"layers=(\[.*?\])", message)
  assert suggested
  layers = ast.literal_eval(suggested[1])
  _, penalties = bean_jax.penalties(loss_fn, layers=layers)(params, inputs)
  expected = bean_jax.layer_penalty(hidden_fn(params, inputs), params["last"])
  _assert_trees_close(penalties, {"last": expected})


def _closed_over(_, inputs):
  return _loss_fn(_init(), inputs)


def _convolved(params, inputs):
  kernel = params["middle"].reshape(6, 6, 1, 1)
  images = jnp.broadcast_to(jnp.sum(inputs), (1, 6, 4, 4))
  return jnp.mean(jax.lax.conv(images, kernel, (1, 1), "SAME"))


def _with_kernels_that_differ(params, inputs):
  masked = {**params, "last": params["middle"] * jnp.tri(6)}
  return _loss_fn(params, inputs) + _loss_fn(masked, inputs)


def _returning(make):
  return {"loss_fn": lambda *call: make(_loss_fn(*call))}


WRONG_LAYERS = "layers must be None, a path or a pattern"
WRONG = (
  ({"loss_fn": _closed_over}, "no matrix product with a .* not closed over"),
  ({"loss_fn": _convolved}, r"must have .* 'middle' \(a convolution\)"),
  ({"loss_fn": _with_kernels_that_differ}, "'middle': .* kernels that differ"),
  ({"layers": "a*"}, r"for \['a\*'\], .* there are \['first', 'middle', 'la"),
  ({"layers": ["last", "a", "!b"]}, r"asks for \['a', '!b'\], which are no "),
  ({"layers": []}, r"must have .* 'last' \(not asked for\)"),
  *[({"layers": each}, WRONG_LAYERS) for each in (3, [3], b"a", np.ones(2))],
  ({"alpha": {"middle": 1.0}}, r"without one are \['last'\]"),
  ({"alpha": {"*": 1.0, "first": 1.0}}, r"without a layer \['first'\]"),
  ({"alpha": lambda path: path}, "alpha of layer 'middle' must be an array"),
  (_returning(lambda loss: (loss, 1.0, 2.0)), "got a tuple of 3"),
  (_returning(lambda loss: {"loss": loss}), "scalar loss .* got dict"),
  (_returning(lambda loss: None), "scalar loss .* got NoneType"),
  (_returning(lambda loss: loss[None]), r"scalar loss, got shape \[1\]"),
)


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_error_says_what_is_wrong(options, message):
  options = {"loss_fn": _loss_fn, "alpha": 1.0, **options}
  with pytest.raises((TypeError, ValueError), match=message):
    bean_jax.regularize(**options)(_init(), _draw_inputs())


@pytest.mark.parametrize("kept", ("inputs", "kernel", "outputs"))
def test_references_that_are_read_after_writing_are_named(kept):
  # What is written in one place and read in another may be any layer.
  def layer(inputs, kernel):
    values = {"inputs": inputs, "kernel": kernel}
    if kept == "outputs":
      values["outputs"] = inputs @ kernel
    reference = jax.new_ref(jnp.zeros_like(values[kept]))
    reference[...] = values[kept]
    values[kept] = reference[...]
    return jnp.tanh(values.get("outputs", values["inputs"] @ values["kernel"]))

  with pytest.raises(NotImplementedError, match="reads from a jax.Ref what it"):
    _found(_init(), _draw_inputs(), layer=layer)


def test_references_may_be_written_alone_or_read_alone():
  params, inputs = _init(), _draw_inputs()
  log, kernel = jax.new_ref(jnp.zeros(())), jax.new_ref(params["last"])

  def loss_fn(params, inputs):
    loss = _loss_fn({**params, "last": kernel[...]}, inputs)
    log[...] = loss
    return loss

  paths = [
    layer.path for layer in bean_jax.find_layers(loss_fn, params, inputs)
  ]
  assert paths == ["first", "middle"]
  loss, terms = bean_jax.penalties(loss_fn)(params, inputs)
  _, hidden = _loss_and_hidden(params, inputs)
  expected = bean_jax.layer_penalty(hidden["middle"], params["middle"])
  _assert_trees_close(terms, {"middle": expected})
  assert log[...] == loss


def test_linen_module_instead_of_its_apply():
  with pytest.raises(TypeError, match="pass model.apply"):
    bean_jax.capture(nn.Dense(3))({"params": {}}, _draw_inputs())


# Transformations: each makes of a loss function of parameters and inputs a
# function of these.


def _over_one_kernel(loss_fn):
  def of_one(kernel, params, inputs):
    return jax.value_and_grad(loss_fn)({**params, "last": kernel}, inputs)

  return lambda params, inputs: jax.vmap(of_one, in_axes=(2, None, None))(
    jnp.stack([params["last"], -2 * params["last"]], axis=2), params, inputs
  )


def _trained_in_scan(loss_fn):
  def train(params, inputs):
    def step(params, alpha):
      loss, gradient = jax.value_and_grad(loss_fn)(params, inputs, alpha=alpha)
      return _descended(params, gradient), loss

    return jax.lax.scan(step, params, jnp.linspace(0.0, 5.0, 4))

  return train


def _descended(params, gradient):
  return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)


def _with_samples_over_devices(loss_fn):
  def on_one(params, inputs):
    return jax.lax.pmean(loss_fn(params, inputs), "device")

  return jax.value_and_grad(_over_devices(on_one, (WHOLE, SPLIT), WHOLE))


def _on_each_device(loss_fn):
  mapped = jax.pmap(jax.value_and_grad(loss_fn), in_axes=(None, 0))
  return lambda params, inputs: mapped(params, inputs.reshape(2, -1, 5))


def _rematerialized(policy):
  return lambda loss_fn: jax.value_and_grad(
    jax.checkpoint(loss_fn, policy=policy)
  )


POLICIES = {
  "nothing": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "names": jax.checkpoint_policies.save_only_these_names("product"),
}
TRANSFORMATIONS = {
  "reverse mode": jax.value_and_grad,
  "forward mode": jax.jacfwd,
  "Hessian": jax.hessian,
  "vmap over one kernel": _over_one_kernel,
  "scan of training steps": _trained_in_scan,
  "shard_map": _with_samples_over_devices,
  "pmap": _on_each_device,
  **{f"save {name}": _rematerialized(p) for name, p in POLICIES.items()},
}


def _rematerialized_inside(policy):
  layer = jax.checkpoint(_layer, policy=policy)
  return lambda loss_fn: jax.value_and_grad(
    functools.partial(loss_fn, layer=layer)
  )


TRANSFORMATIONS |= {
  f"save {name} inside": _rematerialized_inside(policy)
  for name, policy in POLICIES.items()
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformed_as_by_hand(name):
  call = _init(), _draw_inputs()
  ours, expected = (
    jax.jit(TRANSFORMATIONS[name](fn))(*call) for fn in (_found, _by_hand)
  )
  _assert_trees_close(ours, expected)


def test_data_that_is_closed_over():
  @jax.jit
  def value_and_grad_fn(params, inputs):
    bean_loss_fn = bean_jax.regularize(
      lambda params: _loss_fn(params, inputs), alpha=2.0
    )
    return jax.value_and_grad(bean_loss_fn)(params)

  params, inputs = _init(), _draw_inputs()
  expected = jax.jit(jax.value_and_grad(_by_hand))(params, inputs)
  _assert_trees_close(value_and_grad_fn(params, inputs), expected)


def test_policy_inside_decides_what_is_saved():
  asked = set()

  def policy(primitive, *_, **__):
    asked.add(primitive.name)
    return True

  def layer(inputs, kernel):
    # Of raw inputs, what is not looked at keeps its policy anyway.
    of_neurons = jax.checkpoint(_layer, policy=policy)
    return (of_neurons if len(kernel) == 6 else _layer)(inputs, kernel)

  gradient_fn = jax.grad(functools.partial(_found, layer=layer))
  jax.eval_shape(gradient_fn, _init(), _draw_inputs())
  assert {"dot_general", "tanh"} <= asked


def test_one_trace_for_steps_that_donate_and_print(capfd):
  num_traces = 0

  def loss_fn(params, inputs):
    nonlocal num_traces
    num_traces += 1
    loss = _loss_fn(params, inputs)
    jax.debug.print("loss {}", loss)
    return loss

  @functools.partial(jax.jit, donate_argnums=0)
  def step(params, inputs, alpha):
    bean_loss_fn = bean_jax.regularize(loss_fn, alpha=alpha)
    return _descended(params, jax.grad(bean_loss_fn)(params, inputs))

  ours, expected = _init(), _init()
  gradient_fn = jax.jit(jax.grad(_by_hand))
  for index in range(3):
    inputs, before = _draw_inputs(seed=index), ours
    ours = step(ours, inputs, float(index))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    gradient = gradient_fn(expected, inputs, alpha=float(index))
    expected = _descended(expected, gradient)
  _assert_trees_close(ours, expected)
  jax.effects_barrier()
  assert capfd.readouterr().out.count("loss") == 3
  assert num_traces == 1


@pytest.mark.parametrize("distance", ("squared", "absolute"))
def test_exported_for_batches_of_any_size(distance):
  params = _init()
  (size,) = export.symbolic_shape("b")
  inputs = jax.ShapeDtypeStruct((size, 5), jnp.float32)
  value_and_grad_fn = jax.jit(
    jax.value_and_grad(
      bean_jax.regularize(_loss_fn, alpha=2.0, distance=distance)
    )
  )
  exported = export.export(value_and_grad_fn)(params, inputs)
  for num_samples in (1, 8):
    inputs = _draw_inputs(num_samples)
    _assert_trees_close(
      exported.call(params, inputs), value_and_grad_fn(params, inputs)
    )


# What it costs.


@pytest.mark.optimized
def test_operations_and_bytes_are_those_by_hand():
  params, inputs = _init(sizes=(5, 64, 32, 3)), _draw_inputs(32)
  ours, expected = (
    jax.jit(jax.value_and_grad(fn)).lower(params, inputs).compile()
    for fn in (_found, _by_hand)
  )
  for name in ("flops", "bytes accessed"):
    of_ours, by_hand = (x.cost_analysis()[name] for x in (ours, expected))
    # Penalties are stacked and summed, or added one by one: a few scalars.
    assert of_ours == pytest.approx(by_hand, abs=64), name


def _normalized(inputs):
  centred = inputs - jnp.mean(inputs, axis=-1, keepdims=True)
  return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6)


def _block(inputs, kernels):
  """A block of a transformer, of pre-normalized attention and perceptron."""
  samples, tokens, width = inputs.shape
  projected = (_normalized(inputs) @ kernels["qkv"]).reshape(
    samples, tokens, 4, 3 * width // 4
  )
  attended = jax.nn.dot_product_attention(*jnp.split(projected, 3, axis=-1))
  inputs = inputs + attended.reshape(inputs.shape) @ kernels["out"]
  hidden = jax.nn.gelu(_normalized(inputs) @ kernels["up"])
  return inputs + hidden @ kernels["down"], None


@pytest.mark.optimized
@pytest.mark.parametrize(
  "distance",
  ("squared", pytest.param("absolute", marks=pytest.mark.slow)),
)
def test_rematerialized_transformer_keeps_its_memory(distance):
  width, inputs = 64, jax.ShapeDtypeStruct((8, 64, 16), jnp.float32)
  sizes = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}
  params = {
    "embed": jax.ShapeDtypeStruct((16, width), jnp.float32),
    "blocks": {
      name: jax.ShapeDtypeStruct((12, n * width, m * width), jnp.float32)
      for name, (n, m) in sizes.items()
    },
  }

  def loss_fn(params, inputs):
    hidden = inputs @ params["embed"]
    hidden, _ = jax.lax.scan(jax.checkpoint(_block), hidden, params["blocks"])
    return jnp.mean(hidden**2)

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=10.0, distance=distance)
  found = bean_jax.find_layers(loss_fn, params, inputs)
  chosen = [layer for layer in found if not layer.left_out]
  assert len(chosen) == 12 * len(sizes)
  plain, with_bean = (
    jax.jit(jax.value_and_grad(fn))
    .lower(params, inputs)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
    for fn in (loss_fn, bean_loss_fn)
  )
  # What enters the layers would take 12 x 8 x 64 x 7 x 64 x 4 bytes.
  assert plain < 11e6
  assert with_bean < 1.4 * plain
