"""The dense layers of a function: which there are, and what enters them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bean_jax import _dense, _layout, _tracing
from bean_jax._dense import Layer, Layers
from bean_jax._layout import Layout


class FoundLayers(tuple[Layer, ...]):
  """Layers in the order of the program; prints as a table."""

  __slots__ = ()

  def __str__(self) -> str:
    """Returns a line a layer: path, N, M, calls, and why it is left out."""
    rows: list[tuple[str, ...]] = [("path", "N", "M", "calls", "")]
    for path, *numbers, why in self:
      known = ["?" if number is None else str(number) for number in numbers]
      rows.append((path, *known, f"left out: {why}" if why else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
      "  ".join(
        [path.ljust(widths[0]), *map(str.rjust, numbers, widths[1:]), why]
      )
      for path, *numbers, why in rows
    ]
    return "\n".join(map(str.rstrip, lines))


def find_layers(
  fn: Callable[..., Any], *args: Any, **kwargs: Any
) -> FoundLayers:
  """Finds the dense layers in what a function computes.

  A dense layer is a matrix product of something that depends on data with a
  parameter, or with what is made of parameters, such as a kernel over its norm.
  `regularize` and `capture` take those of them whose inputs are neurons: inputs
  that depend on parameters too. The function is traced, and not run.

  Args:
    fn: Function of `(params, *args, **kwargs)`, such as a loss function or the
      `apply` of a model.
    *args: What it is called with, params first; each `jax.ShapeDtypeStruct`
      stands for an array.
    **kwargs: What else it is called with.

  Returns:
    A tuple with a `Layer` (path, num_neurons, num_next, num_calls, left_out)
    for each, which prints as a table. `left_out` says why a layer is not taken
    by default, and is "" for the others.

  Raises:
    TypeError: If `fn` is no function of its parameters.

  Example:
    >>> import bean_jax
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def apply_fn(params, inputs):
    ...   hidden = jax.nn.relu(inputs @ params["fc1"])
    ...   return hidden @ params["fc2"]
    >>> params = {"fc1": jnp.ones((5, 4)), "fc2": jnp.ones((4, 3))}
    >>> print(bean_jax.find_layers(apply_fn, params, jnp.ones((8, 5))))
    path  N  M  calls
    fc1   5  4      1  left out: its inputs are raw data
    fc2   4  3      1
  """
  traced = _tracing.trace(*_tracing.of_params(fn, args), kwargs)
  return FoundLayers(_dense.choose(traced, None, required=False)[0])


def capture(
  fn: Callable[..., Any], *, layers: Layers = None
) -> Callable[..., tuple[Any, dict[str, jax.Array], dict[str, jax.Array]]]:
  """Makes a function that also returns inputs and kernels of dense layers.

  Nothing is computed twice. For analysis: the inputs of layers within
  `jax.checkpoint` are kept, which `regularize` computes anew.

  Args:
    fn: Function of `(params, *args, **kwargs)`, such as the `apply` of a model;
      or a module of Flax NNX, or its method.
    layers: Which layers to take, as in `regularize`.

  Returns:
    A function of the same arguments that returns (output, activations,
    kernels): what `fn` returns, and two dicts by path, of the inputs [..., N]
    and the kernels [N, M] of each layer. If a layer is called several times,
    its inputs are joined along the batch, [S, N]. A kernel that data change,
    such as one that is adapted to each task, is [..., N, M].

  Raises:
    TypeError: If `fn` is no function of its parameters, or `layers` is nothing
      that chooses.
    ValueError: While tracing, if there is no layer to take, or one cannot be
      had.

  Example:
    >>> import bean_jax
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def apply_fn(params, inputs):
    ...   hidden = jax.nn.relu(inputs @ params["fc1"])
    ...   return hidden @ params["fc2"]
    >>> params = {"fc1": jnp.ones((5, 4)), "fc2": jnp.ones((4, 3))}
    >>> output, activations, kernels = bean_jax.capture(apply_fn)(
    ...   params, jnp.ones((8, 5))
    ... )
    >>> print(activations["fc2"].shape, kernels["fc2"].shape)
    (8, 4) (4, 3)
  """

  def capturing_fn(
    *args: Any, **kwargs: Any
  ) -> tuple[Any, dict[str, jax.Array], dict[str, jax.Array]]:
    traced = _tracing.trace(*_tracing.of_params(fn, args), kwargs)
    found, groups = _dense.choose(traced, layers)
    output, calls = _dense.measured(traced, groups, _operands)
    chosen = {layer.path for layer in found if not layer.left_out}
    activations, kernels = {}, {}
    for group in groups:
      varies = any(call.kind.varies for call in group.calls.values())
      for path in filter(chosen.__contains__, group.paths):
        inputs, (kernel, *_) = zip(*calls[path], strict=True)
        activations[path] = _joined(inputs)
        # Scans that share a kernel, and data that leave it as it is, repeat it.
        kernels[path] = kernel if varies else kernel[(0,) * (kernel.ndim - 2)]
    return output, activations, kernels

  return capturing_fn


def _operands(
  name: str, layout: Layout, *operands: jax.Array
) -> tuple[jax.Array, jax.Array]:
  del name

  def of_one(
    activations: jax.Array, kernel: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    return activations, kernel.T if layout.transposed else kernel

  return _layout.of_stack(of_one, layout, operands)


def _joined(inputs: Sequence[jax.Array]) -> jax.Array:
  """Returns the inputs of all calls as one batch."""
  if len(inputs) == 1:
    return inputs[0]
  return jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in inputs])
