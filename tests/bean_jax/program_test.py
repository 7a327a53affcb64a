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

NAMES = ("first", "middle", "last")
SPLIT, WHOLE = PartitionSpec("device"), PartitionSpec()


def _init(seed=0, sizes=(5, 6, 6, 3)):
  keys = jax.random.split(jax.random.key(seed), len(NAMES))
  return {
    name: 0.7 * jax.random.normal(key, size)
    for name, key, size in zip(
      NAMES, keys, zip(sizes, sizes[1:], strict=False), strict=True
    )
  }


def _draw_inputs(num_samples=8, seed=1):
  return jax.random.normal(jax.random.key(seed), (num_samples, 5))


def _layer(inputs, kernel):
  return jnp.tanh(inputs @ kernel)


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


def _found(params, inputs, *, alpha=2.0, layer=_layer, **options):
  loss_fn = functools.partial(_loss_fn, layer=layer)
  return bean_jax.regularize(loss_fn, alpha=alpha, **options)(params, inputs)


def _by_hand(params, inputs, *, alpha=2.0, layer=_layer, **options):
  def layers_fn(params, hidden):
    return tuple(
      {name: tree[name] for name in NAMES[1:]} for tree in (hidden, params)
    )

  loss_fn = functools.partial(_loss_and_hidden, layer=layer)
  return bean_jax.regularize(loss_fn, layers_fn, alpha=alpha, **options)(
    params, inputs
  )[0]


def _assert_trees_close(ours, expected):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    largest = np.max(np.abs(other))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * largest)


def _mesh():
  return jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))


# Errors.


def _within_while(inputs, kernel):
  def step(carry):
    index, outputs = carry
    return index + 1, _layer(outputs, kernel)

  return jax.lax.while_loop(lambda carry: carry[0] < 2, step, (0, inputs))[1]


def _within_cond(inputs, kernel):
  return jax.lax.cond(
    jnp.sum(inputs) > 0, _layer, lambda inputs, _: inputs, inputs, kernel
  )


@jax.custom_jvp
def _within_custom_jvp(inputs, kernel):
  return _layer(inputs, kernel)


@_within_custom_jvp.defjvp
def _jvp(primals, tangents):
  return jax.jvp(_layer, primals, tangents)


@jax.custom_vjp
def _within_custom_vjp(inputs, kernel):
  return _layer(inputs, kernel)


_within_custom_vjp.defvjp(
  lambda inputs, kernel: jax.vjp(_layer, inputs, kernel),
  lambda vjp_fn, gradient: vjp_fn(gradient),
)


def _within_shard_map(inputs, kernel):
  return jax.shard_map(
    _layer, mesh=_mesh(), in_specs=(SPLIT, WHOLE), out_specs=SPLIT
  )(inputs, kernel)


def _within_pallas(inputs, kernel):
  def product(inputs_ref, kernel_ref, outputs_ref):
    outputs_ref[...] = _layer(inputs_ref[...], kernel_ref[...])

  return pl.pallas_call(
    product,
    out_shape=jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
    interpret=True,
  )(inputs, kernel)


CONTAINERS = {
  "jax.lax.while_loop": _within_while,
  "jax.lax.cond or switch": _within_cond,
  "jax.custom_jvp": _within_custom_jvp,
  "jax.custom_vjp": _within_custom_vjp,
  "jax.shard_map": _within_shard_map,
  "a Pallas kernel": _within_pallas,
}


def test_all_that_cannot_be_reached_is_named_at_once():
  keys = jax.random.split(jax.random.key(0), 2 + len(CONTAINERS))
  params = {
    name: jax.random.normal(key, (5, 5))
    for name, key in zip(("first", *CONTAINERS, "last"), keys, strict=True)
  }
  inputs = _draw_inputs()

  def hidden_fn(params, inputs):
    outputs = _layer(inputs, params["first"])
    for name, layer in CONTAINERS.items():
      outputs = layer(outputs, params[name])
    return outputs

  def loss_fn(params, inputs):
    hidden = hidden_fn(params, inputs)
    return jnp.mean(_layer(hidden, params["last"]) ** 2)

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
  assert list(penalties) == ["last"]
  np.testing.assert_allclose(
    penalties["last"],
    bean_jax.layer_penalty(hidden_fn(params, inputs), params["last"]),
    rtol=1e-6,
  )


