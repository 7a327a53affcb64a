"""The BEAN penalty of Eq. 1, of one layer and of a network."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import (
  _absolute,
  _checks,
  _sharding,
  _squared,
  correlation,
  divergence,
)

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
      dimensions or of the first of them. All are real by default.

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
  return _named_penalty(
    "layer_penalty", activations, kernel, where, order, gamma, distance
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
      with a scalar a layer; may be traced. A layer whose alpha is 0, and not
      traced, is not computed at all.
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
  weights, terms = [], []
  for (path, hidden), kernel, strength in zip(
    layers, jax.tree.leaves(kernels), alphas, strict=True
  ):
    name = f"layer {jax.tree_util.keystr(path)}"
    weight = _checks.nonnegative_scalar(f"{name}: alpha", strength)
    term = _named_penalty(name, hidden, kernel, where, order, gamma, distance)
    weights.append(weight)
    # A known 0 switches the layer off even where its penalty overflows.
    terms.append(jnp.zeros_like(term) if is_off(weight) else term)
  return weighted_sum(weights, terms)


def is_off(alpha: ArrayLike) -> bool:
  """Tells whether a checked strength is known to be 0."""
  return isinstance(alpha, float) and alpha == 0


def weighted_sum(
  weights: Sequence[ArrayLike], terms: Sequence[jax.Array]
) -> jax.Array:
  """Sums scalars in one operation; one for each would take long to trace."""
  dtype = _checks.widest(*(term.dtype for term in terms))
  values = jnp.stack([term.astype(dtype) for term in terms])
  return jnp.sum(jnp.asarray(weights, dtype) * values)


def _named_penalty(
  name: str,
  activations: ArrayLike,
  kernel: ArrayLike,
  where: ArrayLike | None,
  order: int,
  gamma: ArrayLike,
  distance: str,
) -> jax.Array:
  """Computes `layer_penalty`; errors of arrays name the layer."""
  order = _checks.order_of_correlation(order)
  gamma = jnp.asarray(_checks.nonnegative_scalar("gamma", gamma))
  distance = _checks.known_distance(distance)
  hidden = _checks.activation_rows(activations, name=name)
  kernel = _checks.kernel_matrix(kernel, name=name)
  _checks.same_neurons(hidden, kernel, name=name)
  mask = _checks.sample_mask(where, hidden.shape[:-1], name=name)
  fn = functools.partial(of_arrays, order=order, distance=distance)
  return _sharding.with_automatic_axes(fn, hidden, kernel, gamma, mask)


# Layers of equal shapes are traced once: by itself, each took as long as a few
# layers of the model.
@functools.partial(jax.jit, static_argnames=("order", "distance", "transposed"))
def of_arrays(
  hidden: jax.Array,
  kernel: jax.Array,
  gamma: jax.Array,
  mask: jax.Array | None,
  *,
  order: int,
  distance: str,
  transposed: bool = False,
) -> jax.Array:
  """Computes `layer_penalty`; the kernel may lie as [M, N]."""
  dtype = _checks.widest(hidden.dtype, kernel.dtype, jnp.dtype(jnp.float32))
  centred, num_samples = divergence.centre(hidden.astype(dtype), mask)
  strength = correlation.relative_strength(kernel.astype(dtype), gamma)
  num_rows, num_neurons = centred.shape
  power = divergence.POWERS[distance]
  scale = divergence.scale_of_mean(num_rows * num_neurons**2, power)
  centred = scale * centred
  if distance == "squared":
    energy = _squared.energy(centred, strength, order, transposed=transposed)
  else:
    strength = strength.T if transposed else strength
    energy = _absolute.energy(centred, strength, order)
  return energy / (num_samples * (scale**power * float(num_neurons) ** 2))
