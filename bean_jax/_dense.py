"""Dense layers of a traced function: their names, their choice, their calls."""

from collections.abc import Callable, Collection, Mapping, Sequence
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bean_jax import _jaxpr, _sharding, _tracing
from bean_jax._jaxpr import Place
from bean_jax._program import Product, Program

PyTree = Any
Layers = str | Callable[[str], bool] | Collection[str] | None


_DIFFER = "it is called with kernels that differ, and so is not one layer"


class Layer(NamedTuple):
  """A dense layer that was found.

  Attributes:
    path: Of its kernel, "encoder/kernel"; one of a stack is "blocks/kernel[2]".
    num_neurons: N, the neurons that enter it; None if that cannot be seen.
    num_next: M, the neurons that they are wired to, likewise.
    num_calls: How many products of the program it takes part in.
    left_out: Why it is left out; "" if it is chosen.
  """

  path: str
  num_neurons: int | None
  num_next: int | None
  num_calls: int
  left_out: str


class Group(NamedTuple):
  """A layer, or several whose kernels are stacked.

  Attributes:
    name: Path of the parameter, and the part of it that is the kernel.
    calls: Its products by place.
    stack: Sizes of the stack.
    trouble: Why its operands cannot be had; "" if they can.
  """

  name: str
  calls: dict[Place, Product]
  stack: tuple[int, ...]
  trouble: str

  @property
  def paths(self) -> dict[str, tuple[int, ...]]:
    """The place in the stack of each layer, by its path."""
    return {
      self.name + "".join(f"[{i}]" for i in index): index
      for index in np.ndindex(*self.stack)
    }


class Choice(NamedTuple):
  """The layers of a function, and those that were chosen.

  Attributes:
    layers: All layers.
    groups: Those of which a layer was chosen.
    unreachable: What was asked for and cannot be had, and why, by path.
    unknown: What was asked for and is not there.
  """

  layers: list[Layer]
  groups: list[Group]
  unreachable: dict[str, str]
  unknown: list[str]

  @property
  def paths(self) -> list[str]:
    """Paths of the chosen layers."""
    return [layer.path for layer in self.layers if not layer.left_out]


def choose(
  traced: _tracing.Traced,
  outputs: Sequence[bool],
  layers: Layers,
  convolutions: bool,
) -> Choice:
  """Finds the layers on which outputs depend, and chooses among them."""
  chosen_by = _selector(layers)
  found: list[Layer] = []
  groups: list[Group] = []
  unreachable: dict[str, str] = {}
  program = Program(traced.jaxpr, traced.roles)
  every = _groups(program, program.needed(outputs))
  for group in every:
    (first, *_) = group.calls.values()
    of_neurons = {p: call for p, call in group.calls.items() if call.neurons}
    num_neurons, num_next = first.sizes if first.contracted[1] else (None, None)
    taken = False
    for path in group.paths:
      how = chosen_by(path, group.name)
      left_out = ""
      if not how:
        left_out = "not asked for"
      elif first.convolution and not convolutions:
        left_out = "a convolution"
      elif first.kind.is_sum and how != "by name":
        left_out = "activity is added to its kernel, which may be none"
      elif not of_neurons and how != "by name":
        left_out = "its inputs are raw data"
      elif group.trouble:
        left_out = unreachable[path] = group.trouble
      taken |= not left_out
      found.append(
        Layer(path, num_neurons, num_next, len(group.calls), left_out)
      )
    if taken:
      groups.append(group._replace(calls=of_neurons or group.calls))
  names = [name for group in every for name in (group.name, *group.paths)]
  unknown = [
    pattern
    for pattern in _patterns(layers)
    if not matches(pattern.removeprefix("!"), *names)
  ]
  return Choice(found, groups, unreachable, unknown)


