r"""The BEAN penalty of Eq. 1, without its tensor of pairwise differences.

A layer has S samples, N neurons and M neurons in the layer after it; c are its
activations less each sample's mean over neurons, F = |tanh(gamma W)|. Both
distances have two closed forms each, and the cheaper one is chosen from the
shapes while tracing:

* by features, where A = Phi Phi^T / K with Phi = F (order 1, K = M) or the
  row-wise Kronecker square of F (order 2, K = M^2): the penalty is the energy
  of a graph Laplacian that is never formed;
* by pairs of neurons, from [N, N] matrices or blocks of their rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import _checks, correlation, divergence
from bean_jax.correlation import PRECISION

PyTree = Any


def layer_penalty(
  activations: ArrayLike,
  kernel: ArrayLike,
  *,
  order: int = 1,
  gamma: ArrayLike = 1.0,
  distance: str = "squared",
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Computes the BEAN penalty of one dense layer.

  Neurons that wire together (A) are asked to fire together (d):

  .. math::
    L_c = \frac{1}{S N^2} \sum_s \sum_{ij} A_{ij}\, d(h_{si}, h_{sj})

  No array of S N^2 elements is formed. With the squared distance and order 1
  the cost is about that of one more pass through the dense layer.

  Args:
    activations: Activations h [..., N] that enter the layer; leading
      dimensions are batch.
    kernel: Kernel [N, M] of the layer, row i the outgoing weights of neuron i.
    order: 1 (BEAN-1) or 2 (BEAN-2), static.
    gamma: Slope in A, a scalar in units of 1 / weight; may be traced.
    distance: "squared" or "absolute", static.
    where: Boolean mask of real samples, in the shape of the leading
      dimensions. All are real by default.

  Returns:
    The penalty, a scalar in the units of the distance; 0 if no sample is real.

  Raises:
    TypeError: If an array is not floating point, or order is not an int.
    ValueError: If a shape is wrong or an option is unknown or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> activations = jnp.array([[1.0, 3.0]])
    >>> kernel = jnp.arctanh(jnp.array([[0.5, 0.0], [0.5, 0.5]]))
    >>> print(layer_penalty(activations, kernel))  # 2 * 0.125 * 4 / 2**2
    0.25

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Eq. 1, with A of Eq. 5 (order 1) or Eq. 7 (order 2).
  """
  return _layer_penalty(
    activations,
    kernel,
    order=_checks.order_of_correlation(order),
    gamma=_checks.nonnegative_scalar("gamma", gamma),
    distance=_checks.known_distance(distance),
    where=where,
    name="layer_penalty",
  )


