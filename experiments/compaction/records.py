"""Efficiency records: one file a checkpoint, which is never computed again."""

import hashlib
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.compaction import heads, retraining, schemes, timing
from experiments.compaction.schemes import Compact
from experiments.records import checkpoints, results

Record = dict[str, Any]

# Metrics of a version of a head, beside its accuracies.
SIZES = ("fraction", "parameters", "flops", "bytes", "dense_bytes")


class Settings(NamedTuple):
  """How heads are made smaller.

  Attributes:
    schemes: Names in `schemes.SCHEMES`.
    weight_fractions: Of weights that are pruned.
    unit_fractions: Of units that are removed or merged.
    retrain_epochs: Passes over the training images afterwards; 0 for none.
    timing_batches: Samples that are timed at once.
    timing_repeats: Rounds of timing; 0 for none.
  """

  schemes: tuple[str, ...]
  weight_fractions: tuple[float, ...]
  unit_fractions: tuple[float, ...]
  retrain_epochs: int = 1
  timing_batches: tuple[int, ...] = (1, 100)
  timing_repeats: int = 7


class Version(NamedTuple):
  """A head made smaller by so much.

  Attributes:
    scheme: Name in `schemes.SCHEMES`; "whole" for the head as it is.
    fraction: What of it went.
    compact: What is left.
  """

  scheme: str
  fraction: float
  compact: Compact


def path_of(
  directory: pathlib.Path, checkpoint_path: pathlib.Path
) -> pathlib.Path:
  """Returns the file of a checkpoint's record."""
  return directory / f"{checkpoint_path.stem}.json"


def make_config(
  checkpoint: checkpoints.Checkpoint, settings: Settings
) -> dict[str, Any]:
  """Lists everything that a record depends on.

  Args:
    checkpoint: What was trained.
    settings: How it is made smaller.

  Returns:
    Fields for `results.write`.
  """
  leaves = jax.tree_util.tree_leaves_with_path(checkpoint.best)
  digest = hashlib.sha256()
  for path, leaf in leaves:
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return {
    "checkpoint": checkpoint.config,
    "checkpoint_sha256": digest.hexdigest(),
    **settings._asdict(),
  }


def make(
  path: str | os.PathLike[str],
  checkpoint: checkpoints.Checkpoint,
  dataset: datasets.Dataset,
  settings: Settings,
) -> Record:
  """Makes a network's head smaller in every way and measures what is left.

  Args:
    path: Of the checkpoint, for errors.
    checkpoint: The trained network.
    dataset: What it was trained on.
    settings: How it is made smaller.

  Returns:
    A record for `results.write`. Its metrics are named "<scheme>/<name>", the
    whole head first in each: the `SIZES`; `validation_accuracy` and
    `test_accuracy`, with `_retrained` behind where it was; and `time_ratio_<n>`
    of batches of n. "gini_index/<layer>" and the like are of the whole.

  Raises:
    checkpoints.CheckpointError: If the checkpoint cannot be used.
    datasets.DatasetError: If the images do not suffice.
  """
  started = time.monotonic()
  image_shape = dataset.train.images.shape[1:]
  head, features = heads.split_network(path, checkpoint, image_shape)
  splits = heads.make_splits(checkpoint.config, dataset, features)
  activity = heads.activity(head, splits.train.inputs)
  versions = make_versions(head, activity, settings)
  values = _accuracies(head, versions, splits, checkpoint.config, settings)
  for name in SIZES:
    values[name] = [_size(name, version) for version in versions]
  values |= _time_ratios(versions, splits.test.inputs, settings)
  metrics = {
    f"{scheme}/{name}": [
      [
        number
        for number, version in zip(numbers, versions, strict=True)
        if version.scheme in ("whole", scheme)
      ]
    ]
    for scheme in dict.fromkeys(v.scheme for v in versions[1:])
    for name, numbers in values.items()
  }
  return {
    "experiment": "efficiency",
    "config": make_config(checkpoint, settings),
    "source": dataset.source,
    **results.environment(),
    "seconds": round(time.monotonic() - started, 1),
    "seeds": [checkpoint.config["seed"]],
    "metrics": metrics | _sparsity(head) | _network(checkpoint, head, activity),
  }


def make_versions(
  head: heads.Head, activity: heads.Activity, settings: Settings
) -> list[Version]:
  """Makes a head smaller in every way.

  Args:
    head: The dense layers.
    activity: What is known of their units.
    settings: Schemes and fractions; those which do not apply are left out.

  Returns:
    The head as it is, then scheme by scheme in the order of the fractions.
  """
  versions = [Version("whole", 0.0, schemes.whole(head))]
  for scheme in settings.schemes:
    if not schemes.applies(scheme, head):
      continue
    fractions = settings.unit_fractions
    if scheme in schemes.UNSTRUCTURED:
      fractions = settings.weight_fractions
    versions += [
      Version(
        scheme, fraction, schemes.SCHEMES[scheme](head, activity, fraction)
      )
      for fraction in fractions
    ]
  return versions


def _accuracies(
  head: heads.Head,
  versions: list[Version],
  splits: heads.Splits,
  config: dict[str, Any],
  settings: Settings,
) -> dict[str, np.ndarray]:
  """Returns accuracies [versions] by name."""
  placed = heads.Splits(*map(retraining.place, splits))
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


def _size(name: str, version: Version) -> float:
  compact = version.compact
  if name == "fraction":
    return version.fraction
  if name == "parameters":
    return schemes.count_parameters(compact)
  if name == "flops":
    return schemes.count_flops(compact)
  as_sparse = name == "bytes" and version.scheme in schemes.UNSTRUCTURED
  return schemes.count_bytes(compact, sparse=as_sparse)


def _time_ratios(
  versions: list[Version], features: np.ndarray, settings: Settings
) -> dict[str, list[float]]:
  if not settings.timing_repeats:
    return {}
  return {
    f"time_ratio_{batch}": [
      timing.time_ratio(
        version.compact,
        versions[0].compact,
        np.resize(features, (batch, features.shape[1])),
        as_sparse=version.scheme in schemes.UNSTRUCTURED,
        repeats=settings.timing_repeats,
      )
      for version in versions
    ]
    for batch in settings.timing_batches
  }


def _sparsity(head: heads.Head) -> dict[str, list[float]]:
  """Returns how sparse each kernel is, and all of them together."""
  kernels = {
    layer: leaves["kernel"].ravel() for layer, leaves in head.params.items()
  }
  kernels["all"] = np.concatenate(list(kernels.values()))
  return {
    f"{measure.__name__}/{layer}": [float(jax.jit(measure)(kernel))]
    for layer, kernel in kernels.items()
    for measure in (
      sparsity.gini_index,
      sparsity.hoyer_sparsity,
      sparsity.small_fraction,
    )
  }


def _network(
  checkpoint: checkpoints.Checkpoint, head: heads.Head, activity: heads.Activity
) -> dict[str, list[float]]:
  """Returns what else is said of a network as it is."""
  in_head = sum(leaf.size for leaf in jax.tree.leaves(head.params))
  everything = sum(
    leaf.size for leaf in jax.tree.leaves(checkpoint.best.params)
  )
  return {
    "parameters_outside": [everything - in_head],
    **{
      f"units_active/{layer}": [int(np.count_nonzero(importance))]
      for layer, importance in activity.importance.items()
    },
  }
