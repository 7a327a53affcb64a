"""Dense layers of a traced function: their names, their choice, their calls."""

from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from bean_jax import _jaxpr, _tracing
from bean_jax._jaxpr import Place
from bean_jax._program import Product, Program

PyTree = Any
Layers = str | Callable[[str], bool] | Collection[str] | None


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
    trouble: Why its operands cannot be had; "" if they can.
  """

  name: str
  calls: dict[Place, Product]
  trouble: str

  @property
  def of_neurons(self) -> dict[Place, Product]:
    """Its products whose inputs are neurons, and no raw data."""
    return {place: call for place, call in self.calls.items() if call.neurons}

  @property
  def paths(self) -> dict[str, tuple[int, ...]]:
    """The place in the stack of each layer, by its path."""
    (first, *_) = self.calls.values()
    return {
      self.name + "".join(f"[{i}]" for i in index): index
      for index in np.ndindex(*first.sizes)
    }


def choose(
  traced: _tracing.Traced,
  layers: Layers,
  *,
  of_loss: bool = False,
  convolutions: bool = False,
  required: bool = True,
) -> tuple[list[Layer], list[Group]]:
  """Finds the layers of a function, or of its loss, and chooses among them.

  Only the path of a layer takes it if its inputs are raw data.

  Returns:
    All layers, and the groups of which a layer is chosen.

  Raises:
    ValueError: If `required`, and no layer is chosen, or one that is asked for
      is not there or cannot be had.
  """
  patterns = _patterns(layers)
  without = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
  among = [p for p in patterns if not p.startswith("!")]
  if layers is None or without:
    among = among or ["*"]
  found: list[Layer] = []
  groups: list[Group] = []
  unreachable: dict[str, str] = {}
  program = Program(traced.jaxpr, traced.roles)
  outputs = program.outputs[: traced.num_outputs]
  places = program.layers_of(outputs[:1]) if of_loss else set()
  # A constant loss, to have the penalty alone.
  every = _groups(program, places or program.layers_of(outputs))

  def why_left_out(group: Group, path: str) -> str:
    (first, *_) = group.calls.values()
    names = path, group.name
    by_name = not set(among).isdisjoint(names)
    is_asked_for = (
      layers(path)
      if callable(layers)
      else any(matches(pattern, *names) for pattern in among)
    )
    if not is_asked_for or any(matches(p, *names) for p in without):
      return "not asked for"
    if first.convolution and not convolutions:
      return "a convolution"
    if first.kind.is_mixed and not by_name:
      return "activity changes its kernel, which may be none"
    if not group.of_neurons and not by_name:
      return "its inputs are raw data"
    return group.trouble

  for group in every:
    (first, *_) = group.calls.values()
    reasons = {path: why_left_out(group, path) for path in group.paths}
    found += [
      Layer(path, *first.size, len(group.calls), why)
      for path, why in reasons.items()
    ]
    if group.trouble:
      unreachable |= {p: w for p, w in reasons.items() if w == group.trouble}
    if not all(reasons.values()):
      groups.append(group._replace(calls=group.of_neurons or group.calls))
  there = [name for group in every for name in (group.name, *group.paths)]
  unknown = [p for p in patterns if not matches(p.removeprefix("!"), *there)]
  if required:
    _require(found, unreachable, unknown)
  return found, groups


def _require(
  layers: list[Layer], unreachable: dict[str, str], unknown: list[str]
) -> None:
  if unreachable:
    reasons = "; ".join(f"{path!r}: {why}" for path, why in unreachable.items())
    raise ValueError(
      f"dense layers that cannot be had: {reasons}. Leave them out by layers="
      f"{[f'!{path}' for path in unreachable]}, beside what else you ask for, "
      "or call them outside of what they are in"
    )
  if unknown:
    raise ValueError(
      f"layers asks for {unknown}, which are no dense layers of this function; "
      f"there are {[layer.path for layer in layers]}"
    )
  if all(layer.left_out for layer in layers):
    reasons = ", ".join(f"{x.path!r} ({x.left_out})" for x in layers)
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


def matches(pattern: str, *names: str) -> bool:
  """Tells whether one name fits a pattern, in which "*" is any text."""
  expression = ".*".join(map(re.escape, pattern.split("*")))
  return any(re.fullmatch(expression, name, re.DOTALL) for name in names)


def _groups(program: Program, places: set[Place]) -> list[Group]:
  """Joins the calls of the same kernels, in the order of the program."""
  by_part: dict[str, dict[Place, Product]] = {}
  for place in sorted(places):
    call = program.products[place]
    assert call.kind.parameter is not None
    part = call.kind.parameter.path + call.kind.parameter.part
    by_part.setdefault(part, {})[place] = call
  groups = []
  for part, calls in by_part.items():
    if len({call.kind.number for call in calls.values()}) > 1:
      # Those of a power iteration, say, are part of how a kernel is made.
      making = program.layers_of([call.kind for call in calls.values()])
      calls = {p: c for p, c in calls.items() if p not in making} or calls
    by_axes: dict[tuple[int, ...], dict[Place, Product]] = {}
    for place, call in calls.items():
      by_axes.setdefault(call.summed, {})[place] = call
    for suffix, alike in zip(("", ".T"), by_axes.values(), strict=False):
      troubles = [call.trouble for call in alike.values()]
      kernels = {(call.kind.number, call.sizes) for call in alike.values()}
      if len(kernels) > 1 or len(by_axes) > 2:
        troubles.append(
          "it is called with kernels that differ, and so is not one layer"
        )
      trouble = next(filter(None, troubles), "")
      groups.append(Group(part + suffix, alike, trouble))
  return groups


def measured(
  traced: _tracing.Traced,
  groups: Sequence[Group],
  measure: Callable[..., PyTree],
) -> tuple[Any, dict[str, list[PyTree]]]:
  """Calls a function, and measures the operands of its layers on the way.

  Args:
    traced: The function.
    groups: The layers, whose stacks are measured as a whole.
    measure: What to compute of a layer's name, and the layout and both operands
      of a call.

  Returns:
    What the function returns; and, by path of the layer, a measurement for
    each of its calls, with an axis in front for each scan that shares the
    kernel.
  """
  calls = {
    place: (group, call)
    for group in groups
    for place, call in group.calls.items()
  }

  def observe(place: Place, *operands: jax.Array) -> PyTree:
    group, call = calls[place]
    return measure(group.name, call.layout, *operands)

  outputs, observed = _jaxpr.evaluate(
    traced.jaxpr, traced.arrays, sorted(calls), observe
  )
  measurements: dict[str, list[PyTree]] = {}
  for place, (group, call) in calls.items():
    for path, index in group.paths.items():
      one = observed[place]
      if index:
        one = jax.tree.map(functools.partial(_one_of_stack, call, index), one)
      measurements.setdefault(path, []).append(one)
  return traced.result_of(outputs), measurements


def _one_of_stack(
  call: Product, index: tuple[int, ...], stack: jax.Array
) -> jax.Array:
  places = dict(zip((axis for axis, _ in call.stack), index, strict=True))
  return stack[tuple(places.get(i, slice(None)) for i in range(stack.ndim))]
