"""The dense layers of a jaxpr: products of activity with parameters."""

from collections.abc import Hashable, Iterable, Sequence
import itertools
import math
import re
from typing import Any, NamedTuple

from jax.extend import core
import jax.numpy as jnp

from bean_jax import _jaxpr, _kinds, _layout
from bean_jax._jaxpr import Place, dtype_of, shape_of
from bean_jax._kinds import Kind, Parameter, Source
from bean_jax._layout import Layout

# What JAX calls the backward pass of what it differentiates.
_BACKWARD = re.compile(r"transpose\((\w+\()*jvp\(")
# They keep the entries of a matrix in a vector.
_SPARSE = re.compile(r"(bcoo|bcsr|coo|csr)_")
_NAMES_OF_CONTAINERS = {
  "cond": "jax.lax.cond or switch",
  "custom_jvp_call": "jax.custom_jvp",
  "custom_vjp_call": "jax.custom_vjp",
  "ffi_call": "a foreign call",
  "pallas_call": "a Pallas kernel",
  "pure_callback": "jax.pure_callback",
  "ragged_dot_general": "jax.lax.ragged_dot",
  "shard_map": "jax.shard_map",
  "while": "jax.lax.while_loop",
}
_SUM = "it is written as a sum of products, and not as a matrix product"
_UNCLEAR = (
  "both of its factors are made of parameters and of data, so that neither is "
  "known to be the kernel"
)


class Product(NamedTuple):
  """A product of activity with parameters: one call of a dense layer.

  Attributes:
    kind: Of the kernel.
    neurons: Whether the inputs depend on parameters; raw data does not.
    trouble: Why its operands cannot be handed out; "" if they can.
    size: N and M of one kernel; None if they cannot be seen.
    layout: Of its operands; None if they cannot be seen.
    stack: For each axis of the stack of layers that it is a call of: where it
      is in what is observed, and its size.
    convolution: Whether it is a convolution.
    is_differentiated: Whether the program has a derivative of it.
  """

  kind: Kind
  neurons: bool
  trouble: str
  size: tuple[int | None, int | None] = (None, None)
  layout: Layout | None = None
  stack: tuple[tuple[int, int], ...] = ()
  convolution: bool = False
  is_differentiated: bool = False

  @property
  def sizes(self) -> tuple[int, ...]:
    """Sizes of the stack of layers."""
    return tuple(size for _, size in self.stack)

  @property
  def summed(self) -> tuple[int, ...]:
    """The axes of the parameter that are summed over."""
    axes = self.layout.summed[1] if self.layout else ()
    return tuple(
      sorted(self.kind.axes[i] if self.kind.axes else i for i in axes)
    )


class _Context(NamedTuple):
  """Where an equation stands.

  Attributes:
    place: Its own.
    scans: Those that it is within, and their lengths.
    trouble: Why no operands can be had there; "" if they can.
    is_derivative: Whether it is part of a backward pass.
    is_inside: Whether it is part of what is differentiated.
    is_forward: Whether that is differentiated in forward mode.
    beside: The equations before it and after it.
  """

  place: Place = ()
  scans: tuple[tuple[Place, int], ...] = ()
  trouble: str = ""
  is_derivative: bool = False
  is_inside: bool = False
  is_forward: bool = False
  beside: tuple[core.JaxprEqn | None, core.JaxprEqn | None] = (None, None)


