"""What methods add to the cross-entropy: penalties of weights and activations.

Each function here makes, for a network and options, a `descent.Penalty`: a
function of (params, hidden, mask, hparams) that returns what is added.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax
from bean_jax import correlation
from experiments.architectures.networks import Network, dense_kernels
from experiments.learning import descent
from experiments.learning.learner import Hparams
from experiments.learning.options import Options

PyTree = Any
# Neurons that enter dense layers, {layer: [batch, n]}, and real samples [batch]
# or None if all are.
Hidden = dict[str, jax.Array]
Mask = jax.Array | None

# Maps (network, options) to what is added to the cross-entropy, if anything.
Maker = Callable[[Network, Options], descent.Penalty | None]


def layer_alphas(
  alpha: jax.Array, kernels: dict[str, jax.Array], *, order: int, units: str
) -> dict[str, jax.Array]:
  """Translates a strength into the library's units, layer by layer.

  Args:
    alpha: Strength, a scalar.
    kernels: Kernels {layer: [n, m]}.
    order: 1 or 2.
    units: "paper", or "code" for alpha times m^order.

  Returns:
    {layer: alpha in the units of the paper's Eq. 5 and 7}.

  Example:
    >>> import numpy as np
    >>> layer_alphas(2.0, {"fc": np.ones((3, 5))}, order=2, units="code")
    {'fc': 50.0}
  """
  if units == "paper":
    return dict.fromkeys(kernels, alpha)
  return {
    layer: alpha * float(kernel.shape[1]) ** order
    for layer, kernel in kernels.items()
  }


def _scaled(penalty: Callable[..., jax.Array]) -> Maker:
  """Makes the maker of a penalty that is multiplied with the strength.

  Args:
    penalty: Maps (params, hidden, mask, network, options) to a scalar.
  """

  @functools.wraps(penalty)
  def make(network: Network, options: Options) -> descent.Penalty:
    return lambda params, hidden, mask, hparams: (
      hparams.strength * penalty(params, hidden, mask, network, options)
    )

  return make


def weight_decay(network: Network, options: Options) -> descent.Penalty | None:
  """Half the squares of all parameters: w enters the gradient."""
  if options.decoupled_decay:
    return None
  half_squares = _scaled(
    lambda params, *_: optax.tree.norm(params, squared=True) / 2
  )
  return half_squares(network, options)


@_scaled
def l1(params: PyTree, *_: Any) -> jax.Array:
  """The absolute values of the dense layers' kernels and biases."""
  leaves = traverse_util.flatten_dict(params)
  dense = {
    path[:-1]
    for path, leaf in leaves.items()
    if path[-1] == "kernel" and leaf.ndim == 2
  }
  return optax.tree.norm(
    [leaf for path, leaf in leaves.items() if path[:-1] in dense], ord=1
  )


@_scaled
def group_lasso(
  params: PyTree, hidden: Hidden, mask: Mask, network: Network, options: Options
) -> jax.Array:
  """The square root of M times the norm of each neuron's M outgoing weights."""
  del hidden, mask, options
  return sum(
    kernel.shape[1] ** 0.5
    * jnp.sum(optax.safe_norm(kernel, min_norm=1e-12, axis=1))
    for kernel in dense_kernels(params, network.layers).values()
  )


@_scaled
def decov(params: PyTree, hidden: Hidden, mask: Mask, *_: Any) -> jax.Array:
  """Half the squared covariances of different neurons over the batch.

  Cogswell et al., `DeCov <https://arxiv.org/abs/1511.06068>`_, 2016: Eq. 2.
  """
  del params
  total = 0.0
  for rows in hidden.values():
    where = None if mask is None else mask[:, None]
    centred = rows - jnp.mean(rows, axis=0, where=where)
    if where is not None:
      centred = jnp.where(where, centred, 0)
    count = rows.shape[0] if where is None else jnp.sum(where)
    covariance = centred.T @ centred / count
    variance = jnp.diagonal(covariance)
    total += (jnp.sum(covariance**2) - jnp.sum(variance**2)) / 2
  return total


@_scaled
def mean_square(
  params: PyTree, hidden: Hidden, mask: Mask, network: Network, options: Options
) -> jax.Array:
  """The mean square of activations, over samples and neurons of a layer.

  Merity et al., `Revisiting Activation Regularization
  <https://arxiv.org/abs/1708.01009>`_, 2017: AR, on the layers of BEAN.
  """
  del params
  return sum(
    jnp.mean(jnp.mean(hidden[layer] ** 2, axis=-1), where=mask)
    for layer in options.layers or network.layers
  )


def bean(order: int, *, frozen: bool = False) -> Maker:
  """BEAN's penalty, or that without a gradient through A.

  With dropout, the activations are those that enter the layers: dropped.
  """

  def make(network: Network, options: Options) -> descent.Penalty:
    layers = options.layers or network.layers

    def penalty(
      params: PyTree, hidden: Hidden, mask: Mask, hparams: Hparams
    ) -> jax.Array:
      kernels = dense_kernels(params, layers)
      alphas = layer_alphas(
        hparams.strength, kernels, order=order, units=options.alpha_units
      )
      return bean_jax.bean_penalty(
        {layer: hidden[layer] for layer in layers},
        jax.lax.stop_gradient(kernels) if frozen else kernels,
        alpha=alphas,
        order=order,
        gamma=options.gamma,
        distance=options.distance,
        where=mask,
      )

    return penalty

  return make


# Maps (activations [batch, n], mask, number of the layer, options) to the mean
# over samples and pairs of neurons of A times distance, A of mean 1.
Divergence = Callable[[jax.Array, jax.Array | None, int, Options], jax.Array]


def bean_without_wiring(divergence: Divergence) -> Maker:
  """Replaces BEAN-1's A by one that has nothing to do with wiring.

  It is the same for all members and steps but for a factor without gradient
  that gives it the mean of the A which it replaces.
  """

  def penalty(
    params: PyTree,
    hidden: Hidden,
    mask: Mask,
    network: Network,
    options: Options,
  ) -> jax.Array:
    layers = options.layers or network.layers
    kernels = jax.lax.stop_gradient(dense_kernels(params, layers))
    alphas = layer_alphas(1.0, kernels, order=1, units=options.alpha_units)
    total = 0.0
    for layer, kernel in kernels.items():
      strength = correlation.relative_strength(kernel, options.gamma)
      # The mean of F F' / M, which is not formed.
      mean = jnp.mean(jnp.mean(strength, axis=0) ** 2)
      place = network.layers.index(layer)
      distance = divergence(hidden[layer], mask, place, options)
      total += alphas[layer] * mean * distance
    return total

  return _scaled(penalty)


def constant_divergence(
  rows: jax.Array, mask: jax.Array | None, place: int, options: Options
) -> jax.Array:
  """All pairs alike: their mean squared difference is twice the variance."""
  del place, options
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
