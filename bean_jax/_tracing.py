"""What a function computes of its arguments, as a jaxpr."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import inspect
import sys
from typing import Any, NamedTuple, cast

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from bean_jax._kinds import Parameter, Source

PyTree = Any
_Call = tuple[PyTree, Sequence[Any], Mapping[str, Any]]


class Traced(NamedTuple):
  """A function of arrays, traced.

  Attributes:
    jaxpr: What it computes.
    arrays: Its arguments.
    roles: The parameter that each of them is, or else its source.
    num_outputs: How many arrays the function returns. Further outputs are new
      state of modules.
    result_of: Makes of all outputs what the function returns, and puts new
      state into the modules.
  """

  jaxpr: core.ClosedJaxpr
  arrays: list[Any]
  roles: list[Parameter | Source]
  num_outputs: int
  result_of: Callable[[Sequence[Any]], Any]


class _Parts(NamedTuple):
  """A call, taken apart.

  Attributes:
    paths: Path of each leaf; the first key is that of params, args or kwargs.
    leaves: Leaves, those of modules included.
    is_state: Whether a leaf is a module's, but none of its parameters.
    merge: Makes the call of its leaves.
    state_of: Returns the state of a call's modules.
    update: Puts such a state into the modules of the original call.
  """

  paths: list[tuple[Any, ...]]
  leaves: list[Any]
  is_state: list[bool]
  merge: Callable[[Sequence[Any]], _Call]
  state_of: Callable[[_Call], PyTree]
  update: Callable[[PyTree], None]


def of_params(
  fn: Callable[..., Any], args: Sequence[Any]
) -> tuple[Callable[..., Any], Sequence[Any]]:
  """Returns a function of params and its arguments; modules of NNX are params.

  Args:
    fn: A function, an NNX module or its method.
    args: What it is called with.
  """
  linen = sys.modules.get("flax.linen")
  is_linen = linen is not None and isinstance(fn, linen.Module)
  if is_linen or (not callable(fn) and hasattr(fn, "apply")):
    raise TypeError(
      f"a {type(fn).__name__} is no function of its parameters, but its apply "
      "is: pass model.apply, and call the result with variables and inputs"
    )
  if not callable(fn):
    raise TypeError(f"fn must be a function, got {type(fn).__name__}")
  if is_module(fn):
    return type(fn).__call__, (fn, *args)
  if inspect.ismethod(fn) and is_module(fn.__self__):
    return fn.__func__, (fn.__self__, *args)
  if not args:
    raise TypeError(
      "params must be the first argument, and not a keyword argument"
    )
  return fn, args


def trace(
  fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Traced:
  """Traces a call of a function, whose first argument is params.

  What is no array, such as the functions among the leaves of an Equinox model,
  takes no part. Modules of NNX, which change while they run, are split before
  and updated after, as `nnx.jit` does it.
  """
  parts = _take_apart((args[0], tuple(args[1:]), dict(kwargs)))
  traced = [index for index, leaf in enumerate(parts.leaves) if _is_array(leaf)]
  outcome: list[Any] = []

  def of_arrays(*arrays: jax.Array) -> list[jax.Array]:
    leaves = list(parts.leaves)
    for index, array in zip(traced, arrays, strict=True):
      leaves[index] = array
    call = params, others, kwargs = parts.merge(leaves)
    result, structure = jax.tree.flatten(fn(params, *others, **kwargs))
    state, structure_of_state = jax.tree.flatten(parts.state_of(call))
    # No leaf is None but in the place of an array.
    rest = [None if isinstance(x, jax.Array) else x for x in result]
    outcome[:] = rest, structure, structure_of_state
    return [x for x in result if isinstance(x, jax.Array)] + state

  arrays = [parts.leaves[index] for index in traced]
  jaxpr = jax.make_jaxpr(of_arrays)(*arrays)
  rest, structure, structure_of_state = outcome
  num_outputs = sum(leaf is None for leaf in rest)

  def result_of(outputs: Sequence[Any]) -> Any:
    state = outputs[num_outputs:]
    parts.update(jax.tree.unflatten(structure_of_state, state))
    arrays = iter(outputs)
    leaves = [next(arrays) if leaf is None else leaf for leaf in rest]
    return jax.tree.unflatten(structure, leaves)

  roles = _roles(parts, args[0])
  roles = [roles[index] for index in traced]
  return Traced(jaxpr, arrays, roles, num_outputs, result_of)


def _roles(parts: _Parts, params: PyTree) -> list[Parameter | Source]:
  """Returns the parameter or the source that each leaf is.

  Of the variables of Flax, {"params": ..., "batch_stats": ...}, the parameters
  are those that it calls so. What cannot be trained is neither parameter nor
  data.
  """
  has_collections = isinstance(params, Mapping) and "params" in params
  roles: list[Parameter | Source] = []
  for (root, *path), leaf, is_state in zip(
    parts.paths, parts.leaves, parts.is_state, strict=True
  ):
    if has_collections and root.idx == 0:
      collection, *path = path
      is_state = collection.key != "params"
    if root.idx > 0 or is_state:
      roles.append(Source.DATA)
    elif _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact):
      roles.append(Parameter(_name_of(path), "", leaf.size))
    else:
      roles.append(Source.NOTHING)
  counts = Counter(role.path for role in roles if isinstance(role, Parameter))
  return [
    role._replace(path=jax.tree_util.keystr(path[1:]))
    if isinstance(role, Parameter) and counts[role.path] > 1
    else role
    for role, path in zip(roles, parts.paths, strict=True)
  ]


def _name_of(path: Sequence[Any]) -> str:
  """Returns "encoder/kernel"; what boxes a parameter is not part of it.

  Parameters that are one array are called "params".
  """
  attribute = jax.tree_util.GetAttrKey
  if len(path) > 1 and path[-1] == attribute("value"):
    path = path[:-1]
  name = jax.tree_util.keystr(tuple(path), simple=True, separator="/")
  return name or "params"


def _is_array(leaf: Any) -> bool:
  return (
    isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
    and leaf.dtype != jax.dtypes.float0
  )


def is_module(value: Any) -> bool:
  """Tells whether a value is of NNX, without importing Flax."""
  nnx = sys.modules.get("flax.nnx")
  return nnx is not None and isinstance(value, (nnx.Pytree, nnx.Variable))


def _take_apart(call: _Call) -> _Parts:
  every, structure = jax.tree.flatten_with_path(call, is_leaf=is_module)
  modules = [(path, leaf) for path, leaf in every if is_module(leaf)]
  plain = [(path, leaf) for path, leaf in every if not is_module(leaf)]
  states: Sequence[PyTree] = ()
  if modules:
    nnx = sys.modules["flax.nnx"]
    originals = [leaf for _, leaf in modules]
    states_of_flax = (
      nnx.BatchStat,
      nnx.Cache,
      nnx.Intermediate,
      nnx.Perturbation,
      nnx.RngState,
    )
    parameters = nnx.All(nnx.Variable, nnx.Not(nnx.Any(*states_of_flax)))
    graph, *states = nnx.split(originals, parameters, ...)
  of_modules, structure_of_states = jax.tree.flatten_with_path(tuple(states))

  def merge(leaves: Sequence[Any]) -> _Call:
    rest, merged = iter(leaves), iter(())
    if modules:
      state = leaves[len(plain) :]
      merged = iter(
        nnx.merge(graph, *jax.tree.unflatten(structure_of_states, state))
      )
    parts = [next(merged if is_module(leaf) else rest) for _, leaf in every]
    return cast(_Call, jax.tree.unflatten(structure, parts))

  def state_of(call: _Call) -> PyTree:
    leaves = jax.tree.leaves(call, is_leaf=is_module)
    changed = [leaf for leaf in leaves if is_module(leaf)]
    return nnx.state(changed) if changed else ()

  def update(state: PyTree) -> None:
    if modules:
      nnx.update(originals, state)

  return _Parts(
    [path for path, _ in plain]
    + [(*modules[which.key][0], *path) for (_, which, *path), _ in of_modules],
    [leaf for _, leaf in (*plain, *of_modules)],
    [False] * len(plain) + [group.idx > 0 for (group, *_), _ in of_modules],
    merge,
    state_of,
    update,
  )
