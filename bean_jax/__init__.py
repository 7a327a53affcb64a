"""BEAN: neuronal assembly regularization of dense layers, as pure functions.

Conventions of the whole library: activations are float arrays [..., N], one
row for each sample, every leading dimension is batch; kernels are float arrays
[N, M] in Flax orientation (inputs first), so that row i holds the outgoing
weights of neuron i. Penalties are means over samples. Order 1 is BEAN-1,
order 2 is BEAN-2.

The method is from Gao, Ascoli and Zhao, "BEAN: Interpretable and Efficient
Learning with Biologically-Enhanced Artificial Neuronal Assembly
Regularization", Frontiers in Neurorobotics 15, 2021.
"""

from bean_jax.correlation import neuron_correlation
from bean_jax.divergence import coactivation_divergence
from bean_jax.layers import capture, find_layers
from bean_jax.loss import penalties, regularize
from bean_jax.penalty import bean_penalty, layer_penalty

__version__ = "0.1.0"

__all__ = [
  "bean_penalty",
  "capture",
  "coactivation_divergence",
  "find_layers",
  "layer_penalty",
  "neuron_correlation",
  "penalties",
  "regularize",
]
