"""Learning with excitatory weights alone: projected descent.

Kernels, of dense layers and of convolutions, stay at 0 or above: after every
step of the optimizer each negative entry is put to 0, the nearest point that is
allowed,

    w <- max(w + u, 0).

Biases are free. With pixels and kernels that are not negative, units without a
negative bias would never be silent, and the network would be linear.

The kernels begin as those of the unconstrained network, projected in the same
way, so that half of their entries are 0. Absolute values instead make
activations grow from layer to layer, since nothing cancels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import descent
from experiments.learning.learner import Hparams

PyTree = Any


def constrained(params: PyTree) -> PyTree:
  """Tells which parameters must not be negative: those called "kernel".

  Args:
    params: Parameters {layer: {name: array}} of a network.

  Returns:
    A tree like them, of booleans.

  Example:
    >>> constrained({"fc": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}})
    {'fc': {'bias': False, 'kernel': True}}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )


def network(unconstrained: Network) -> Network:
  """Returns a network whose kernels begin with no entry below 0."""

  def init(key: jax.Array) -> Variables:
    variables = unconstrained.init(key)
    params = jax.tree.map(
      lambda leaf, chosen: jnp.maximum(leaf, 0) if chosen else leaf,
      variables.params,
      constrained(variables.params),
    )
    return variables._replace(params=params)

  return unconstrained._replace(init=init)


def optimizer(unconstrained: descent.Optimizer) -> descent.Optimizer:
  """Projects the kernels after every step of an optimizer.

  Args:
    unconstrained: Maps hparams to the optimizer.

  Returns:
    The same, followed by the projection. Its own memory, as Adam's moments,
    does not know of it.

  Example:
    >>> tx = optimizer(lambda hparams: optax.sgd(1.0))(None)
    >>> params = {"fc": {"bias": jnp.ones(1), "kernel": jnp.ones((2, 1))}}
    >>> grads = jax.tree.map(lambda leaf: 3 * leaf, params)
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> moved = optax.apply_updates(params, updates)["fc"]
    >>> moved["bias"].tolist(), moved["kernel"].tolist()
    ([-2.0], [[0.0], [0.0]])
  """

  def make(hparams: Hparams) -> optax.GradientTransformation:
    return optax.chain(
      unconstrained(hparams),
      optax.masked(optax.keep_params_nonnegative(), constrained),
    )

  return make
