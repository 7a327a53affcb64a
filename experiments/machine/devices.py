"""The devices that a population is spread over."""

from collections.abc import Callable
import functools
import os
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

PyTree = Any

# Over all devices: each has members of its own, or a part of every batch.
AXIS = "devices"
# How an argument or result lies: an axis of members in front, or none.
MEMBERS = PartitionSpec(AXIS)
SHARED = PartitionSpec()


class MissingDeviceError(Exception):
  """There is no device of a kind that was asked for; the text says how."""


def num_cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Not on macOS, not on Windows.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def use_all_cores() -> None:
  """Makes every CPU core a device, unless a backend has started already.

  The programs of small networks use one core well and two badly, so that
  members are dealt out to cores as they are to GPUs. One core is two devices:
  XLA simplifies the program of a single device in another order, which changes
  the last bits, while those of several are all the same.
  """
  try:
    jax.config.update("jax_num_cpu_devices", max(2, num_cores()))
  except RuntimeError:
    # The backend has started: whoever did that has chosen.
    return


def refuse_missing() -> None:
  """Looks for the kind of device that the environment names, if it names one.

  Raises:
    MissingDeviceError: If there is none of that kind.
  """
  for name in ("jax_platforms", "jax_platform_name"):
    named = jax.config.values.get(name)
    if not named or named == "cpu":
      continue
    try:
      jax.devices()
    # An AssertionError without a text, too.
    except (RuntimeError, AssertionError) as error:
      reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
      raise MissingDeviceError(
        f"{name.upper()}={named}: JAX finds no such device{reason}; unset it, "
        "or install the jax of that device"
      ) from error


@functools.cache
def mesh() -> jax.sharding.Mesh:
  """Returns the axis over all devices of this process."""
  return jax.make_mesh(
    (jax.local_device_count(),),
    (AXIS,),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.local_devices(),
  )


@functools.cache
def spread(
  function: Callable,
  *,
  takes: tuple[PartitionSpec, ...],
  gives: Any,
  donate: tuple[int, ...] = (),
) -> Callable:
  """Compiles a function of a population so that each device runs a part of it.

  Once for equal arguments, of the same function.
  Devices never wait for each other: no member depends on another, unless the
  function itself reduces over the axis. The number of members must be a
  multiple of the number of devices. `takes` and `gives` say how arguments and
  the result lie; arguments in `donate` are consumed.
  """
  mapped = jax.shard_map(
    function, mesh=mesh(), in_specs=takes, out_specs=gives, check_vma=False
  )
  return jax.jit(mapped, donate_argnums=donate)


def place(tree: PyTree, spec: PartitionSpec) -> PyTree:
  """Moves arrays to where they are used, once instead of at every call."""
  return jax.device_put(tree, NamedSharding(mesh(), spec))
