"""Within `jax.shard_map`, two devices compute what one does.

A number that differs between devices, but is typed as equal on all of them,
makes gradients wrong without a word: they are not summed over devices.
"""

import functools

import jax
from jax.extend import core
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.functions import ANALYSES
from tests.bean_jax.layers import (
  DISTANCES,
  OPTIONS,
  SHAPES,
  assert_leaves_close,
  draw_layer,
  equations,
  name_of,
)

SPLIT, WHOLE = PartitionSpec("device"), PartitionSpec()


def _sharded(function, in_specs, out_specs):
  mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))
  return jax.shard_map(
    function, mesh=mesh, in_specs=in_specs, out_specs=out_specs
  )


def _mean_over_devices(penalty_fn):
  return lambda *arrays: jax.lax.pmean(penalty_fn(*arrays), "device")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_samples_over_devices(options, shape):
  layer = draw_layer(*shape)
  penalty_fn = _mean_over_devices(
    functools.partial(bean_jax.layer_penalty, **options)
  )
  outside = jax.value_and_grad(
    _sharded(penalty_fn, (SPLIT, WHOLE), WHOLE), argnums=(0, 1)
  )
  inside = _sharded(
    jax.value_and_grad(penalty_fn, argnums=(0, 1)),
    (SPLIT, WHOLE),
    (WHOLE, (SPLIT, WHOLE)),
  )
  expected = reference.layer_gradients(*layer, **options)
  for value_and_grad in (outside, inside):
    value, gradients = jax.jit(value_and_grad)(*layer)
    np.testing.assert_allclose(
      value, reference.layer_penalty(*layer, **options), rtol=1e-5
    )
    assert_leaves_close(gradients, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_masks_strengths_and_slopes_over_devices(options):
  # Two layers, and all that can be differentiated. Devices have as many real
  # samples each, so that the mean over devices is the mean over samples.
  layers = {"a": draw_layer(8, 12, 3), "b": draw_layer(8, 3, 20)}
  hidden = {name: layer[0] for name, layer in layers.items()}
  kernels = {name: layer[1] for name, layer in layers.items()}
  where = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)

  def penalty_fn(hidden, kernels, alpha, gamma, where):
    regularized_fn = bean_jax.regularize(
      lambda kernels: (0.0, hidden),
      lambda kernels, hidden: (hidden, kernels),
      alpha=alpha,
      gamma=gamma,
      where_fn=lambda kernels: where,
      **options,
    )
    return regularized_fn(kernels)[0]

  sharded = _sharded(
    _mean_over_devices(penalty_fn),
    (SPLIT, WHOLE, WHOLE, WHOLE, SPLIT),
    WHOLE,
  )
  arguments = (hidden, kernels, {"a": 2.0, "b": 3.0}, 0.7, where)
  ours, expected = (
    jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3)))(*arguments)
    for function in (sharded, penalty_fn)
  )
  assert_leaves_close(ours, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_members_over_devices(options, shape):
  # A population: as many kernels as devices, on samples of their own or shared.
  members = [draw_layer(*shape, seed=seed) for seed in range(2)]
  activations, kernels = map(np.stack, zip(*members, strict=True))
  penalty_fn = functools.partial(bean_jax.layer_penalty, **options)
  expected = [reference.layer_gradients(*m, **options) for m in members]
  own = _sharded(
    jax.vmap(jax.grad(penalty_fn, argnums=(0, 1))), (SPLIT, SPLIT), SPLIT
  )
  stacked = tuple(map(np.stack, zip(*expected, strict=True)))
  assert_leaves_close(jax.jit(own)(activations, kernels), stacked)
  shared = _sharded(
    lambda h, w: jax.lax.psum(penalty_fn(h, w[0]), "device"),
    (WHOLE, SPLIT),
    WHOLE,
  )
  by_activations, _ = jax.jit(jax.grad(shared, argnums=(0, 1)))(
    activations[0], kernels
  )
  both = [
    reference.layer_gradients(activations[0], kernel, **options)[0]
    for kernel in kernels
  ]
  assert_leaves_close([by_activations], [sum(both)])


@pytest.mark.parametrize("distance", DISTANCES)
def test_divergence_over_devices(distance):
  activations, _ = draw_layer(6, 9, 1)
  divergence_fn = functools.partial(
    bean_jax.coactivation_divergence, distance=distance
  )
  sharded = _sharded(_mean_over_devices(divergence_fn), (SPLIT,), WHOLE)
  weights = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
  ours, expected = (
    jax.jit(jax.grad(lambda h, f=function: jnp.sum(weights * f(h))))(
      activations
    )
    for function in (sharded, divergence_fn)
  )
  assert_leaves_close(
    [sharded(activations), ours], [divergence_fn(activations), expected]
  )


FUNCTIONS = ANALYSES | {
  f"{name_of(options)} {shape}": (
    jax.value_and_grad(
      functools.partial(bean_jax.layer_penalty, **options), argnums=(0, 1)
    ),
    draw_layer(*shape),
  )
  for options in OPTIONS
  for shape in SHAPES
}


def _varies(variable) -> bool:
  # As printed, "float32[5]{V:device}": attributes differ between releases.
  return "{V:" in str(variable.aval)


def _typed_as_equal(function, arguments) -> list[str]:
  """Returns the primitives whose results are typed as equal, but are not.

  One with an inner program may ignore an argument; that program is looked at.
  """
  traced = jax.make_jaxpr(_sharded(function, (SPLIT,) * len(arguments), SPLIT))(
    *(jax.tree.map(lambda x: np.stack([x, x]), x) for x in arguments)
  )
  return [
    str(equation.primitive)
    for equation in equations(traced.jaxpr)
    if any(map(_varies, equation.invars))
    and not all(map(_varies, equation.outvars))
    and not any(
      isinstance(x, (core.Jaxpr, core.ClosedJaxpr))
      for x in equation.params.values()
    )
  ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_differs_between_devices_is_typed_so(name):
  function, arguments = FUNCTIONS[name]

  def of_one(*arguments):
    arguments = jax.tree.map(lambda x: x[0], arguments)
    return jax.tree.map(lambda x: x[None], function(*arguments))

  assert _typed_as_equal(of_one, arguments) == []


def test_an_argsort_would_be_seen():
  assert "sort" in _typed_as_equal(jnp.argsort, (np.arange(5.0),))
