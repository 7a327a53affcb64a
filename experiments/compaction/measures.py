"""What is measured of a network whose dense layers shrink."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.architectures.networks import Network, Variables
from experiments.compaction import heads, retraining, schemes, timing
from experiments.compaction.schemes import Compact
from experiments.machine import devices


class Settings(NamedTuple):
  """How heads are made smaller, as flags of `experiments.efficiency` say."""

  schemes: tuple[str, ...]
  weight_fractions: tuple[float, ...]
  unit_fractions: tuple[float, ...]
  retrain_epochs: int
  timing_batches: tuple[int, ...]
  timing_repeats: int


class Version(NamedTuple):
  """A head of which a fraction went by a scheme; "whole" if it is as it is."""

  scheme: str
  fraction: float
  compact: Compact

  @property
  def as_sparse(self) -> bool:
    """Whether its kernels are compressed sparse rows."""
    return self.scheme == "weights"


def digest(variables: Variables) -> str:
  """Digests parameters, whatever their file says beside them."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()


def measure(
  network: Network,
  variables: Variables,
  dataset: datasets.Dataset,
  config: dict[str, Any],
  settings: Settings,
) -> dict[str, Any]:
  """Makes a network's head smaller in every way and measures what is left.

  Returns:
    Metrics named "<scheme>/<name>", numbers of all versions, the whole head
    first: its `fraction`, those of `schemes.sizes`, `validation_accuracy` and
    `test_accuracy`, with `_retrained` behind where it was, and `time_ratio_<n>`
    of batches of n. "gini_index/<layer>" and the like are of the whole.
  """
  head, splits = heads.split_network(network, variables, dataset, config)
  activity = heads.activity(head.params, splits.train.inputs)
  versions = [Version("whole", 0.0, schemes.whole(head))]
  for scheme in settings.schemes:
    # The only layer of a head has no units that could be merged.
    if scheme == "merge" and len(head.params) == 1:
      continue
    fractions = settings.unit_fractions
    if scheme == "weights":
      fractions = settings.weight_fractions
    make = schemes.SCHEMES[scheme]
    versions += [Version(scheme, f, make(head, activity, f)) for f in fractions]
  values = _accuracies(head, versions, splits, config, settings)
  values["fraction"] = [version.fraction for version in versions]
  counts = [schemes.sizes(v.compact, sparse=v.as_sparse) for v in versions]
  values |= {name: [count[name] for count in counts] for name in counts[0]}
  if settings.timing_repeats:
    values |= _time_ratios(versions, splits.test.inputs, settings)
  metrics = {
    f"{scheme}/{name}": [
      number
      for number, version in zip(numbers, versions, strict=True)
      if version.scheme in ("whole", scheme)
    ]
    for scheme in dict.fromkeys(v.scheme for v in versions[1:])
    for name, numbers in values.items()
  }
  everything, in_head = (
    sum(leaf.size for leaf in jax.tree.leaves(params))
    for params in (variables.params, head.params)
  )
  metrics["parameters_outside"] = everything - in_head
  return metrics | _sparsity(head)


def _accuracies(
  head: heads.Head,
  versions: list[Version],
  splits: heads.Splits,
  config: dict[str, Any],
  settings: Settings,
) -> dict[str, np.ndarray]:
  """Returns accuracies [versions] by name."""
  placed = devices.place(splits, devices.SHARED)
  padded = [schemes.pad(version.compact, head) for version in versions]
  trained = {"": [params for params, _ in padded]}
  if settings.retrain_epochs:
    trained["_retrained"] = retraining.retrain(
      padded,
      placed.train,
      seed=config["seed"],
      epochs=settings.retrain_epochs,
      batch_size=config["batch_size"],
      learning_rate=config["learning_rate"],
    )
  return {
    f"{split}_accuracy{suffix}": retraining.accuracies(
      params, getattr(placed, split)
    )
    for suffix, params in trained.items()
    for split in ("validation", "test")
  }


def _time_ratios(
  versions: list[Version], features: np.ndarray, settings: Settings
) -> dict[str, list[float]]:
  return {
    f"time_ratio_{batch}": [
      timing.time_ratio(
        version.compact,
        versions[0].compact,
        np.resize(features, (batch, features.shape[1])),
        as_sparse=version.as_sparse,
        repeats=settings.timing_repeats,
      )
      for version in versions
    ]
    for batch in settings.timing_batches
  }


def _sparsity(head: heads.Head) -> dict[str, float]:
  """Returns how sparse each kernel is, and all of them together."""
  kernels = {
    layer: leaves["kernel"].ravel() for layer, leaves in head.params.items()
  }
  kernels["all"] = np.concatenate(list(kernels.values()))
  return {
    f"{measure.__name__}/{layer}": float(jax.jit(measure)(kernel))
    for layer, kernel in kernels.items()
    for measure in (
      sparsity.gini_index,
      sparsity.hoyer_sparsity,
      sparsity.small_fraction,
    )
  }
