"""Ways to make a head smaller, each for any fraction of it.

weights         the weights of least magnitude are pruned, over all kernels
weights_by_layer  the same, but the same fraction of each kernel
units           the least important units are removed, over all layers
merge           the units of each assembly become one

Assemblies are clusters of a layer's units by their outgoing weights (K-means),
as the paper finds them.
"""

from collections.abc import Callable
from typing import NamedTuple
import warnings

import jax
import numpy as np
from sklearn import cluster, exceptions

from bean_jax import sparsity
from experiments.compaction.heads import Activity, Head, Params

_RESTARTS = 3

# Compiled as a whole, not operation by operation, for each new shape.
_remove_units = jax.jit(sparsity.remove_units)
_merge_units = jax.jit(sparsity.merge_units, static_argnames="num_groups")
_magnitude_masks = jax.jit(sparsity.magnitude_masks, static_argnames="scope")


class Compact(NamedTuple):
  """A head made smaller.

  Attributes:
    params: {layer: {"kernel": [n, m], "bias": [m]}}, really smaller arrays.
    masks: {layer: [n, m]}, which weights there are; pruned ones are 0.
    inputs: Which features [n] enter the first layer.
  """

  params: Params
  masks: dict[str, np.ndarray]
  inputs: np.ndarray


def whole(head: Head) -> Compact:
  """Returns a head as it is."""
  return _dense(head.params, np.arange(_kernels(head)[0].shape[0]))


def prune_weights(
  head: Head, fraction: float, *, scope: str = "global"
) -> Compact:
  """Prunes the weights of least magnitude.

  Args:
    head: The dense layers.
    fraction: Of the weights, in [0, 1]; biases stay.
    scope: As in `bean_jax.sparsity.magnitude_masks`.

  Returns:
    The head with all its shapes.
  """
  kernels = {layer: leaves["kernel"] for layer, leaves in head.params.items()}
  masks = _magnitude_masks(kernels, fraction, scope=scope)
  masks = {layer: np.asarray(masks[layer]) for layer in kernels}
  params = {
    layer: {**leaves, "kernel": leaves["kernel"] * masks[layer]}
    for layer, leaves in head.params.items()
  }
  return Compact(params, masks, np.arange(_kernels(head)[0].shape[0]))


def remove_units(head: Head, activity: Activity, fraction: float) -> Compact:
  """Removes the least important units and puts their means into biases.

  Units of different layers are compared by their importance relative to the
  whole of their layer, the root of its sum of squares.

  Args:
    head: The dense layers.
    activity: What is known of their units.
    fraction: Of all units, in [0, 1); every layer keeps its best.

  Returns:
    The smaller head.
  """
  scores = {}
  for layer in head.units:
    importance = np.asarray(activity.importance[layer], np.float64)
    norm = np.linalg.norm(importance)
    scores[layer] = importance / norm if norm > 0 else importance
  for score in scores.values():
    score[score.argmax()] = np.inf
  values = np.concatenate([scores[layer] for layer in head.units])
  ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
  kept = ranks >= round(fraction * len(values))
  ends = np.cumsum([len(scores[layer]) for layer in head.units])[:-1]
  keeps = dict(zip(head.units, np.split(kept, ends), strict=True))
  for layer, keep in keeps.items():
    keep[scores[layer].argmax()] = True
  return _restructured(
    head,
    {
      layer: _removal(np.flatnonzero(keep), activity.means[layer])
      for layer, keep in keeps.items()
    },
  )


def merge_assemblies(
  head: Head, activity: Activity, fraction: float
) -> Compact:
  """Merges the units of each assembly into one.

  Units that are constant are removed first, which changes nothing; what is left
  becomes as many assemblies as units are to stay. Features are no units with
  incoming weights, and stay.

  Args:
    head: The dense layers.
    activity: What is known of their units.
    fraction: Of each layer's units that go, in [0, 1); one stays at least.

  Returns:
    The smaller head.
  """
  edits = {}
  for layer in list(head.params)[1:]:
    if layer not in head.units:
      continue
    kernel = head.params[layer]["kernel"]
    alive = np.flatnonzero(activity.importance[layer] > 0)
    if not alive.size:
      alive = np.arange(1)
    number = max(1, len(kernel) - round(fraction * len(kernel)))
    groups = assemblies(kernel[alive], number)
    edits[layer] = _merger(alive, groups, activity.means[layer])
  return _restructured(head, edits)


def assemblies(kernel: np.ndarray, number: int) -> np.ndarray:
  """Clusters units by their outgoing weights.

  Args:
    kernel: Outgoing weights [n, m].
    number: Of clusters, at least 1; fewer where fewer units differ.

  Returns:
    The cluster [n] of each unit, counted from 0 without gaps.
  """
  distinct, places = np.unique(kernel, axis=0, return_inverse=True)
  if number >= len(distinct):
    return places.reshape(-1)
  with warnings.catch_warnings():
    # Units that differ in their last bits only.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    labels = cluster.KMeans(
      number, n_init=_RESTARTS, random_state=0
    ).fit_predict(kernel)
  return np.unique(labels, return_inverse=True)[1]


SCHEMES = {
  "weights": lambda head, activity, fraction: prune_weights(head, fraction),
  "weights_by_layer": lambda head, activity, fraction: prune_weights(
    head, fraction, scope="layer"
  ),
  "units": remove_units,
  "merge": merge_assemblies,
}

