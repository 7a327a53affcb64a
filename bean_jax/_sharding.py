"""Arrays on meshes whose axes are explicit, the default of `jax.make_mesh`."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

T = TypeVar("T")


def with_automatic_axes(fn: Callable[..., T], *arrays: jax.Array | None) -> T:
  """Calls a function of arrays, whose results are the same on all devices.

  Along an explicit axis the types of arrays say how they lie, and every
  operation must say it of its result. Within `fn` the compiler decides.
  """
  meshes = [jax.typeof(a).sharding.mesh for a in arrays if a is not None]
  for mesh in meshes:
    axes = tuple(
      name
      for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
      if kind == AxisType.Explicit
    )
    if axes:
      replicated = NamedSharding(mesh, PartitionSpec())
      automatic: Callable[..., T] = jax.sharding.auto_axes(
        fn, axes=axes, out_sharding=replicated
      )
      return automatic(*arrays)
  return fn(*arrays)
