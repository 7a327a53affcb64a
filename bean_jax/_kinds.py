"""What a value of a program depends on: parameters, data, or both.

A value is *made of* a parameter if it is one, or if operations that keep its
entries apart made it of one: casts, slices, sums and products with something of
its own size, products of parameters. So a weight-normalized, masked, low-rank
or merged kernel is made of parameters. Whatever else depends on parameters or
on data is *activity*.
"""

from collections.abc import Iterable, Sequence
import enum
import math
from typing import Any, NamedTuple

from jax.extend import core

from bean_jax._jaxpr import Place, shape_of

# What keys make carries no data, whatever the keys are made of.
NOISE = (
  {"random_bits", "random_fold_in", "random_gamma", "random_seed"}
  | {"random_split", "random_unwrap", "random_wrap", "rng_bit_generator"}
  | {"threefry2x32"}
)
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
    products: The matrix products with parameters that it depends on.
    varies: Whether data make entries differ that repeat a parameter.
    is_mixed: Whether activity was added to a parameter that repeats itself, or
      multiplied each of its repetitions as a whole.
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
  products: frozenset[Place] = frozenset()
  varies: bool = False
  is_mixed: bool = False
  is_slope: bool = False
  looked_up: bool = False


def excess(kind: Kind) -> int:
  """Returns how much of a value is no parameter, to compare two factors."""
  if kind.parameter is None and kind.source != Source.NOTHING:
    return Source.DATA + 1
  return kind.source


def same(one: Kind, other: Kind) -> bool:
  return (one.number, one.axes) == (other.number, other.axes)


def _largest(kinds: Iterable[Kind]) -> Parameter | None:
  parameters = [kind.parameter for kind in kinds if kind.parameter]
  return max(parameters, key=lambda p: p.size, default=None)


