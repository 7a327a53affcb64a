"""What methods add to the cross-entropy: penalties of weights and activations.

Each is a `descent.Penalty`, or makes one: a function of (activity, strength).
"""

from collections.abc import Callable
import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax
from bean_jax import correlation
from experiments.architectures.networks import dense_kernels
from experiments.learning.descent import Activity, Penalty
from experiments.learning.options import Options


def layer_alphas(
  alpha: jax.Array, kernels: dict[str, jax.Array], *, order: int, units: str
) -> dict[str, jax.Array]:
  """Translates a strength into the library's units, layer by layer.

  Units are "paper", or "code" for alpha times M^order of a kernel [N, M].

  Example:
    >>> layer_alphas(2.0, {"fc": np.ones((3, 5))}, order=2, units="code")
    {'fc': 50.0}
  """
  if units == "paper":
    return dict.fromkeys(kernels, alpha)
  return {
    layer: alpha * float(kernel.shape[1]) ** order
    for layer, kernel in kernels.items()
  }


def weight_decay(activity: Activity, strength: jax.Array) -> jax.Array:
  """Half the squares of all parameters: w enters the gradient."""
  return strength * (optax.tree.norm(activity.params, squared=True) / 2)


def l1(activity: Activity, strength: jax.Array) -> jax.Array:
  """The absolute values of the dense layers' kernels and biases."""
  leaves = traverse_util.flatten_dict(activity.params)
  dense = {
    path[:-1]
    for path, leaf in leaves.items()
    if path[-1] == "kernel" and leaf.ndim == 2
  }
  return strength * optax.tree.norm(
    [leaf for path, leaf in leaves.items() if path[:-1] in dense], ord=1
  )


def group_lasso(activity: Activity, strength: jax.Array) -> jax.Array:
  """The square root of M times the norm of each neuron's M outgoing weights."""
  kernels = dense_kernels(activity.params, activity.hidden)
  return strength * sum(
    kernel.shape[1] ** 0.5
    * jnp.sum(optax.safe_norm(kernel, min_norm=1e-12, axis=1))
    for kernel in kernels.values()
  )


def decov(activity: Activity, strength: jax.Array) -> jax.Array:
  """Half the squared covariances of different neurons over the batch.

  Cogswell et al., `DeCov <https://arxiv.org/abs/1511.06068>`_, 2016: Eq. 2.
  """
  total = 0.0
  for rows in activity.hidden.values():
    mask = activity.mask
    where = jnp.ones((len(rows), 1), bool) if mask is None else mask[:, None]
    centred = rows - jnp.mean(rows, axis=0, where=where)
    centred = jnp.where(where, centred, 0)
    covariance = centred.T @ centred / jnp.sum(where)
    variance = jnp.diagonal(covariance)
    total += (jnp.sum(covariance**2) - jnp.sum(variance**2)) / 2
  return strength * total


def mean_square(activity: Activity, strength: jax.Array) -> jax.Array:
  """The mean square of activations, over samples and neurons of a layer.

  Merity et al., `Revisiting Activation Regularization
  <https://arxiv.org/abs/1708.01009>`_, 2017: AR, on the layers of BEAN.
  """
  return strength * sum(
    jnp.mean(jnp.mean(activity.hidden[layer] ** 2, -1), where=activity.mask)
    for layer in activity.layers
  )


def bean(order: int, *, frozen: bool = False) -> Penalty:
  """BEAN's penalty, or that without a gradient through A.

  With dropout, the activations are those that enter the layers: dropped.
  """

  def penalty(activity: Activity, strength: jax.Array) -> jax.Array:
    options = activity.options
    kernels = dense_kernels(activity.params, activity.layers)
    return bean_jax.bean_penalty(
      {layer: activity.hidden[layer] for layer in activity.layers},
      jax.lax.stop_gradient(kernels) if frozen else kernels,
      alpha=layer_alphas(
        strength, kernels, order=order, units=options.alpha_units
      ),
      order=order,
      gamma=options.gamma,
      distance=options.distance,
      where=activity.mask,
    )

  return penalty


# Maps (activations [batch, n], mask, number of the layer, options) to the mean
# over samples and pairs of neurons of A times distance, A of mean 1.
Divergence = Callable[[jax.Array, jax.Array | None, int, Options], jax.Array]


def bean_without_wiring(divergence: Divergence) -> Penalty:
  """Replaces BEAN-1's A by one that has nothing to do with wiring.

  It is the same for all members and steps but for a factor without gradient
  that gives it the mean of the A which it replaces.
  """

  def penalty(activity: Activity, strength: jax.Array) -> jax.Array:
    _, hidden, mask, options = activity
    kernels = jax.lax.stop_gradient(
      dense_kernels(activity.params, activity.layers)
    )
    alphas = layer_alphas(1.0, kernels, order=1, units=options.alpha_units)
    total = 0.0
    for layer, kernel in kernels.items():
      wiring = correlation.relative_strength(kernel, options.gamma)
      # The mean of F F' / M, which is not formed.
      mean = jnp.mean(jnp.mean(wiring, axis=0) ** 2)
      place = list(hidden).index(layer)
      distance = divergence(hidden[layer], mask, place, options)
      total += alphas[layer] * mean * distance
    return strength * total

  return penalty


def constant_divergence(
  rows: jax.Array, mask: jax.Array | None, _place: int, _options: Options
) -> jax.Array:
  """All pairs alike: their mean squared difference is twice the variance."""
  return 2 * jnp.mean(jnp.var(rows, axis=-1), where=mask)


def random_divergence(
  rows: jax.Array, mask: jax.Array | None, place: int, options: Options
) -> jax.Array:
  """A matrix of random numbers, the same in all runs."""
  differences = bean_jax.coactivation_divergence(
    rows, distance=options.distance, where=mask
  )
  return jnp.mean(_random_correlation(place, rows.shape[1]) * differences)


@functools.cache
def _random_correlation(place: int, num_neurons: int) -> np.ndarray:
  """Returns a symmetric matrix [n, n] of mean 1, uniform and independent."""
  generator = np.random.default_rng(place)
  half = np.triu(generator.uniform(size=(num_neurons, num_neurons)))
  whole = half + np.triu(half, 1).T
  return (whole / whole.mean()).astype(np.float32)
