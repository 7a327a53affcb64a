"""The public functions that analyse arrays, with arguments to call them by."""

import functools

import numpy as np

import bean_jax
from bean_jax import assemblies, sparsity
from tests.bean_jax.layers import draw_layer

HIDDEN, KERNEL = draw_layer(6, 5, 4)
MATRIX = np.abs(KERNEL @ KERNEL.T)
GROUPS = np.array([0, 1, 1, 0, -1], np.int32)
LAYER = sparsity.HiddenLayer(KERNEL.T, KERNEL[:, 0], KERNEL, KERNEL[0])
ANALYSES = {
  "coactivation_divergence": (bean_jax.coactivation_divergence, (HIDDEN,)),
  "neuron_correlation": (bean_jax.neuron_correlation, (KERNEL,)),
  "class_profiles": (
    functools.partial(assemblies.class_profiles, num_classes=2),
    (HIDDEN, np.arange(6, dtype=np.int32) % 2),
  ),
  "selectivity": (assemblies.selectivity, (HIDDEN,)),
  "preferred_classes": (assemblies.preferred_classes, (HIDDEN,)),
  "dead_neurons": (assemblies.dead_neurons, (HIDDEN, KERNEL)),
  "assembly_masks": (
    functools.partial(assemblies.assembly_masks, num_assemblies=2),
    (GROUPS,),
  ),
  "ablate": (assemblies.ablate, (KERNEL, KERNEL[0], GROUPS < 0)),
  "cohesion": (assemblies.cohesion, (MATRIX, GROUPS)),
  "modularity": (assemblies.modularity, (MATRIX, GROUPS)),
  "proximity": (assemblies.proximity, (np.abs(KERNEL),)),
  "clustering_coefficient": (
    assemblies.clustering_coefficient,
    (np.abs(KERNEL),),
  ),
  "outgoing_variance": (assemblies.outgoing_variance, (KERNEL, GROUPS)),
  "unit_scales": (assemblies.unit_scales, (KERNEL,)),
  "rescale_units": (
    assemblies.rescale_units,
    (KERNEL.T, KERNEL[:, 0], KERNEL, np.ones(5, np.float32)),
  ),
  "gini_index": (sparsity.gini_index, (KERNEL,)),
  "hoyer_sparsity": (sparsity.hoyer_sparsity, (KERNEL,)),
  "small_fraction": (sparsity.small_fraction, (KERNEL,)),
  "magnitude_masks of two": (
    lambda *kernels: sparsity.magnitude_masks(kernels, 0.3),
    (KERNEL, HIDDEN),
  ),
  "magnitude_masks": (sparsity.magnitude_masks, (KERNEL, np.float32(0.3))),
  "unit_importance": (sparsity.unit_importance, (HIDDEN, KERNEL)),
  "remove_units": (sparsity.remove_units, (LAYER, np.array([1, 3], np.int32))),
  "remove_units with means": (
    lambda layer, keep, means: sparsity.remove_units(layer, keep, means=means),
    (LAYER, np.array([1, 3], np.int32), HIDDEN[0]),
  ),
  "merge_units": (
    functools.partial(sparsity.merge_units, num_groups=2),
    (LAYER, np.abs(GROUPS)),
  ),
}
