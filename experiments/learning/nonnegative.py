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

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning.descent import Optimizer

PyTree = Any


def constrained(params: PyTree) -> PyTree:
  """Tells which parameters must not be negative: those called "kernel".

  Example:
    >>> constrained({"fc": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}})
    {'fc': {'bias': False, 'kernel': True}}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == "kernel", params
  )


@functools.cache
def network(unconstrained: Network) -> Network:
  """Returns a network whose kernels begin with no entry below 0."""

  def init(key: jax.Array) -> Variables:
    params, batch_stats = unconstrained.init(key)
    projected = jax.tree.map(
      lambda leaf, chosen: jnp.maximum(leaf, 0) if chosen else leaf,
      params,
      constrained(params),
    )
    return Variables(projected, batch_stats)

  return unconstrained._replace(init=init)


@functools.cache
def optimizer(unconstrained: Optimizer) -> Optimizer:
  """Projects the kernels after every step of an optimizer.

  Its own memory, as Adam's moments, does not know of that.
  """
  project = optax.masked(optax.keep_params_nonnegative(), constrained)
  return lambda hparams: optax.chain(unconstrained(hparams), project)