class Program:
  """What a jaxpr computes: the kinds of its values, and its dense layers.

  Attributes:
    outputs: Kinds of what it returns.
    products: Calls of dense layers by place.
  """

  def __init__(
    self, jaxpr: core.ClosedJaxpr, arguments: Sequence[Parameter | Source]
  ) -> None:
    """Analyzes a jaxpr.

    Args:
      jaxpr: Of any function.
      arguments: For each argument, the parameter that it is; DATA if it is
        data, NOTHING if it is neither.
    """
    self._numbers: dict[Hashable, int] = {}
    self._fresh = itertools.count()
    self.products: dict[Place, Product] = {}
    # The numbers of references, arrays that a program changes.
    self._read = set[int]()
    self._written = set[int]()
    # The numbers of the kernels of products in derivatives.
    self._derivatives: dict[Place, int] = {}
    kinds = [
      Kind(Source.NOTHING, True, self._number(("argument", index)), argument)
      if isinstance(argument, Parameter)
      else Kind(argument, False, self._number(("argument", index)))
      for index, argument in enumerate(arguments)
    ]
    self.outputs = self._body(jaxpr, kinds, _Context())
    if self._read & self._written:
      raise NotImplementedError(
        "the function reads from a jax.Ref what it has written to it, which "
        "bean_jax cannot follow to dense layers; let the values be returned "
        "instead, or give layers_fn"
      )

  def layers_of(self, kinds: Iterable[Kind]) -> set[Place]:
    """Returns the places of products that some values depend on.

    Where they depend on the derivative of a layer alone, as of the last one of
    an energy, that layer counts.
    """
    places = set[Place]().union(*(kind.products for kind in kinds))
    found = places & self.products.keys()
    numbers = {self._derivatives[p] for p in places & self._derivatives.keys()}
    numbers -= {self.products[place].kind.number for place in found}
    return found | {
      place
      for place, product in self.products.items()
      if product.is_differentiated and product.kind.number in numbers
    }

  def _number(self, key: Hashable) -> int:
    """Returns one number for equal keys."""
    try:
      return self._numbers.setdefault(key, next(self._fresh))
    except TypeError:  # Options of a primitive need not be hashable.
      return next(self._fresh)

  def _body(
    self, jaxpr: core.ClosedJaxpr, kinds: Iterable[Kind], context: _Context
  ) -> list[Kind]:
    """Returns the kinds of what a jaxpr returns."""
    known = dict(zip(jaxpr.jaxpr.invars, kinds, strict=True))
    for var, const in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True):
      is_one = math.prod(shape_of(var)) == 1
      source = Source.NOTHING if is_one else Source.CLOSED_OVER
      known[var] = Kind(source, False, self._number(("const", id(const))))

    def kind_of(atom: Any) -> Kind:
      if isinstance(atom, core.Literal):
        key = ("literal", str(atom.val), str(atom.aval))
        return Kind(Source.NOTHING, False, self._number(key))
      return known[atom]

    equations = jaxpr.jaxpr.eqns
    stacks = [str(eqn.source_info.name_stack) for eqn in equations]
    backward = {stack for stack in set(stacks) if _BACKWARD.search(stack)}
    padded = [None, *equations, None]
    for index, (eqn, stack) in enumerate(zip(equations, stacks, strict=True)):
      is_inside = "jvp(" in stack
      is_forward = is_inside and f"transpose({stack})" not in backward
      here = context._replace(
        place=(*context.place, index),
        is_derivative=context.is_derivative or stack in backward,
        is_inside=context.is_inside or is_inside,
        is_forward=context.is_forward or is_forward,
        beside=(padded[index], padded[index + 2]),
      )
      outputs = self._equation(eqn, list(map(kind_of, eqn.invars)), here)
      if here.is_derivative:
        outputs = [kind._replace(is_slope=True) for kind in outputs]
      known.update(zip(eqn.outvars, outputs, strict=True))
    return list(map(kind_of, jaxpr.jaxpr.outvars))

  def _equation(
    self, eqn: core.JaxprEqn, operands: list[Kind], context: _Context
  ) -> list[Kind]:
    """Returns the kinds of what an equation makes, and notes products."""
    name = eqn.primitive.name
    if name in _jaxpr.INLINED or name in _jaxpr.REMATERIALIZED:
      return self._body(_jaxpr.body_of(eqn), operands, context)
    if name == "scan":
      scans = (*context.scans, (context.place, eqn.params["length"]))
      context = context._replace(scans=scans)
      return self._loop(_jaxpr.scan_of(eqn), operands, context)
    if name in _jaxpr.UNCHANGED:
      return operands
    if name in ("dot_general", "conv_general_dilated"):
      return [self._product(eqn, operands, context)]
    if name == "reduce_sum":
      return [self._sum(eqn, operands[0], context)]
    if name in _jaxpr.READS or name in _jaxpr.WRITES:
      numbers = self._read if name in _jaxpr.READS else self._written
      numbers.add(operands[0].number)
      return self._operation(eqn, operands)
    bodies = list(_jaxpr.bodies(eqn))
    if not bodies and (len(operands) < 2 or name in _kinds.HARMLESS):
      return self._operation(eqn, operands)
    within = f"it is called within {_NAMES_OF_CONTAINERS.get(name, name)}"
    context = context._replace(trouble=context.trouble or within)
    kinds = self._closed(eqn, bodies, operands, context)
    # What it makes may depend on all that enters, and on all inside.
    depth = len(context.place)
    inside = [
      place
      for place in (*self.products, *self._derivatives)
      if place[:depth] == context.place
    ]
    entering = [kind.products for kind in operands]
    products = frozenset(inside).union(*entering)
    return [kind._replace(products=products) for kind in kinds]

  def _loop(
    self, loop: _jaxpr.Loop, operands: list[Kind], context: _Context
  ) -> list[Kind]:
    """Returns the kinds of what a loop makes, by a fixed point of its carry."""
    place = context.place
    consts = operands[: loop.num_consts]
    carry = operands[loop.num_consts :][: loop.num_carry]
    slices = [
      self._slice_of_step(kind, place)
      for kind in operands[loop.num_consts + loop.num_carry :]
    ]
    numbers = [self._number(("carry", place, i)) for i in range(len(carry))]
    while True:
      self.products = {
        other: product
        for other, product in self.products.items()
        if other[: len(place)] != place
      }
      outputs = self._body(loop.body, [*consts, *carry, *slices], context)
      after = [
        before
        if _kinds.same(before, kind)
        else _kinds.joined(
          (before, kind),
          number=number,
          steps=before.steps | kind.steps | {place},
        )
        for before, kind, number in zip(carry, outputs, numbers, strict=False)
      ]
      if after == carry:
        break
      carry = after
    stacked = [
      kind._replace(
        number=self._number(("stack", kind.number, kind.axes)),
        axes=None,
        repeated=kind.repeated and frozenset(a + 1 for a in kind.repeated),
      )
      for kind in outputs[loop.num_carry :]
    ]
    return [k._replace(steps=k.steps - {place}) for k in (*carry, *stacked)]

  def _slice_of_step(self, kind: Kind, scan: Place) -> Kind:
    """Returns the kind of one step's slice of what a scan goes over."""
    repeated = kind.repeated
    same = repeated is not None and 0 in repeated
    return kind._replace(
      number=self._number(("slice", kind.number, kind.axes)),
      axes=None,
      steps=kind.steps if same else kind.steps | {scan},
      repeated=repeated and frozenset(a - 1 for a in repeated if a),
    )

  def _closed(
    self,
    eqn: core.JaxprEqn,
    bodies: Sequence[core.ClosedJaxpr],
    operands: list[Kind],
    context: _Context,
  ) -> list[Kind]:
    """Returns the kinds of what something makes that cannot be walked into."""
    name, place = eqn.primitive.name, context.place
    if name == "while" and "body_nconsts" in eqn.params:
      num_tests = eqn.params["cond_nconsts"]
      num_consts = eqn.params["body_nconsts"]
      num_carry = len(operands) - num_tests - num_consts
      loop = _jaxpr.Loop(eqn.params["body_jaxpr"], num_consts, num_carry)
      return self._loop(loop, operands[num_tests:], context)
    if name == "cond":
      outcomes = [
        self._body(body, operands[1:], context._replace(place=(*place, index)))
        for index, body in enumerate(bodies)
      ]
      return [
        kinds[0]
        if all(_kinds.same(kinds[0], kind) for kind in kinds)
        else _kinds.joined(
          kinds,
          number=self._number(("branch", *kinds)),
          steps=operands[0].steps.union(*[kind.steps for kind in kinds]),
        )
        for kinds in zip(*outcomes, strict=True)
      ]
    if len(bodies) == 1 and len(bodies[0].jaxpr.invars) == len(operands):
      return self._body(bodies[0], operands, context)
    most = max(map(_kinds.excess, operands), default=0)
    rank = 1 if _SPARSE.match(name) else 2
    for index, kind in enumerate(operands):
      sizes = shape_of(eqn.invars[index])
      is_matrix = sum(size != 1 for size in sizes) >= rank
      if kind.parameter and is_matrix and _kinds.excess(kind) < most:
        self.products[*place, index] = Product(kind, True, context.trouble)
    return self._operation(eqn, operands)

  def _product(
    self, eqn: core.JaxprEqn, operands: list[Kind], context: _Context
  ) -> Kind:
    """Returns the kind of a matrix product, and notes it if it is a layer."""
    (result,) = self._operation(eqn, operands)
    axes = eqn.params["dimension_numbers"]
    convolution = eqn.primitive.name == "conv_general_dilated"
    # The kernel is the factor that owes less to other things than parameters.
    ranks = [
      (_kinds.excess(kind), kind.is_mixed, not kind.parameter)
      for kind in operands
    ]
    kernel = int(convolution or ranks[0] >= ranks[1])
    kind, inputs = operands[kernel], operands[1 - kernel]
    of_parameters = inputs.parameter and inputs.source == Source.NOTHING
    is_least = ranks[kernel] <= ranks[1 - kernel]
    if kind.parameter is None or of_parameters or not is_least:
      return result
    if convolution:
      summed, batch = ((axes.lhs_spec[1],), (axes.rhs_spec[1],)), ((), ())
    else:
      summed, batch = ((pair[1 - kernel], pair[kernel]) for pair in axes)
    # A kernel that samples change repeats along them, and meets their inputs.
    is_by_sample = kind.repeated and kind.repeated <= set(batch[1])
    may_be_none = inputs.is_mixed or not is_by_sample
    if kind.is_mixed and may_be_none and not convolution:
      return result
    if context.is_derivative or _is_tangent(eqn, kernel, context):
      self._derivatives[context.place] = kind.number
    else:
      shape = shape_of(eqn.invars[kernel])
      layout = _layout.layout_of(kernel, kind, shape, summed, batch)
      unclear = _UNCLEAR if ranks[0] == ranks[1] else ""
      self.products[context.place] = Product(
        kind,
        inputs.depends,
        context.trouble or unclear or _trouble_of(eqn, layout, kind),
        (_size(shape, layout.summed[1]), _size(shape, layout.others)),
        layout,
        _stack_of(context.scans, layout, kind, shape),
        convolution,
        context.is_inside,
      )
    result = result._replace(
      repeated=frozenset(), products=result.products | {context.place}
    )
    closed_over = inputs.source <= Source.CLOSED_OVER and not inputs.depends
    if closed_over and kind.source <= Source.CLOSED_OVER:
      # Data, or a matrix that belongs to the making of a kernel.
      return result._replace(source=Source.PRODUCT, parameter=kind.parameter)
    return result._replace(source=Source.DATA, depends=True, parameter=None)

  def _sum(self, eqn: core.JaxprEqn, kind: Kind, context: _Context) -> Kind:
    """Returns the kind of a sum, and notes that of a kernel times activity."""
    (result,) = self._operation(eqn, [kind])
    shape = shape_of(eqn.invars[0])
    repeated = kind.repeated or frozenset()
    own = {i for i, size in enumerate(shape) if size != 1} - repeated
    summed = own.intersection(eqn.params["axes"])
    is_kernel = kind.parameter and not kind.is_mixed and kind.varies
    if not (is_kernel and repeated and summed):
      return result
    products = result.products
    if not context.is_derivative and summed != own:
      self.products[context.place] = Product(
        kind,
        kind.depends,
        context.trouble or _SUM,
        (_size(shape, summed), _size(shape, own - summed)),
      )
      products |= {context.place}
    return result._replace(
      parameter=None, source=Source.DATA, products=products
    )

  def _operation(self, eqn: core.JaxprEqn, operands: list[Kind]) -> list[Kind]:
    """Returns the kinds of what a primitive makes of its operands."""
    name = eqn.primitive.name
    first = operands[0] if operands else None
    if name == "transpose" and first:
      return [_kinds.transposed(first, eqn.params["permutation"])]
    values = tuple((kind.number, kind.axes) for kind in operands)
    key = (name, tuple(eqn.params.items()), values)
    shapes = [shape_of(atom) for atom in eqn.invars]
    results = []
    for index, var in enumerate(eqn.outvars):
      if name == "gather":
        kind = _kinds.gathered(eqn, *operands[:2])
      elif name == "broadcast_in_dim" and first:
        kind = _kinds.broadcast(eqn, first)
      elif name == "squeeze" and first:
        removed = eqn.params["dimensions"]
        rest = [axis for axis in range(len(shapes[0])) if axis not in removed]
        kind = _kinds.rearranged(first, rest)
      else:
        kind = _kinds.made(name, operands, shapes, shape_of(var))
      if name in _kinds.NOISE:
        kind = Kind(Source.NOTHING, False, 0, steps=kind.steps)
      if name == "dynamic_slice":
        by_data = any(kind.source == Source.DATA for kind in operands[1:])
        kind = kind._replace(looked_up=kind.looked_up or by_data)
      if kind.parameter and name in ("slice", "split", "dynamic_slice"):
        part = _kinds.part_of(eqn, kind.parameter, index)
        kind = kind._replace(parameter=part)
      results.append(kind._replace(number=self._number((key, index))))
    return results


