"""The order of numbers, typed rightly within `jax.shard_map`."""

import jax
import jax.numpy as jnp


def ranked(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns values [n] in ascending order, and the places they come from.

  Of equal values the earlier ones come first. `jnp.argsort` would not do:
  within `jax.shard_map` its result is typed as equal on all devices, so that
  derivatives of what is gathered by it are not summed over them.
  """
  places = jnp.arange(len(values), dtype=jnp.int32)
  ordered, ranking = jax.lax.sort((values, places), num_keys=1)
  return ordered, ranking


def ranks(ranking: jax.Array) -> jax.Array:
  """Returns where in their order the values are: the inverse of a ranking."""
  places = jnp.arange(len(ranking), dtype=jnp.int32)
  return jnp.zeros_like(ranking).at[ranking].set(places)
