"""The dense layers of a jaxpr: products of activity with parameters."""

from collections.abc import Hashable, Iterable, Sequence
import itertools
import math
import re
from typing import Any, NamedTuple

from jax.extend import core
import jax.numpy as jnp

from bean_jax import _jaxpr, _kinds
from bean_jax._jaxpr import Place, dtype_of, shape_of
from bean_jax._kinds import Kind, Parameter, Source

# What JAX calls the backward pass of what it differentiates.
_BACKWARD = re.compile(r"transpose\((\w+\()*jvp\(")
# They keep the entries of a matrix in a vector.
_SPARSE = re.compile(r"(bcoo|bcsr|coo|csr)_")
_NAMES_OF_CONTAINERS = {
  "cond": "jax.lax.cond or switch",
  "custom_jvp_call": "jax.custom_jvp",
  "custom_vjp_call": "jax.custom_vjp",
  "custom_vjp_call_jaxpr": "jax.custom_vjp",
  "ffi_call": "a foreign call",
  "io_callback": "jax.experimental.io_callback",
  "pallas_call": "a Pallas kernel",
  "pure_callback": "jax.pure_callback",
  "ragged_dot": "jax.lax.ragged_dot",
  "ragged_dot_general": "jax.lax.ragged_dot",
  "shard_map": "jax.shard_map",
  "while": "jax.lax.while_loop",
}
_LOOKED_UP = "data chooses its kernel from among several"
_REPEATED = "its kernel is repeated in a way that cannot be followed"
_SUM = "it is written as a sum of products, and not as a matrix product"
_UNCLEAR = (
  "both of its factors are made of parameters and of data, so that neither is "
  "known to be the kernel"
)


class Product(NamedTuple):
  """A product of activity with parameters: one call of a dense layer.

  Attributes:
    kernel: Which of the two operands is the kernel.
    kind: Of the kernel.
    contracted: Axes of inputs and kernel that are summed over, in the order of
      the kernel.
    batch: Axes of inputs and kernel along which products stand side by side.
    shape: Of the kernel.
    neurons: Whether the inputs depend on parameters; raw data does not.
    scans: The scans around it, from the outermost inwards, with their lengths.
    convolution: Whether it is a convolution.
    is_differentiated: Whether the program has a derivative of it.
    trouble: Why its operands cannot be handed out; "" if they can.
  """

  kernel: int
  kind: Kind
  contracted: tuple[tuple[int, ...], tuple[int, ...]]
  batch: tuple[tuple[int, ...], tuple[int, ...]]
  shape: tuple[int, ...]
  neurons: bool
  scans: tuple[tuple[Place, int], ...] = ()
  convolution: bool = False
  is_differentiated: bool = False
  trouble: str = ""

  @property
  def batch_of_kernels(self) -> tuple[int, ...]:
    """Which pairs of batch axes have another kernel at each place."""
    return tuple(
      i
      for i, axis in enumerate(self.batch[1])
      if self.kind.varies or not self._is_repeated(axis)
    )

  @property
  def batch_of_layers(self) -> tuple[int, ...]:
    """Which of these are of layers of their own, and not of data."""
    return tuple(
      place
      for place, i in enumerate(self.batch_of_kernels)
      if not self._is_repeated(self.batch[1][i])
    )

  def _is_repeated(self, axis: int) -> bool:
    return axis in (self.kind.repeated or ())

  @property
  def stack(self) -> tuple[int, ...]:
    """Sizes of the stack of kernels, scans first."""
    pairs = [self.batch_of_kernels[place] for place in self.batch_of_layers]
    batch = tuple(self.shape[self.batch[1][i]] for i in pairs)
    return tuple(n for s, n in self.scans if s in self.kind.steps) + batch

  @property
  def layout(self) -> "Product":
    """All that the places of its operands' axes depend on, and no more."""
    kind = self.kind
    arrangement = Kind(
      Source.NOTHING,
      True,
      0,
      axes=kind.axes,
      repeated=kind.repeated,
      varies=kind.varies,
    )
    return Product(
      self.kernel, arrangement, self.contracted, self.batch, self.shape, True
    )

  @property
  def sizes(self) -> tuple[int, int]:
    """N and M of one kernel."""
    num_neurons = math.prod(self.shape[axis] for axis in self.contracted[1])
    batch = math.prod(self.shape[axis] for axis in self.batch[1])
    size = math.prod(self.shape)
    return num_neurons, size // max(1, num_neurons * batch)


