"""How the operands of a matrix product lie, and what they are to a layer."""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bean_jax import _sharding
from bean_jax._kinds import Kind

PyTree = Any
Pair = tuple[tuple[int, ...], tuple[int, ...]]


class Layout(NamedTuple):
  """The axes of a product of inputs with one kernel, or with a stack of them.

  Attributes:
    kernel: Which of the two operands is the kernel.
    stack: Axes of inputs and kernel along which each has a kernel of its own.
    repeated: Axes of the kernel along which it repeats itself.
    summed: Axes of inputs and kernel that are summed over, in the order of the
      kernel.
    others: The other axes of the kernel.
    transposed: Whether the kernel lies as [M, N].
  """

  kernel: int
  stack: Pair
  repeated: tuple[int, ...]
  summed: Pair
  others: tuple[int, ...]
  transposed: bool

  def batch(self, *operands: jax.Array) -> tuple[int, ...]:
    """Returns the shape of the batch that each kernel sees."""
    inputs = operands[1 - self.kernel]
    return tuple(inputs.shape[axis] for axis in self._rows(inputs.ndim))

  def _rows(self, ndim: int) -> list[int]:
    taken = {*self.stack[0], *self.summed[0]}
    return [axis for axis in range(ndim) if axis not in taken]

  def split(self, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns activations [stack..., ..., N] and kernels [stack..., N, M].

    A kernel that lies as [M, N] comes so: a copy would take as long as the
    layer.
    """
    kernel, inputs = operands[self.kernel], operands[1 - self.kernel]
    sides = self.summed[1], self.others
    if self.transposed:
      sides = self.others, self.summed[1]
    sizes = [math.prod(kernel.shape[axis] for axis in side) for side in sides]
    order = (*self.repeated, *self.stack[1], *sides[0], *sides[1])
    kernel = jnp.transpose(kernel, order)
    if self.repeated:
      kernel = kernel[(0,) * len(self.repeated)]
    kernel = kernel.reshape(*kernel.shape[: len(self.stack[1])], *sizes)
    rows = (*self.stack[0], *self._rows(inputs.ndim))
    inputs = jnp.transpose(inputs, (*rows, *self.summed[0]))
    batch = inputs.shape[: len(rows)]
    inputs = inputs.reshape(*batch, math.prod(inputs.shape[len(rows) :]))
    if not jnp.issubdtype(inputs.dtype, jnp.inexact):
      inputs = inputs.astype(kernel.dtype)
    return inputs, kernel


def layout_of(
  kernel: int,
  kind: Kind,
  shape: tuple[int, ...],
  summed: Pair,
  batch: Pair,
) -> Layout:
  """Returns the layout of a product whose kernel is of this kind and shape.

  Args:
    kernel: Which of the operands is the kernel.
    kind: Of the kernel.
    shape: Of the kernel.
    summed: Axes of inputs and kernel that are summed over.
    batch: Axes of inputs and kernel along which products stand side by side.
  """
  pairs = sorted(zip(*summed, strict=True), key=lambda pair: pair[1])
  summed = tuple(i for i, _ in pairs), tuple(k for _, k in pairs)
  repeats = () if kind.varies else kind.repeated or ()
  own = [pair for pair in zip(*batch, strict=True) if pair[1] not in repeats]
  stack = tuple(i for i, _ in own), tuple(k for _, k in own)
  repeated = tuple(axis for axis in batch[1] if axis in repeats)
  taken = {*batch[1], *summed[1]}
  others = tuple(axis for axis in range(len(shape)) if axis not in taken)
  order = (*repeated, *stack[1], *others, *summed[1])
  # Of the kernel before the program transposed it, if it did.
  lies = tuple(kind.axes[axis] for axis in order) if kind.axes else order
  transposed = lies == tuple(range(len(shape)))
  return Layout(kernel, stack, repeated, summed, others, transposed)


def of_stack(
  measure: Callable[..., PyTree],
  layout: Layout,
  operands: Sequence[jax.Array],
  *shared: jax.Array | None,
) -> PyTree:
  """Calls a function for each kernel of a product, in axes in front.

  Args:
    measure: Of activations [..., N], a kernel as it lies, and what is shared.
    layout: Of the product.
    operands: Of the product.
    *shared: Further arrays.
  """

  def of_arrays(
    left: jax.Array, right: jax.Array, *shared: jax.Array | None
  ) -> PyTree:
    def of_one(activations: jax.Array, kernel: jax.Array) -> PyTree:
      return measure(activations, kernel, *shared)

    for _ in layout.stack[0]:
      of_one = jax.vmap(of_one)
    return of_one(*layout.split(left, right))

  return _sharding.with_automatic_axes(of_arrays, *operands, *shared)
