"""BEAN for models of Flax NNX, which stay as they are.

`capture` makes a call of the model that also returns what enters each linear
layer, and `kernels` the kernels under the same keys. Both work under `nnx.jit`,
`nnx.grad`, `nnx.vmap` and `nnx.scan` of a function that takes the model, and
under those of JAX where the model is merged inside.

Captured are `nnx.Linear` and `nnx.LinearGeneral`, so the projections of
attention: nested, shared, with dropout, normalization and any dtype. The keys
are paths such as "encoder/layers/0".

* A layer that is called several times is one layer: its inputs are
  concatenated along the batch.
* A `LinearGeneral` is the matrix it computes with: the axes that it contracts
  are the N neurons, its features the M next ones.
* Inside of the model, within `nnx.remat` and `nnx.jit`, layers are like any
  other. What is captured is kept, though `nnx.remat` would recompute it.
* Within `nnx.scan` and `nnx.vmap`, inputs come out as an `nnx.Intermediate`,
  which must be stacked along axis 0, as it is with `in_axes=0` for the module.
  Of stacked kernels each is a layer of its own, "blocks/linear[2]"; where all
  steps share one kernel, they are batch. For these, and for `nnx.RNN`, the
  axes must be stated: `nnx.StateAxes({nnx.Intermediate: 0, ...: None})` or
  `...: nnx.Carry`.

`nnx.WeightNorm` and `nnx.SpectralNorm` put a kernel into their layer as they
compute, and this it is that `kernels` finds after the call.

Refused, unless left out by `layers`: layers whose class has a `__call__` of
its own, such as `nnx.LoRALinear`; `LinearGeneral` with `batch_axis`;
`nnx.Einsum`; and, by a note to the error of JAX or NNX, layers in
`nnx.while_loop`, in `nnx.cond` and `nnx.switch` unless all branches call them
alike, in transformations that do not stack intermediates, or in a plain JAX
transformation inside of the model. Layers within `nnx.custom_vjp` are to be
left out by hand: its backward rule does not know of what is captured. Not
looked at are convolutions, embeddings and `nnx.LoRA`.

A mask of real samples (`where`) fits the layers that are called once, on the
batch as it is; give layers that are called several times, or in a scan with one
kernel, a penalty of their own.

While the captured model runs, its linear layers belong to a subclass of their
class; a model must not be called by two threads at a time.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp

try:
  from flax import errors, nnx
except ImportError as error:
  raise ImportError(
    "bean_jax.nnx needs Flax; install it by: pip install 'flax>=0.12.8'"
  ) from error

from bean_jax import _layers

_Linear = nnx.Linear | nnx.LinearGeneral

_NAME = "bean_jax_calls"
_LINEAR_CALLS = (nnx.Linear.__call__, nnx.LinearGeneral.__call__)
# What errors say where the variables of capturing are in the way.
_WORDS_OF_ERRORS = (_NAME, "same reference and pytree structure")


def capture(
  model: nnx.Module, *, layers: _layers.Layers = None
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """Makes a call of the model that returns the inputs of linear layers too.

  Nothing is computed twice, and nothing is recompiled from step to step. Call
  it where the model is called, inside of the function that is transformed.

  Args:
    model: The module, or a bound method of it.
    layers: Which layers to capture: a pattern of paths in the manner of a
      shell, where "*" also matches "/"; a function of the path; or None, all.

  Returns:
    A function of what the model takes, that returns what the model would
    return, and a dict {path: inputs [..., N]}, as (output, activations).

  Raises:
    TypeError: If `layers` is none of these.
    ValueError: While tracing, if a layer cannot be captured, or none is chosen.

  Example:
    >>> import bean_jax
    >>> import bean_jax.nnx
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(
    ...   nnx.Linear(5, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 3, rngs=rngs)
    ... )
    >>> def loss_fn(model, inputs):
    ...   logits, activations = bean_jax.nnx.capture(model)(inputs)
    ...   return jnp.mean(logits**2), activations
    >>> def layers_fn(model, activations):
    ...   return activations, bean_jax.nnx.kernels(model, activations)
    >>> loss_fn = bean_jax.regularize(loss_fn, layers_fn, alpha=1.0)
    >>> loss, activations = loss_fn(model, jnp.ones((8, 5)))
    >>> print(jax.tree.map(jnp.shape, activations))
    {'layers/0': (8, 5), 'layers/2': (8, 4)}
  """
  chosen = _layers.selector(layers)

  def call_fn(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, jax.Array]]:
    module = model.__self__ if inspect.ismethod(model) else model
    linear = _linear_layers(module)
    taken = {path: layer for path, layer in linear.items() if chosen(path)}
    _refuse_einsum(module, chosen)
    if not taken:
      _layers.nothing_chosen(layers, linear)
    activations: dict[str, jax.Array] = {}
    with _recording(taken):
      output = model(*args, **kwargs)
      for path, layer in taken.items():
        activations |= _layers.inputs_by_key(
          path, getattr(layer, _NAME).get_value(), layer.kernel.shape
        )
    if not activations:
      raise ValueError(
        "the model must call at least one of the layers to capture, got no "
        f"call of {sorted(taken)}"
      )
    return output, activations

  return call_fn


def kernels(
  model: nnx.Module,
  activations: Mapping[str, jax.Array] | None = None,
  *,
  layers: _layers.Layers = None,
) -> dict[str, jax.Array]:
  """Returns the kernels of linear layers, under the keys of `capture`.

  With the activations of `capture` the result has exactly their keys; without,
  it has all linear layers of the model, which suffices where all are called.

  Args:
    model: The module.
    activations: Dict {path: inputs [..., N]} as `capture` returns it.
    layers: Which layers to take, as in `capture`.

  Returns:
    A dict by path, of kernels [N, M].

  Raises:
    TypeError: If `layers` is none of what it may be.
    ValueError: If no layer is chosen, or activations have no fitting kernel.

  Example:
    >>> import bean_jax.nnx
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> attention = nnx.MultiHeadAttention(
    ...   num_heads=2, in_features=6, qkv_features=8, rngs=nnx.Rngs(0)
    ... )
    >>> kernels = bean_jax.nnx.kernels(attention, layers="[qo]*")
    >>> print(jax.tree.map(jnp.shape, kernels))
    {'out': (8, 6), 'query': (6, 8)}
  """
  chosen = _layers.selector(layers)
  linear = _linear_layers(model)
  found: dict[str, jax.Array] = {}
  for path, layer in linear.items():
    if chosen(path):
      found |= _layers.kernels_by_key(
        path,
        jnp.asarray(layer.kernel.get_value()),
        _shape_of_kernel(path, layer),
        math.prod(_features(layer.in_features)),
      )
  if activations is not None:
    wanted = {
      key: inputs
      for key, inputs in activations.items()
      if chosen(_layers.path_and_index(key)[0])
    }
    for key in wanted:
      if key not in found:
        _layers.missing_kernel(key, found)
    found = {key: found[key] for key in wanted}
  if not found:
    _layers.nothing_chosen(layers, linear)
  return found


def _linear_layers(model: nnx.Module) -> dict[str, _Linear]:
  """Returns every linear layer by its path, a shared one by its first."""
  return {
    "/".join(map(str, path)): module
    for path, module in nnx.iter_modules(model)
    if isinstance(module, (nnx.Linear, nnx.LinearGeneral))
  }


@contextlib.contextmanager
def _recording(linear: Mapping[str, _Linear]) -> Iterator[None]:
  """Makes layers record their inputs, in a variable each.

  Interception by subclass and state by variable: both follow the layer into
  the transformations of NNX, which split and merge it.
  """
  classes = {path: type(layer) for path, layer in linear.items()}
  for path, layer in linear.items():
    _refuse_other_layers(path, layer)
  try:
    for layer in linear.values():
      setattr(layer, _NAME, nnx.Intermediate(()))
      object.__setattr__(layer, "__class__", _recording_class(type(layer)))
    yield
  except Exception as error:
    ours = any(words in str(error) for words in _WORDS_OF_ERRORS)
    if ours or isinstance(error, errors.TraceContextError):
      _explain(error, linear)
    raise
  finally:
    for path, layer in linear.items():
      object.__setattr__(layer, "__class__", classes[path])
      if hasattr(layer, _NAME):
        delattr(layer, _NAME)


def _explain(error: Exception, linear: Mapping[str, _Linear]) -> None:
  """Notes which layers an error of NNX or JAX is about, and what to do."""
  silent = [
    path for path, layer in linear.items() if not getattr(layer, _NAME, ())
  ]
  error.add_note(
    "bean_jax.nnx.capture: the inputs of one of the layers "
    f"{silent} cannot leave a transformation inside of the model; stack them "
    "there by nnx.StateAxes({nnx.Intermediate: 0, ...}), or leave the layer "
    "out, for example by layers=lambda path: path != "
    f"{silent[0] if silent else ''!r}. If the model itself comes from outside "
    "of a function that is transformed, make it an argument of that function."
  )


@functools.cache
def _recording_class(layer_class: type[_Linear]) -> type[_Linear]:
  """Returns the subclass; one for each class, or NNX would compile anew."""

  def __call__(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    call = _layers.call_of_layer(
      inputs,
      axes=_features(getattr(self, "axis", -1)),
      kernel_shape=(
        *_features(self.in_features),
        *_features(self.out_features),
      ),
      dtype=self.kernel.dtype,
    )
    calls = getattr(self, _NAME)
    calls.set_value((*calls.get_value(), call))
    return layer_class.__call__(self, inputs, *args, **kwargs)

  metaclass: Any = type(layer_class)
  recording_class: type[_Linear] = metaclass(
    layer_class.__name__, (layer_class,), {"__call__": __call__}
  )
  return recording_class


def _refuse_einsum(model: nnx.Module, chosen: Callable[[str], bool]) -> None:
  """Raises for a chosen nnx.Einsum, whether it is called or not."""
  for parts, module in nnx.iter_modules(model):
    path = "/".join(map(str, parts))
    if isinstance(module, nnx.Einsum) and chosen(path):
      _layers.refuse(
        path,
        "an nnx.Einsum does not say which of its axes are neurons; use "
        "nnx.LinearGeneral",
      )


def _refuse_other_layers(path: str, layer: _Linear) -> None:
  """Raises for layers that are no product with their kernel."""
  if type(layer).__call__ not in _LINEAR_CALLS:
    _layers.refuse(
      path,
      f"{type(layer).__name__} must compute as nnx.Linear does, but it has a "
      "__call__ of its own; put that into a module which calls an nnx.Linear",
    )
  _shape_of_kernel(path, layer)


def _shape_of_kernel(path: str, layer: _Linear) -> tuple[int, ...]:
  """Returns the shape of one kernel, however many are stacked."""
  if getattr(layer, "batch_axis", ()):
    _layers.refuse(path, "LinearGeneral must have no batch_axis; use nnx.vmap")
  return (*_features(layer.in_features), *_features(layer.out_features))


def _features(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
  return (sizes,) if isinstance(sizes, int) else tuple(sizes)
