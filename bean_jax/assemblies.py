r"""Neuronal assemblies: groups of the neurons that enter a dense layer.

Assemblies are integers [N], one a neuron: neurons of equal number belong
together, and -1 is a neuron that belongs to none. Where they come from is the
caller's: a clustering of outgoing weights, or the classes that neurons prefer.
Wherever a quantity is a ratio, 0 / 0 is 0: nothing here returns NaN for finite
arguments, whether neurons are silent, constant or unconnected.

Bipartite graphs are given by their strengths [N, M], not negative: 0 and 1 for
a graph, or :math:`|\tanh(\gamma W)|`, Eq. 3 of the paper.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import _checks, correlation, sparsity


def class_profiles(
  activations: ArrayLike, labels: ArrayLike, *, num_classes: int
) -> jax.Array:
  """Averages the activations of each neuron over the samples of each class.

  Args:
    activations: Activations [..., N]; leading dimensions are batch.
    labels: Classes from 0, one integer a sample, in the shape of the leading
      dimensions.
    num_classes: How many classes there are, static.

  Returns:
    Class-conditional means [num_classes, N]. Those of a neuron whose activation
    is constant are equal to the bit.

  Raises:
    TypeError: If activations are not floating point or labels not integers.
    ValueError: If a shape is wrong, a label out of range, or a class has no
      sample. Traced labels are not looked at; a class without samples then
      has the activations of the first sample.

  Example:
    >>> import jax.numpy as jnp
    >>> activations = jnp.array([[1.0, 0.0], [3.0, 0.0], [5.0, 4.0]])
    >>> print(class_profiles(activations, jnp.array([0, 0, 1]), num_classes=2))
    [[2. 0.]
     [5. 4.]]

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 3.1.1, Figure 3.
  """
  name = "class_profiles"
  activations = _checks.activation_rows(activations, name=name)
  shape = activations.shape[:-1]
  labels = _checks.integers(f"{name}: labels", labels)
  _checks.same_shape(f"{name}: labels", labels, shape, (math.prod(shape),))
  labels = labels.reshape(-1)
  if labels.size == 0:
    raise ValueError(f"{name}: expected at least one sample, got none")
  if not isinstance(labels, jax.core.Tracer):
    _check_classes(labels, num_classes, name)
  rows = activations.reshape(-1, activations.shape[-1])
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=rows.dtype)
  counts = jnp.maximum(jnp.sum(one_hot, axis=0), 1)
  # Relative to the first sample, so that what is constant stays so.
  sums = correlation.matmul(one_hot.T, rows - rows[:1])
  return sums / counts[:, None] + rows[:1]


def selectivity(profiles: ArrayLike) -> jax.Array:
  r"""Computes the class selectivity index of each neuron.

  .. math::
    \frac{\mu_{max} - \mu_{-max}}{|\mu_{max}| + |\mu_{-max}|}

  where the first is the largest class-conditional mean activity and the second
  the mean over all other classes. Activities of rectified units are not
  negative, for which this is the definition of the paper; the absolute values
  keep it within [0, 1] for others.

  Args:
    profiles: Class-conditional means [C, N] of at least two classes.

  Returns:
    Indices [N], from 0 (equal for all classes, or silent) to 1 (one class
    alone).

  Raises:
    TypeError: If profiles are not floating point.
    ValueError: If they are no matrix, or of one class.

  Example:
    >>> import jax.numpy as jnp
    >>> print(selectivity(jnp.array([[1.0, 3.0, 0.0], [0.0, 1.0, 0.0]])))
    [1.  0.5 0. ]

  References:
    Morcos et al., `On the importance of single directions for generalization
    <https://arxiv.org/abs/1803.06959>`_, 2018; BEAN, Section 3.1.1, Figure 4.
  """
  profiles = _profiles(profiles, "selectivity")
  highest = jnp.max(profiles, axis=0)
  gap = jnp.sum(highest[None] - profiles, axis=0) / (profiles.shape[0] - 1)
  return correlation.ratio(gap, jnp.abs(highest) + jnp.abs(highest - gap))


def preferred_classes(profiles: ArrayLike) -> jax.Array:
  """Finds the class for which each neuron is most active.

  Args:
    profiles: Class-conditional means [C, N] of at least two classes.

  Returns:
    Classes [N], the first among equals; -1 for a neuron whose activity is the
    same for all classes, which prefers none.

  Raises:
    TypeError: If profiles are not floating point.
    ValueError: If they are no matrix, or of one class.

  Example:
    >>> import jax.numpy as jnp
    >>> print(preferred_classes(jnp.array([[1.0, 3.0, 0.0], [2.0, 1.0, 0.0]])))
    [ 1  0 -1]

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 3.1.1, Figure 4.
  """
  profiles = _profiles(profiles, "preferred_classes")
  is_constant = jnp.all(profiles == profiles[:1], axis=0)
  return jnp.where(is_constant, -1, jnp.argmax(profiles, axis=0))


def dead_neurons(
  activations: ArrayLike, kernel: ArrayLike, *, tolerance: ArrayLike = 0.01
) -> jax.Array:
  """Finds the neurons that send next to nothing on.

  What a neuron sends is its importance, `sparsity.unit_importance`: zero for a
  neuron that is always silent, always equally active, or not connected.

  Args:
    activations: Activations [..., N]; leading dimensions are batch.
    kernel: Outgoing weights [N, M].
    tolerance: Which part of what the strongest neuron sends still counts as
      nothing.

  Returns:
    Boolean [N], True for dead neurons.

  Raises:
    TypeError: If an array is not floating point.
    ValueError: If a shape or the tolerance is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> activations = jnp.array([[0.0, 1.0, 5.0], [1.0, 1.0, 0.0]])
    >>> kernel = jnp.array([[1.0], [1.0], [0.0]])
    >>> print(dead_neurons(activations, kernel))
    [False  True  True]
  """
  tolerance = _checks.nonnegative_scalar("tolerance", tolerance)
  sent = sparsity.unit_importance(activations, kernel)
  return sent <= tolerance * jnp.max(sent)


def assembly_masks(assemblies: ArrayLike, *, num_assemblies: int) -> jax.Array:
  """Turns the assemblies of neurons into one mask an assembly.

  Args:
    assemblies: Integers [N], from 0; -1 for none.
    num_assemblies: How many assemblies there are, static.

  Returns:
    Boolean [num_assemblies, N], each neuron in one of them at most.

  Raises:
    TypeError: If assemblies are not integers.
    ValueError: If their shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> print(assembly_masks(jnp.array([1, -1, 0]), num_assemblies=2))
    [[False False  True]
     [ True False False]]
  """
  members = _checks.integer_vector("assembly_masks: assemblies", assemblies)
  return members[None, :] == jnp.arange(num_assemblies)[:, None]


def ablate(
  kernel: ArrayLike,
  bias: ArrayLike,
  neurons: ArrayLike,
  *,
  means: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
  r"""Edits a dense layer as if neurons that enter it were silent, or constant.

  The layer then computes, with A the ablated neurons,

  .. math::
    \sum_{i \notin A} h_i W_{ik} + \sum_{i \in A} m_i W_{ik} + b_k

  where m is 0 (zero ablation) or the mean activity (mean ablation, which takes
  away what the neurons tell apart and leaves what they always add).

  Args:
    kernel: Kernel [N, M] of the layer.
    bias: Its bias [M].
    neurons: Boolean [N], True for those to ablate.
    means: Activities [N] that replace theirs; 0 by default.

  Returns:
    The kernel [N, M] and the bias [M] of the edited layer.

  Raises:
    TypeError: If the kernel is not floating point or `neurons` not boolean.
    ValueError: If a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> kernel, bias = jnp.array([[1.0], [2.0]]), jnp.zeros(1)
    >>> neurons, means = jnp.array([False, True]), jnp.array([5.0, 3.0])
    >>> kernel, bias = ablate(kernel, bias, neurons, means=means)
    >>> print(kernel.ravel(), bias)
    [1. 0.] [6.]

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 3.1.2, Figure 5; Morcos et al., 2018, for both kinds.
  """
  kernel = _checks.kernel_matrix(kernel, name="ablate")
  mask = jnp.asarray(neurons)
  if mask.dtype != jnp.bool_:
    raise TypeError(f"ablate: neurons must be boolean, got {mask.dtype}")
  _checks.same_shape("ablate: neurons", mask, kernel.shape[:1])
  shift = jnp.asarray(bias, kernel.dtype)
  _checks.same_shape("ablate: bias", shift, kernel.shape[1:])
  if means is not None:
    replaced = jnp.asarray(means, kernel.dtype)
    _checks.same_shape("ablate: means", replaced, kernel.shape[:1])
    shift = shift + correlation.matmul(jnp.where(mask, replaced, 0), kernel)
  return jnp.where(mask[:, None], 0, kernel), shift


def cohesion(
  matrix: ArrayLike, assemblies: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Averages a matrix of pairs within and between assemblies.

  Of the neuron correlation A, the first is the larger where assemblies are
  wired together; of the co-activation divergence, the smaller where they fire
  together.

  Args:
    matrix: One number for each pair of neurons [N, N].
    assemblies: Integers [N]; -1 for neurons that are left out.

  Returns:
    The mean over pairs of different neurons of the same assembly, a scalar, and
    that over pairs of different assemblies; 0 where there is no such pair.

  Raises:
    TypeError: If the matrix is not floating point or assemblies not integers.
    ValueError: If a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> matrix = jnp.array([[9.0, 2.0, 0.0], [2.0, 9.0, 1.0], [0.0, 1.0, 9.0]])
    >>> within, between = cohesion(matrix, jnp.array([0, 0, 1]))
    >>> print(within, between)
    2.0 0.5
  """
  matrix, same, different = _pairs(matrix, assemblies, "cohesion")
  same = jnp.where(jnp.eye(len(matrix), dtype=bool), 0, same)
  within, between = (
    correlation.ratio(jnp.sum(weights * matrix), jnp.sum(weights))
    for weights in (same, different)
  )
  return within, between


