"""The dense layers of a program, by what its matrix products meet as it runs.

An oracle for `bean_jax.find_layers`, which reads the program: here it runs
operation by operation, and nothing of it is read. It runs three times: as it
is, with other parameters, and with other data. A factor of a product is a
kernel if parameters change it and data do not, and the other factor is neurons
if both do.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.extend.core import primitives
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Met(NamedTuple):
  """A dense layer that a program met.

  Attributes:
    kernel: [N, M].
    inputs: Of all calls, [rows, N].
    neurons: Of each call whose inputs are neurons, [rows, N].
  """

  kernel: np.ndarray
  inputs: np.ndarray
  neurons: list[np.ndarray]


def changed(tree: PyTree, seed: int) -> PyTree:
  """Returns a tree with noise added to floats, and integers turned around."""
  rng = np.random.default_rng(seed)

  def other(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      return leaf + jnp.asarray(
        0.1 * rng.standard_normal(leaf.shape), leaf.dtype
      )
    whole = jnp.issubdtype(jnp.result_type(leaf), jnp.signedinteger)
    return leaf[..., ::-1] if whole and jnp.ndim(leaf) else leaf

  return jax.tree.map(other, tree)


def layers(fn: Callable[..., Any], params: PyTree, *args: Any) -> list[Met]:
  """Returns the dense layers that a call of a function meets.

  Args:
    fn: Function of (params, *args) that takes no derivatives.
    params: Parameters of which no two numbers are the same.
    *args: Data.
  """
  runs = (
    _products(fn, params, *args),
    _products(fn, changed(params, 1), *args),
    _products(fn, params, *changed(args, 2)),
  )
  found: dict[tuple[Any, bytes], list[Met]] = {}
  for (operands, dimensions), by_params, by_data in zip(*runs, strict=True):
    depends = [
      [
        not np.array_equal(one, other[0][side])
        for other in (by_params, by_data)
      ]
      for side, one in enumerate(operands)
    ]
    if depends.count([True, False]) != 1:
      continue
    side = depends.index([True, False])
    stacks = [_stack(*one) for one in zip(operands, *dimensions, strict=True)]
    for kernel, inputs in zip(stacks[side], stacks[1 - side], strict=True):
      met = Met(kernel.T, inputs, [inputs] * depends[1 - side][0])
      found.setdefault((kernel.shape, kernel.tobytes()), []).append(met)
  return [_joined(calls) for calls in found.values()]


def _joined(calls: list[Met]) -> Met:
  """Joins the calls of a kernel.

  What is equal for all samples, such as the first state of a recurrent network,
  has one row, which `jax.vmap` does not repeat.
  """
  most = max(len(call.inputs) for call in calls)
  inputs = [
    np.repeat(call.inputs, most // len(call.inputs), axis=0)
    if len(call.inputs) == 1
    else call.inputs
    for call in calls
  ]
  neurons = [x for x, call in zip(inputs, calls, strict=True) if call.neurons]
  return Met(calls[0].kernel, np.concatenate(inputs), neurons)


def _stack(operand: np.ndarray, summed: Any, batch: Any) -> np.ndarray:
  """Returns [stack, rows, N] of a factor of a product over N."""
  rest = [a for a in range(operand.ndim) if a not in (*summed, *batch)]
  num_stacks, num_neurons = (
    int(np.prod([operand.shape[a] for a in axes])) for axes in (batch, summed)
  )
  moved = operand.transpose(*batch, *rest, *summed)
  return moved.reshape(num_stacks, -1, num_neurons)


def _products(fn: Callable[..., Any], *args: Any) -> list[Any]:
  """Runs a function, and returns the factors of its products in order."""
  seen = []
  run = primitives.dot_general_p.impl

  @functools.wraps(run)
  def observing(*operands: Any, dimension_numbers: Any, **options: Any) -> Any:
    seen.append(([np.asarray(x) for x in operands], dimension_numbers))
    return run(*operands, dimension_numbers=dimension_numbers, **options)

  product = primitives.dot_general_p
  with mock.patch.object(product, "impl", observing), jax.disable_jit():
    fn(*args)
  return seen
