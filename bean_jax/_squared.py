r"""Closed forms of sum_s sum_ij A_ij (c_si - c_sj)^2, without the differences.

It is twice the energy of a graph Laplacian, with degrees A 1:

.. math:: 2 \sum_s \Big( \sum_i (A 1)_i c_{si}^2 - c_s^T A c_s \Big)

By features, A = F F^T / M (order 1) or its entry-wise square (order 2) is never
formed; by pairs, it is. Value and gradients share their products, which are
passes over F as long as there are few samples; so each form returns both.

Sums of many terms are `jnp.sum`: a dot product of two long vectors is one
sequential sum on a CPU, and loses three digits.
"""

from collections.abc import Callable
import functools
import operator

import jax
import jax.numpy as jnp

from bean_jax import divergence
from bean_jax.correlation import matmul, rows_of_correlation

Gradients = tuple[jax.Array, jax.Array]

# Of one or two samples: few outer products fuse with what is done with their
# sum, which costs less than a matrix product and a pass over its result.
_MOST_OUTER_PRODUCTS = 4


def energy(centred: jax.Array, strength: jax.Array, order: int) -> jax.Array:
  """Returns the energy of c [S, N] and F [N, M] in the cheapest way.

  The ways are compared by their multiply-adds and, for pairs, the passes over
  [N, N] matrices, which cost as much as 16 multiply-adds an entry.
  """
  num_samples, num_neurons = centred.shape
  num_next = strength.shape[1]
  by_pairs = _with_gradients(functools.partial(_by_pairs, order))
  pairs = num_neurons**2 * (num_next + num_samples + 16)
  if order == 1:
    features = num_samples * num_neurons * num_next
    by_features = _with_gradients(_by_features)
  else:
    features = num_neurons * num_next**2 * (num_samples + 2)
    temporary = num_neurons * num_next * (min(num_samples, num_next) + 2)
    if temporary > max(num_neurons**2, divergence.BLOCK_ELEMENTS):
      return by_pairs(centred, strength)
    if num_samples <= num_next:
      by_features = _with_gradients(_by_features_of_samples)
    else:
      by_features = _by_pairs_of_features
  return (by_features if features <= pairs else by_pairs)(centred, strength)


def _by_features(
  centred: jax.Array, features: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Takes A as Phi Phi^T / K, for features Phi [N, K].

  The energy is 2 (r . v - |c Phi|^2) / K, with r = 1 Phi and v = q Phi, where q
  are the sums of squares over samples.
  """
  left, right = _scales(centred)
  sums = matmul(left.T, features)
  returned = matmul(features, sums.T)
  degree, attraction = returned[:, :1], returned[:, 2:]
  scale = 2 / float(features.shape[1])
  value = jnp.sum(scale * sums[0] * sums[1]) - jnp.sum(scale * sums[2:] ** 2)
  return value, (
    2 * scale * (degree * centred.T - attraction).T,
    scale * _sum_of_outer_products(right, sums),
  )


def _sum_of_outer_products(left: jax.Array, right: jax.Array) -> jax.Array:
  """Returns left @ right, of [N, K] and [K, M], with K = 2 + samples."""
  if len(right) > _MOST_OUTER_PRODUCTS:
    return matmul(left, right)
  terms = (jnp.outer(left[:, k], row) for k, row in enumerate(right))
  return functools.reduce(operator.add, terms)


def _by_pairs_of_features(centred: jax.Array, strength: jax.Array) -> jax.Array:
  """Takes A of order 2 as that of order 1 of the products F_ik F_im."""
  products = strength[:, :, None] * strength[:, None, :]
  features = products.reshape(strength.shape[0], -1)
  return _with_gradients(_by_features)(centred, features)


def _by_features_of_samples(
  centred: jax.Array, strength: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Takes c^T A c of order 2 as |F^T diag(c) F|^2 / M^2, and A 1 likewise.

  All that value and gradients need are F F^T diag(t) F, for t among 1, q and
  each sample c: two large products, where differentiating would make nine.
  """
  num_neurons, num_next = strength.shape
  left, right = _scales(centred)
  scale = 2 / float(num_next) ** 2
  scaled = (scale * left)[:, :, None] * strength[:, None, :]
  overlap = matmul(strength.T, scaled.reshape(num_neurons, -1))
  returned = matmul(strength, overlap).reshape(num_neurons, -1, num_next)
  rows = jnp.sum(returned * strength[:, None, :], axis=2)
  degree, attraction = rows[:, :1], rows[:, 2:]
  value = jnp.sum(degree * left[:, 1:2]) - jnp.sum(centred.T * attraction)
  return value, (
    2 * (degree * centred.T - attraction).T,
    2 * jnp.sum(right[:, :, None] * returned, axis=1),
  )


def _scales(centred: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns what scales the neurons [N, 2 + S]: (1, q, c) and (q, 1, -2 c)."""
  squares = jnp.sum(centred**2, axis=0)[:, None]
  ones = jnp.ones_like(squares)
  left = jnp.concatenate([ones, squares, centred.T], axis=1)
  right = jnp.concatenate([squares, ones, -2 * centred.T], axis=1)
  return left, right


def _by_pairs(
  order: int, centred: jax.Array, strength: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Takes the [N, N] matrices A and D, both symmetric."""
  num_next = float(strength.shape[1])
  shared = rows_of_correlation(strength, strength, 1)
  wiring = shared**order
  differences = divergence.squared_divergence(centred, 1.0)
  degree = jnp.sum(wiring, axis=1)
  slope = differences if order == 1 else 2 * shared * differences
  return jnp.sum(wiring * differences), (
    4 * (degree[None, :] * centred - matmul(centred, wiring)),
    2 * matmul(slope, strength) / num_next,
  )


def _with_gradients(
  value_and_gradients: Callable[..., tuple[jax.Array, Gradients]],
) -> Callable[..., jax.Array]:
  """Makes a function whose derivative is known, in both modes, any order."""

  @jax.custom_jvp
  def value(*arguments: jax.Array) -> jax.Array:
    return value_and_gradients(*arguments)[0]

  @value.defjvp
  def value_jvp(
    arguments: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
  ) -> tuple[jax.Array, jax.Array]:
    result, gradients = value_and_gradients(*arguments)
    pairs = zip(gradients, tangents, strict=True)
    terms = (jnp.sum(slope * step) for slope, step in pairs)
    return result, functools.reduce(operator.add, terms)

  return value
