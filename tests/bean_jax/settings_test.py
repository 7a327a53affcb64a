"""JAX's own settings, which environment and programs change, change no number.

All of `jax.config` that is on or off is turned; what has more values is set to
what checks most, or differs most.
"""

from collections.abc import Iterator
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.functions import ANALYSES
from tests.bean_jax.layers import OPTIONS, assert_leaves_close, draw_layer

# Those that are made to change, or to refuse, what programs of jax.numpy do.
# All tests of the library run without rank promotion.
SETTINGS = {
  "strict": {
    "jax_explicit_x64_dtypes": "error",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
  },
  "debugging": {"jax_debug_infs": True, "jax_debug_nans": True},
  "float64": {"jax_enable_x64": True},
}
# Without computing, or many machines, there is nothing to be seen.
OFF_AND_ON = sorted(
  {name for name, value in jax.config.values.items() if type(value) is bool}
  - {"jax_no_execution", "jax_no_tracing", "jax_enable_recoverability"}
  # A scan without derivatives, and profiles of GPUs.
  - {"jax_scan3", "jax_enable_pgle"}
  - {name for settings in SETTINGS.values() for name in settings}
)


@contextlib.contextmanager
def _set(settings: dict[str, Any]) -> Iterator[None]:
  before = {name: jax.config.values[name] for name in settings}
  try:
    for name, value in settings.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def _analyses():
  """Returns what all analyses compute, traced anew."""

  def all_of_them(arguments):
    return {
      name: function(*arguments[name])
      for name, (function, _) in ANALYSES.items()
    }

  arguments = {name: arguments for name, (_, arguments) in ANALYSES.items()}
  return jax.device_get(jax.jit(all_of_them)(jax.device_put(arguments)))


_analyses_by_default = functools.cache(_analyses)


def _penalties(dtypes):
  """Returns penalties and gradients of a layer of these dtypes, traced anew.

  And what NumPy has for them.
  """
  layer = [
    jnp.asarray(array, dtype)
    for array, dtype in zip(draw_layer(6, 20, 3), dtypes, strict=True)
  ]

  def both(layer):
    return [
      jax.value_and_grad(
        lambda layer, options=options: bean_jax.bean_penalty(
          {"fc": layer[0]}, {"fc": layer[1]}, alpha=1.0, **options
        )
      )(layer)
      for options in OPTIONS
    ]

  exact = [np.asarray(array, np.float64) for array in layer]
  expected = [
    (
      reference.layer_penalty(*exact, **options),
      list(reference.layer_gradients(*exact, **options)),
    )
    for options in OPTIONS
  ]
  return jax.device_get(jax.jit(both)(layer)), expected


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_change_no_number(name):
  expected = _analyses_by_default()
  with _set(SETTINGS[name]):
    assert_leaves_close(_analyses(), expected, 1e-5)
    assert_leaves_close(*_penalties((jnp.float32, jnp.float32)), 1e-5)


# bfloat16 kernels of activations in float32, and the other way round.
@pytest.mark.parametrize(
  "dtypes", (("float32", "bfloat16"), ("float16", "float32")), ids=str
)
@pytest.mark.parametrize("promotion", ("standard", "strict"))
def test_dtypes_that_differ_need_no_promotion(promotion, dtypes):
  with jax.numpy_dtype_promotion(promotion):
    ours, expected = _penalties([jnp.dtype(name) for name in dtypes])
  coarsest = max(float(jnp.finfo(name).eps) for name in dtypes)
  assert_leaves_close(ours, expected, coarsest)


@pytest.mark.parametrize(
  "dtype, promotion, odd",
  (
    pytest.param("bfloat16", "strict", 0, marks=pytest.mark.slow),
    pytest.param("bfloat16", "strict", 1, marks=pytest.mark.slow),
    pytest.param("float8_e4m3fn", "standard", 0, marks=pytest.mark.slow),
    ("float4_e2m1fn", "strict", 1),
  ),
)
def test_analyses_of_other_dtypes(dtype, promotion, odd):
  # Every other array keeps float32; all are compared with float32 of the same.
  for name, (function, arguments) in ANALYSES.items():
    leaves, structure = jax.tree.flatten(arguments)
    mixed = [
      jnp.asarray(array, dtype)
      if array.dtype == np.float32 and place % 2 == odd
      else jnp.asarray(array)
      for place, array in enumerate(leaves)
    ]
    exact = [
      array.astype(np.float32) if array.dtype == dtype else array
      for array in mixed
    ]
    with jax.numpy_dtype_promotion(promotion):
      ours, expected = (
        jax.tree.leaves(function(*jax.tree.unflatten(structure, each)))
        for each in (mixed, exact)
      )
    for one, other in zip(ours, expected, strict=True):
      np.testing.assert_array_equal(one, other.astype(one.dtype), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFF_AND_ON)
def test_what_is_on_or_off_changes_no_number(name):
  with _set({name: not jax.config.values[name]}):
    assert_leaves_close(*_penalties((jnp.float32, jnp.float32)), 1e-5)