def _trouble_of(eqn: core.JaxprEqn, layout: Layout, kind: Kind) -> str:
  """Returns why the operands of a product cannot be had, or ""."""
  groups = [eqn.params.get(f"{x}_group_count", 1) for x in ("feature", "batch")]
  dtypes = [dtype_of(atom) for atom in eqn.invars]
  if max(groups) > 1:
    return "its channels are grouped"
  if kind.looked_up:
    return "data chooses its kernel from among several"
  if layout.stack[1] and kind.repeated is None:
    return "its kernel is repeated in a way that cannot be followed"
  if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
    return "it is complex"
  if not jnp.issubdtype(dtypes[layout.kernel], jnp.floating):
    return "its kernel is of integers"
  return ""


def _stack_of(
  scans: tuple[tuple[Place, int], ...],
  layout: Layout,
  kind: Kind,
  shape: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
  """Returns the axes of layers in what is observed, and their sizes."""
  repeats = kind.repeated or ()
  return (
    *((i, num) for i, (scan, num) in enumerate(scans) if scan in kind.steps),
    *(
      (i, shape[axis])
      for i, axis in enumerate(layout.stack[1], len(scans))
      if axis not in repeats
    ),
  )


def _size(shape: tuple[int, ...], axes: Iterable[int]) -> int:
  return math.prod(shape[axis] for axis in axes)


def _is_tangent(eqn: core.JaxprEqn, kernel: int, context: _Context) -> bool:
  """Tells whether a product is the derivative of that before it.

  In forward mode, the product of inputs and a kernel is followed at once by
  that of the inputs' tangents and the kernel, and by that of the inputs and the
  kernel's tangents, and the sum of these two.
  """
  before, after = context.beside
  if not context.is_forward or before is None:
    return False
  of_inputs = (
    before.primitive is eqn.primitive
    and before.invars[kernel] is eqn.invars[kernel]
  )
  return of_inputs or (
    after is not None
    and after.primitive.name == "add_any"
    and after.invars == [*before.outvars, *eqn.outvars]
  )
