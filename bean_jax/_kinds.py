"""What a value of a program depends on: parameters, data, or both.

A value is *made of* a parameter if it is one, or if operations that keep its
entries apart made it of one: casts, slices, sums and products with something of
its own size, products of parameters. So a weight-normalized, masked, low-rank
or merged kernel is made of parameters. Whatever else depends on parameters or
on data is *activity*.
"""

from collections.abc import Sequence
import enum
import math
from typing import NamedTuple

from jax.extend import core

from bean_jax._jaxpr import Place, shape_of

# What keys make carries no data, whatever the keys are made of.
NOISE = {
  "random_bits",
  "random_fold_in",
  "random_gamma",
  "random_seed",
  "random_split",
  "random_unwrap",
  "random_wrap",
  "rng_bit_generator",
  "threefry2x32",
}
# Of the primitives that take several arrays: those that add, ...
_SUMS = {"add", "add_any", "sub"}
_PRODUCTS = {"div", "mul"}
# ... that keep a sum with activity linear in the parameter, ...
_LINEAR = (
  _SUMS
  | _PRODUCTS
  | {"broadcast_in_dim", "convert_element_type", "copy", "neg", "reshape"}
  | {"slice", "split", "squeeze", "transpose"}
)
# ... and all that work entry by entry, or move entries about. Whatever is not
# among them may be a matrix product.
HARMLESS = (
  _LINEAR
  | {"and", "atan2", "clamp", "complex", "eq", "eq_to", "ge", "gt", "igamma"}
  | {"igamma_grad_a", "igammac", "le", "le_to", "lt", "lt_to", "max", "min"}
  | {"mulhi", "ne", "nextafter", "not", "or", "polygamma", "pow", "rem"}
  | {"random_gamma_grad", "regularized_incomplete_beta", "select_n"}
  | {"shift_left", "shift_right_arithmetic", "shift_right_logical", "xor"}
  | {"zeta"}
  | {"concatenate", "dynamic_slice", "dynamic_update_slice", "gather", "pad"}
  | {"scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul"}
  | {"scatter-sub", "select_and_gather_add", "select_and_scatter"}
  | {"select_and_scatter_add", "sort", "stack", "tie"}
  | {"all_gather", "all_to_all", "pbroadcast", "pmax", "pmin", "ppermute"}
  | {"psum", "psum2", "psum_invariant"}
  | NOISE
)


class Source(enum.IntEnum):
  """What a value owes to other things than parameters; more is greater."""

  NOTHING = 0
  CLOSED_OVER = 1  # Arrays that the function closes over: masks, or data.
  PRODUCT = 2  # Matrix products with these.
  DATA = 3  # Other arguments than params.


class Parameter(NamedTuple):
  """A parameter, or a part of it.

  Attributes:
    path: Of the parameter in the tree, "encoder/kernel".
    part: The slice that was taken, "[2]" or "[:, 0:64]"; "" if none was.
    size: Number of elements of the parameter.
  """

  path: str
  part: str
  size: int


class Kind(NamedTuple):
  """What is known of a value while tracing.

  Attributes:
    source: What it owes to other things than parameters.
    depends: Whether it depends on parameters.
    number: Equal numbers stand for equal values.
    parameter: The largest parameter that it is made of; None if of none.
    axes: For each axis, that of the value with this number; None if in order.
    steps: The scans from step to step of which it changes.
    repeated: The axes along which it repeats itself, or the parameter that it
      is made of; None if not known.
    varies: Whether data make entries differ that repeat a parameter.
    is_sum: Whether activity was added to a parameter that repeats itself.
    is_slope: Whether it is made by differentiation.
    looked_up: Whether data chose it from among several.
  """

  source: Source
  depends: bool
  number: int
  parameter: Parameter | None = None
  axes: tuple[int, ...] | None = None
  steps: frozenset[Place] = frozenset()
  repeated: frozenset[int] | None = frozenset()
  varies: bool = False
  is_sum: bool = False
  is_slope: bool = False
  looked_up: bool = False


