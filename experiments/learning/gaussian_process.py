r"""Gaussian-process classification in closed form, of few labelled examples.

Labels become regression targets (Milios et al., 2018). A Dirichlet variable is
a normalized vector of gamma variables; here each label is an observation of
one whose concentration is :math:`a = \epsilon + 1` at its class and
:math:`\epsilon` at the others, and the logarithm of a gamma variable of shape
a is taken as normal with

.. math:: s^2 = \log(1 + 1 / a), \qquad t = \log(a) - s^2 / 2,

the log-normal variable of equal mean and variance. So each class is a
regression of the targets t [n] with noise of variance s^2 [n], and a linear
system has its answer. On the way back a latent value of mean m and variance v
has the concentration exp(m + v / 2), again that of equal mean, and the class
probabilities are the concentrations over their sum, the mean of the Dirichlet
variable. It needs no samples, and turns a target back into its label:
exp(t + s^2 / 2) is a.

What was chosen here:

- The kernel is v exp(-|x - y|^2 / 2 l^2). Its variance v is the square of half
  the distance between the two targets: enough to reach either from the prior
  mean, which is the mean of all targets.
- The ensemble has length scales l that are fixed multiples of the median
  distance between the examples, and averages their class probabilities with
  equal weights. The marginal likelihood does not choose well: with one example
  a class it prefers the shortest scale, at which no example says anything of
  another point; with more the longest, which is not the most accurate on MNIST.
- The uncertainty is the standard deviation of the predicted label as a one-hot
  vector.

The systems of all classes differ in their diagonal alone, and there only at the
examples of the class. So one inverse :math:`G = (K + s_-^2 I)^{-1}` serves all
of them: with P the examples of class c, Woodbury's identity has

.. math:: (K + D_c)^{-1} = G + G_{:P} (I / (s_-^2 - s_+^2) - G_{PP})^{-1} G_{P:}

and the inverted blocks of all classes are one block-diagonal matrix. A query
costs n^2 operations instead of n^2 for every class.

References:
  Milios, Camoriano, Michiardi, Rosasco, Filippone, Dirichlet-based Gaussian
  Processes for Large-scale Calibrated Classification, NeurIPS 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Concentration of a class that was not observed.
EPSILON = 0.01
# Multiples of the median distance between the examples.
LENGTH_SCALES = (0.5, 0.7, 1.0)

# Queries at a time in `predict_blocks`.
BLOCK = 500


class Posterior(NamedTuple):
  """What the labelled examples say, for `predict`.

  Attributes:
    inputs: The examples [n, d].
    one_hot: Their labels [n, classes].
    length_scales: Of the members of the ensemble [members].
    mean: Prior mean of the latent values [].
    variance: Their prior variance [].
    weights: Of the examples in the posterior mean [members, n, classes].
    inverse: G of the module's text [members, n, n].
    correction: Its inverted blocks [members, n, n], 0 between classes.
  """

  inputs: jax.Array
  one_hot: jax.Array
  length_scales: jax.Array
  mean: jax.Array
  variance: jax.Array
  weights: jax.Array
  inverse: jax.Array
  correction: jax.Array


class Prediction(NamedTuple):
  """Mean class probabilities [m, classes] and their uncertainty [m]."""

  probabilities: jax.Array
  uncertainty: jax.Array


def dirichlet_targets(one_hot: ArrayLike) -> tuple[jax.Array, jax.Array]:
  """Makes regression targets of labels [..., classes], and noise variances.

  The log-normal variables whose mean and variance are those of gamma variables
  of shape `one_hot + EPSILON`.

  Example:
    >>> targets, variances = dirichlet_targets([1.0, 0.0])
    >>> jnp.exp(targets + variances / 2).round(4).tolist()
    [1.0099999904632568, 0.009999999776482582]
  """
  concentration = jnp.asarray(one_hot) + EPSILON
  variances = jnp.log1p(1 / concentration)
  return jnp.log(concentration) - variances / 2, variances


def fit(inputs: ArrayLike, labels: ArrayLike, *, num_classes: int) -> Posterior:
  """Conditions the ensemble on labelled examples [n, d] and [n].

  At least two of them must differ.
  """
  inputs = jnp.asarray(inputs)
  one_hot = jax.nn.one_hot(labels, num_classes, dtype=inputs.dtype)
  targets, _ = dirichlet_targets(one_hot)
  (low, high), (noise_low, noise_high) = dirichlet_targets(
    jnp.array([0.0, 1.0], inputs.dtype)
  )
  mean = jnp.mean(targets)
  variance = jnp.square((high - low) / 2)
  distances = _squared_distances(inputs, inputs)
  rows, columns = jnp.triu_indices(inputs.shape[0], 1)
  median = jnp.median(jnp.sqrt(distances[rows, columns]))
  scales = median * jnp.array(LENGTH_SCALES, inputs.dtype)
  eye = jnp.eye(inputs.shape[0], dtype=inputs.dtype)
  same_class = one_hot @ one_hot.T

  def condition(scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    kernel = variance * jnp.exp(-distances / (2 * scale**2))
    inverse = _inverse(kernel + noise_low * eye)
    blocks = eye / (noise_low - noise_high) - same_class * inverse
    correction = _inverse(blocks)
    weights = inverse @ (targets - mean)
    weights += inverse @ (correction @ (one_hot * weights))
    return weights, inverse, correction

  return Posterior(
    inputs, one_hot, scales, mean, variance, *jax.lax.map(condition, scales)
  )


def predict(posterior: Posterior, queries: ArrayLike) -> Prediction:
  """Predicts the class of queries [m, d], differentiably.

  The uncertainty is the standard deviation of the predicted label as a one-hot
  vector, sqrt(sum_c p_c (1 - p_c)).
  """
  distances = _squared_distances(jnp.asarray(queries), posterior.inputs)

  def of_scale(
    scale: jax.Array,
    weights: jax.Array,
    inverse: jax.Array,
    correction: jax.Array,
  ) -> jax.Array:
    kernel = posterior.variance * jnp.exp(-distances / (2 * scale**2))
    projected = kernel @ inverse
    shared = jnp.sum(kernel * projected, axis=1, keepdims=True)
    extra = (projected * (projected @ correction)) @ posterior.one_hot
    mean = posterior.mean + kernel @ weights
    variance = posterior.variance - shared - extra
    # Concentrations exp(mean + variance / 2), over their sum.
    return jax.nn.softmax(mean + variance / 2, axis=1)

  # One after another: side by side their matrices leave the cache.
  probabilities = sum(
    of_scale(*member)
    for member in zip(
      posterior.length_scales,
      posterior.weights,
      posterior.inverse,
      posterior.correction,
      strict=True,
    )
  ) / len(posterior.length_scales)
  spread = jnp.sum(probabilities * (1 - probabilities), axis=1)
  return Prediction(probabilities, jnp.sqrt(spread))


def predict_blocks(posterior: Posterior, queries: ArrayLike) -> Prediction:
  """Predicts as `predict` does, for many queries in little memory."""

  def of_query(query: jax.Array) -> Prediction:
    return jax.tree.map(lambda x: x[0], predict(posterior, query[None]))

  return jax.lax.map(of_query, jnp.asarray(queries), batch_size=BLOCK)


def _squared_distances(points: jax.Array, others: jax.Array) -> jax.Array:
  """Returns |x - y|^2 of points [m, d] and others [n, d], [m, n]."""
  # Around their own centre, so that less cancels.
  centre = jnp.mean(others, axis=0)
  points, others = points - centre, others - centre
  products = points @ others.T
  squares = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)
  return jnp.maximum(squares - 2 * products, 0)


def _inverse(matrix: jax.Array) -> jax.Array:
  """Inverts a symmetric positive definite matrix."""
  factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
  return jax.scipy.linalg.cho_solve(factor, jnp.eye(matrix.shape[0]))