def joined(kinds: Sequence[Kind], **known: Any) -> Kind:
  """Returns the kind of what may be any of these, but for what is known."""
  if len(kinds) == 1:
    return kinds[0]._replace(number=0, axes=None, **known)
  # Each field of all of them.
  every: Any = Kind._make(zip(*kinds, strict=True))
  is_activity = max(map(excess, kinds)) > Source.DATA
  repeated = set(every.repeated)
  fields: dict[str, Any] = {
    "source": max(every.source),
    "depends": any(every.depends),
    "number": 0,
    "parameter": None if is_activity else _largest(kinds),
    "steps": frozenset().union(*every.steps),
    "repeated": repeated.pop() if len(repeated) == 1 else None,
    "products": frozenset().union(*every.products),
    "varies": any(every.varies),
    "is_mixed": not is_activity and any(every.is_mixed),
    "is_slope": all(every.is_slope),
    "looked_up": any(every.looked_up),
  }
  return Kind(**fields | known)


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
  matrix to which activity is added, or which gates of its own size multiply,
  until something follows that is not linear: it may be a kernel that each
  sample changes, or a stream with learned positions.

  Args:
    name: Of the primitive.
    operands: What it takes.
    shapes: Their shapes.
    shape: Of the result.
  """
  if not operands:
    return Kind(Source.NOTHING, False, 0)
  activity = [
    i
    for i, kind in enumerate(operands)
    if excess(kind) > Source.DATA and math.prod(shapes[i]) != 1
  ]
  known: dict[str, Any] = {
    "parameter": None,
    "repeated": frozenset(),
    "varies": False,
    "is_mixed": False,
    "is_slope": bool(activity) and all(operands[i].is_slope for i in activity),
  }
  parameter = _largest(operands)
  if parameter is None:
    return joined(operands, **known)
  spread = [
    _repeats(kind, size, shape)
    for kind, size in zip(operands, shapes, strict=True)
  ]
  known["repeated"] = repeated = _repeated_by_all(
    [a for kind, a in zip(operands, spread, strict=True) if kind.parameter]
  )
  is_mixed = any(kind.is_mixed and kind.parameter for kind in operands)
  others = [i for i in activity if not operands[i].is_slope]
  if others and repeated != frozenset():
    # The axes that the parameter itself has: a kernel has two at least.
    own = set[int]()
    if repeated is not None:
      own = {i for i, size in enumerate(shape) if size != 1} - repeated
    if len(own) < 2 or name not in _SUMS | _PRODUCTS:
      return joined(operands, **known)
    # What repeats along one of them scales the kernel's rows or columns.
    is_mixed |= name in _SUMS or not all(
      own.intersection(spread[i] or ()) for i in others
    )
  if is_mixed and name not in _LINEAR:
    return joined(operands, **known)
  # A kernel that data change from step to step is one kernel.
  steps = [kind.steps for kind in operands if excess(kind) <= Source.DATA]
  known |= {
    "parameter": parameter,
    "varies": bool(activity) or any(kind.varies for kind in operands),
    "is_mixed": is_mixed,
    "steps": frozenset().union(*steps),
  }
  return joined(operands, **known)


def _repeated_by_all(
  parts: Sequence[frozenset[int] | None],
) -> frozenset[int] | None:
  """Returns the axes along which all parameters of a result repeat."""
  known = [axes for axes in parts if axes is not None]
  if known and (len(known) == len(parts) or frozenset() in known):
    return known[0].intersection(*known)
  return None


def _repeats(
  kind: Kind, shape: tuple[int, ...], result: tuple[int, ...]
) -> frozenset[int] | None:
  """Returns the axes of a result along which an operand repeats itself."""
  if not shape:
    return frozenset(axis for axis, size in enumerate(result) if size != 1)
  if kind.repeated is None:
    return None
  if len(shape) != len(result):
    return None if kind.repeated else frozenset()
  return kind.repeated | {
    axis for axis, size in enumerate(result) if shape[axis] == 1 and size != 1
  }


def rearranged(kind: Kind, origins: Sequence[int]) -> Kind:
  """Returns the kind of a value with these of its axes, in this order."""
  repeated = kind.repeated
  return kind._replace(
    axes=None,
    repeated=repeated
    and frozenset(i for i, axis in enumerate(origins) if axis in repeated),
  )


def transposed(kind: Kind, permutation: Sequence[int]) -> Kind:
  axes = kind.axes or range(len(permutation))
  return rearranged(kind, permutation)._replace(
    axes=tuple(axes[axis] for axis in permutation)
  )


def broadcast(eqn: core.JaxprEqn, kind: Kind) -> Kind:
  """Returns the kind of what `broadcast_in_dim` makes of a value."""
  if kind.repeated is None:
    return kind._replace(axes=None)
  shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
  kept = {
    place
    for axis, place in enumerate(places)
    if axis not in kind.repeated
    and shape_of(eqn.invars[0])[axis] == shape[place]
  }
  return kind._replace(
    axes=None,
    repeated=frozenset(
      i for i, size in enumerate(shape) if i not in kept and size != 1
    ),
  )


def gathered(eqn: core.JaxprEqn, operand: Kind, indices: Kind) -> Kind:
  """Returns the kind of what indices choose.

  Rows that data chooses are activity, those of an embedding; matrices remain
  kernels.
  """
  is_by_data = indices.source == Source.DATA
  is_row = sum(size != 1 for size in eqn.params["slice_sizes"]) < 2
  kind = operand._replace(
    source=max(operand.source, indices.source),
    steps=operand.steps | indices.steps,
    products=operand.products | indices.products,
    repeated=frozenset() if operand.repeated == frozenset() else None,
    axes=None,
  )
  if operand.parameter and is_by_data and is_row:
    return kind._replace(parameter=None)
  return kind._replace(looked_up=kind.looked_up or is_by_data)


def part_of(eqn: core.JaxprEqn, parameter: Parameter, index: int) -> Parameter:
  """Returns what an equation takes of a parameter, named if it is a slice."""
  name, options = eqn.primitive.name, eqn.params
  shape = shape_of(eqn.invars[0])
  parts = [slice(0, size) for size in shape]
  if name == "slice":
    strides = options["strides"] or [1] * len(shape)
    ends = options["start_indices"], options["limit_indices"]
    parts = list(map(slice, *ends, strides))
  elif name == "split":
    start = sum(options["sizes"][:index])
    parts[options["axis"]] = slice(start, start + options["sizes"][index])
  else:
    starts = [a.val for a in eqn.invars[1:] if isinstance(a, core.Literal)]
    if len(starts) < len(shape):
      return parameter
    parts = [
      slice(int(start), int(start) + size)
      for start, size in zip(starts, options["slice_sizes"], strict=True)
    ]
  texts = list(map(_text, parts, shape))
  while texts and texts[-1] == ":":
    texts.pop()
  if not texts:
    return parameter
  return parameter._replace(part=f"{parameter.part}[{', '.join(texts)}]")


def _text(part: slice, size: int) -> str:
  start, stop, stride = part.indices(size)
  if (start, stop, stride) == (0, size, 1):
    return ":"
  if stop - start == 1:
    return str(start)
  return f"{start}:{stop}" + f":{stride}" * (stride > 1)
