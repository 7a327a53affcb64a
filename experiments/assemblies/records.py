"""Records of what was measured, one a checkpoint; nothing is measured twice."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import numpy as np

from experiments import datasets
from experiments.assemblies import measures, sources
from experiments.assemblies.sources import Source
from experiments.records import checkpoints, results

Record = dict[str, Any]


def find_or_make(
  path: pathlib.Path,
  experiment: str,
  config: Mapping[str, Any],
  measure: Callable[[], tuple[datasets.Dataset, Mapping[str, Any]]],
  *,
  resume: bool,
) -> tuple[Record, bool]:
  """Returns the record of a checkpoint, and whether it was made just now.

  Args:
    path: Its file.
    experiment: The script.
    config: Everything that its numbers depend on, `checkpoint` among it.
    measure: Returns the images that the network was trained on, and metrics by
      name, a number or an array each.
    resume: Whether a record that is there is used.

  Raises:
    results.ResultError: If a record is of another configuration, or cannot be
      written.
  """

  def measured() -> dict[str, Any]:
    dataset, metrics = measure()
    values = {name: [value] for name, value in metrics.items()}
    return {"source": dataset.source, "metrics": values}

  seeds = [config["checkpoint"]["seed"]]
  fields = {"experiment": experiment, "config": config, "seeds": seeds}
  return results.made(path, fields, measured, resume=resume)


def measure(
  source: Source,
  dataset: datasets.Dataset,
  layer: str,
  epoch: str,
  settings: measures.Settings,
) -> tuple[datasets.Dataset, dict[str, Any]]:
  """Measures a layer of a checkpoint after its "best" or "last" epoch.

  Returns:
    The images that were given, and metrics by name.

  Raises:
    checkpoints.CheckpointError: If the checkpoint cannot be used.
    parsing.ConfigError: If the layer has too few neurons.
  """
  seed = source.config["seed"]
  trained, untrained = sources.trained_and_untrained(
    source, dataset, layer, which=epoch
  )
  measures.check_sizes(trained, settings)
  numbers = checkpoints.load(source.path).metrics
  suffix = "_last" if epoch == "last" else ""
  metrics = {
    "validation_accuracy": source.validation_accuracy,
    # Few-shot simulations may keep less than others.
    "test_accuracy": float(numbers.get(f"test_accuracy{suffix}", np.nan)),
    "num_neurons": float(len(trained.kernel)),
    **measures.measure(
      measures.subjects(trained, untrained, seed=seed),
      settings,
      gamma=source.config.get("gamma", 1.0),
      seed=seed,
    ),
  }
  return dataset, {name: _rounded(value) for name, value in metrics.items()}


def _rounded(value: float | np.ndarray) -> Any:
  """Returns a number, or an array of them, to seven digits."""
  array = np.asarray(value, np.float64)
  if array.ndim == 0:
    return float(f"{array:.7g}")
  return [_rounded(item) for item in array]
