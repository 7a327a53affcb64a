"""Closed forms of sum_s sum_ij A_ij |c_si - c_sj|, without the differences."""

import jax
import jax.numpy as jnp

from bean_jax import divergence
from bean_jax.correlation import rows_of_correlation


def energy(centred: jax.Array, strength: jax.Array, order: int) -> jax.Array:
  """Returns the energy of c [S, N] and F [N, M] in the cheapest way.

  The ways are compared by their passes over memory, of which a prefix sum and
  its derivative make about 8.
  """
  num_samples, num_neurons = centred.shape
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
  """Takes A as Phi Phi^T / K, and the samples one after another.

  The energy of a sample is 2 int cut(t) dt, where cut(t) is the sum of A_ij
  over c_i <= t < c_j. Between two neighbours in the order of activation the
  cut is constant: with prefix sums P of the features, of total T, it is
  P . (T - P) / K. All terms are positive, so nothing cancels.
  """
  total = jnp.sum(features, axis=0)

  @jax.checkpoint
  def of_sample(sample: jax.Array) -> jax.Array:
    ranking = jnp.argsort(jax.lax.stop_gradient(sample))
    below = jnp.cumsum(features[ranking], axis=0)[:-1]
    cut = jnp.sum(below * (total[None, :] - below), axis=1)
    return jnp.sum(jnp.diff(sample[ranking]) * cut)

  energies = jax.lax.map(
    of_sample,
    centred,
    batch_size=divergence.block_size(centred.shape[0], features.size),
  )
  return 2 * jnp.sum(energies) / float(features.shape[1])


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
