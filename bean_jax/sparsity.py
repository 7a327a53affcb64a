"""Sparsity of trained kernels, and smaller networks made of them.

Two ways to make a network cheaper. Unstructured: `magnitude_masks` says which
weights to keep, the shapes stay. Structured: `remove_units` and `merge_units`
take units out of a hidden layer, so that both kernels around it become smaller
arrays. `unit_importance` says which units can go; `gini_index`,
`hoyer_sparsity` and `small_fraction` say how sparse a kernel is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from bean_jax import _checks, _ranking, correlation

PyTree = Any

SCOPES = ("global", "layer")


class HiddenLayer(NamedTuple):
  """N hidden units with all the weights that lead to them and away from them.

  Attributes:
    incoming: Kernel [K, N] of the layer that computes them.
    bias: Its bias [N].
    outgoing: Kernel [N, M] of the layer which they enter.
    next_bias: Its bias [M].
  """

  incoming: jax.Array
  bias: jax.Array
  outgoing: jax.Array
  next_bias: jax.Array


def gini_index(weights: ArrayLike) -> jax.Array:
  r"""Measures how unequal magnitudes are, by the Gini index.

  With the n magnitudes in ascending order, a_1 to a_n:

  .. math::
    G = 1 - 2 \sum_{k=1}^{n} \frac{a_k}{\sum_i a_i} \frac{n - k + 1/2}{n}

  Args:
    weights: Weights of any shape.

  Returns:
    A scalar in [0, 1): 0 where all magnitudes are equal, zeros among them, and
    1 - 1/n where all but one are 0. It does not depend on their scale.

  Raises:
    TypeError: If the weights are not floating point.
    ValueError: If there are none.

  Example:
    >>> import jax.numpy as jnp
    >>> print(gini_index(jnp.array([0.0, 0.0, 0.0, -2.0])))
    0.75

  References:
    Hurley and Rickard, `Comparing measures of sparsity
    <https://doi.org/10.1109/TIT.2009.2027527>`_, 2009: the one measure with
    all six properties which they ask for.
  """
  sizes = jnp.sort(_magnitudes(weights, "gini_index"))
  total = jnp.sum(sizes)
  count = sizes.shape[0]
  # As a mean of differences, equal magnitudes give 0 exactly.
  signs = (2 * jnp.arange(1, count + 1) - count - 1) / count
  return jnp.sum(correlation.ratio(sizes, total) * signs.astype(sizes.dtype))


def hoyer_sparsity(weights: ArrayLike) -> jax.Array:
  r"""Measures sparsity by the ratio of two norms.

  .. math::
    \frac{\sqrt{n} - \lVert w \rVert_1 / \lVert w \rVert_2}{\sqrt{n} - 1}

  Args:
    weights: At least two weights, of any shape.

  Returns:
    A scalar in [0, 1]: 0 where all magnitudes are equal, zeros among them, and
    1 where all but one are 0. It does not depend on their scale.

  Raises:
    TypeError: If the weights are not floating point.
    ValueError: If there are fewer than two.

  Example:
    >>> import jax.numpy as jnp
    >>> print(hoyer_sparsity(jnp.array([0.0, 0.0, 0.0, -2.0])))
    1.0

  References:
    Hoyer, `Non-negative matrix factorization with sparseness constraints
    <https://www.jmlr.org/papers/v5/hoyer04a.html>`_, 2004.
  """
  sizes = _magnitudes(weights, "hoyer_sparsity", least=2)
  sizes = correlation.ratio(sizes, jnp.max(sizes))
  root = sizes.shape[0] ** 0.5
  norm = jnp.sqrt(jnp.sum(sizes**2))
  ratio = jnp.where(norm > 0, correlation.ratio(jnp.sum(sizes), norm), root)
  return jnp.clip((root - ratio) / (root - 1), 0.0, 1.0)


def small_fraction(
  weights: ArrayLike, *, threshold: ArrayLike = 0.01
) -> jax.Array:
  """Counts the weights that are small beside the largest.

  Args:
    weights: Weights of any shape.
    threshold: What counts as small, a part of the largest magnitude.

  Returns:
    A scalar, the fraction of weights whose magnitude is at most `threshold`
    times the largest. It does not depend on their scale; of zeros all are
    small.

  Raises:
    TypeError: If the weights are not floating point.
    ValueError: If there are none, or the threshold is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(small_fraction(jnp.array([0.001, 0.5, -1.0, 0.0])))
    0.5
  """
  threshold = _checks.nonnegative_scalar("threshold", threshold)
  sizes = _magnitudes(weights, "small_fraction")
  small = sizes <= jnp.asarray(threshold, sizes.dtype) * jnp.max(sizes)
  return jnp.mean(small, dtype=sizes.dtype)


def magnitude_masks(
  kernels: PyTree, fraction: ArrayLike, *, scope: str = "global"
) -> PyTree:
  """Marks which weights are kept when those of least magnitude are pruned.

  Exactly round(fraction * n) of the n weights that are compared with each other
  are pruned; of equal magnitudes the earlier ones go first.

  Args:
    kernels: Tree of kernels, of any shapes.
    fraction: Part of the weights to prune, in [0, 1]; may be traced.
    scope: "global" compares the weights of all kernels, "layer" those of each
      kernel among themselves.

  Returns:
    A tree of boolean arrays of the shapes of the kernels, True for weights that
    are kept.

  Raises:
    TypeError: If a kernel is not floating point.
    ValueError: If there are no weights, or fraction or scope is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> kernels = {"fc1": jnp.array([[3.0, -1.0]]), "fc2": jnp.array([[0.5]])}
    >>> masks = magnitude_masks(kernels, 2 / 3)
    >>> masks["fc1"].tolist(), masks["fc2"].tolist()
    ([[True, False]], [[False]])

  References:
    Han, Pool, Tran and Dally, `Learning both weights and connections
    <https://arxiv.org/abs/1506.02626>`_, 2015; Blalock et al., `What is the
    state of neural network pruning? <https://arxiv.org/abs/2003.03033>`_, 2020.
  """
  if scope not in SCOPES:
    raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
  fraction = _checks.nonnegative_scalar("fraction", fraction)
  if isinstance(fraction, float) and fraction > 1:
    raise ValueError(f"fraction must be at most 1, got {fraction}")
  leaves, structure = jax.tree.flatten(kernels)
  sizes = [_magnitudes(leaf, "magnitude_masks") for leaf in leaves]
  if not sizes:
    raise ValueError("magnitude_masks: expected at least one kernel, got none")
  if scope == "global":
    ends = np.cumsum([size.shape[0] for size in sizes])[:-1]
    dtype = _checks.widest(*(size.dtype for size in sizes))
    sizes = [size.astype(dtype) for size in sizes]
    masks = jnp.split(_kept(jnp.concatenate(sizes), fraction), ends)
  else:
    masks = [_kept(size, fraction) for size in sizes]
  shapes = map(jnp.shape, leaves)
  return jax.tree.unflatten(structure, map(jnp.reshape, masks, shapes))


def unit_importance(activations: ArrayLike, kernel: ArrayLike) -> jax.Array:
  r"""Tells how much the next layer would notice that a unit is gone.

  A unit that is replaced by its mean activation changes what enters the next
  layer by (h_i - mean) w_i, whose root mean square over samples is

  .. math::
    \operatorname{sd}_s(h_{si}) \, \lVert w_i \rVert_2

  It is the same when activations are scaled and outgoing weights scaled back,
  as they can be where units are ReLU.

  Args:
    activations: Activations [..., N], one row a sample.
    kernel: Outgoing weights [N, M].

  Returns:
    Importance [N], 0 for units that are constant or lead nowhere.

  Raises:
    TypeError: If an array is not floating point.
    ValueError: If the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> activations = jnp.array([[0.0, 5.0], [2.0, 5.0]])
    >>> print(unit_importance(activations, jnp.array([[3.0, 4.0], [9.0, 9.0]])))
    [5. 0.]
  """
  rows = _checks.activation_rows(activations, name="unit_importance")
  matrix = _checks.kernel_matrix(kernel, name="unit_importance")
  _checks.same_neurons(rows, matrix, name="unit_importance")
  rows = rows.reshape(-1, rows.shape[-1])
  # Relative to the first sample, so that what is constant stays so.
  spread = jnp.std(rows - rows[:1], axis=0)
  return spread * jnp.linalg.norm(matrix, axis=1)


def remove_units(
  layer: HiddenLayer, keep: ArrayLike, *, means: ArrayLike | None = None
) -> HiddenLayer:
  """Takes units out of a hidden layer.

  With `means`, what the removed units add to the next layer on average goes
  into its bias. The function of the network is then unchanged where the removed
  units are constant; without, where they are 0.

  Args:
    layer: The hidden layer, of N units.
    keep: Indices [n] of the units that stay, all different.
    means: Mean activations [N], or None for zeros.

  Returns:
    The layer with n units, in the order of `keep`.

  Raises:
    TypeError: If `keep` does not hold integers, or the layer no floats.
    ValueError: If the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((2, 2))
    >>> layer = HiddenLayer(ones, jnp.zeros(2), ones, jnp.zeros(2))
    >>> smaller = remove_units(layer, jnp.array([1]), means=jnp.array([3.0, 4]))
    >>> smaller.incoming.shape, smaller.next_bias.tolist()
    ((2, 1), [3.0, 3.0])
  """
  num_units = _num_units(layer, "remove_units")
  keep = _checks.integer_vector("remove_units: keep", keep)
  layer = HiddenLayer(*map(jnp.asarray, layer))
  next_bias = layer.next_bias
  if means is not None:
    wide = _widened(layer, "remove_units")
    shift = jnp.asarray(means, wide.outgoing.dtype)
    _checks.same_shape("remove_units: means", shift, (num_units,))
    # Not a difference of two sums, which would cancel.
    shift = shift.at[keep].set(0)
    total = wide.next_bias + correlation.matmul(shift, wide.outgoing)
    next_bias = total.astype(next_bias.dtype)
  return HiddenLayer(
    layer.incoming[:, keep], layer.bias[keep], layer.outgoing[keep], next_bias
  )


def merge_units(
  layer: HiddenLayer, groups: ArrayLike, *, num_groups: int
) -> HiddenLayer:
  r"""Merges the units of each group into one.

  The new unit has the mean of their incoming weights and biases and the sum of
  their outgoing weights. With pre-activations a_i, activations f(a_i) and
  outgoing weights w_i, a group gave :math:`\sum_i f(a_i) w_i` to the next layer
  and now gives :math:`f(\bar a) \sum_i w_i`. The two are equal

  - for units with equal incoming weights and biases, whatever their outgoing
    weights and f, since all a_i are the mean;
  - for ReLU units with equal outgoing weights that fire on the same samples,
    whatever their incoming weights, since f is linear on each side of 0.

  Units of an assembly as BEAN means it are near the second case: wired alike,
  firing together.

  Args:
    layer: The hidden layer, of N units.
    groups: Group [N] of each unit, from 0 to `num_groups` - 1.
    num_groups: How many groups there are, static.

  Returns:
    The layer with one unit a group, in their order. A group without units has
    one that is 0 and leads nowhere.

  Raises:
    TypeError: If `groups` does not hold integers, or the layer no floats.
    ValueError: If the shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((3, 2))
    >>> layer = HiddenLayer(ones, jnp.zeros(2), ones.T, jnp.zeros(3))
    >>> merged = merge_units(layer, jnp.array([0, 0]), num_groups=1)
    >>> merged.incoming.tolist(), merged.outgoing.tolist()
    ([[1.0], [1.0], [1.0]], [[2.0, 2.0, 2.0]])

  References:
    The first case is the neuron merging of Srinivas and Babu, `Data-free
    parameter pruning <https://arxiv.org/abs/1507.06149>`_, 2015.
  """
  num_units = _num_units(layer, "merge_units")
  groups = _checks.integer_vector("merge_units: groups", groups)
  _checks.same_shape("merge_units: groups", groups, (num_units,))
  layer = HiddenLayer(*map(jnp.asarray, layer))
  wide = _widened(layer, "merge_units")
  members = jax.nn.one_hot(groups, num_groups, dtype=wide.incoming.dtype)
  weights = members / jnp.maximum(jnp.sum(members, axis=0, keepdims=True), 1)
  merged = HiddenLayer(
    correlation.matmul(wide.incoming, weights),
    correlation.matmul(wide.bias, weights),
    correlation.matmul(members.T, wide.outgoing),
    wide.next_bias,
  )
  return HiddenLayer(
    *(new.astype(old.dtype) for new, old in zip(merged, layer, strict=True))
  )


def _widened(layer: HiddenLayer, name: str) -> HiddenLayer:
  """Returns the arrays in the widest dtype among them, float32 at least."""
  arrays = [
    _checks.float_array(f"{name}: {field}", array)
    for field, array in zip(layer._fields, layer, strict=True)
  ]
  dtype = _checks.widest(*(array.dtype for array in arrays))
  return HiddenLayer(*(array.astype(dtype) for array in arrays))


def _magnitudes(weights: ArrayLike, name: str, *, least: int = 1) -> jax.Array:
  """Returns the magnitudes of weights in one row, in float32 at least."""
  sizes = jnp.abs(_checks.float_array(f"{name}: weights", weights)).ravel()
  if sizes.shape[0] < least:
    raise ValueError(
      f"{name}: expected at least {least} weights, got {sizes.shape[0]}"
    )
  return sizes


def _kept(sizes: jax.Array, fraction: ArrayLike) -> jax.Array:
  """Marks all but the least round(fraction * n) of n magnitudes."""
  count = sizes.shape[0]
  pruned = jnp.round(jnp.asarray(fraction, jnp.float32) * count)
  _, ranking = _ranking.ranked(sizes)
  return _ranking.ranks(ranking) >= pruned.astype(jnp.int32)


def _num_units(layer: HiddenLayer, name: str) -> int:
  """Returns N, or says which arrays of a layer do not fit together."""
  shapes = tuple(jnp.shape(array) for array in layer)
  if [len(shape) for shape in shapes] == [2, 1, 2, 1]:
    (_, num_units), bias, (num_rows, num_next), next_bias = shapes
    if (bias, num_rows, next_bias) == ((num_units,), num_units, (num_next,)):
      return num_units
  raise ValueError(
    f"{name}: expected incoming [K, N], bias [N], outgoing [N, M] and "
    f"next_bias [M], got {', '.join(str(list(shape)) for shape in shapes)}"
  )