class _Context(NamedTuple):
  """Where an equation stands."""

  place: Place = ()
  scans: tuple[tuple[Place, int], ...] = ()
  trouble: str = ""
  is_derivative: bool = False
  is_inside: bool = False  # Of what is differentiated,
  is_forward: bool = False  # in forward mode.
  beside: tuple[core.JaxprEqn | None, core.JaxprEqn | None] = (None, None)


class Program:
  """What a jaxpr computes: the kinds of its values, and its dense layers.

  Attributes:
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
    self._jaxpr = jaxpr
    self._numbers: dict[Hashable, int] = {}
    self._fresh = itertools.count()
    self.products: dict[Place, Product] = {}
    # The numbers of the kernels of products in derivatives.
    self._derivatives: dict[Place, int] = {}
    kinds = [
      Kind(Source.NOTHING, True, self._number(("argument", index)), argument)
      if isinstance(argument, Parameter)
      else Kind(argument, False, self._number(("argument", index)))
      for index, argument in enumerate(arguments)
    ]
    self._body(jaxpr, kinds, _Context())
    self._within: dict[Place, set[Place]] = {}
    for place in (*self.products, *self._derivatives):
      for depth in range(1, len(place) + 1):
        self._within.setdefault(place[:depth], set()).add(place)

  def needed(self, outputs: Sequence[bool]) -> set[Place]:
    """Returns the places of products that some outputs depend on."""
    return self._products(outputs, set())

  def making(self, places: set[Place]) -> set[Place]:
    """Returns the places of products that the kernels of others depend on.

    Those of spectral normalization, for example, belong to the making of a
    kernel, and not to what the layer does.
    """
    return self._products([False] * len(self._jaxpr.jaxpr.outvars), places)

  def _products(
    self, outputs: Sequence[bool], kernels: set[Place]
  ) -> set[Place]:
    """Returns the places of products that outputs or kernels depend on.

    Where they depend on the derivative of a layer alone, as of the last one of
    an energy, that layer counts.
    """
    places: set[Place] = set()
    self._needed(self._jaxpr, outputs, (), kernels, places)
    found = places & self.products.keys()
    numbers = {self._derivatives[p] for p in places - found}
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
      source = Source.NOTHING if jnp.size(const) == 1 else Source.CLOSED_OVER
      known[var] = Kind(source, False, self._number(("const", id(const))))

    def kind_of(atom: Any) -> Kind:
      if isinstance(atom, core.Literal):
        key = ("literal", str(atom.val), str(atom.aval))
        return Kind(Source.NOTHING, False, self._number(key))
      return known[atom]

    equations = jaxpr.jaxpr.eqns
    stacks = [str(eqn.source_info.name_stack) for eqn in equations]
    backward = {stack for stack in set(stacks) if _BACKWARD.search(stack)}
    before = None
    after = [*equations[1:], None]
    for index, (eqn, stack) in enumerate(zip(equations, stacks, strict=True)):
      is_inside = "jvp(" in stack
      is_forward = is_inside and f"transpose({stack})" not in backward
      here = context._replace(
        place=(*context.place, index),
        is_derivative=context.is_derivative or stack in backward,
        is_inside=context.is_inside or is_inside,
        is_forward=context.is_forward or is_forward,
        beside=(before, after[index]),
      )
      before = eqn
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
      loop = _jaxpr.scan_of(eqn)
      scans = (*context.scans, (context.place, eqn.params["length"]))
      return self._loop(loop, operands, context._replace(scans=scans))
    if name in _jaxpr.UNCHANGED:
      return operands
    if name == "dot_general":
      return [self._dot_general(eqn, operands, context)]
    if name == "conv_general_dilated":
      return [self._convolution(eqn, operands, context)]
    if name == "reduce_sum":
      return [self._sum(eqn, operands[0], context)]
    bodies = list(_jaxpr.bodies(eqn))
    is_harmless = len(operands) < 2 or name in _kinds.HARMLESS
    if bodies or not is_harmless:
      within = f"it is called within {_NAMES_OF_CONTAINERS.get(name, name)}"
      context = context._replace(trouble=context.trouble or within)
      return self._closed(eqn, bodies, operands, context)
    return self._operation(eqn, operands)

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
        else _kinds.joined((before, kind), number, frozenset((place,)))
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
    if eqn.primitive.name == "while" and "body_nconsts" in eqn.params:
      num_tests = eqn.params["cond_nconsts"]
      num_consts = eqn.params["body_nconsts"]
      num_carry = len(operands) - num_tests - num_consts
      loop = _jaxpr.Loop(eqn.params["body_jaxpr"], num_consts, num_carry)
      return self._loop(loop, operands[num_tests:], context)
    if eqn.primitive.name == "cond":
      outcomes = [
        self._body(
          branch,
          operands[1:],
          context._replace(place=(*context.place, index)),
        )
        for index, branch in enumerate(bodies)
      ]
      return [
        kinds[0]
        if all(_kinds.same(kinds[0], kind) for kind in kinds)
        else _kinds.joined(
          kinds, self._number(("branch", *kinds)), operands[0].steps
        )
        for kinds in zip(*outcomes, strict=True)
      ]
    if len(bodies) == 1 and len(bodies[0].jaxpr.invars) == len(operands):
      return self._body(bodies[0], operands, context)
    most = max(map(_kinds.excess, operands), default=0)
    rank = 1 if _SPARSE.match(eqn.primitive.name) else 2
    for index, kind in enumerate(operands):
      shape = shape_of(eqn.invars[index])
      is_matrix = sum(size != 1 for size in shape) >= rank
      if kind.parameter and is_matrix and _kinds.excess(kind) < most:
        none: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self.products[*context.place, index] = Product(
          index, kind, none, none, shape, True, trouble=context.trouble
        )
    return self._operation(eqn, operands)

  def _dot_general(
    self, eqn: core.JaxprEqn, operands: list[Kind], context: _Context
  ) -> Kind:
    """Returns the kind of a matrix product, and notes it if it is a layer."""
    ranks = [(_kinds.excess(kind), not kind.parameter) for kind in operands]
    kernel = int(ranks[0] >= ranks[1])
    (result,) = self._operation(eqn, operands)
    kind, inputs = operands[kernel], operands[1 - kernel]
    both_made = kind.parameter and inputs.parameter
    if kind.parameter is None or (both_made and not _kinds.excess(inputs)):
      return result
    unclear = ranks[0] == ranks[1]
    contracted, batch = (
      (pair[1 - kernel], pair[kernel])
      for pair in eqn.params["dimension_numbers"]
    )
    if kind.is_sum and (
      inputs.is_sum or not (kind.repeated or {-1}) <= set(batch[1])
    ):
      return result  # A kernel that samples change meets each sample's inputs.
    pairs = sorted(zip(*contracted, strict=True), key=lambda pair: pair[1])
    return self._layer(
      eqn,
      Product(
        kernel,
        kind,
        (tuple(i for i, _ in pairs), tuple(k for _, k in pairs)),
        (tuple(batch[0]), tuple(batch[1])),
        shape_of(eqn.invars[kernel]),
        inputs.depends,
        context.scans,
        trouble=context.trouble or (_UNCLEAR if unclear else ""),
      ),
      inputs,
      result,
      context,
    )

  def _convolution(
    self, eqn: core.JaxprEqn, operands: list[Kind], context: _Context
  ) -> Kind:
    """Returns the kind of a convolution, and notes it."""
    (result,) = self._operation(eqn, operands)
    inputs, kind = operands
    is_made = inputs.parameter and (
      _kinds.excess(inputs) <= _kinds.excess(kind)
    )
    if kind.parameter is None or is_made:
      return result
    axes = eqn.params["dimension_numbers"]
    groups = max(
      eqn.params["feature_group_count"], eqn.params["batch_group_count"]
    )
    return self._layer(
      eqn,
      Product(
        1,
        kind,
        ((axes.lhs_spec[1],), (axes.rhs_spec[1],)),
        ((), ()),
        shape_of(eqn.invars[1]),
        inputs.depends,
        context.scans,
        convolution=True,
        trouble=context.trouble
        or ("its channels are grouped" if groups > 1 else ""),
      ),
      inputs,
      result,
      context,
    )

  def _sum(self, eqn: core.JaxprEqn, kind: Kind, context: _Context) -> Kind:
    """Returns the kind of a sum, and notes that of a kernel times activity."""
    (result,) = self._operation(eqn, [kind])
    shape = shape_of(eqn.invars[0])
    own = {
      axis
      for axis, size in enumerate(shape)
      if size != 1 and axis not in (kind.repeated or ())
    }
    summed = own.intersection(eqn.params["axes"])
    is_kernel = kind.parameter and not kind.is_sum
    if not (is_kernel and kind.varies and kind.repeated and summed):
      return result
    if not context.is_derivative and summed != own:
      self.products[context.place] = Product(
        0,
        kind,
        ((), tuple(sorted(summed))),
        ((), tuple(sorted(kind.repeated))),
        shape,
        kind.depends,
        trouble=context.trouble or _SUM,
      )
    return result._replace(parameter=None, source=Source.DATA)

  def _layer(
    self,
    eqn: core.JaxprEqn,
    product: Product,
    inputs: Kind,
    result: Kind,
    context: _Context,
  ) -> Kind:
    """Notes a product, and returns the kind of what it makes."""
    kind = product.kind
    trouble = product.trouble
    dtypes = [dtype_of(atom) for atom in eqn.invars]
    repeated = kind.repeated
    if not trouble and kind.looked_up:
      trouble = _LOOKED_UP
    if not trouble and product.batch[1] and repeated is None:
      trouble = _REPEATED
    if not trouble and any(map(_is_complex, dtypes)):
      trouble = "it is complex"
    if context.is_derivative or _is_tangent(eqn, product.kernel, context):
      self._derivatives[context.place] = kind.number
    else:
      self.products[context.place] = product._replace(
        trouble=trouble, is_differentiated=context.is_inside
      )
    closed_over = inputs.source <= Source.CLOSED_OVER and not inputs.depends
    if closed_over and kind.source <= Source.CLOSED_OVER:
      # Data, or a matrix that belongs to the making of a kernel.
      return result._replace(
        source=Source.PRODUCT, parameter=kind.parameter, repeated=frozenset()
      )
    return result._replace(
      source=Source.DATA, depends=True, parameter=None, repeated=frozenset()
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
      kind = _kinds.made(name, operands, shapes, shape_of(var))
      if name in _kinds.NOISE:
        kind = Kind(Source.NOTHING, False, 0, steps=kind.steps)
      elif name == "gather":
        kind = _kinds.gathered(eqn, *operands[:2])
      elif name == "broadcast_in_dim" and first:
        kind = first._replace(axes=None, repeated=_kinds.broadcast(eqn, first))
      elif name == "squeeze" and first:
        kind = first._replace(axes=None, repeated=_kinds.squeezed(eqn, first))
      elif name == "dynamic_slice":
        by_data = any(kind.source == Source.DATA for kind in operands[1:])
        kind = kind._replace(looked_up=kind.looked_up or by_data)
      if kind.parameter and name in ("slice", "split", "dynamic_slice"):
        part = _kinds.part_of(eqn, kind.parameter, index)
        kind = kind._replace(parameter=part)
      results.append(kind._replace(number=self._number((key, index))))
    return results

  def _needed(
    self,
    jaxpr: core.ClosedJaxpr,
    outputs: Sequence[bool],
    within: Place,
    kernels: set[Place],
    found: set[Place],
  ) -> list[bool]:
    """Goes back from outputs, and from the kernels of products, to products.

    Args:
      jaxpr: Where to go back.
      outputs: Which of its outputs to start from.
      within: Its place.
      kernels: Products from whose kernels to start too.
      found: The places of products on the way are added here.

    Returns:
      Which of its inputs are needed.
    """
    inner = jaxpr.jaxpr
    needed = {
      atom
      for atom, is_needed in zip(inner.outvars, outputs, strict=True)
      if is_needed and isinstance(atom, core.Var)
    }
    for index, eqn in reversed(list(enumerate(inner.eqns))):
      place = (*within, index)
      wanted = [var in needed for var in eqn.outvars]
      inputs = [any(wanted)] * len(eqn.invars)
      name = eqn.primitive.name
      if name in _jaxpr.INLINED or name in _jaxpr.REMATERIALIZED:
        body = _jaxpr.body_of(eqn)
        inputs = self._needed(body, wanted, place, kernels, found)
      elif name == "scan":
        loop = _jaxpr.scan_of(eqn)
        before: list[bool] = []
        while before != wanted:
          before = wanted
          inputs = self._needed(loop.body, wanted, place, kernels, found)
          carry = inputs[loop.num_consts :][: loop.num_carry]
          wanted = [
            any(pair) for pair in zip(carry, wanted, strict=False)
          ] + wanted[loop.num_carry :]
      elif any(wanted):
        found |= self._within.get(place, set())
      if place in kernels:
        inputs[self.products[place].kernel] = True
      needed.update(
        atom
        for atom, is_needed in zip(eqn.invars, inputs, strict=True)
        if is_needed and isinstance(atom, core.Var)
      )
    return [var in needed for var in inner.invars]


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


def _is_complex(dtype: Any) -> bool:
  return bool(jnp.issubdtype(dtype, jnp.complexfloating))