def excess(kind: Kind) -> int:
  """Returns how much of a value is no parameter, to compare two factors."""
  if kind.parameter is None and kind.source != Source.NOTHING:
    return Source.DATA + 1
  return kind.source


def transposed(kind: Kind, permutation: Sequence[int]) -> Kind:
  axes = kind.axes or tuple(range(len(permutation)))
  repeated = kind.repeated
  return kind._replace(
    axes=tuple(axes[axis] for axis in permutation),
    repeated=repeated
    and frozenset(i for i, axis in enumerate(permutation) if axis in repeated),
  )


def same(one: Kind, other: Kind) -> bool:
  return (one.number, one.axes) == (other.number, other.axes)


def _largest(kinds: Sequence[Kind]) -> Parameter | None:
  parameters = [kind.parameter for kind in kinds if kind.parameter]
  return max(parameters, key=lambda p: p.size, default=None)


def joined(kinds: Sequence[Kind], number: int, steps: frozenset[Place]) -> Kind:
  """Returns the kind of what may be of any of these."""
  is_activity = any(excess(kind) > Source.DATA for kind in kinds)
  repeated = {kind.repeated for kind in kinds}
  return Kind(
    source=max(kind.source for kind in kinds),
    depends=any(kind.depends for kind in kinds),
    number=number,
    parameter=None if is_activity else _largest(kinds),
    steps=steps.union(*(kind.steps for kind in kinds)),
    repeated=repeated.pop() if len(repeated) == 1 else None,
    varies=any(kind.varies for kind in kinds),
    is_sum=not is_activity and any(kind.is_sum for kind in kinds),
    is_slope=all(kind.is_slope for kind in kinds),
    looked_up=any(kind.looked_up for kind in kinds),
  )


def made(
  name: str,
  operands: Sequence[Kind],
  shapes: Sequence[tuple[int, ...]],
  shape: tuple[int, ...],
) -> Kind:
  """Returns the kind of an array that a primitive makes of operands.

  A parameter that is repeated to the size of something else, such as a bias
  that is added to a batch, becomes activity with it. A kernel remains one: a
  kernel times a mask, over its norm, with each of its rows scaled anew for
  every sample, or minus a step along a gradient for every task. So does a
  matrix to which activity is added, until something follows that is not linear:
  it may be a kernel that each sample changes, or a stream with positions.

  Args:
    name: Of the primitive.
    operands: What it takes.
    shapes: Their shapes.
    shape: Of the result.
  """
  activity = [
    place
    for place, kind in enumerate(operands)
    if excess(kind) > Source.DATA and math.prod(shapes[place]) != 1
  ]
  parameter = _largest(operands)
  is_sum = is_made = False
  repeated: frozenset[int] | None = frozenset()
  if parameter is not None:
    spread = [
      _repeats(kind, size, shape)
      for kind, size in zip(operands, shapes, strict=True)
    ]
    repeated = _repeated_by_all(
      [a for kind, a in zip(operands, spread, strict=True) if kind.parameter]
    )
    own = {
      axis
      for axis, size in enumerate(shape)
      if size != 1 and repeated is not None and axis not in repeated
    }
    is_made = True
    is_sum = any(kind.is_sum and kind.parameter for kind in operands)
    others = [] if repeated == frozenset() else activity
    others = [i for i in others if not operands[i].is_slope]
    if others and name in _SUMS and len(own) > 1:
      is_sum = True
    elif others:
      is_made = name in _PRODUCTS and len(own) > 1
      is_made &= all(own.intersection(spread[i] or ()) for i in others)
    is_made &= not is_sum or name in _LINEAR
  steps = [
    kind.steps
    for kind in operands
    if kind.steps and (not is_made or excess(kind) <= Source.DATA)
  ]
  return Kind(
    source=max([kind.source for kind in operands], default=Source.NOTHING),
    depends=any(kind.depends for kind in operands),
    number=0,
    parameter=parameter if is_made else None,
    steps=frozenset[Place]().union(*steps),
    repeated=repeated,
    varies=is_made and (bool(activity) or any(k.varies for k in operands)),
    is_sum=is_made and is_sum,
    is_slope=bool(activity) and all(operands[i].is_slope for i in activity),
    looked_up=any(kind.looked_up for kind in operands),
  )


