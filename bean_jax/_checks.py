"""What every public function asks of its arguments, checked at trace time."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

DISTANCES = ("squared", "absolute")
_NUMPY = (np.ndarray, np.generic)


def order_of_correlation(order: int) -> int:
  """Returns `order` as an int, or says why it is not 1 or 2."""
  if not _is_int(order):
    raise TypeError(
      f"order must be the Python int 1 or 2, got {order!r}; it selects the "
      "formula while tracing, so it can be neither a flag nor traced"
    )
  if order not in (1, 2):
    raise ValueError(f"order must be 1 (BEAN-1) or 2 (BEAN-2), got {order!r}")
  return int(order)


def known_distance(distance: str) -> str:
  """Returns `distance`, or says which distances there are."""
  if not isinstance(distance, str) or distance not in DISTANCES:
    raise ValueError(f"distance must be one of {DISTANCES}, got {distance!r}")
  return distance


def count_or_none(name: str, value: int | None) -> int | None:
  """Returns `value`, or says that it must be a positive Python int."""
  if value is None or (_is_int(value) and value > 0):
    return value
  raise ValueError(
    f"{name} must be None or a Python int of at least 1, got {value!r}"
  )


def nonnegative_scalar(name: str, value: ArrayLike) -> ArrayLike:
  """Returns `value`; a number known while tracing must be finite and >= 0."""
  if isinstance(value, (bool, int, float)):
    number = float(value)
  else:
    array = _as_array(name, value)
    if array.ndim != 0 or not _is_real(array.dtype):
      raise ValueError(
        f"{name} must be a real scalar, got {array.dtype}{list(array.shape)}"
      )
    if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable:
      return array
    # NumPy's own may have more digits. JAX's are asked for explicitly, so that
    # jax_transfer_guard lets them pass.
    known = value if isinstance(value, _NUMPY) else jax.device_get(array)
    number = float(known)
  if not math.isfinite(number) or number < 0:
    raise ValueError(f"{name} must be finite and not negative, got {number}")
  return number


def kernel_matrix(kernel: ArrayLike, *, name: str) -> jax.Array:
  """Returns the kernel as a float array [N, M], in float32 at least."""
  array = float_array(f"{name}: kernel", kernel)
  if array.ndim != 2 or 0 in array.shape:
    raise ValueError(
      f"{name}: kernel must have shape [N, M] with N and M at least 1, got "
      f"{list(array.shape)}"
    )
  return array


def activation_rows(activations: ArrayLike, *, name: str) -> jax.Array:
  """Returns activations as a float array [..., N], in float32 at least."""
  array = float_array(f"{name}: activations", activations)
  if array.ndim < 2 or array.shape[-1] == 0:
    raise ValueError(
      f"{name}: activations must have shape [..., N] with at least one batch "
      f"dimension and N at least 1, got {list(array.shape)}"
    )
  return array


def same_neurons(
  activations: jax.Array, kernel: jax.Array, *, name: str
) -> None:
  """Raises unless both count the same N neurons."""
  if activations.shape[-1] != kernel.shape[0]:
    raise ValueError(
      f"{name}: activations [..., N] and kernel [N, M] must share N, got "
      f"{list(activations.shape)} and {list(kernel.shape)}; the kernel is "
      "that of the layer which the activations enter"
    )


def sample_mask(
  where: ArrayLike | None, batch: tuple[int, ...], *, name: str
) -> jax.Array | None:
  """Returns `where`, if it is a mask of a batch or of its first axes.

  Either may be flat; axes in another order are no flat batch.
  """
  if where is None:
    return None
  mask = _as_array(f"{name}: where", where)
  if mask.dtype != jnp.bool_:
    raise TypeError(
      f"{name}: where must be boolean (True: a real sample), got {mask.dtype}"
    )
  fits = mask.ndim > 0 and mask.shape == batch[: mask.ndim]
  is_flat = 1 in (mask.ndim, len(batch))
  if not fits and not (is_flat and math.prod(mask.shape) == math.prod(batch)):
    raise ValueError(
      f"{name}: where must have the shape {list(batch)} of the batch, or that "
      f"of its first axes, got {list(mask.shape)}; layers with other samples "
      "need a mask of their own"
    )
  return mask


def integers(name: str, value: ArrayLike) -> jax.Array:
  """Returns `value` as an array of integers."""
  array = jnp.asarray(value)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"{name} must be integers, got {array.dtype}")
  return array


def integer_vector(name: str, value: ArrayLike) -> jax.Array:
  """Returns `value` as integers [N]."""
  array = integers(name, value)
  if array.ndim != 1:
    raise ValueError(f"{name} must have one dimension, got {list(array.shape)}")
  return array


def same_shape(name: str, array: jax.Array, *shapes: tuple[int, ...]) -> None:
  """Raises unless an array has one of these shapes."""
  if array.shape not in shapes:
    raise ValueError(
      f"{name} must have shape {list(shapes[0])}, got {list(array.shape)}"
    )


def same_structure(expected: Any, got: Any, *, names: tuple[str, str]) -> None:
  """Raises unless two trees have the same layers, naming those that differ."""
  structures: list[Any] = [jax.tree.structure(tree) for tree in (expected, got)]
  if structures[0] == structures[1]:
    return
  wanted, found = (
    {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)}
    for tree in (expected, got)
  )
  differ = (
    f"only in {names[0]}: {sorted(wanted - found)}, only in {names[1]}: "
    f"{sorted(found - wanted)}"
    if wanted != found
    else "their layers have the same names, but lie in other containers"
  )
  raise ValueError(
    f"{names[0]} and {names[1]} must be trees of the same structure; {differ} "
    f"(structures {structures[0]} and {structures[1]})"
  )


def _as_array(name: str, value: ArrayLike) -> jax.Array:
  if value is None or isinstance(value, (str, bytes, list, tuple, dict)):
    raise TypeError(f"{name} must be an array, got {type(value).__name__}")
  return jnp.asarray(value)


def _is_int(value: Any) -> bool:
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_real(dtype: Any) -> bool:
  return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(
    dtype, jnp.integer
  )


def float_array(name: str, value: ArrayLike) -> jax.Array:
  """Returns `value` as a float array, in float32 at least."""
  array = _as_array(name, value)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise TypeError(
      f"{name} must be floating point, got {array.dtype}{list(array.shape)}"
    )
  # Sums over samples and neurons lose everything in 8 or 11 bits of mantissa.
  return array.astype(widest(array.dtype, jnp.dtype(jnp.float32)))


def widest(*dtypes: jnp.dtype) -> jnp.dtype:
  """Returns the floating dtype of most bits, the first of equals.

  `jnp.promote_types` refuses float8 and float4, and under
  jax_numpy_dtype_promotion=strict any two that differ.
  """
  return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