def require(choice: Choice) -> None:
  """Raises unless all that was asked for is there and can be had."""
  paths = [layer.path for layer in choice.layers]
  if choice.unreachable:
    reasons = "; ".join(
      f"{path!r}: {reason}" for path, reason in choice.unreachable.items()
    )
    raise ValueError(
      f"dense layers that cannot be had: {reasons}. Leave them out by layers="
      f"{[f'!{path}' for path in choice.unreachable]}, beside what else you "
      "ask for, or call them outside of what they are in"
    )
  if choice.unknown:
    raise ValueError(
      f"layers asks for {choice.unknown}, which are no dense layers of this "
      f"function; there are {paths}"
    )
  if not choice.groups:
    reasons = ", ".join(
      f"{layer.path!r} ({layer.left_out})" for layer in choice.layers
    )
    raise ValueError(
      "the function must have a dense layer to choose: a matrix product of "
      "what depends on data and on parameters with a parameter. It has "
      f"{reasons or 'no matrix product with a parameter'}. Parameters must be "
      "in its first argument, and not closed over: of a model that is called, "
      "bean_jax takes lambda model, inputs: model(inputs)"
    )


def _patterns(layers: Layers) -> list[str]:
  if layers is None or callable(layers):
    return []
  patterns = [layers] if isinstance(layers, str) else layers
  is_collection = isinstance(patterns, Collection)
  if (
    not is_collection
    or isinstance(patterns, Mapping)
    or not all(isinstance(pattern, str) for pattern in patterns)
  ):
    raise TypeError(
      "layers must be None, a path or a pattern such as 'encoder/*', a "
      "collection of these, where '!' before one leaves it out, or a function "
      f"of the path, got {layers!r}"
    )
  return list(patterns)


def _selector(layers: Layers) -> Callable[[str, str], str]:
  """Makes what tells how a layer is chosen: "by name", "among others" or "".

  It takes the paths of the layer and of the stack which that is in. Only a name
  takes a layer of raw data.
  """
  if callable(layers):
    predicate = layers
    return lambda path, stack: "among others" if predicate(path) else ""
  patterns = _patterns(layers)
  without = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
  among = [p for p in patterns if not p.startswith("!")] or ["*"]

  def chosen_by(path: str, stack: str) -> str:
    if any(matches(pattern, path, stack) for pattern in without):
      return ""
    if path in among or stack in among:
      return "by name"
    taken = any(matches(pattern, path, stack) for pattern in among)
    return "among others" if taken else ""

  return chosen_by


def matches(pattern: str, *names: str) -> bool:
  """Tells whether one name fits a pattern, in which "*" is any text."""
  expression = ".*".join(map(re.escape, pattern.split("*")))
  return any(re.fullmatch(expression, name, re.DOTALL) for name in names)


def _groups(program: Program, places: set[Place]) -> list[Group]:
  """Joins the calls of the same kernels, in the order of the program."""
  by_part: dict[str, dict[Place, Product]] = {}
  for place in sorted(places):
    parameter = program.products[place].kind.parameter
    assert parameter is not None
    calls = by_part.setdefault(parameter.path + parameter.part, {})
    calls[place] = program.products[place]
  return [
    group
    for part, calls in by_part.items()
    for group in _groups_of_part(program, part, calls)
  ]


def _groups_of_part(
  program: Program, part: str, calls: dict[Place, Product]
) -> list[Group]:
  """Joins the calls of the same part of a parameter."""
  if len({call.kind.number for call in calls.values()}) > 1:
    making = program.making(set(calls))
    calls = {p: call for p, call in calls.items() if p not in making} or calls
  by_axes: dict[tuple[int, ...], dict[Place, Product]] = {}
  for place, call in calls.items():
    axes = call.kind.axes or range(len(call.shape))
    summed = tuple(sorted(axes[axis] for axis in call.contracted[1]))
    by_axes.setdefault(summed, {})[place] = call
  groups = []
  for suffix, alike in zip(("", ".T"), by_axes.values(), strict=False):
    (first, *rest) = alike.values()
    trouble = next(
      (call.trouble for call in alike.values() if call.trouble), ""
    )
    same = all(
      (call.kind.number, call.stack) == (first.kind.number, first.stack)
      for call in rest
    )
    if not same or len(by_axes) > 2:
      trouble = trouble or _DIFFER
    groups.append(Group(part + suffix, alike, first.stack, trouble))
  return groups


