"""Samples of a layer: which are real, and which of them are looked at."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


def evenly_spaced(num_rows: int, at_most: int) -> np.ndarray:
  """Returns the rows to take, in order, so that no position is preferred.

  They are the multiples of a step modulo the number of rows. As the step shares
  no factor with that number, it shares none with the length of any axis that
  was joined into the rows: every position along every axis is taken equally
  often, but for one. A step near the golden section spaces them evenly.
  """
  if not isinstance(num_rows, int):
    raise ValueError(
      f"samples needs a batch of known size, got {num_rows} rows; export a "
      "batch of fixed size, or leave samples out"
    )
  if num_rows <= at_most:
    return np.arange(num_rows)
  step = round(num_rows / _GOLDEN_RATIO)
  while math.gcd(step, num_rows) > 1:
    step += 1
  return np.sort(np.arange(at_most) * step % num_rows)


def mask_of_rows(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns which rows are real; along further axes samples are alike."""
  if math.prod(mask.shape) != math.prod(shape):
    mask = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    mask = jnp.broadcast_to(mask, shape)
  return mask.reshape(-1)