def test_parameters_that_are_closed_over():
  params = _init()
  bean_loss_fn = bean_jax.regularize(
    lambda _, inputs: _loss_fn(params, inputs), alpha=1.0
  )
  with pytest.raises(ValueError, match="no matrix product .* not closed over"):
    bean_loss_fn(params, _draw_inputs())


def test_convolutions_alone():
  def loss_fn(params, images):
    return jnp.mean(jax.lax.conv(images, params["conv"], (1, 1), "SAME"))

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  with pytest.raises(ValueError, match=r"must have .* 'conv' \(a convolution"):
    bean_loss_fn({"conv": jnp.ones((3, 2, 1, 1))}, jnp.ones((1, 2, 4, 4)))


def test_constant_loss_gives_the_penalty_alone():
  params, inputs = _init(), _draw_inputs()
  bean_loss_fn = bean_jax.regularize(
    lambda *call: (0.0, _loss_fn(*call)), alpha=3.0
  )
  penalty, loss = bean_loss_fn(params, inputs)
  plain, hidden = _loss_and_hidden(params, inputs)
  assert loss == plain
  expected = sum(
    3.0 * bean_jax.layer_penalty(hidden[name], params[name])
    for name in NAMES[1:]
  )
  np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_kernels_that_differ():
  params = _init()

  def loss_fn(params, inputs):
    halved = {**params, "last": params["middle"] * jnp.tri(6)}
    return _loss_fn(params, inputs) + _loss_fn(halved, inputs)

  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  with pytest.raises(ValueError, match="'middle': .* kernels that differ"):
    bean_loss_fn(params, _draw_inputs())


@pytest.mark.parametrize(
  ("layers", "unknown"),
  (
    ("head*", ["head*"]),
    (["last", "head*", "!tail"], ["head*", "!tail"]),
  ),
)
def test_patterns_that_match_nothing(layers, unknown):
  bean_loss_fn = bean_jax.regularize(_loss_fn, layers=layers, alpha=1.0)
  message = f"asks for {unknown}, .* there are {list(NAMES)}"
  with pytest.raises(
    ValueError, match=re.escape(message).replace(r"\.\*", ".*")
  ):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize("layers", (3, [3], b"last", jnp.ones(2)))
def test_layers_of_a_wrong_type(layers):
  bean_loss_fn = bean_jax.regularize(_loss_fn, layers=layers, alpha=1.0)
  with pytest.raises(TypeError, match="layers must be None, a path or a "):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  "alpha",
  (
    {"middle": 2.0, "last": 0.5},
    {"mid*": 2.0, "*": 0.5},
    {"middle": 2.0, "l*t": 0.5},
    {"middle": 2.0, "last": 0.5}.get,
  ),
)
def test_alpha_by_path(alpha):
  params, inputs = _init(), _draw_inputs()
  loss = bean_jax.regularize(_loss_fn, alpha=alpha)(params, inputs)
  plain, by_layer = bean_jax.penalties(_loss_fn)(params, inputs)
  expected = plain + 2.0 * by_layer["middle"] + 0.5 * by_layer["last"]
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("alpha", "message"),
  (
    ({"middle": 1.0}, r"without one are \['last'\]"),
    ({"*": 1.0, "first": 1.0}, r"without a layer \['first'\]"),
    ({"*": 1.0, "last": 1.0}, r"without a layer \['last'\]"),
  ),
)
def test_alpha_that_does_not_fit(alpha, message):
  bean_loss_fn = bean_jax.regularize(_loss_fn, alpha=alpha)
  with pytest.raises(ValueError, match=message):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  ("result_of", "error", "message"),
  (
    (lambda loss: (loss, 1.0, 2.0), TypeError, "got a tuple of 3"),
    (lambda loss: loss[None], ValueError, r"scalar loss, got shape \[1\]"),
    (lambda loss: {"loss": loss}, TypeError, r"\(loss, aux\), got dict"),
    (lambda loss: None, TypeError, "got NoneType"),
  ),
)
def test_loss_of_a_wrong_form(result_of, error, message):
  bean_loss_fn = bean_jax.regularize(
    lambda *call: result_of(_loss_fn(*call)), alpha=1.0
  )
  with pytest.raises(error, match=message):
    bean_loss_fn(_init(), _draw_inputs())


