"""How differently two neurons fire: the co-activation divergence of Eq. 1."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import _checks, _rows, _sharding
from bean_jax.correlation import matmul

# Elements of the largest temporary that a block of neurons or samples may take
# beyond the size of the inputs: a quarter of a MiB in float32. 16 times as many
# took more memory than a rematerialized transformer; on a CPU some shapes were
# faster by up to 1.7 times then, others slower by as much as 2.6.
_BLOCK_ELEMENTS = 2**16
# d(s x, s y) is s to this power times d(x, y).
POWERS = {"squared": 2, "absolute": 1}


def coactivation_divergence(
  activations: ArrayLike,
  *,
  distance: str = "squared",
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Computes the mean divergence between the activations of two neurons.

  .. math::
    D_{ij} = \frac{1}{S} \sum_s d(h_{si}, h_{sj}), \qquad
    d(x, y) = (x - y)^2 \;\text{or}\; |x - y|

  Args:
    activations: Activations [..., N]; leading dimensions are batch.
    distance: "squared" or "absolute", static.
    where: Boolean mask of real samples, in the shape of the leading
      dimensions or of the first of them; the others take no part. All are real
      by default.

  Returns:
    D [N, N], symmetric with a zero diagonal, in the units of the activations
    (absolute) or their square (squared).

  Raises:
    TypeError: If activations are not floating point or the mask not boolean.
    ValueError: If a shape is wrong or the distance unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> print(coactivation_divergence(jnp.array([[0.0, 2.0], [1.0, 1.0]])))
    [[0. 2.]
     [2. 0.]]

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 2.1, d of Eq. 1.
  """
  distance = _checks.known_distance(distance)
  name = "coactivation_divergence"
  rows = _checks.activation_rows(activations, name=name)
  mask = _checks.sample_mask(where, rows.shape[:-1], name=name)

  def of_arrays(rows: jax.Array, mask: jax.Array | None) -> jax.Array:
    centred, num_samples = centre(rows, mask)
    power = POWERS[distance]
    scale = scale_of_mean(centred.shape[0], power)
    centred, num_samples = scale * centred, num_samples * scale**power
    if distance == "squared":
      pairs = squared_divergence(centred, num_samples)
    else:
      sums = jax.lax.map(
        jax.checkpoint(lambda neuron: absolute_divergence(neuron, centred)),
        centred.T,
        batch_size=block_size(centred.shape[1], centred.size),
      )
      pairs = sums / num_samples
    # Fused, both sides of a difference may be rounded differently.
    return jnp.where(jnp.eye(len(pairs), dtype=bool), 0, pairs)

  return _sharding.with_automatic_axes(of_arrays, rows, mask)


def centre(
  activations: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array | float]:
  """Returns activations [S, N] less each sample's mean, and the count of real.

  Divergences see differences only, so the shift is free; it removes the
  cancellation between large, nearly equal terms. Samples that are masked out
  become rows of zeros, which diverge by nothing.
  """
  rows = activations.reshape(-1, activations.shape[-1])
  num_samples: jax.Array | float
  if mask is None:
    num_samples = float_of(rows.shape[0])
  else:
    mask = _rows.mask_of_rows(mask, activations.shape[:-1])
    rows = jnp.where(mask[:, None], rows, 0)
    num_samples = jnp.maximum(jnp.sum(mask, dtype=rows.dtype), 1)
  # The result does not depend on the shift, so neither does any derivative.
  shift = jax.lax.stop_gradient(jnp.mean(rows, axis=1, keepdims=True))
  return rows - shift, num_samples


def scale_of_mean(num_terms: int, power: int) -> float:
  """Returns the factor of activations that makes a sum of d about its mean.

  A sum of so many squares may overflow where their mean does not. A power of
  two, so that no digit changes.
  """
  num_terms = max(size_to_choose_by(num_terms), 1)
  return 2.0 ** -round(math.log2(num_terms) / power)


def squared_divergence(
  centred: jax.Array, num_samples: jax.Array | float
) -> jax.Array:
  """Returns the mean squared differences [N, N] by way of the Gram matrix."""
  gram = matmul(centred.T, centred) / num_samples
  norms = jnp.diagonal(gram)
  return norms[:, None] + norms[None, :] - 2 * gram


def absolute_divergence(neuron: jax.Array, centred: jax.Array) -> jax.Array:
  """Returns sum_s |neuron_s - h_sj| [N] for one neuron's activations [S]."""
  return jnp.sum(jnp.abs(neuron[:, None] - centred), axis=0)


def float_of(size: int) -> jax.Array | float:
  """Returns a size of at least 1, which `jax.export` may leave open."""
  if isinstance(size, int):
    return float(max(size, 1))
  return jnp.maximum(jnp.asarray(size, jnp.float32), 1)


def size_to_choose_by(size: int) -> int:
  """Returns a size, or a usual one where `jax.export` leaves it open."""
  return size if isinstance(size, int) else 128


def block_size(num_items: int, elements_per_item: int) -> int:
  """Returns how many items `jax.lax.map` may take at once."""
  affordable = _BLOCK_ELEMENTS // max(1, size_to_choose_by(elements_per_item))
  return max(1, min(affordable, size_to_choose_by(num_items)))
