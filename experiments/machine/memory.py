"""How much memory a population needs, known before anything is compiled.

The estimate walks through a traced program and adds up what is alive at the
same time, as if every operation wrote its result: XLA, which fuses operations,
needs less, and never much more. So it depends on shapes alone, costs a trace,
and holds for any program.
"""

from collections.abc import Callable, Iterator
import os
import pathlib
from typing import Any

import jax
import numpy as np

PyTree = Any

# What a device's memory is used for beside the members: the program itself,
# fragmentation, and on a CPU everything else that runs.
_SHARE = {"cpu": 0.5}
_OTHER_SHARE = 0.8

# Results that are never written, because whatever reads them computes them.
_FREE = {"broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims"}
_LOOPS = {"scan", "while"}


def peak_bytes(function: Callable, *args: PyTree) -> int:
  """Estimates the bytes alive at once, arguments and results included.

  Example:
    >>> peak_bytes(lambda x: x @ x, np.zeros((100, 100), np.float32))
    80000
  """
  return _peak(jax.make_jaxpr(function)(*args).jaxpr)


def device_bytes() -> int:
  """Returns the memory that members of one device may take together.

  A GPU says how much it has. The devices of a CPU share that of the machine, or
  of the container.
  """
  device, *_ = jax.local_devices()
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    total = stats["bytes_limit"]
  else:
    total = _host_bytes() // jax.local_device_count()
  return int(total * _SHARE.get(device.platform, _OTHER_SHARE))


def width(needs: Callable[[int], int], *, wanted: int, limit: int) -> int:
  """Chooses how many members a device trains at once, at least one.

  Args:
    needs: Maps a number of members to the bytes that they need together, which
      are proportional to it but for what all share.
    wanted: The most.
    limit: Bytes that there are.

  Example:
    >>> width(lambda members: 100 + 10 * members, wanted=50, limit=300)
    20
  """
  if wanted < 2:
    return 1
  one = needs(1)
  if wanted * one <= limit:
    # Without a second trace: what all share is in it more than once.
    return wanted
  two = needs(2)
  member = max(1, two - one)
  shared = one - member
  return max(1, min(wanted, (limit - shared) // member))


def _host_bytes() -> int:
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  try:
    text = pathlib.Path("/sys/fs/cgroup/memory.max").read_text()
    return min(total, int(text))
  except (OSError, ValueError):
    # No container, or one without a limit, which reads "max".
    return total


def _peak(jaxpr: Any) -> int:
  last_use = {
    var: index
    for index, eqn in enumerate(jaxpr.eqns)
    for var in _variables(eqn.invars)
  }
  # Arguments belong to the caller.
  for var in _variables([*jaxpr.outvars, *jaxpr.invars, *jaxpr.constvars]):
    last_use[var] = len(jaxpr.eqns)
  sizes = {var: _bytes(var) for var in (*jaxpr.invars, *jaxpr.constvars)}
  live = peak = sum(sizes.values())
  for index, eqn in enumerate(jaxpr.eqns):
    free = eqn.primitive.name in _FREE
    written = {var: 0 if free else _bytes(var) for var in eqn.outvars}
    inner = max(
      (_peak(sub) - sum(map(_bytes, sub.invars)) for sub in _inner(eqn)),
      default=0,
    )
    results = sum(written.values())
    # What a call computes is what it returns; a loop stacks it up besides.
    loop = eqn.primitive.name in _LOOPS
    peak = max(peak, live + (results + inner if loop else max(results, inner)))
    sizes |= written
    live += results
    for var in {*_variables(eqn.invars), *eqn.outvars}:
      if last_use.get(var, index) <= index:
        live -= sizes.pop(var, 0)
  return peak


def _variables(atoms: Any) -> list:
  return [atom for atom in atoms if not hasattr(atom, "val")]


def _bytes(var: Any) -> int:
  dtype = var.aval.dtype
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    itemsize = 8
  else:
    itemsize = np.dtype(dtype).itemsize
  return int(np.prod(var.aval.shape, dtype=np.int64)) * itemsize


def _inner(eqn: Any) -> Iterator[Any]:
  """Yields the programs within an operation, such as the body of a loop."""
  for value in eqn.params.values():
    for item in value if isinstance(value, list | tuple) else (value,):
      item = getattr(item, "jaxpr", item)
      if hasattr(item, "eqns"):
        yield item