@pytest.mark.parametrize(
  "find",
  (
    lambda module, *call: bean_jax.capture(module)(*call),
    bean_jax.find_layers,
  ),
)
def test_linen_module_instead_of_its_apply(find):
  module, inputs = nn.Dense(3), _draw_inputs()
  variables = module.init(jax.random.key(0), inputs)
  with pytest.raises(TypeError, match="pass model.apply"):
    find(module, variables, inputs)


# Transformations: each makes of a loss function of parameters and inputs a
# function of these.


def _over_seeds_and_alphas(loss_fn):
  def of_seed(alpha, seed, inputs):
    return jax.value_and_grad(loss_fn)(_init(seed), inputs, alpha=alpha)

  def of_all(params, inputs):
    del params
    over_seeds = jax.vmap(of_seed, in_axes=(None, 0, None))
    over_both = jax.vmap(over_seeds, in_axes=(0, None, None))
    return over_both(jnp.array([0.0, 0.5, 20.0]), jnp.arange(2), inputs)

  return jax.jit(of_all)


def _over_kernels(name):
  def transform(loss_fn):
    def of_kernel(kernel, params, inputs):
      return jax.value_and_grad(loss_fn)({**params, name: kernel}, inputs)

    return lambda params, inputs: jax.vmap(of_kernel, in_axes=(2, None, None))(
      jnp.stack([params[name], -2 * params[name]], axis=2), params, inputs
    )

  return transform


def _trained_in_scan(loss_fn):
  def train(params, inputs):
    def step(params, alpha):
      loss, gradient = jax.value_and_grad(loss_fn)(params, inputs, alpha=alpha)
      after = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
      return after, loss

    return jax.lax.scan(step, params, jnp.linspace(0.0, 5.0, 4))

  return jax.jit(train)


def _rematerialized(policy):
  return lambda loss_fn: jax.jit(
    jax.value_and_grad(jax.checkpoint(loss_fn, policy=policy))
  )


def _over_devices(loss_fn):
  def on_one(params, inputs):
    return jax.lax.pmean(loss_fn(params, inputs), "device")

  sharded = jax.shard_map(
    on_one, mesh=_mesh(), in_specs=(WHOLE, SPLIT), out_specs=WHOLE
  )
  return jax.jit(jax.value_and_grad(sharded))


def _on_each_device(loss_fn):
  mapped = jax.pmap(jax.value_and_grad(loss_fn), in_axes=(None, 0))
  return lambda params, inputs: mapped(params, inputs.reshape(2, -1, 5))


def _of_closed_over_data(loss_fn):
  return lambda params, inputs: jax.value_and_grad(
    lambda params: loss_fn(params, inputs)
  )(params)


