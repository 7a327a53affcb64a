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
from bean_jax.correlation import matmul, product

Gradients = tuple[jax.Array, jax.Array]

# Of one or two samples: few outer products fuse with what is done with their
# sum, which costs less than a matrix product and a pass over its result.
_MOST_OUTER_PRODUCTS = 4
# Elements: 4 MiB in float32, which stay in cache.
_SMALL_TEMPORARY = 2**20


def energy(
  centred: jax.Array,
  strength: jax.Array,
  order: int,
  *,
  transposed: bool = False,
) -> jax.Array:
  """Returns the energy of c [S, N] and F [N, M] in the cheapest way.

  The ways are compared by their multiply-adds and, for pairs, the passes over
  [N, N] matrices, which cost as much as 16 multiply-adds an entry. F may come
  transposed, [M, N]; the way that is a mere pass over F takes it as it is.
  """
  num_samples = divergence.size_to_choose_by(centred.shape[0])
  num_neurons = centred.shape[1]
  num_next = strength.size // num_neurons
  pairs = num_neurons**2 * (num_next + num_samples + 16)
  if order == 1:
    features = num_samples * num_neurons * num_next
    if features <= pairs:
      by_features = _by_transposed_features if transposed else _by_features
      return _with_gradients(by_features)(centred, strength)
  else:
    features = num_neurons * num_next**2 * (num_samples + 2)
    temporary = num_neurons * num_next * (min(num_samples, num_next) + 2)
    is_small = temporary <= max(num_neurons**2, _SMALL_TEMPORARY)
    if is_small and features <= pairs:
      strength = strength.T if transposed else strength
      if num_samples > num_next:
        return _by_pairs_of_features(centred, strength)
      return _with_gradients(_by_features_of_samples)(centred, strength)
  by_pairs = functools.partial(_by_pairs, order, transposed)
  return _with_gradients(by_pairs)(centred, strength)


def _by_features(
  centred: jax.Array, features: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Takes A as Phi Phi^T / K, for features Phi [N, K].

  The energy is 2 (r . v - |c Phi|^2) / K, with r = 1 Phi and v = q Phi, where q
  are the sums of squares over samples.
  """
  left, right = map(_as_columns, _scales(centred))
  sums = matmul(left.T, features)
  returned = matmul(features, sums.T)
  degree, attraction = returned[:, :1], returned[:, 2:]
  scale = 2 / float(features.shape[1])
  value = jnp.sum(scale * sums[0] * sums[1]) - jnp.sum(scale * sums[2:] ** 2)
  return value, (
    2 * scale * (degree * centred.T - attraction).T,
    scale * _sum_of_outer_products(right, sums),
  )


def _by_transposed_features(
  centred: jax.Array, features: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Does what `_by_features` does, for features [K, N] as they lie.

  All products have the samples in front, as do those of a layer whose kernel is
  kept so; a transposed copy of the features would take as long as the layer.
  """
  left, right = map(jnp.concatenate, _scales(centred))
  sums = product(left, features, (1, 1))
  returned = product(sums, features, (1, 0))
  degree, attraction = returned[:1], returned[2:]
  scale = 2 / float(features.shape[0])
  value = jnp.sum(scale * sums[0] * sums[1]) - jnp.sum(scale * sums[2:] ** 2)
  return value, (
    2 * scale * (degree * centred - attraction),
    scale * _sum_of_outer_products(sums.T, right),
  )


def _sum_of_outer_products(left: jax.Array, right: jax.Array) -> jax.Array:
  """Returns left @ right, of [N, K] and [K, M], with K = 2 + samples."""
  if divergence.size_to_choose_by(right.shape[0]) > _MOST_OUTER_PRODUCTS:
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
  left, right = map(_as_columns, _scales(centred))
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


def _scales(centred: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
  """Returns what scales the neurons, rows of N: (1, q, c) and (q, 1, -2 c)."""
  squares = jnp.sum(centred**2, axis=0)[None]
  ones = jnp.ones_like(squares)
  return [ones, squares, centred], [squares, ones, -2 * centred]


def _as_columns(rows: list[jax.Array]) -> jax.Array:
  return jnp.concatenate([part.T for part in rows], axis=1)


def _by_pairs(
  order: int, transposed: bool, centred: jax.Array, strength: jax.Array
) -> tuple[jax.Array, Gradients]:
  """Takes the [N, N] matrices A and D, both symmetric."""
  neurons, others = (1, 0) if transposed else (0, 1)
  num_next = float(strength.shape[others])
  shared = product(strength, strength, (others, others)) / num_next
  wiring = shared**order
  differences = divergence.squared_divergence(centred, 1.0)
  degree = jnp.sum(wiring, axis=1)
  slope = differences if order == 1 else 2 * shared * differences
  # The slope is symmetric.
  pair = (strength, slope) if transposed else (slope, strength)
  return jnp.sum(wiring * differences), (
    4 * (degree[None, :] * centred - matmul(centred, wiring)),
    2 * product(*pair, (1, 0)) / num_next,
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