def _repeated_by_all(
  parts: Sequence[frozenset[int] | None],
) -> frozenset[int] | None:
  """Returns the axes along which all parameters of a result repeat."""
  known = [axes for axes in parts if axes is not None]
  if known and (len(known) == len(parts) or frozenset() in known):
    return known[0].intersection(*known[1:])
  return None


def _repeats(
  kind: Kind, shape: tuple[int, ...], result: tuple[int, ...]
) -> frozenset[int] | None:
  """Returns the axes of a result along which an operand repeats itself."""
  if not shape:
    return frozenset(axis for axis, size in enumerate(result) if size != 1)
  if len(shape) != len(result):
    return None if kind.repeated else kind.repeated
  if kind.repeated is None:
    return None
  return kind.repeated | {
    axis
    for axis, sizes in enumerate(zip(shape, result, strict=True))
    if sizes[0] == 1 and sizes[1] != 1
  }


def gathered(eqn: core.JaxprEqn, operand: Kind, indices: Kind) -> Kind:
  """Returns the kind of what indices choose.

  Rows that data chooses are activity, those of an embedding; matrices remain
  kernels.
  """
  sizes = eqn.params["slice_sizes"]
  is_by_data = indices.source == Source.DATA
  is_row = sum(size != 1 for size in sizes) < 2
  kind = operand._replace(
    source=max(operand.source, indices.source),
    steps=operand.steps | indices.steps,
    repeated=frozenset() if operand.repeated == frozenset() else None,
    axes=None,
  )
  if operand.parameter and is_by_data and is_row:
    return kind._replace(parameter=None)
  return kind._replace(looked_up=kind.looked_up or is_by_data)


def broadcast(eqn: core.JaxprEqn, kind: Kind) -> frozenset[int] | None:
  """Returns the axes along which `broadcast_in_dim` makes a value repeat."""
  if kind.repeated is None:
    return None
  shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
  before = shape_of(eqn.invars[0])
  kept = {
    place
    for axis, place in enumerate(places)
    if axis not in kind.repeated and before[axis] == shape[place]
  }
  return frozenset(
    axis for axis, size in enumerate(shape) if axis not in kept and size != 1
  )


def squeezed(eqn: core.JaxprEqn, kind: Kind) -> frozenset[int] | None:
  if kind.repeated is None:
    return None
  rest = [
    axis
    for axis in range(len(shape_of(eqn.invars[0])))
    if axis not in eqn.params["dimensions"]
  ]
  return frozenset(i for i, axis in enumerate(rest) if axis in kind.repeated)


def part_of(eqn: core.JaxprEqn, parameter: Parameter, index: int) -> Parameter:
  """Returns what an equation takes of a parameter, named if it is a slice."""
  name, options = eqn.primitive.name, eqn.params
  shape = shape_of(eqn.invars[0])
  starts = [0] * len(shape)
  sizes, strides = list(shape), [1] * len(shape)
  if name == "slice":
    starts = list(options["start_indices"])
    strides = list(options["strides"] or strides)
    sizes = [
      limit - start
      for start, limit in zip(starts, options["limit_indices"], strict=True)
    ]
  elif name == "split":
    starts[options["axis"]] = sum(options["sizes"][:index])
    sizes[options["axis"]] = options["sizes"][index]
  elif name == "dynamic_slice":
    literals = [a.val for a in eqn.invars[1:] if isinstance(a, core.Literal)]
    if len(literals) < len(shape):
      return parameter
    starts = [int(value) for value in literals]
    sizes = list(options["slice_sizes"])
  texts = []
  for start, size, stride, full in zip(
    starts, sizes, strides, shape, strict=True
  ):
    if size == full and stride == 1:
      texts.append(":")
    elif size == 1:
      texts.append(str(start))
    else:
      texts.append(f"{start}:{start + size}" + f":{stride}" * (stride > 1))
  while texts and texts[-1] == ":":
    texts.pop()
  if not texts:
    return parameter
  return parameter._replace(part=f"{parameter.part}[{', '.join(texts)}]")