def modularity(matrix: ArrayLike, assemblies: ArrayLike) -> jax.Array:
  r"""Computes the modularity of a weighted graph under a partition.

  .. math::
    Q = \frac{1}{2m} \sum_{ij} \Big(A_{ij} - \frac{d_i d_j}{2m}\Big)
    \delta(c_i, c_j), \qquad d_i = \sum_j A_{ij}, \quad 2m = \sum_i d_i

  Args:
    matrix: Weights [N, N], symmetric and not negative, such as the neuron
      correlation A. The diagonal is left out: no neuron is its own neighbour.
    assemblies: Integers [N]; -1 for neurons that are left out.

  Returns:
    Q, a scalar: 0 for what chance would give, below 1; 0 without any edge.

  Raises:
    TypeError: If the matrix is not floating point or assemblies not integers.
    ValueError: If a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> pairs = jnp.kron(jnp.eye(2), jnp.ones((2, 2)))
    >>> print(modularity(pairs, jnp.array([0, 0, 1, 1])))
    0.5

  References:
    Newman, `Analysis of weighted networks
    <https://doi.org/10.1103/PhysRevE.70.056131>`_, 2004.
  """
  matrix, same, different = _pairs(matrix, assemblies, "modularity")
  alone = jnp.eye(len(matrix), dtype=bool)
  edges = jnp.where(alone, 0, matrix * (same + different))
  degrees = jnp.sum(edges, axis=1)
  total = jnp.sum(degrees)
  expected = correlation.matmul(degrees, correlation.matmul(same, degrees))
  share = correlation.ratio(jnp.sum(edges * same), total)
  return share - correlation.ratio(expected, total**2)


