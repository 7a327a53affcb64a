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


def shape_of(atom: core.Var | core.Literal) -> tuple[int, ...]:
  """Returns the shape of a variable or literal."""
  aval: Any = atom.aval
  return tuple(aval.shape)


def dtype_of(atom: core.Var | core.Literal) -> Any:
  """Returns the dtype of a variable or literal."""
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
  values = dict(
    zip(
      (*inner.constvars, *inner.invars),
      (*jaxpr.consts, *arguments),
      strict=True,
    )
  )

  def read(atom: Any) -> Any:
    if isinstance(atom, core.Literal):
      return jnp.asarray(atom.val, dtype_of(atom))
    return values[atom]

  depth = len(within)
  containers = {place[depth] for place in places if len(place) > depth + 1}
  products = {place[depth] for place in places if len(place) == depth + 1}
  stretches = _stretches(inner, containers, products)
  observed: Observed = {}
  for index, stretch, outvars in stretches:
    if index is None:
      run = inner.replace(
        constvars=[], invars=_free(stretch), outvars=outvars, eqns=stretch
      )
      outputs = core.jaxpr_as_fun(core.ClosedJaxpr(run, ()))(
        *map(read, run.invars)
      )
    else:
      (eqn,) = stretch
      place = (*within, index)
      inside = [p for p in places if p[: depth + 1] == place]
      outputs, more = _walk_in(
        eqn, list(map(read, eqn.invars)), inside, observe, place
      )
      observed |= more
    values.update(zip(outvars, outputs, strict=True))
  for index in products:
    operands = map(read, inner.eqns[index].invars)
    observed[*within, index] = observe((*within, index), *operands)
  return list(map(read, inner.outvars)), observed


def _stretches(
  jaxpr: core.Jaxpr, containers: set[int], products: set[int]
) -> list[tuple[int | None, list[core.JaxprEqn], list[core.Var]]]:
  """Returns the equations in runs, and each container by itself.

  A run is evaluated at once, which costs less than one by one, and returns what
  others need of it.
  """
  runs: list[tuple[int | None, list[core.JaxprEqn]]] = []
  for index, eqn in enumerate(jaxpr.eqns):
    if index in containers:
      runs.append((index, [eqn]))
    elif runs and runs[-1][0] is None:
      runs[-1][1].append(eqn)
    else:
      runs.append((None, [eqn]))
  needed = {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
  for index in products:
    needed.update(_variables(jaxpr.eqns[index]))
  stretches = []
  for index_or_none, eqns in reversed(runs):
    outvars = [var for eqn in eqns for var in eqn.outvars]
    if index_or_none is None:
      outvars = [var for var in outvars if var in needed]
    stretches.append((index_or_none, eqns, outvars))
    needed.update(_free(eqns))
  return stretches[::-1]


def _variables(eqn: core.JaxprEqn) -> list[core.Var]:
  return [atom for atom in eqn.invars if isinstance(atom, core.Var)]


def _free(eqns: Sequence[core.JaxprEqn]) -> list[core.Var]:
  """Returns the variables that equations take from elsewhere."""
  free: dict[core.Var, None] = {}
  made: set[core.Var] = set()
  for eqn in eqns:
    free.update((var, None) for var in _variables(eqn) if var not in made)
    made.update(eqn.outvars)
  return list(free)


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

  if eqn.primitive.name in REMATERIALIZED:
    options = {name: eqn.params[name] for name in ("policy", "prevent_cse")}
    return jax.checkpoint(evaluate_body, **options)(*operands)
  if eqn.primitive.name != "scan":
    return evaluate_body(*operands)
  _, num_consts, num_carry = scan_of(eqn)
  consts, rest = operands[:num_consts], operands[num_consts:]

  def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], Any]:
    outputs, observed = evaluate_body(*consts, *carry, *slices)
    return outputs[:num_carry], (outputs[num_carry:], observed)

  options = {
    name: eqn.params[name]
    for name in ("length", "reverse", "unroll", "_split_transpose")
    if name in eqn.params
  }
  carry, (stacked, observed) = jax.lax.scan(
    step, rest[:num_carry], rest[num_carry:], **options
  )
  return [*carry, *stacked], observed
