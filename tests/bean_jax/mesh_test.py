"""Penalties of arrays that lie on several devices, by every kind of mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.layers import OPTIONS, name_of

KINDS = (AxisType.Explicit, AxisType.Auto)


def _init():
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    "first": jax.random.normal(keys[0], (3, 6)),
    "last": jax.random.normal(keys[1], (6, 4)),
  }
  return params, jax.random.normal(keys[2], (8, 5, 3))


def _loss_fn(params, inputs):
  hidden = jnp.tanh(jnp.einsum("bln,nm->blm", inputs, params["first"]))
  return jnp.mean(jnp.einsum("bln,nm->blm", hidden, params["last"]) ** 2)


def _assert_close(ours, expected):
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(
      np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-7
    )


def _mesh(num_devices, kind):
  devices = jax.devices()[:num_devices]
  return jax.make_mesh((num_devices,), ("data",), (kind,), devices=devices)


@pytest.fixture(
  name="mesh", params=[(1, k) for k in KINDS] + [(2, k) for k in KINDS]
)
def _mesh_fixture(request):
  num_devices, kind = request.param
  return _mesh(num_devices, kind)


def _place(mesh, array, *axes):
  return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))


@pytest.mark.parametrize("in_context", (True, False))
def test_found_layers(mesh, in_context):
  params, inputs = _init()
  where = np.arange(8) < 6
  bean_loss_fn = bean_jax.regularize(
    _loss_fn, alpha=3.0, where_fn=lambda params, inputs: where
  )
  value_and_grad = jax.value_and_grad(bean_loss_fn, argnums=(0, 1))
  expected = value_and_grad(params, inputs)
  placed = (
    jax.tree.map(lambda leaf: _place(mesh, leaf), params),
    _place(mesh, inputs, "data"),
  )
  if in_context:
    with jax.set_mesh(mesh):
      ours = jax.jit(value_and_grad)(*placed)
  else:
    ours = jax.jit(value_and_grad)(*placed)
  _assert_close(ours, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_layer_penalty(options):
  mesh = _mesh(2, AxisType.Explicit)
  params, inputs = _init()
  hidden = jnp.tanh(jnp.einsum("bln,nm->blm", inputs, params["first"]))

  def penalty(hidden, kernel, gamma):
    return bean_jax.layer_penalty(hidden, kernel, gamma=gamma, **options)

  value_and_grad = jax.value_and_grad(penalty, argnums=(0, 1))
  expected = value_and_grad(hidden, params["last"], 2.0)
  ours = jax.jit(value_and_grad)(
    _place(mesh, hidden, "data"),
    _place(mesh, params["last"], "data"),
    _place(mesh, jnp.float32(2.0)),
  )
  _assert_close(ours, expected)


def test_bean_penalty():
  mesh = _mesh(2, AxisType.Explicit)
  params, inputs = _init()
  hidden = jnp.tanh(jnp.einsum("bln,nm->blm", inputs, params["first"]))
  expected = bean_jax.bean_penalty({"a": hidden}, {"a": params["last"]})
  ours = bean_jax.bean_penalty(
    {"a": _place(mesh, hidden, "data")},
    {"a": _place(mesh, params["last"], None, "data")},
  )
  _assert_close(ours, expected)


def test_the_two_matrices():
  mesh = _mesh(2, AxisType.Explicit)
  params, inputs = _init()
  hidden = jnp.tanh(jnp.einsum("bln,nm->blm", inputs, params["first"]))
  where = np.arange(8) < 5
  mask = np.broadcast_to(where[:, None], (8, 5))
  placed = _place(mesh, hidden, "data")
  for distance in ("squared", "absolute"):
    _assert_close(
      bean_jax.coactivation_divergence(placed, distance=distance, where=mask),
      bean_jax.coactivation_divergence(hidden, distance=distance, where=mask),
    )
  _assert_close(
    bean_jax.neuron_correlation(_place(mesh, params["last"], "data")),
    bean_jax.neuron_correlation(params["last"]),
  )
