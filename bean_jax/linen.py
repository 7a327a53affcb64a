"""BEAN for models of Flax Linen, which stay as they are.

`capture` makes an `apply` that also returns what enters each dense layer, and
`kernels` the kernels under the same keys. Both work under `jax.jit`,
`jax.grad`, `jax.vmap` and `jax.lax.scan`.

Captured are `nn.Dense` and `nn.DenseGeneral`, so the projections of attention,
and subclasses that compute by way of them: nested, shared, with dropout,
normalization and any dtype. The keys are paths such as "encoder/Dense_0".

* A layer that is called several times is one layer: its inputs are
  concatenated along the batch.
* A `DenseGeneral` is the matrix it computes with: the axes that it contracts
  are the N neurons, its features the M next ones.
* Within `nn.remat`, `nn.jit`, `nn.remat_scan` and `nn.grad` layers are like
  any other. What is captured is kept, though `nn.remat` would recompute it.
* Within `nn.scan`, `nn.vmap` and `nn.RNN`, inputs come out by the collection
  "intermediates", which Flax hands out only where it is declared:
  `variable_axes={"params": 0, "intermediates": 0}`. Of stacked kernels each is
  a layer of its own, "blocks/Dense_0[2]"; where all steps share one kernel,
  they are batch.

Refused by name, unless left out by `layers`: layers within transformations
that do not declare "intermediates" or stack along another axis than 0, within
`nn.cond`, `nn.switch`, `nn.while_loop`, `nn.custom_vjp`, `nn.map_variables` (so
in `nn.WeightNorm` and `nn.SpectralNorm`) or a plain JAX transformation inside
of the model; `DenseGeneral` with `batch_dims`; `nn.Einsum` and
`nn.OptimizedLSTMCell`. Not looked at are convolutions and embeddings. Not
noticed is a stack of N kernels along axis 1, when each has N inputs: its shape
is that of a stack along axis 0.

A mask of real samples (`where`) fits the layers that are called once, on the
batch as it is; give layers that are called several times, or in a scan with one
kernel, a penalty of their own.
"""

from collections.abc import Callable, Mapping
import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp

try:
  import flax
except ImportError as error:
  raise ImportError(
    "bean_jax.linen needs Flax; install it by: pip install 'flax>=0.12.8'"
  ) from error
from flax import linen as nn, traverse_util
from flax.core import scope as flax_scope, tracers

from bean_jax import _layers

PyTree = Any

_COLLECTION = "intermediates"
_NAME = "bean_jax_calls"
_CLOSED = ("cond(", "switch(", "while_loop(", "custom_vjp(")
# The same calls reach __call__ of subclasses, and of what they are lifted to.
_DENSE_CALLS = tuple(
  inspect.unwrap(layer.__call__) for layer in (nn.Dense, nn.DenseGeneral)
)
_OTHER_CALLS = {
  inspect.unwrap(nn.Einsum.__call__): (
    "an nn.Einsum does not say which of its axes are neurons; use "
    "nn.DenseGeneral"
  ),
  inspect.unwrap(nn.OptimizedLSTMCell.__call__): (
    "nn.OptimizedLSTMCell joins the kernels of its layers; use nn.LSTMCell, "
    "which has the same params"
  ),
}
_numbers = itertools.count()