def proximity(strength: ArrayLike, *, paths: bool = False) -> jax.Array:
  r"""Computes how near two neurons of adjacent layers are by the BIG-ADO rule.

  .. math::
    \pi_{jm} = \sum_{ik} F_{jk} F_{ik} F_{im}

  A connection of j and m would close as many 4-cycles as there are paths of
  three edges between them. As written, the sum also counts walks that return
  (i = j or k = m), which only say that j or m has connections.

  Args:
    strength: Bipartite graph F [N, M], not negative.
    paths: Whether to leave out the walks that return, static.

  Returns:
    Proximities [N, M].

  Raises:
    TypeError: If the strengths are not floating point.
    ValueError: If they are no matrix.

  Example:
    >>> import jax.numpy as jnp
    >>> print(proximity(jnp.array([[1.0, 0.0], [1.0, 1.0]]), paths=True))
    [[0. 1.]
     [0. 0.]]

  References:
    Mainetti and Ascoli, `A neural mechanism for background information-gated
    learning based on axonal-dendritic overlaps
    <https://doi.org/10.1371/journal.pcbi.1004155>`_, 2015; BEAN, Eq. 9.
  """
  strength = _checks.kernel_matrix(strength, name="proximity")
  shared = correlation.matmul(strength.T, strength)
  if not paths:
    return correlation.matmul(strength, shared)
  # Without the diagonal from the start: where no path is left, nothing is left
  # of it by rounding either.
  shared = jnp.where(jnp.eye(len(shared), dtype=bool), 0, shared)
  squares = strength**2
  returning = jnp.sum(squares, axis=1, keepdims=True) - squares
  every = correlation.matmul(strength, shared)
  return jnp.maximum(every - strength * returning, 0)


