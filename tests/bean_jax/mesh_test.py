"""Penalties of arrays that lie on several devices, by every kind of mesh."""

import contextlib

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

import bean_jax
from tests.bean_jax.layers import OPTIONS, assert_leaves_close

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


@pytest.fixture(
  name="mesh",
  params=[(num, kind) for num in (1, 2) for kind in KINDS],
  ids=str,
)
def _mesh(request):
  num_devices, kind = request.param
  devices = jax.devices()[:num_devices]
  return jax.make_mesh((num_devices,), ("data",), (kind,), devices=devices)


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
  placed = (
    jax.tree.map(lambda leaf: _place(mesh, leaf), params),
    _place(mesh, inputs, "data"),
  )
  with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
    ours = jax.jit(value_and_grad)(*placed)
  assert_leaves_close(ours, value_and_grad(params, inputs))


def test_arrays_that_lie_on_a_mesh(mesh):
  params, inputs = _init()
  kernel = params["last"]
  hidden = jnp.tanh(jnp.einsum("bln,nm->blm", inputs, params["first"]))
  mask = np.broadcast_to(np.arange(8)[:, None] < 5, (8, 5))

  @jax.jit
  def penalties(hidden, kernel, gamma):
    return [
      jax.value_and_grad(bean_jax.layer_penalty, argnums=(0, 1))(
        hidden, kernel, gamma=gamma, **options
      )
      for options in OPTIONS
    ]

  def others(hidden, kernel, gamma):
    return (
      bean_jax.bean_penalty({"a": hidden}, {"a": kernel}, gamma=gamma),
      bean_jax.neuron_correlation(kernel, gamma=gamma),
      *(
        bean_jax.coactivation_divergence(hidden, distance=distance, where=mask)
        for distance in ("squared", "absolute")
      ),
    )

  placed = (
    _place(mesh, hidden, "data"),
    _place(mesh, kernel, None, "data"),
    _place(mesh, jnp.float32(2.0)),
  )
  for fn in (penalties, others):
    assert_leaves_close(fn(*placed), fn(hidden, kernel, jnp.float32(2.0)))
