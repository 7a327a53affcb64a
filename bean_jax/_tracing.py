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
_Arguments = tuple[PyTree, Sequence[Any], Mapping[str, Any]]


class Call(NamedTuple):
  """A function and what it is called with; the first argument is params."""

  fn: Callable[..., Any]
  args: tuple[Any, ...]
  kwargs: Mapping[str, Any]

  def apply(self, fn: Callable[..., Any]) -> Any:
    """Calls another function in the same way."""
    return fn(*self.args, **self.kwargs)


class Traced(NamedTuple):
  """A function of arrays, traced.

  Attributes:
    jaxpr: What it computes.
    arrays: Its arguments.
    roles: The parameter that each of them is, or else its source.
    is_output: Whether each leaf of the result is an output, or else no array.
      Further outputs are new state of modules.
    result_of: Makes of all outputs what the function returns, and puts new
      state into the modules.
  """

  jaxpr: core.ClosedJaxpr
  arrays: list[Any]
  roles: list[Parameter | Source]
  is_output: list[bool]
  result_of: Callable[[Sequence[Any]], Any]

  def first(self, count: int | None = None) -> list[bool]:
    """Returns which outputs are among so many of the result, or in it."""
    count = sum(self.is_output) if count is None else count
    return [index < count for index in range(len(self.jaxpr.jaxpr.outvars))]


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
  merge: Callable[[Sequence[Any]], _Arguments]
  state_of: Callable[[_Arguments], PyTree]
  update: Callable[[PyTree], None]


def call_of(
  fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Call:
  """Returns the call of a function, of an NNX module or of its method."""
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
    return Call(type(fn).__call__, (fn, *args), kwargs)
  if inspect.ismethod(fn) and is_module(fn.__self__):
    return Call(fn.__func__, (fn.__self__, *args), kwargs)
  if not args:
    raise TypeError(
      "params must be the first argument, and not a keyword argument"
    )
  return Call(fn, tuple(args), kwargs)


def trace(call: Call) -> Traced:
  """Traces a call.

  What is no array, such as the functions among the leaves of an Equinox model,
  takes no part. Modules of NNX, which change while they run, are split before
  and updated after, as `nnx.jit` does it.
  """
  fn, (params, *args), kwargs = call
  parts = _take_apart((params, tuple(args), dict(kwargs)))
  traced = [index for index, leaf in enumerate(parts.leaves) if _is_array(leaf)]
  outcome: list[Any] = []

  def of_arrays(*arrays: jax.Array) -> list[jax.Array]:
    leaves = list(parts.leaves)
    for index, array in zip(traced, arrays, strict=True):
      leaves[index] = array
    call = params, args, kwargs = parts.merge(leaves)
    result, structure = jax.tree.flatten(fn(params, *args, **kwargs))
    state, structure_of_state = jax.tree.flatten(parts.state_of(call))
    is_output = [isinstance(leaf, jax.Array) for leaf in result]
    others = [None if isinstance(x, jax.Array) else x for x in result]
    outcome[:] = others, is_output, structure, structure_of_state
    return [leaf for leaf in result if isinstance(leaf, jax.Array)] + state

  arrays = [parts.leaves[index] for index in traced]
  jaxpr = jax.make_jaxpr(of_arrays)(*arrays)
  others, is_output, structure, structure_of_state = outcome
  num_results = sum(is_output)

  def result_of(outputs: Sequence[Any]) -> Any:
    state = outputs[num_results:]
    parts.update(jax.tree.unflatten(structure_of_state, state))
    arrays = iter(outputs)
    return jax.tree.unflatten(
      structure,
      [
        next(arrays) if is_array else leaf
        for leaf, is_array in zip(others, is_output, strict=True)
      ],
    )

  roles = _roles(parts, params)
  return Traced(
    jaxpr, arrays, [roles[index] for index in traced], is_output, result_of
  )


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
      is_state = path[0].key != "params"
      path = path[1:]
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


def _take_apart(call: _Arguments) -> _Parts:
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

  def merge(leaves: Sequence[Any]) -> _Arguments:
    rest, merged = iter(leaves), iter(())
    if modules:
      state = leaves[len(plain) :]
      merged = iter(
        nnx.merge(graph, *jax.tree.unflatten(structure_of_states, state))
      )
    parts = [next(merged if is_module(leaf) else rest) for _, leaf in every]
    return cast(_Arguments, jax.tree.unflatten(structure, parts))

  def state_of(call: _Arguments) -> PyTree:
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
