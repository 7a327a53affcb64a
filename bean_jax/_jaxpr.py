"""Jaxprs: what an equation holds, and evaluation with further outputs.

All that differs between releases of JAX is here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

# Indices of equations, from the outermost jaxpr inwards.
Place = tuple[int, ...]
Observed = dict[Place, Any]
# Returns a tree of arrays for the product at a place and its two operands.
Observer = Callable[[Place, jax.Array, jax.Array], Any]

# Calls whose body may stand in their place.
INLINED = {"jit", "pjit", "closed_call", "core_call", "core_closed_call"}
REMATERIALIZED = {"remat2", "checkpoint", "remat"}
# They return each of their operands.
UNCHANGED = {"device_put", "optimization_barrier", "pvary"}
# Of a jax.Ref, an array that a program changes.
READS = {"freeze", "get"}
WRITES = {"addupdate", "swap"}


def shape_of(atom: core.Var | core.Literal) -> tuple[int, ...]:
  aval: Any = atom.aval
  return tuple(aval.shape)


def dtype_of(atom: core.Var | core.Literal) -> Any:
  aval: Any = atom.aval
  return aval.dtype


class Loop(NamedTuple):
  """A loop, whose body takes constants, carry and, in a scan, slices."""

  body: core.ClosedJaxpr
  num_consts: int
  num_carry: int


def scan_of(eqn: core.JaxprEqn) -> Loop:
  """Returns the parts of a scan, or says that this JAX is not understood."""
  if "num_carry" in eqn.params:
    num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
  elif "ft_in" in eqn.params:
    num_consts, num_carry, _ = map(len, eqn.params["ft_in"].unpack())
  else:
    raise NotImplementedError(
      f"jax {jax.__version__} writes jax.lax.scan in a way that bean_jax does "
      "not know; use another release of jax, or layers_fn"
    )
  return Loop(body_of(eqn), num_consts, num_carry)


def body_of(eqn: core.JaxprEqn) -> core.ClosedJaxpr:
  """Returns the one body of an equation."""
  (body,) = bodies(eqn)
  return body


def bodies(eqn: core.JaxprEqn) -> Iterator[core.ClosedJaxpr]:
  """Yields every jaxpr among the parameters of an equation."""
  for value in eqn.params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(part, core.ClosedJaxpr):
        yield part
      elif isinstance(part, core.Jaxpr):
        yield core.ClosedJaxpr(part, ())


def evaluate(
  jaxpr: core.ClosedJaxpr,
  arguments: Sequence[Any],
  places: Sequence[Place],
  observe: Observer,
  within: Place = (),
) -> tuple[list[Any], Observed]:
  """Evaluates a jaxpr, and observes the products at some places.

  What is observed within a scan is stacked along a new first axis, and within
  rematerialization computed again where that is.

  Args:
    jaxpr: What to evaluate.
    arguments: Its arguments, arrays.
    places: Where the products are.
    observe: What to compute of each.
    within: Place of the equation whose body the jaxpr is.

  Returns:
    The outputs, and what was observed, by place.
  """
  inner = jaxpr.jaxpr
  names = (*inner.constvars, *inner.invars)
  values = dict(zip(names, (*jaxpr.consts, *arguments), strict=True))

  def read(atom: Any) -> Any:
    if isinstance(atom, core.Literal):
      return jnp.asarray(atom.val, dtype_of(atom))
    return values[atom]

  depth = len(within)
  containers = {place[depth] for place in places if len(place) > depth + 1}
  observed: Observed = {}
  start = 0
  for index in (*sorted(containers), len(inner.eqns)):
    run = inner.eqns[start:index]
    values.update(_evaluate_at_once(inner, run, values))
    start = index + 1
    if index in containers:
      eqn, place = inner.eqns[index], (*within, index)
      inside = [p for p in places if p[: depth + 1] == place]
      operands = list(map(read, eqn.invars))
      outputs, more = _walk_in(eqn, operands, inside, observe, place)
      values.update(zip(eqn.outvars, outputs, strict=True))
      observed |= more
  for place in places:
    if len(place) == depth + 1:
      operands = list(map(read, inner.eqns[place[-1]].invars))
      observed[place] = observe(place, *operands)
  return list(map(read, inner.outvars)), observed


def _evaluate_at_once(
  jaxpr: core.Jaxpr, eqns: list[core.JaxprEqn], values: dict[core.Var, Any]
) -> dict[core.Var, Any]:
  """Returns what some equations make, which costs less than one by one."""
  atoms = [atom for eqn in eqns for atom in eqn.invars]
  variables = [atom for atom in atoms if isinstance(atom, core.Var)]
  invars = [var for var in dict.fromkeys(variables) if var in values]
  outvars = [var for eqn in eqns for var in eqn.outvars]
  outvars = [var for var in outvars if not isinstance(var, core.DropVar)]
  part = jaxpr.replace(constvars=[], invars=invars, outvars=outvars, eqns=eqns)
  fn = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
  outputs = fn(*[values[var] for var in invars])
  return dict(zip(outvars, outputs, strict=True))


def _walk_in(
  eqn: core.JaxprEqn,
  operands: list[Any],
  places: Sequence[Place],
  observe: Observer,
  within: Place,
) -> tuple[list[Any], Observed]:
  """Evaluates an equation whose body holds products to observe."""

  def evaluate_body(*arguments: Any) -> tuple[list[Any], Observed]:
    return evaluate(body_of(eqn), arguments, places, observe, within)

  def taken(*names: str) -> dict[str, Any]:
    return {name: eqn.params[name] for name in names if name in eqn.params}

  if eqn.primitive.name in REMATERIALIZED:
    options = taken("policy", "prevent_cse")
    return jax.checkpoint(evaluate_body, **options)(*operands)
  if eqn.primitive.name != "scan":
    return evaluate_body(*operands)
  _, num_consts, num_carry = scan_of(eqn)
  consts, rest = operands[:num_consts], operands[num_consts:]

  def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], Any]:
    outputs, observed = evaluate_body(*consts, *carry, *slices)
    return outputs[:num_carry], (outputs[num_carry:], observed)

  options = taken("length", "reverse", "unroll", "_split_transpose")
  carry, (stacked, observed) = jax.lax.scan(
    step, rest[:num_carry], rest[num_carry:], **options
  )
  return [*carry, *stacked], observed
