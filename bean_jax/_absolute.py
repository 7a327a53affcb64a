"""Closed forms of sum_s sum_ij A_ij |c_si - c_sj|, without the differences."""

import jax
import jax.numpy as jnp

from bean_jax import _ranking, divergence
from bean_jax.correlation import matmul, rows_of_correlation


def energy(centred: jax.Array, strength: jax.Array, order: int) -> jax.Array:
  """Returns the energy of c [S, N] and F [N, M] in the cheapest way.

  The ways are compared by their passes over memory, of which a prefix sum and
  its derivative make about 8.
  """
  num_samples = divergence.size_to_choose_by(centred.shape[0])
  num_neurons = centred.shape[1]
  num_next = strength.shape[1]
  features = 8 * num_samples * num_neurons * num_next**order
  pairs = num_neurons**2 * (2 * num_samples + num_next)
  if features > pairs:
    return _by_pairs(centred, strength, order)
  if order == 2:
    products = strength[:, :, None] * strength[:, None, :]
    strength = products.reshape(num_neurons, num_next**2)
  return _by_features(centred, strength)


def _by_features(centred: jax.Array, features: jax.Array) -> jax.Array:
  """Takes A as Phi Phi^T / K, and the samples one after another."""

  @jax.checkpoint
  def of_sample(sample: jax.Array) -> jax.Array:
    return _energy_of_sample(sample, features)

  energies = jax.lax.map(
    of_sample,
    centred,
    batch_size=divergence.block_size(centred.shape[0], features.size),
  )
  return 2 * jnp.sum(energies) / float(features.shape[1])


@jax.custom_jvp
def _energy_of_sample(sample: jax.Array, features: jax.Array) -> jax.Array:
  """Returns half of sum_ij Phi_i . Phi_j |c_i - c_j|.

  It is int cut(t) dt, where cut(t) is the sum of Phi_i . Phi_j over the pairs
  with c_i <= t < c_j. Between two neighbours in the order of activation the
  cut is constant: with prefix sums P of the features, of total T, it is
  P . (T - P). All terms are positive, so nothing cancels.

  Derivatives by c are those of the definition, with sign(0) = 0. Those of the
  cuts would tell neurons that fire alike by their places.
  """
  ordered, ranking = _ranking.ranked(sample)
  below = jnp.cumsum(features[ranking], axis=0)[:-1]
  above = jnp.sum(features, axis=0)[None, :] - below
  return jnp.sum(jnp.diff(ordered) * jnp.sum(below * above, axis=1))


@_energy_of_sample.defjvp
def _energy_of_sample_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (sample, features), (step, change) = primals, tangents
  _, ranking = _ranking.ranked(jax.lax.stop_gradient(sample))
  slope = jnp.sum(features * _signed_sums(sample, features), axis=1)
  sums = _ranked_distance_sums(sample, features)
  rise = jnp.sum(slope * step) + jnp.sum(sums * change[ranking])
  return _energy_of_sample(sample, features), rise


@jax.custom_jvp
def _ranked_distance_sums(sample: jax.Array, rows: jax.Array) -> jax.Array:
  """Returns sum_j |c_i - c_j| x_j [N, K] of rows x [N, K], ascending by c_i."""
  ordered, ranking = _ranking.ranked(sample)
  below = jnp.cumsum(rows[ranking], axis=0)[:-1]
  above = jnp.sum(rows, axis=0)[None, :] - below
  # From one neuron to the next, all below get farther and all above nearer.
  least = matmul(sample - ordered[0], rows)[None, :]
  rises = jnp.diff(ordered)[:, None] * (below - above)
  return jnp.cumsum(jnp.concatenate([least, rises]), axis=0)


@_ranked_distance_sums.defjvp
def _ranked_distance_sums_jvp(
  primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (sample, rows), (step, change) = primals, tangents
  _, ranking = _ranking.ranked(jax.lax.stop_gradient(sample))
  step = step[:, None]
  rise = step * _signed_sums(sample, rows) - _signed_sums(sample, step * rows)
  return (
    _ranked_distance_sums(sample, rows),
    rise[ranking] + _ranked_distance_sums(sample, change),
  )


def _signed_sums(sample: jax.Array, rows: jax.Array) -> jax.Array:
  """Returns sum_j sign(c_i - c_j) x_j [N, K] of rows x [N, K]."""
  ordered, ranking = _ranking.ranked(jax.lax.stop_gradient(sample))
  places = jnp.arange(len(sample), dtype=jnp.int32)
  differs = ordered[1:] != ordered[:-1]
  # Where the neurons begin and end that fire as much as this one.
  first = jnp.where(differs, places[1:], 0)
  first = jax.lax.cummax(jnp.concatenate([places[:1], first]))
  last = jnp.where(differs, places[:-1], places[-1])
  last = jax.lax.cummin(jnp.concatenate([last, places[-1:]]), reverse=True)
  ranks = _ranking.ranks(ranking)
  first, last = first[ranks], last[ranks]
  sums = jnp.cumsum(rows[ranking], axis=0)
  less = jnp.where(first[:, None] > 0, sums[first - 1], 0)
  return less - (sums[-1:] - sums[last])


def _by_pairs(centred: jax.Array, strength: jax.Array, order: int) -> jax.Array:
  """Takes A and D [N, N] in blocks of rows, never whole."""

  @jax.checkpoint
  def of_neuron(neuron: jax.Array, outgoing: jax.Array) -> jax.Array:
    wiring = rows_of_correlation(outgoing, strength, order)
    return jnp.sum(wiring * divergence.absolute_divergence(neuron, centred))

  energies = jax.lax.map(
    lambda row: of_neuron(*row),
    (centred.T, strength),
    batch_size=divergence.block_size(strength.shape[0], centred.size),
  )
  return jnp.sum(energies)