TITLES = {
  "weights": "weights pruned",
  "weights_by_layer": "weights pruned, layer by layer",
  "units": "units removed",
  "merge": "assemblies merged",
}

UNSTRUCTURED = ("weights", "weights_by_layer")


def applies(scheme: str, head: Head) -> bool:
  """Tells whether a head has what a scheme makes smaller."""
  if scheme == "merge":
    return any(layer in head.units for layer in list(head.params)[1:])
  return bool(head.units) or scheme in UNSTRUCTURED


def count_parameters(compact: Compact) -> int:
  """Counts weights that were not pruned, and biases."""
  weights = sum(int(mask.sum()) for mask in compact.masks.values())
  return weights + sum(leaf["bias"].size for leaf in compact.params.values())


def count_flops(compact: Compact) -> int:
  """Counts multiplications and additions for one sample."""
  weights = sum(int(mask.sum()) for mask in compact.masks.values())
  return 2 * weights + sum(
    leaf["bias"].size for leaf in compact.params.values()
  )


def count_bytes(compact: Compact, *, sparse: bool = False) -> int:
  """Counts what a head takes to store in float32.

  Args:
    compact: The head.
    sparse: Whether its kernels are stored as compressed sparse rows, one for
      each output: values and 32-bit column numbers of the weights that are
      left, and where each row begins.

  Returns:
    Bytes. Features that are chosen from cost 4 each.
  """
  total = 0
  for layer, leaves in compact.params.items():
    rows, columns = leaves["kernel"].shape[::-1]
    total += 4 * rows
    if sparse:
      total += 8 * int(compact.masks[layer].sum()) + 4 * (rows + 1)
    else:
      total += 4 * rows * columns
  if not np.array_equal(compact.inputs, np.arange(len(compact.inputs))):
    total += 4 * len(compact.inputs)
  return total


def pad(compact: Compact, head: Head) -> tuple[Params, Params]:
  """Puts a smaller head into arrays of the shapes of the whole.

  What is not there is 0. Trained with its masks it stays 0, and the rest is
  trained exactly as in the smaller arrays; so one compiled program trains all.

  Args:
    compact: The smaller head.
    head: The whole.

  Returns:
    Parameters, and masks of 0 and 1 for each of them.
  """
  params: Params = {}
  masks: Params = {}
  rows = compact.inputs
  for layer, leaves in head.params.items():
    small = compact.params[layer]
    columns = np.arange(small["bias"].size)
    params[layer], masks[layer] = (
      {name: np.zeros(leaf.shape, np.float32) for name, leaf in leaves.items()}
      for _ in range(2)
    )
    params[layer]["kernel"][np.ix_(rows, columns)] = small["kernel"]
    params[layer]["bias"][columns] = small["bias"]
    masks[layer]["kernel"][np.ix_(rows, columns)] = compact.masks[layer]
    masks[layer]["bias"][columns] = 1
    rows = columns
  return params, masks


# What happens to the units that enter a layer, and which of them stay.
_Edit = Callable[
  [sparsity.HiddenLayer], tuple[sparsity.HiddenLayer, np.ndarray]
]


def _removal(keep: np.ndarray, means: np.ndarray) -> _Edit:
  return lambda units: (
    jax.device_get(_remove_units(units, keep, means=means)),
    keep,
  )


def _merger(alive: np.ndarray, groups: np.ndarray, means: np.ndarray) -> _Edit:
  def edit(
    units: sparsity.HiddenLayer,
  ) -> tuple[sparsity.HiddenLayer, np.ndarray]:
    units = _remove_units(units, alive, means=means)
    # With empty groups, so that one program serves any number of them.
    units = jax.device_get(_merge_units(units, groups, num_groups=len(groups)))
    number = int(groups.max()) + 1
    return sparsity.HiddenLayer(
      units.incoming[:, :number],
      units.bias[:number],
      units.outgoing[:number],
      units.next_bias,
    ), alive

  return edit


def _restructured(head: Head, edits: dict[str, _Edit]) -> Compact:
  """Applies edits of units to the arrays around them, front to back."""
  layers = list(head.params)
  params = {layer: dict(leaves) for layer, leaves in head.params.items()}
  inputs = np.arange(_kernels(head)[0].shape[0])
  for place, layer in enumerate(layers):
    if layer not in edits:
      continue
    leaves = params[layer]
    # Features have no incoming weights here.
    before = {
      "kernel": np.zeros((0, len(inputs))),
      "bias": np.zeros(len(inputs)),
    }
    if place:
      before = params[layers[place - 1]]
    units, keep = edits[layer](
      sparsity.HiddenLayer(
        before["kernel"], before["bias"], leaves["kernel"], leaves["bias"]
      )
    )
    params[layer] = {"kernel": units.outgoing, "bias": units.next_bias}
    if place:
      params[layers[place - 1]] = {"kernel": units.incoming, "bias": units.bias}
    else:
      inputs = keep
  return _dense(params, inputs)


def _dense(params: Params, inputs: np.ndarray) -> Compact:
  masks = {
    layer: np.ones(leaves["kernel"].shape, bool)
    for layer, leaves in params.items()
  }
  return Compact(params, masks, inputs)


def _kernels(head: Head) -> list[np.ndarray]:
  return [leaves["kernel"] for leaves in head.params.values()]