POLICIES = {
  "nothing": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_saveable,
  "names": jax.checkpoint_policies.save_only_these_names("product"),
}
TRANSFORMATIONS = {
  "value and gradient": jax.value_and_grad,
  "jit": lambda loss_fn: jax.jit(jax.value_and_grad(loss_fn)),
  "forward mode": lambda loss_fn: jax.jit(jax.jacfwd(loss_fn)),
  "Hessian": lambda loss_fn: jax.jit(jax.hessian(loss_fn)),
  "vmap over seeds and alphas": _over_seeds_and_alphas,
  "vmap over a first kernel": _over_kernels("first"),
  "vmap over a last kernel": _over_kernels("last"),
  "scan of training steps": _trained_in_scan,
  "shard_map": _over_devices,
  "pmap": _on_each_device,
  "closed-over data": _of_closed_over_data,
  **{f"save {name}": _rematerialized(p) for name, p in POLICIES.items()},
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformed_as_by_hand(name):
  transform = TRANSFORMATIONS[name]
  params, inputs = _init(), _draw_inputs()
  ours = transform(_found)(params, inputs)
  _assert_trees_close(ours, transform(_by_hand)(params, inputs))


@jax.custom_jvp
def _bent(inputs):
  return jnp.tanh(inputs)


_bent.defjvps(lambda tangent, outputs, _: 3.0 * tangent * (1 - outputs**2))


def _named(inputs, kernel):
  return jnp.tanh(checkpoint_name(inputs @ kernel, "product"))


INSIDE = {
  "jit": jax.jit(_layer),
  "custom_jvp beside": lambda inputs, kernel: _bent(inputs @ kernel),
  **{
    f"save {name}": jax.checkpoint(_named, policy=policy)
    for name, policy in POLICIES.items()
  },
}


@pytest.mark.parametrize("name", INSIDE)
def test_transformed_inside_as_by_hand(name):
  params, inputs = _init(), _draw_inputs()
  ours, expected = (
    jax.jit(jax.value_and_grad(functools.partial(loss_fn, layer=INSIDE[name])))(
      params, inputs
    )
    for loss_fn in (_found, _by_hand)
  )
  _assert_trees_close(ours, expected)


def test_prints_once(capfd):
  def loss_fn(params, inputs):
    loss = _loss_fn(params, inputs)
    jax.debug.print("loss {}", loss, ordered=True)
    return loss

  params, inputs = _init(), _draw_inputs()
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=2.0)
  ours = jax.jit(jax.value_and_grad(bean_loss_fn))(params, inputs)
  jax.effects_barrier()
  assert capfd.readouterr().out.count("loss") == 1
  _assert_trees_close(ours, jax.value_and_grad(_by_hand)(params, inputs))


def test_one_trace_for_steps_that_donate():
  num_traces = 0

  def loss_fn(params, inputs):
    nonlocal num_traces
    num_traces += 1
    return _loss_fn(params, inputs)

  def step(params, inputs, alpha, *, bean_loss_fn):
    gradient = jax.grad(bean_loss_fn)(params, inputs, alpha)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

  def found(params, inputs, alpha):
    return bean_jax.regularize(loss_fn, alpha=alpha)(params, inputs)

  def by_hand(params, inputs, alpha):
    return _by_hand(params, inputs, alpha=alpha)

  ours, expected = _init(), _init()
  our_step, by_hand_step = (
    jax.jit(functools.partial(step, bean_loss_fn=fn), donate_argnums=0)
    for fn in (found, by_hand)
  )
  for index in range(4):
    inputs, before = _draw_inputs(seed=index), ours
    ours = our_step(ours, inputs, float(index))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    expected = by_hand_step(expected, inputs, float(index))
  _assert_trees_close(ours, expected)
  assert num_traces == 1


@pytest.mark.parametrize("distance", ("squared", "absolute"))
def test_exported_for_batches_of_any_size(distance):
  params = _init()
  (size,) = export.symbolic_shape("b")
  inputs = jax.ShapeDtypeStruct((size, 5), jnp.float32)
  value_and_grad_fn = jax.value_and_grad(
    functools.partial(_found, distance=distance)
  )
  exported = export.export(jax.jit(value_and_grad_fn))(params, inputs)
  for num_samples in (1, 8):
    inputs = _draw_inputs(num_samples)
    _assert_trees_close(
      exported.call(params, inputs), value_and_grad_fn(params, inputs)
    )


def test_products_of_a_backward_pass_are_no_layers():
  def loss_and_hidden(params, inputs):
    # How much each input matters to the loss; smooth in the parameters.
    (loss, hidden), saliency = jax.value_and_grad(
      _loss_and_hidden, argnums=1, has_aux=True
    )(params, inputs)
    return loss + jnp.sum(saliency**2), hidden

  def loss_fn(params, inputs):
    return loss_and_hidden(params, inputs)[0]

  def by_hand(params, inputs):
    loss, hidden = loss_and_hidden(params, inputs)
    return loss + sum(
      2.0 * bean_jax.layer_penalty(hidden[name], params[name])
      for name in NAMES[1:]
    )

  params, inputs = _init(), _draw_inputs()
  found = bean_jax.find_layers(loss_fn, params, inputs)
  assert [(layer.path, layer.num_calls) for layer in found] == [
    (name, 1) for name in NAMES
  ]
  ours, expected = (
    jax.jit(jax.value_and_grad(fn))(params, inputs)
    for fn in (bean_jax.regularize(loss_fn, alpha=2.0), by_hand)
  )
  _assert_trees_close(ours, expected)
