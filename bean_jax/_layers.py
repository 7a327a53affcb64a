"""Layers of a network by their paths: what both Flax adapters share."""

from collections.abc import Callable, Collection, Iterable, Sequence
import dataclasses
import fnmatch
import functools
import itertools
import math
import operator
import re
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

Layers = str | Callable[[str], bool] | None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("inputs", "stacking"),
  meta_fields=("kernel_shape",),
)
@dataclasses.dataclass(frozen=True)
class LayerCall:
  """The inputs of one call of a layer, fit to leave scan, vmap and the like.

  Attributes:
    inputs: Inputs [..., N].
    stacking: An empty array, of shape [0, ..., 0] and the rank of the inputs.
      What stacks the inputs along a new axis stacks it too, so that its sizes
      other than 0 tell the new axes.
    kernel_shape: Shape of the kernel that this call saw.
  """

  inputs: jax.Array
  stacking: jax.Array
  kernel_shape: tuple[int, ...]


def selector(layers: Layers) -> Callable[[str], bool]:
  """Returns the predicate that a pattern, a predicate or None stands for."""
  if layers is None:
    return lambda path: True
  if isinstance(layers, str):
    return lambda path: fnmatch.fnmatchcase(path, layers)
  if callable(layers):
    return layers
  raise TypeError(
    "layers must be None, a pattern such as 'encoder/*' or a function of the "
    f"path, got {layers!r}"
  )


def refuse(path: str, reason: str) -> NoReturn:
  """Raises for a layer that cannot be captured."""
  raise ValueError(
    f"layer {path!r}: {reason}, or leave the layer out, for example by "
    f"layers=lambda path: path != {path!r}"
  )


def nothing_chosen(layers: Layers, paths: Iterable[str]) -> NoReturn:
  """Raises for a pattern that no dense layer matches."""
  raise ValueError(
    f"layers={layers!r} must choose at least one dense layer; there are "
    f"{sorted(set(paths))}"
  )


def call_of_layer(
  inputs: Any,
  *,
  axes: Sequence[int],
  kernel_shape: tuple[int, ...],
  dtype: Any,
) -> LayerCall:
  """Returns the record of a call that contracts these axes of its inputs."""
  inputs = jnp.asarray(inputs)
  if not jnp.issubdtype(inputs.dtype, jnp.floating):
    inputs = inputs.astype(dtype)
  # Flax contracts several axes in ascending order, however they are written.
  axes = sorted(axis % inputs.ndim for axis in axes)
  inputs = jnp.moveaxis(inputs, axes, range(-len(axes), 0))
  batch_shape = inputs.shape[: inputs.ndim - len(axes)]
  num_neurons = math.prod(inputs.shape[len(batch_shape) :])
  inputs = inputs.reshape(*batch_shape, num_neurons)
  return LayerCall(inputs, jnp.zeros((0,) * inputs.ndim), kernel_shape)


def inputs_by_key(
  path: str, calls: Sequence[LayerCall], kernel_shape: tuple[int, ...]
) -> dict[str, jax.Array]:
  """Returns {path: inputs}, or {path[i]: inputs} where kernels are stacked.

  Axes along which inputs are stacked, but the kernel is not, are batch.
  """
  inputs: dict[str, list[jax.Array]] = {}
  for call in calls:
    stack = _stack_of_kernels(path, kernel_shape, call.kernel_shape)
    axes = _axes_of_stack(path, stack, call.stacking.shape)
    stacked = jnp.moveaxis(call.inputs, axes, range(len(axes)))
    for index in np.ndindex(*stack):
      part = stacked[index] if index else stacked
      inputs.setdefault(key_of(path, index), []).append(part)
  return {key: _join(parts) for key, parts in inputs.items()}


def kernels_by_key(
  path: str, kernel: jax.Array, single_shape: tuple[int, ...], num_neurons: int
) -> dict[str, jax.Array]:
  """Returns {path: kernel}, or {path[i]: kernel} of a stack, as [N, M]."""
  stack = _stack_of_kernels(path, kernel.shape, single_shape)
  return {
    key_of(path, index): (kernel[index] if index else kernel).reshape(
      num_neurons, -1
    )
    for index in np.ndindex(*stack)
  }


def kernel_at(key: str, kernel: jax.Array, num_neurons: int) -> jax.Array:
  """Returns the kernel [N, M] of a key, which may index a stack."""
  _, index = path_and_index(key)
  stack, shape = kernel.shape[: len(index)], kernel.shape[len(index) :]
  counts = itertools.accumulate(shape[:-1], operator.mul)
  inside = len(stack) == len(index) and all(map(operator.lt, index, stack))
  if not inside or num_neurons not in counts:
    raise ValueError(
      f"layer {key!r}: the kernel {list(kernel.shape)} does not fit "
      f"activations of {num_neurons} neurons; pass the params with which the "
      "activations were computed (under jax.vmap: inside of it)"
    )
  return (kernel[index] if index else kernel).reshape(num_neurons, -1)


def key_of(path: str, index: Sequence[int]) -> str:
  """Returns 'path[i][j]', or the path for an empty index."""
  return path + "".join(f"[{i}]" for i in index)


def path_and_index(key: str) -> tuple[str, tuple[int, ...]]:
  """Returns what `key_of` was made of."""
  path = re.sub(r"(\[\d+\])*$", "", key)
  return path, tuple(map(int, re.findall(r"\d+", key[len(path) :])))


def missing_kernel(key: str, paths: Collection[str]) -> NoReturn:
  """Raises for an activation whose layer is not there."""
  raise ValueError(
    f"layer {key!r} of the activations must have a kernel, got kernels of "
    f"{sorted(paths)}"
  )


def _stack_of_kernels(
  path: str, kernel_shape: tuple[int, ...], single_shape: tuple[int, ...]
) -> tuple[int, ...]:
  """Returns the leading sizes along which kernels are stacked."""
  num_stacked = len(kernel_shape) - len(single_shape)
  if num_stacked < 0 or kernel_shape[num_stacked:] != single_shape:
    refuse(
      path,
      f"calls see a kernel {list(single_shape)}, of which the parameter "
      f"{list(kernel_shape)} is no stack along axis 0; stack it there",
    )
  return kernel_shape[:num_stacked]


def _axes_of_stack(
  path: str, stack: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[int, ...]:
  """Returns the axes of stacked inputs that are those of stacked kernels."""
  stacked = tuple(itertools.takewhile(bool, sizes))
  if any(sizes[len(stacked) :]):
    refuse(path, "its inputs must come back stacked along axis 0; let them")
  candidates = [
    axes
    for axes in itertools.combinations(range(len(stacked)), len(stack))
    if tuple(stacked[axis] for axis in axes) == stack
  ]
  if len(candidates) != 1:
    refuse(
      path,
      f"it must be clear which kernels of a stack {list(stack)} met which "
      f"inputs of a stack {list(stacked)}; stack both alike",
    )
  return candidates[0]


def _join(parts: list[jax.Array]) -> jax.Array:
  """Concatenates the inputs of several calls along the batch."""
  if len(parts) == 1:
    return parts[0]
  if parts[0].ndim < 2 or len({part.shape[1:] for part in parts}) > 1:
    parts = [part.reshape(-1, part.shape[-1]) for part in parts]
  return jnp.concatenate(parts)