def clustering_coefficient(strength: ArrayLike) -> jax.Array:
  r"""Computes the clustering coefficient C4 of a bipartite graph.

  .. math::
    C_4 = \frac{4 \cdot \text{number of 4-cycles}}{\text{number of 3-paths}}

  so the share of paths of three edges whose ends are connected too: each cycle
  holds four of them. With strengths between 0 and 1, a path counts as the
  product of its edges and closes as much as the fourth edge is strong.

  Args:
    strength: Bipartite graph [N, M], not negative.

  Returns:
    C4, a scalar in [0, 1] for strengths in [0, 1]; 0 without any 3-path.

  Raises:
    TypeError: If the strengths are not floating point.
    ValueError: If they are no matrix.

  Example:
    >>> import jax.numpy as jnp
    >>> print(clustering_coefficient(jnp.array([[1.0, 1.0], [1.0, 1.0]])))
    1.0
    >>> print(clustering_coefficient(jnp.array([[1.0, 1.0], [1.0, 0.0]])))
    0.0

  References:
    Robins and Alexander, `Small worlds among interlocking directors
    <https://doi.org/10.1023/B:CMOT.0000032580.12184.c0>`_, 2004; BEAN, Eq. 8,
    where the factor 4 is left to the reader.
  """
  strength = _checks.kernel_matrix(strength, name="clustering_coefficient")
  if strength.shape[1] > strength.shape[0]:
    strength = strength.T  # Symmetric in both sides, and cheaper so.
  paths = proximity(strength, paths=True)
  return correlation.ratio(jnp.sum(strength * paths), jnp.sum(paths))


