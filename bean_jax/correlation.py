"""How strongly two neurons are wired together: Eq. 3 to 7 of the paper."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import _checks, _sharding

# tanh x = x P(x^2) / Q(x^2) for x in [0, 9], to a relative error of 4e-8 and
# rounding. Highest powers first. From least squares, its weights raised where
# the error was greatest until it was as great everywhere.
_P = (1.33546507e-8, 2.06090735e-5, 3.4955875e-3, 0.133810252, 1.0)
_Q = (7.77655373e-7, 3.28563387e-4, 2.58769803e-2, 0.467143416, 1.0)


def matmul(left: jax.Array, right: jax.Array) -> jax.Array:
  """Multiplies in full precision; a GPU's TensorFloat-32 keeps 10 bits."""
  return jax.lax.dot(left, right, precision=jax.lax.Precision.HIGHEST)


def product(
  left: jax.Array, right: jax.Array, summed: tuple[int, int]
) -> jax.Array:
  """Multiplies matrices over these axes of each, in full precision."""
  return jax.lax.dot_general(
    left,
    right,
    (((summed[0],), (summed[1],)), ((), ())),
    precision=jax.lax.Precision.HIGHEST,
  )


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Returns the quotient, 0 where the denominator is not positive."""
  positive = denominator > 0
  return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def relative_strength(kernel: jax.Array, gamma: ArrayLike) -> jax.Array:
  """Returns F = |tanh(gamma W)| [N, M], Eq. 3; its sub-gradient at 0 is 0."""
  return _absolute_tanh(jnp.asarray(gamma, kernel.dtype) * kernel)


@jax.custom_jvp
def _absolute_tanh(x: jax.Array) -> jax.Array:
  # tanh |x|, not |tanh x|: one pass over the kernel instead of two.
  x = jnp.abs(x)
  if x.dtype != jnp.float32:
    return jnp.tanh(x)
  # XLA's tanh takes twice as long on a CPU. From 9.01 on, tanh is 1 in float32;
  # rounding may take the numerator past the denominator. Division is last, as
  # XLA keeps quotients and computes a cheaper end anew in each use.
  x = jnp.minimum(x, 9.0)
  square = x * x
  numerator, denominator = x * _polynomial(_P, square), _polynomial(_Q, square)
  return jnp.minimum(numerator, denominator) / denominator


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
  # Horner's rule. jnp.polyval starts with an array of zeros: two more passes,
  # which only a compiler removes.
  first, second, *rest = coefficients
  result = first * x + second
  for coefficient in rest:
    result = result * x + coefficient
  return result


@_absolute_tanh.defjvp
def _absolute_tanh_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  # In terms of x and of the result, so that nothing else need be kept.
  (x,), (step,) = primals, tangents
  result = _absolute_tanh(x)
  return result, (1 - result**2) * jnp.sign(x) * step


def neuron_correlation(
  kernel: ArrayLike, *, order: int = 1, gamma: ArrayLike = 1.0
) -> jax.Array:
  r"""Computes the layer-wise neuron correlation from the outgoing weights.

  With F = `|tanh(gamma W)|`, neurons i and j are correlated by the neurons of
  the next layer which both of them reach (order 1), or by the pairs of such
  neurons, 4-cycles of the bipartite graph (order 2):

  .. math::
    A = \frac{1}{M} F F^T \quad\text{or}\quad
    A = \frac{1}{M^2} (F F^T) \odot (F F^T)

  Args:
    kernel: Outgoing weights [N, M], row i those of neuron i.
    order: 1 or 2, static.
    gamma: Slope of the squashing function, a scalar in units of 1 / weight.

  Returns:
    A [N, N], symmetric, with entries in [0, 1).

  Raises:
    TypeError: If the kernel is not floating point or order is not an int.
    ValueError: If the kernel is no matrix, or order or gamma is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> kernel = jnp.arctanh(jnp.array([[0.5, 0.0], [0.5, 0.5]]))
    >>> print(neuron_correlation(kernel))
    [[0.125 0.125]
     [0.125 0.25 ]]

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Eq. 5 (order 1) and Eq. 7 (order 2).
  """
  order = _checks.order_of_correlation(order)
  kernel = _checks.kernel_matrix(kernel, name="neuron_correlation")

  def of_arrays(kernel: jax.Array, gamma: jax.Array) -> jax.Array:
    strength = relative_strength(kernel, gamma)
    return rows_of_correlation(strength, strength, order)

  gamma = jnp.asarray(_checks.nonnegative_scalar("gamma", gamma), kernel.dtype)
  return _sharding.with_automatic_axes(of_arrays, kernel, gamma)


def rows_of_correlation(
  rows: jax.Array, strength: jax.Array, order: int
) -> jax.Array:
  """Returns the rows of A [..., N] that belong to rows [..., M] of F [N, M]."""
  shared = matmul(rows, strength.T)
  return (shared / strength.shape[1]) ** order