def bean_penalty(
  activations: PyTree,
  kernels: PyTree,
  *,
  alpha: ArrayLike | PyTree = 1.0,
  order: int = 1,
  gamma: ArrayLike = 1.0,
  distance: str = "squared",
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Computes the weighted sum of the BEAN penalties of several layers.

  .. math::
    \sum_l \alpha_l\, L_c^{(l)}

  Args:
    activations: Tree, usually a dict by layer, of activations [..., N_l].
    kernels: Tree of the same structure, of kernels [N_l, M_l].
    alpha: Strength, a scalar for all layers or a tree of the same structure
      with a scalar a layer; may be traced. A layer whose alpha is the Python
      number 0 is not computed at all.
    order: 1 (BEAN-1) or 2 (BEAN-2), static.
    gamma: Slope in A, a scalar in units of 1 / weight; may be traced.
    distance: "squared" or "absolute", static.
    where: Boolean mask of real samples, shared by all layers.

  Returns:
    The weighted penalty, a scalar.

  Raises:
    TypeError: If an array is not floating point, or order is not an int.
    ValueError: If the trees differ or are empty, a shape is wrong, or an
      option is unknown or out of range. The message names the layer.

  Example:
    >>> import jax.numpy as jnp
    >>> activations = {"fc": jnp.array([[1.0, 3.0]])}
    >>> kernels = {"fc": jnp.arctanh(jnp.array([[0.5, 0.0], [0.5, 0.5]]))}
    >>> print(bean_penalty(activations, kernels, alpha=2.0))
    0.5

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 2.1, the second term of L = L_DNN + alpha L_c.
  """
  order = _checks.order_of_correlation(order)
  gamma = _checks.nonnegative_scalar("gamma", gamma)
  distance = _checks.known_distance(distance)
  _checks.same_structure(activations, kernels, names=("activations", "kernels"))
  layers = jax.tree.leaves_with_path(activations)
  if not layers:
    raise ValueError(
      "activations and kernels must hold at least one layer, got empty trees"
    )
  if not jax.tree_util.treedef_is_leaf(jax.tree.structure(alpha)):
    _checks.same_structure(activations, alpha, names=("activations", "alpha"))
    alphas = jax.tree.leaves(alpha)
  else:
    alphas = [alpha] * len(layers)
  total = 0.0
  for (path, hidden), kernel, weight in zip(
    layers, jax.tree.leaves(kernels), alphas, strict=True
  ):
    name = f"layer {jax.tree_util.keystr(path)}"
    weight = _checks.nonnegative_scalar(f"{name}: alpha", weight)
    term = _layer_penalty(
      hidden,
      kernel,
      order=order,
      gamma=gamma,
      distance=distance,
      where=where,
      name=name,
    )
    # A literal 0 switches the layer off even where its penalty overflows.
    switched_off = isinstance(weight, float) and weight == 0
    total += jnp.zeros_like(term) if switched_off else weight * term
  return total


def _layer_penalty(
  activations: ArrayLike,
  kernel: ArrayLike,
  *,
  order: int,
  gamma: ArrayLike,
  distance: str,
  where: ArrayLike | None,
  name: str,
) -> jax.Array:
  """Computes `layer_penalty` for checked options, naming the layer in errors."""
  hidden = _checks.activation_rows(activations, name=name)
  kernel = _checks.kernel_matrix(kernel, name=name)
  _checks.same_neurons(hidden, kernel, name=name)
  dtype = jnp.promote_types(hidden.dtype, kernel.dtype)
  centred, num_samples = divergence.centre(
    hidden.astype(dtype), where, name=name
  )
  strength = correlation.relative_strength(kernel.astype(dtype), gamma)
  sizes = (*centred.shape, kernel.shape[1])
  if distance == "squared":
    by_features, by_pairs = _squared_by_features, _squared_by_pairs
    features_are_cheaper = _prefer_features_squared(*sizes, order)
  else:
    by_features, by_pairs = _absolute_by_features, _absolute_by_pairs
    features_are_cheaper = _prefer_features_absolute(*sizes, order)
  energy = by_features if features_are_cheaper else by_pairs
  # As floats: S N^2, as one integer, may pass 2^31.
  return energy(centred, strength, order) / num_samples / float(sizes[1]) ** 2


def _prefer_features_squared(
  num_samples: int, num_neurons: int, num_next: int, order: int
) -> bool:
  """Compares multiply-adds, where the memory of features is affordable."""
  pairs = num_neurons**2 * (num_next + num_samples)
  if order == 1:
    return num_samples * num_neurons * num_next <= pairs
  features = num_neurons * num_next**2 * (num_samples + 2)
  temporary = num_neurons * num_next * min(num_samples, num_next)
  affordable = max(num_neurons**2, divergence.BLOCK_ELEMENTS)
  return features <= pairs and temporary <= affordable


def _squared_by_features(
  centred: jax.Array, strength: jax.Array, order: int
) -> jax.Array:
  """Returns sum_s 2 (sum_i degree_i c_i^2 - c^T A c), a Laplacian's energy."""
  if order == 1:
    degree = _matmul(strength, jnp.sum(strength, axis=0))
    projected = _matmul(centred, strength)
  else:
    # c^T A c = |F^T diag(c) F|^2 / M^2, and with c = 1 on one side, A 1.
    overlap = _matmul(strength.T, strength)
    degree = jnp.sum(_matmul(strength, overlap) * strength, axis=1)
    projected = _project_on_pairs(centred, strength)
  total = jnp.vdot(degree, jnp.sum(centred**2, axis=0))
  scale = 2 / float(strength.shape[1]) ** order
  return scale * (total - jnp.sum(projected**2))


def _project_on_pairs(centred: jax.Array, strength: jax.Array) -> jax.Array:
  """Returns sum_i c_si F_ik F_im for all k, m, in the order of less memory."""
  num_samples, num_neurons = centred.shape
  num_next = strength.shape[1]
  if num_samples <= num_next:
    weighted = strength.T[None, :, :] * centred[:, None, :]
    return _matmul(weighted, strength)
  pairs = strength[:, :, None] * strength[:, None, :]
  return _matmul(centred, pairs.reshape(num_neurons, num_next**2))


def _squared_by_pairs(
  centred: jax.Array, strength: jax.Array, order: int
) -> jax.Array:
  """Returns sum_ij A_ij sum_s (c_si - c_sj)^2 from two [N, N] matrices."""
  wiring = correlation.rows_of_correlation(strength, strength, order)
  return jnp.vdot(wiring, divergence.squared_divergence(centred, 1.0))


def _prefer_features_absolute(
  num_samples: int, num_neurons: int, num_next: int, order: int
) -> bool:
  """Compares passes over memory; a prefix sum makes about 8 a feature."""
  features = 8 * num_samples * num_neurons * num_next**order
  return features <= num_neurons**2 * (2 * num_samples + num_next)


def _absolute_by_features(
  centred: jax.Array, strength: jax.Array, order: int
) -> jax.Array:
  """Returns sum_s 2 int cut(t) dt, where cut(t) = sum of A_ij, h_i <= t < h_j.

  Between two neighbours in the order of activation the cut is constant, and
  with prefix sums P of the features, of total T, it is P . (T - P) / K. All
  terms are positive, so nothing cancels.
  """
  num_neurons, num_next = strength.shape
  features = strength
  if order == 2:
    features = (strength[:, :, None] * strength[:, None, :]).reshape(
      num_neurons, num_next**2
    )
  total = jnp.sum(features, axis=0)

  @jax.checkpoint
  def energy(sample: jax.Array) -> jax.Array:
    ranking = jnp.argsort(jax.lax.stop_gradient(sample))
    below = jnp.cumsum(features[ranking], axis=0)[:-1]
    cut = jnp.sum(below * (total[None, :] - below), axis=1)
    return jnp.vdot(jnp.diff(sample[ranking]), cut)

  energies = jax.lax.map(
    energy,
    centred,
    batch_size=divergence.block_size(len(centred), features.size),
  )
  return 2 * jnp.sum(energies) / float(num_next) ** order


def _absolute_by_pairs(
  centred: jax.Array, strength: jax.Array, order: int
) -> jax.Array:
  """Returns sum_ij A_ij sum_s |c_si - c_sj|, a block of rows i at a time."""

  @jax.checkpoint
  def energy(neuron: jax.Array, outgoing: jax.Array) -> jax.Array:
    wiring = correlation.rows_of_correlation(outgoing, strength, order)
    return jnp.vdot(wiring, divergence.absolute_divergence(neuron, centred))

  energies = jax.lax.map(
    lambda row: energy(*row),
    (centred.T, strength),
    batch_size=divergence.block_size(strength.shape[0], centred.size),
  )
  return jnp.sum(energies)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, precision=PRECISION)
