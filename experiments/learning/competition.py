"""The rule of Krotov and Hopfield's hidden units, and the loss of the read-out.

See `competing_units` for the equations and their source.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def compete(
  weights: ArrayLike,
  inputs: ArrayLike,
  step_size: ArrayLike = 1.0,
  *,
  norm: float = 2.0,
  rank: int = 2,
  inhibition: ArrayLike = 0.4,
  nonnegative: bool = False,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Moves the hidden weights as a batch of images tells.

  At most two units move for an image, so that a step costs little more than the
  currents do.

  Args:
    weights: W [units, n].
    inputs: Images [batch, n].
    step_size: Largest change of a weight.
    norm: p.
    rank: k, from 2 to the number of units.
    inhibition: Delta.
    nonnegative: Whether entries below 0 of what moves are put to 0.
    where: Real images [batch], or None if all are.

  Returns:
    W + step_size D / max |D| [units, n]; W if nothing changes.

  Raises:
    ValueError: If `rank` is below 2 or beyond the units.

  Example:
    >>> image = jnp.array([[1.0, 0.5]])
    >>> compete(jnp.eye(2), image, inhibition=0.25).tolist()
    [[1.0, 1.0], [-0.5, 1.0]]
  """
  weights, inputs = jnp.asarray(weights), jnp.asarray(inputs)
  if not 2 <= rank <= len(weights):
    raise ValueError(
      f"rank: expected 2 to the number of units, {len(weights)}, got {rank}"
    )
  powers = jnp.sign(weights) * jnp.abs(weights) ** (norm - 1)
  currents, units = (
    jnp.concatenate([_place(leaf, 0), _place(leaf, rank - 1)])
    for leaf in jax.lax.top_k(inputs @ powers.T, rank)
  )
  signs = jnp.ones(len(inputs)) if where is None else jnp.asarray(where)
  signs = jnp.concatenate([signs, -inhibition * signs]).astype(inputs.dtype)
  # A unit that moves for several images stands in as many rows, which are
  # equal: the sum of all of them.
  same = jnp.where(units[:, None] == units, signs, 0)
  moved = weights[units]
  sums = same[:, : len(inputs)] + same[:, len(inputs) :]
  change = sums @ inputs - (same @ currents)[:, None] * moved
  factor = step_size / jnp.maximum(jnp.max(jnp.abs(change)), 1e-30)
  moved += factor * change
  return weights.at[units].set(jnp.maximum(moved, 0) if nonnegative else moved)


def _place(ranked: jax.Array, place: int) -> jax.Array:
  """Returns a column of what `top_k` gave.

  Of a slice of that XLA for CPUs makes a sort of everything, which takes
  several times as long as the rest of a step.
  """
  chosen = jnp.arange(ranked.shape[1]) == place
  return jnp.sum(jnp.where(chosen, ranked, 0), axis=1)


def readout_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  power: float = 6.0,
  where: ArrayLike | None = None,
) -> jax.Array:
  """Computes the mean over images of the sum over classes of |tanh z - t|^m.

  Args:
    logits: z [batch, classes].
    labels: Classes [batch].
    power: m.
    where: Real images [batch], or None if all are.

  Returns:
    A scalar.

  Example:
    >>> float(readout_loss(jnp.zeros((2, 3)), jnp.array([0, 2])))
    3.0
  """
  outputs = jnp.tanh(jnp.asarray(logits))
  targets = 2 * jax.nn.one_hot(labels, outputs.shape[1]) - 1
  losses = jnp.sum(jnp.abs(outputs - targets) ** power, axis=1)
  return jnp.mean(losses, where=where)
