"""Records of what was measured, one a checkpoint; nothing is measured twice."""

from collections.abc import Iterator, Mapping
import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

from experiments import datasets
from experiments.assemblies import measures, sources
from experiments.assemblies.sources import Source
from experiments.records import checkpoints, results, trained

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    sources: The checkpoints, those that are compared next to each other.
    layer: Name of the layer; None for the last dense one of each network.
    epoch: "best" or "last", which parameters of a checkpoint.
    settings: How layers are looked at.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of records, figures and the table.
    resume: Whether records that are there are used.
    figures: Which simulations have figures, of `summary.SELECTIONS`.
    figure_seed: Seed of the simulations that are drawn.
    margin: Accuracy that a strength may cost to be drawn as most clustered.
  """

  sources: tuple[Source, ...]
  layer: str | None
  epoch: str
  settings: measures.Settings
  data_dir: str | None
  output_dir: pathlib.Path
  resume: bool
  figures: tuple[str, ...]
  figure_seed: int
  margin: float


def record_config(config: Config, source: Source, layer: str) -> dict:
  """Lists everything that the numbers of a record depend on.

  Args:
    config: The run.
    source: A checkpoint.
    layer: Name of the layer.

  Returns:
    Fields for `results.write`.
  """
  return {
    "layer": layer,
    "epoch": config.epoch,
    **config.settings._asdict(),
    "checkpoint": source.config,
    "checkpoint_sha256": source.digest,
  }


def record_path(config: Config, source: Source, layer: str) -> pathlib.Path:
  """Returns the file of a checkpoint's record."""
  epoch = "-last" if config.epoch == "last" else ""
  return config.output_dir / f"{source.path.stem}-{layer}{epoch}.json"


def measure_all(
  config: Config, loaded: Mapping[str, datasets.Dataset]
) -> Iterator[tuple[Source, Record, bool]]:
  """Measures what has no record yet.

  Args:
    config: The run.
    loaded: Datasets by name.

  Yields:
    Each checkpoint with its record and whether it was measured just now.

  Raises:
    checkpoints.CheckpointError: If a checkpoint cannot be used.
    results.ResultError: If a record is of another configuration, or cannot be
      written.
  """
  environment = results.environment()
  for source in config.sources:
    dataset = loaded[source.config["dataset"]]
    layer = layer_of(config, source, dataset)
    path = record_path(config, source, layer)
    fields = record_config(config, source, layer)
    record = results.find(path, fields) if config.resume else None
    if record is not None:
      yield source, record, False
      continue
    started = time.monotonic()
    seed = source.config["seed"]
    metrics = _measure(config, source, dataset, layer)
    results.write(
      path,
      {
        "experiment": "interpret",
        "config": fields,
        "source": dataset.source,
        **environment,
        "seconds": round(time.monotonic() - started, 1),
        "seeds": [seed],
        "metrics": {name: [_rounded(value)] for name, value in metrics.items()},
      },
    )
    yield source, results.read(path), True


def layer_of(config: Config, source: Source, dataset: datasets.Dataset) -> str:
  """Returns the name of the layer that is looked at.

  Args:
    config: The run.
    source: A checkpoint.
    dataset: The images that it was trained on.

  Returns:
    The name.

  Raises:
    parsing.ConfigError: If its network has no such layer.
  """
  network = trained.network_of(
    source.path, source.config, dataset.test.images.shape[1:]
  )
  return sources.layer_name(network, config.layer)


def _measure(
  config: Config, source: Source, dataset: datasets.Dataset, layer: str
) -> measures.Metrics:
  seed = source.config["seed"]
  trained, untrained = sources.trained_and_untrained(
    source, dataset, layer, which=config.epoch
  )
  measures.check_sizes(trained, config.settings)
  numbers = checkpoints.load(source.path, config=source.config).metrics
  suffix = "_last" if config.epoch == "last" else ""
  return {
    "validation_accuracy": source.validation_accuracy,
    # Few-shot simulations may keep less than others.
    "test_accuracy": float(numbers.get(f"test_accuracy{suffix}", np.nan)),
    "num_neurons": float(len(trained.kernel)),
    **measures.measure(
      measures.subjects(trained, untrained, seed=seed),
      config.settings,
      gamma=source.config.get("gamma", 1.0),
      seed=seed,
    ),
  }


def _rounded(value: float | np.ndarray) -> Any:
  """Returns a number, or an array of them, to seven digits."""
  array = np.asarray(value, np.float64)
  if array.ndim == 0:
    return float(f"{array:.7g}")
  return [_rounded(item) for item in array]