def outgoing_variance(
  kernel: ArrayLike, assemblies: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Splits the variance of outgoing weights into within and between assemblies.

  Neurons that share their weights weakly have little variance within their
  assembly, compared with that between the means of assemblies.

  Args:
    kernel: Outgoing weights [N, M].
    assemblies: Integers [N]; -1 for neurons that are left out.

  Returns:
    The mean squared difference of a weight to the mean of its assembly, a
    scalar, and that of the assemblies' means to the mean of all, weighted by
    their sizes. Their sum is the variance of all, mean over the M columns.

  Raises:
    TypeError: If the kernel is not floating point or assemblies not integers.
    ValueError: If a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> kernel = jnp.array([[1.0], [3.0], [6.0]])
    >>> within, between = outgoing_variance(kernel, jnp.array([0, 0, -1]))
    >>> print(within, between)
    1.0 0.0

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 3.2, Figure 6(c).
  """
  name = "outgoing_variance"
  kernel = _checks.kernel_matrix(kernel, name=name)
  members = _checks.integer_vector(f"{name}: assemblies", assemblies)
  _checks.same_shape(f"{name}: assemblies", members, kernel.shape[:1])
  same, _ = _relations(members, kernel.dtype)
  present = (members >= 0).astype(kernel.dtype)[:, None]
  count = jnp.maximum(jnp.sum(present), 1)
  centred = kernel - jnp.sum(present * kernel, axis=0, keepdims=True) / count
  sizes = jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1)
  means = correlation.matmul(same, centred) / sizes
  within, between = (
    jnp.sum(present * difference**2) / (count * kernel.shape[1])
    for difference in (centred - means, means)
  )
  return within, between


def unit_scales(kernel: ArrayLike, *, norm: ArrayLike = 1.0) -> jax.Array:
  """Computes the factors that give all neurons outgoing weights of equal norm.

  A layer's function stays the same if a neuron's activation is multiplied by a
  factor and its outgoing weights are divided by it. BEAN's penalty does not: it
  can be lowered by scale alone. With equal norms, what is left is structure.

  Args:
    kernel: Outgoing weights [N, M].
    norm: Norm that they shall have.

  Returns:
    Factors [N] of the activations, positive; 1 for a neuron without any
    connection. The kernel is to be divided by them, row by row.

  Raises:
    TypeError: If the kernel is not floating point.
    ValueError: If it is no matrix or the norm is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> print(unit_scales(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
    [5. 1.]
  """
  kernel = _checks.kernel_matrix(kernel, name="unit_scales")
  norm = _checks.nonnegative_scalar("norm", norm)
  # By the largest, so that neither tiny nor huge weights leave the range.
  largest = jnp.max(jnp.abs(kernel), axis=1)
  safe = jnp.where(largest > 0, largest, 1)
  norms = safe * jnp.linalg.norm(kernel / safe[:, None], axis=1)
  return jnp.where(largest > 0, norms / norm, 1)


def rescale_units(
  incoming: ArrayLike, bias: ArrayLike, outgoing: ArrayLike, scales: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Rescales rectified units between two dense layers, keeping the function.

  relu(s x) = s relu(x) for s > 0, so that

      relu(x U + b) W = relu(x (U s) + b s) (W / s)

  Args:
    incoming: Kernel [K, N] of the layer that the units belong to.
    bias: Its bias [N].
    outgoing: Kernel [N, M] of the layer that they enter.
    scales: Positive factors [N] of their activations, as from `unit_scales`.

  Returns:
    The three arrays of the network whose activations are multiplied by the
    factors.

  Raises:
    TypeError: If a kernel is not floating point.
    ValueError: If a shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> incoming, bias, outgoing = rescale_units(
    ...   one, jnp.ones(1), one, jnp.array([4.0])
    ... )
    >>> print(incoming[0], bias, outgoing[0])
    [4.] [4.] [0.25]

  References:
    Dinh et al., `Sharp Minima Can Generalize For Deep Nets
    <https://arxiv.org/abs/1703.04933>`_, 2017.
  """
  name = "rescale_units"
  incoming = _checks.kernel_matrix(incoming, name=name)
  outgoing = _checks.kernel_matrix(outgoing, name=name)
  _checks.same_neurons(incoming, outgoing, name=name)
  factors = jnp.asarray(scales, incoming.dtype)
  shift = jnp.asarray(bias, incoming.dtype)
  for what, array in (("scales", factors), ("bias", shift)):
    _checks.same_shape(f"{name}: {what}", array, outgoing.shape[:1])
  return incoming * factors[None], shift * factors, outgoing / factors[:, None]


def _profiles(value: ArrayLike, name: str) -> jax.Array:
  profiles = _checks.activation_rows(value, name=name)
  if profiles.ndim != 2 or profiles.shape[0] < 2:
    raise ValueError(
      f"{name}: profiles must have shape [C, N] with at least 2 classes, got "
      f"{list(profiles.shape)}; class_profiles makes them"
    )
  return profiles


def _pairs(
  matrix: ArrayLike, assemblies: ArrayLike, name: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns a matrix [N, N], the pairs within assemblies, and those between."""
  square = _checks.kernel_matrix(matrix, name=name)
  members = _checks.integer_vector(f"{name}: assemblies", assemblies)
  _checks.same_shape(f"{name}: matrix", square, (len(members), len(members)))
  return square, *_relations(members, square.dtype)


def _relations(
  members: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """Returns 1 for pairs of the same assembly [N, N], and of different ones."""
  present = members >= 0
  both = present[:, None] & present[None, :]
  same = members[:, None] == members[None, :]
  return (both & same).astype(dtype), (both & ~same).astype(dtype)


def _check_classes(labels: jax.Array, num_classes: int, name: str) -> None:
  low, high = int(jnp.min(labels)), int(jnp.max(labels))
  if low < 0 or high >= num_classes:
    raise ValueError(
      f"{name}: labels must be from 0 to {num_classes - 1}, got {low} to {high}"
    )
  counts = jnp.bincount(labels, length=num_classes)
  if missing := [c for c in range(num_classes) if counts[c] == 0]:
    raise ValueError(
      f"{name}: expected samples of all {num_classes} classes, got none of "
      f"class {', '.join(map(str, missing))}"
    )