def measured(
  traced: _tracing.Traced,
  groups: Sequence[Group],
  measure: Callable[..., PyTree],
  *shared: jax.Array | None,
) -> tuple[Any, dict[str, list[PyTree]]]:
  """Calls a function, and measures the operands of its layers on the way.

  Args:
    traced: The function.
    groups: The layers, whose stacks are measured as a whole.
    measure: What to compute of a layer's name, the layout and both operands of
      a call, and what all layers share.
    *shared: Arrays that all layers share.

  Returns:
    What the function returns; and, by path of the layer, a measurement for
    each of its calls, with an axis in front for each scan that shares the
    kernel.
  """
  by_place = {
    place: (group, call)
    for group in groups
    for place, call in group.calls.items()
  }

  def observe(place: Place, *operands: jax.Array) -> PyTree:
    group, call = by_place[place]
    return measure(group.name, call.layout, *operands, *shared)

  outputs, observed = _jaxpr.evaluate(
    traced.jaxpr, traced.arrays, sorted(by_place), observe
  )
  measurements: dict[str, list[PyTree]] = {}
  for place, (group, call) in by_place.items():
    stack = [
      i for i, (scan, _) in enumerate(call.scans) if scan in call.kind.steps
    ]
    batch = [len(call.scans) + place for place in call.batch_of_layers]
    axes = (*stack, *batch)
    if not axes:
      measurements.setdefault(group.name, []).append(observed[place])
      continue
    in_front = jax.tree.map(
      lambda leaf, axes=axes: jnp.moveaxis(leaf, axes, range(len(axes))),
      observed[place],
    )
    for path, index in group.paths.items():
      one = jax.tree.map(lambda leaf, index=index: leaf[index], in_front)
      measurements.setdefault(path, []).append(one)
  return traced.result_of(outputs), measurements


def of_stack(
  measure: Callable[..., PyTree],
  layout: Product,
  operands: Sequence[jax.Array],
  *shared: jax.Array | None,
) -> PyTree:
  """Calls a function for each kernel of a call, in axes in front.

  Args:
    measure: Of activations [..., N], a kernel [N, M], whether that comes
      transposed, and what is shared.
    layout: Of the call.
    operands: Of the call.
    *shared: Further arrays.
  """

  def of_arrays(
    left: jax.Array, right: jax.Array, *shared: jax.Array | None
  ) -> PyTree:
    inputs, kernels, transposed = operands_of(layout, (left, right))

    def of_one(activations: jax.Array, kernel: jax.Array) -> PyTree:
      return measure(activations, kernel, transposed, *shared)

    for _ in layout.batch_of_kernels:
      of_one = jax.vmap(of_one)
    return of_one(inputs, kernels)

  return _sharding.with_automatic_axes(of_arrays, *operands, *shared)


def operands_of(
  call: Product, operands: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array, bool]:
  """Returns activations [stack..., ..., N] and kernels [stack..., N, M].

  A kernel that lies as [M, N] comes so, and the last value says it: a copy
  would take as long as the layer.
  """
  kernel, inputs = operands[call.kernel], operands[1 - call.kernel]
  in_stack = [call.batch[0][i] for i in call.batch_of_kernels]
  summed = call.contracted[0]
  rows = [
    axis
    for axis in range(inputs.ndim)
    if axis not in in_stack and axis not in summed
  ]
  inputs = jnp.transpose(inputs, (*in_stack, *rows, *summed))
  lead = inputs.shape[: len(in_stack) + len(rows)]
  in_stack = [call.batch[1][i] for i in call.batch_of_kernels]
  repeated = [axis for axis in call.batch[1] if axis not in in_stack]
  summed = call.contracted[1]
  others = [
    axis
    for axis in range(kernel.ndim)
    if axis not in (*in_stack, *repeated, *summed)
  ]
  transposed = [*repeated, *in_stack, *others, *summed]
  # Of the kernel before the program transposed it, if it did.
  places = call.kind.axes or range(kernel.ndim)
  lies_so = [places[axis] for axis in transposed] == list(range(kernel.ndim))
  order = transposed if lies_so else [*repeated, *in_stack, *summed, *others]
  kernel = jnp.transpose(kernel, order)
  if repeated:
    kernel = kernel[(0,) * len(repeated)]
  num_neurons, num_next = call.sizes
  shape = (num_next, num_neurons) if lies_so else (num_neurons, num_next)
  inputs = inputs.reshape(*lead, num_neurons)
  kernel = kernel.reshape(*kernel.shape[: len(in_stack)], *shape)
  if not jnp.issubdtype(inputs.dtype, jnp.inexact):
    inputs = inputs.astype(kernel.dtype)
  return inputs, kernel, lies_so