def capture(
  model: nn.Module, *, layers: _layers.Layers = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Makes an `apply` that returns the inputs of dense layers too.

  Nothing is computed twice, and nothing is recompiled from step to step. Call
  it once, outside of the training step.

  Args:
    model: The unbound module.
    layers: Which layers to capture: a pattern of paths in the manner of a
      shell, where "*" also matches "/"; a function of the path; or None, all.

  Returns:
    A function of `(variables, *args, **kwargs)`, as `model.apply` takes them,
    `rngs`, `mutable` and `method` included. It returns (output, activations):
    what `model.apply` would return, and a dict {path: inputs [..., N]}.

  Raises:
    TypeError: If `layers` is none of these.
    ValueError: While tracing, if a layer cannot be captured, or none is chosen.

  Example:
    >>> import bean_jax
    >>> import bean_jax.linen
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    >>> inputs = jnp.ones((8, 5))
    >>> params = model.init(jax.random.key(0), inputs)["params"]
    >>> apply_fn = bean_jax.linen.capture(model)
    >>> def loss_fn(params, inputs):
    ...   logits, activations = apply_fn({"params": params}, inputs)
    ...   return jnp.mean(logits**2), activations
    >>> def layers_fn(params, activations):
    ...   return activations, bean_jax.linen.kernels(params, activations)
    >>> loss_fn = bean_jax.regularize(loss_fn, layers_fn, alpha=1.0)
    >>> loss, activations = loss_fn(params, inputs)
    >>> print(jax.tree.map(jnp.shape, activations))
    {'layers_0': (8, 5), 'layers_2': (8, 4)}
  """
  chosen = _layers.selector(layers)
  # nn.jit recognizes what it has traced by the mutable collections: without a
  # name of its own it would take what was traced without capturing.
  name = f"{_NAME} {next(_numbers)}"

  def apply_fn(
    variables: PyTree,
    *args: Any,
    mutable: flax_scope.CollectionFilter = False,
    **kwargs: Any,
  ) -> tuple[Any, dict[str, jax.Array]]:
    seen: list[str] = []
    also_mutable = (
      flax_scope.DenyList((name,))
      if mutable is True
      else flax_scope.union_filters(mutable, (_COLLECTION, name))
    )
    with nn.intercept_methods(_interceptor(chosen, seen)):
      output, state = model.apply(
        variables, *args, mutable=also_mutable, **kwargs
      )
    asked = kwargs.get("capture_intermediates", False)
    state, calls = _without_calls(
      state, asked or flax_scope.in_filter(mutable, _COLLECTION)
    )
    if not calls:
      _layers.nothing_chosen(layers, seen)
    stored = _stored_kernels(variables)
    activations: dict[str, jax.Array] = {}
    for path, calls_of_layer in calls.items():
      activations |= _layers.inputs_by_key(
        path, calls_of_layer, stored[path].shape
      )
    if mutable is False and not asked:
      return output, activations
    return (output, state), activations

  return apply_fn


def kernels(
  variables: PyTree,
  activations: Mapping[str, jax.Array] | None = None,
  *,
  layers: _layers.Layers = None,
) -> dict[str, jax.Array]:
  """Returns the kernels of dense layers, under the keys of `capture`.

  Params alone do not tell a dense layer from a convolution. With the
  activations of `capture` the result has exactly their keys; without, it has
  all kernels that are matrices, which suffices where every one of them belongs
  to a `Dense` that is called.

  Args:
    variables: The variables of the model, or their "params" alone.
    activations: Dict {path: inputs [..., N]} as `capture` returns it.
    layers: Which layers to take, as in `capture`.

  Returns:
    A dict by path, of kernels [N, M].

  Raises:
    TypeError: If `layers` is none of what it may be.
    ValueError: If no layer is chosen, or activations have no fitting kernel.

  Example:
    >>> import bean_jax.linen
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> model = nn.Sequential([nn.Conv(2, (3, 3)), nn.Dense(4), nn.Dense(5)])
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    >>> kernels = bean_jax.linen.kernels(variables, layers="*_2")
    >>> print(jax.tree.map(jnp.shape, kernels))
    {'layers_2': (4, 5)}
  """
  chosen = _layers.selector(layers)
  stored = _stored_kernels(variables)
  if activations is None:
    found = {
      path: kernel
      for path, kernel in stored.items()
      if kernel.ndim == 2 and chosen(path)
    }
  else:
    found = {}
    for key, inputs in activations.items():
      path, _ = _layers.path_and_index(key)
      if not chosen(path):
        continue
      if path not in stored:
        _layers.missing_kernel(key, stored)
      found[key] = _layers.kernel_at(key, stored[path], jnp.shape(inputs)[-1])
  if not found:
    _layers.nothing_chosen(layers, stored)
  return found


def _interceptor(
  chosen: Callable[[str], bool], seen: list[str]
) -> Callable[..., Any]:
  """Makes what records the inputs of chosen layers before they are called."""

  def interceptor(
    next_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    layer = context.module
    method: Any = context.orig_method
    # Other modules may have methods that are called unbound, without a path.
    if method.func not in (*_DENSE_CALLS, *_OTHER_CALLS):
      return next_fn(*args, **kwargs)
    path = "/".join(layer.path)
    if method.func in _OTHER_CALLS and chosen(path):
      _layers.refuse(path, _OTHER_CALLS[method.func])
    if method.func in _DENSE_CALLS:
      seen.append(path)
      kernel = nn.unbox(layer.get_variable("params", "kernel"))
      if chosen(path) and kernel is not None:
        _refuse_what_cannot_leave(path, layer)
        call = _layers.call_of_layer(
          *args,
          **kwargs,
          axes=_contracted_axes(layer),
          kernel_shape=kernel.shape,
          dtype=kernel.dtype,
        )
        layer.sow(_COLLECTION, _NAME, call)
    return next_fn(*args, **kwargs)

  return interceptor


def _contracted_axes(layer: nn.Module) -> tuple[int, ...]:
  axes = getattr(layer, "axis", -1)
  return (axes,) if isinstance(axes, int) else tuple(axes)


def _refuse_what_cannot_leave(path: str, layer: nn.Module) -> None:
  """Raises where inputs would be lost, or leak as tracers."""
  if getattr(layer, "batch_dims", ()):
    _layers.refuse(path, "DenseGeneral must have no batch_dims; use nn.vmap")
  scope: Any = layer.scope
  within = "/".join(scope.debug_path)
  if scope.root.trace_level != tracers.current_trace():
    _layers.refuse(
      path,
      "its inputs cannot leave a plain JAX transformation inside of the model; "
      "use that of Linen, such as nn.vmap, nn.scan or nn.remat",
    )
  if "map_variables(" in within:
    _layers.refuse(
      path,
      f"it computes with what {within!r} makes of its kernel; call the "
      "layer without that",
    )
  if any(name in within for name in _CLOSED):
    _layers.refuse(
      path,
      f"its inputs cannot leave {within!r}; call the layer outside of it",
    )
  if not layer.is_mutable_collection(_COLLECTION):
    _layers.refuse(
      path,
      f"its inputs cannot leave {within!r}; in a scan, vmap or RNN, declare "
      'variable_axes={"intermediates": 0} beside the params',
    )


def _without_calls(
  state: Any, keep: bool
) -> tuple[Any, dict[str, tuple[_layers.LayerCall, ...]]]:
  """Returns the state as without capturing, and the calls by path."""
  if _COLLECTION not in state:
    return state, {}
  state, intermediates = flax.core.pop(state, _COLLECTION)
  flat = traverse_util.flatten_dict(intermediates)
  rest = {path: value for path, value in flat.items() if path[-1] != _NAME}
  if keep and rest:
    rest = traverse_util.unflatten_dict(rest)
    state = flax.core.copy(state, {_COLLECTION: rest})
  return state, {
    "/".join(path[:-1]): value
    for path, value in flat.items()
    if path[-1] == _NAME
  }


def _stored_kernels(variables: PyTree) -> dict[str, jax.Array]:
  """Returns everything called kernel by the path of its layer."""
  params = variables.get("params", variables)
  return {
    "/".join(path[:-1]): jnp.asarray(nn.unbox(leaf))
    for path, leaf in traverse_util.flatten_dict(params).items()
    if path[-1] == "kernel"
  }
