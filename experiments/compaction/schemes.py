"""Ways to make a head smaller, each for any fraction of it.

weights  the weights of least magnitude are pruned, over all kernels
units    the least important units are removed, over all layers
merge    the units of each assembly become one

Assemblies are clusters of a layer's units by their outgoing weights (K-means),
as the paper finds them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from bean_jax import sparsity
from experiments.assemblies import clusters
from experiments.compaction.heads import Activity, Head, Params

# Compiled as a whole, not operation by operation, for each new shape.
_remove_units = jax.jit(sparsity.remove_units)
_merge_units = jax.jit(sparsity.merge_units, static_argnames="num_groups")
_magnitude_masks = jax.jit(sparsity.magnitude_masks)


class Compact(NamedTuple):
  """A head made smaller."""

  # {layer: {"kernel": [n, m], "bias": [m]}}, really smaller arrays.
  params: Params
  # {layer: [n, m]}, which weights there are; pruned ones are 0.
  masks: dict[str, np.ndarray]
  inputs: np.ndarray  # Which features [n] enter the first layer.


def whole(head: Head) -> Compact:
  """Returns a head as it is."""
  return _dense(head.params, _features(head))


def prune_weights(head: Head, _: Activity, fraction: float) -> Compact:
  """Prunes a fraction of all weights, those of least magnitude."""
  kernels = {layer: leaves["kernel"] for layer, leaves in head.params.items()}
  masks = jax.device_get(_magnitude_masks(kernels, fraction))
  params = {
    layer: {**leaves, "kernel": leaves["kernel"] * masks[layer]}
    for layer, leaves in head.params.items()
  }
  return Compact(params, masks, _features(head))


def remove_units(head: Head, activity: Activity, fraction: float) -> Compact:
  """Removes a fraction of all units, and puts their means into biases.

  Units of different layers are compared by their importance relative to the
  whole of their layer, the root of its sum of squares. Every layer keeps its
  best.
  """
  scores = {}
  for layer in head.units:
    importance = np.asarray(activity.importance[layer], np.float64)
    norm = np.linalg.norm(importance)
    score = importance / norm if norm > 0 else importance
    score[score.argmax()] = np.inf
    scores[layer] = score
  values = np.concatenate(list(scores.values()))
  least = np.argsort(values, kind="stable")[: round(fraction * len(values))]
  goes = np.isin(np.arange(len(values)), least) & np.isfinite(values)
  ends = np.cumsum([len(score) for score in scores.values()])[:-1]
  parts = zip(scores, np.split(goes, ends), strict=True)
  keeps = {layer: np.flatnonzero(~gone) for layer, gone in parts}
  return _restructured(head, activity, keeps)


def merge_assemblies(
  head: Head, activity: Activity, fraction: float
) -> Compact:
  """Merges the units of each assembly into one, so that a fraction goes.

  Units that are constant are removed first, which changes nothing; what is left
  of a layer becomes as many assemblies as units are to stay, one at least.
  Features are no units with incoming weights, and stay.
  """
  keeps, groups = {}, {}
  for layer in list(head.params)[1:]:
    kernel = head.params[layer]["kernel"]
    alive = np.flatnonzero(np.asarray(activity.importance[layer]) > 0)
    keeps[layer] = alive if alive.size else np.arange(1)
    number = max(1, len(kernel) - round(fraction * len(kernel)))
    groups[layer] = assemblies(kernel[keeps[layer]], number)
  return _restructured(head, activity, keeps, groups)


def assemblies(kernel: np.ndarray, number: int) -> np.ndarray:
  """Clusters units by their outgoing weights [n, m], counted without gaps.

  There are fewer clusters than `number` where fewer units differ.
  """
  distinct, places = np.unique(kernel, axis=0, return_inverse=True)
  if number >= len(distinct):
    return places.reshape(-1)
  labels = clusters.assemble(
    kernel, number, restarts=3, seed=0, dtype=kernel.dtype
  )
  return np.unique(labels, return_inverse=True)[1]


SCHEMES = {
  "weights": prune_weights,
  "units": remove_units,
  "merge": merge_assemblies,
}

TITLES = {
  "weights": "weights pruned",
  "units": "units removed",
  "merge": "assemblies merged",
}


def sizes(compact: Compact, *, sparse: bool) -> dict[str, int]:
  """Counts what a head takes.

  Sparse kernels are stored as compressed rows, one for each output: values and
  32-bit column numbers of the weights that are left, and where each row begins.

  Returns:
    `parameters`, the biases and the weights that were not pruned; `flops`,
    multiplications and additions for a sample; `bytes` in float32, features
    that are chosen from costing 4 each.
  """
  weights = sum(int(mask.sum()) for mask in compact.masks.values())
  biases = sum(leaves["bias"].size for leaves in compact.params.values())
  stored = 4 * biases
  if sparse:
    stored += 8 * weights + 4 * (biases + len(compact.params))
  else:
    stored += 4 * sum(mask.size for mask in compact.masks.values())
  if not np.array_equal(compact.inputs, np.arange(len(compact.inputs))):
    stored += 4 * len(compact.inputs)
  return {
    "parameters": weights + biases,
    "flops": 2 * weights + biases,
    "bytes": stored,
  }


def pad(compact: Compact, head: Head) -> tuple[Params, Params]:
  """Puts a smaller head into arrays of the shapes of the whole.

  What is not there is 0. Trained with its masks it stays 0, and the rest is
  trained exactly as in the smaller arrays; so one compiled program trains all.

  Returns:
    Parameters, and masks of 0 and 1 for each of them.
  """
  params, masks = (jax.tree.map(np.zeros_like, head.params) for _ in range(2))
  rows = compact.inputs
  for layer, small in compact.params.items():
    columns = np.arange(small["bias"].size)
    block = np.ix_(rows, columns)
    params[layer]["kernel"][block] = small["kernel"]
    params[layer]["bias"][columns] = small["bias"]
    masks[layer]["kernel"][block] = compact.masks[layer]
    masks[layer]["bias"][columns] = 1
    rows = columns
  return params, masks


def _restructured(
  head: Head,
  activity: Activity,
  keeps: Mapping[str, np.ndarray],
  groups: Mapping[str, np.ndarray] | None = None,
) -> Compact:
  """Keeps some units that enter each layer, and merges them by group."""
  params = {layer: dict(leaves) for layer, leaves in head.params.items()}
  inputs = _features(head)
  before = None
  for layer, leaves in params.items():
    if layer in keeps:
      units = sparsity.HiddenLayer(
        # Features have no incoming weights here.
        before["kernel"] if before else np.zeros((0, len(inputs))),
        before["bias"] if before else np.zeros(len(inputs)),
        leaves["kernel"],
        leaves["bias"],
      )
      keep, means = keeps[layer], activity.means[layer]
      units = jax.device_get(_remove_units(units, keep, means=means))
      if groups is not None:
        # With empty groups, so that one program serves any number of them.
        own, most = groups[layer], len(keep)
        units = jax.device_get(_merge_units(units, own, num_groups=most))
        number = int(own.max()) + 1
        units = units._replace(
          incoming=units.incoming[:, :number],
          bias=units.bias[:number],
          outgoing=units.outgoing[:number],
        )
      leaves |= {"kernel": units.outgoing, "bias": units.next_bias}
      if before:
        before |= {"kernel": units.incoming, "bias": units.bias}
      else:
        inputs = keep
    before = leaves
  return _dense(params, inputs)


def _dense(params: Params, inputs: np.ndarray) -> Compact:
  masks = {
    layer: np.ones(leaves["kernel"].shape, bool)
    for layer, leaves in params.items()
  }
  return Compact(params, masks, inputs)


def _features(head: Head) -> np.ndarray:
  """Returns the numbers of all features."""
  return np.arange(len(next(iter(head.params.values()))["kernel"]))
