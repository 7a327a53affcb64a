"""Dropout of the inputs of dense layers, as the authors' comparison has it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
  """What decides which neurons are dropped.

  Attributes:
    rate: Probability of each, in [0, 1); may be traced.
    key: A key for one pass.
  """

  rate: jax.Array
  key: jax.Array


def drop(x: jax.Array, dropout: Dropout | None, *, place: int) -> jax.Array:
  """Sets entries to 0 at random and scales the others so that means stay.

  Without dropout nothing changes. The place is the number of the layer, so that
  each draws its own.

  Example:
    >>> x = jnp.ones(6)
    >>> bool(jnp.all(drop(x, None, place=0) == x))
    True
    >>> dropout = Dropout(0.5, jax.random.key(0))
    >>> sorted(set(drop(x, dropout, place=0).tolist()))
    [0.0, 2.0]
  """
  if dropout is None:
    return x
  keep = 1 - dropout.rate
  key = jax.random.fold_in(dropout.key, place)
  return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)
