"""Cells of few-shot experiments as files: what is there, what is missing.

A run is a set of cells of one dataset and protocol, and the folder of their
records. Records that are there are never trained again.
"""

import dataclasses
import functools
import pathlib

from experiments import (
  datasets,
  methods,
  models,
  progress,
  results,
  simulations,
)


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    experiment: What makes it, such as "few_shot".
    dataset: Name of the dataset.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of the results.
    resume: Whether cells that are there already are skipped.
    protocol: How every cell is trained.
    cells: What is trained, in this order.
  """

  experiment: str
  dataset: str
  data_dir: str | None
  output_dir: pathlib.Path
  resume: bool
  protocol: simulations.Protocol
  cells: tuple[simulations.Cell, ...]


def cell_config(config: Config, cell: simulations.Cell) -> dict:
  """Lists everything that the numbers of a cell depend on.

  A choice that has a usual value is left out where it has that, so that older
  records stay valid when a choice is added.

  Args:
    config: The run.
    cell: One of its cells.

  Returns:
    Fields for `results.write`; those of `methods.Options` only where the
    method depends on them.
  """
  method = methods.METHODS[cell.method]
  protocol = config.protocol
  usual = methods.Options()
  options = {
    name: value
    for name, value in protocol.options._asdict().items()
    if name in method.options
    and (name in methods.ALWAYS_NAMED or value != getattr(usual, name))
  }
  every = simulations.validate_every(cell, protocol)
  return {
    "dataset": config.dataset,
    "model": protocol.model,
    "shots": cell.shots,
    "method": cell.method,
    **({method.hparam: cell.strength} if method.hparam else {}),
    **options,
    "epochs": cell.epochs,
    **({"validate_every": every} if every > 1 else {}),
    "batch_size": simulations.batch_size(cell, protocol),
    "optimizer": "adam",
    "learning_rate": protocol.learning_rate,
    **(
      {"initializer": protocol.initializer}
      if protocol.initializer != models.INITIALIZERS[0]
      else {}
    ),
    "seeds": list(protocol.seeds),
  }


def cell_path(config: Config, cell: simulations.Cell) -> pathlib.Path:
  """Returns the file of a cell's record."""
  hparam = methods.METHODS[cell.method].hparam
  strength = {hparam: cell.strength} if hparam else {}
  name = results.cell_name(config.dataset, cell.shots, cell.method, **strength)
  return config.output_dir / name


def work(config: Config) -> int:
  """Sums up the work of a run, done or not, in units of `simulations.cost`.

  Args:
    config: The run.

  Raises:
    datasets.DatasetError: If the data cannot be had or has too few images.
  """
  dataset = _load(config)
  for cell in config.cells:
    datasets.draw_shots(dataset.train.labels, num_shots=cell.shots, seed=0)
  return len(config.protocol.seeds) * sum(
    simulations.cost(cell, dataset, config.protocol) for cell in config.cells
  )


def missing(config: Config) -> Config:
  """Returns a run of the cells without a record alone.

  Args:
    config: The run.

  Raises:
    results.ResultError: If a record is of another configuration or cannot be
      read.
  """
  done = finished(config) if config.resume else {}
  return dataclasses.replace(
    config, cells=tuple(cell for cell in config.cells if cell not in done)
  )


def train(config: Config, bar: progress.Bar) -> list[dict]:
  """Trains the cells that are missing and keeps their records.

  Args:
    config: The run.
    bar: Where progress is shown.

  Returns:
    The records of all cells, in their order.

  Raises:
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If the folder holds a record of another configuration
      or cannot be written. Nothing has been trained then.
  """
  records = finished(config) if config.resume else {}
  if len(records) < len(config.cells):
    work(config)
    results.prepare_directory(config.output_dir)
    _train(config, records, bar)
  return [records[cell] for cell in config.cells]


@functools.cache
def _load_from(name: str, data_dir: str | None) -> datasets.Dataset:
  return datasets.load(name, data_dir=data_dir)


def _load(config: Config) -> datasets.Dataset:
  return _load_from(config.dataset, config.data_dir)


def _train(
  config: Config,
  records: dict[simulations.Cell, dict],
  bar: progress.Bar,
) -> None:
  dataset = _load(config)
  # Once: the checkout may change while this code runs on.
  environment = results.environment()
  for cell, outcome in simulations.run(
    config.cells,
    dataset,
    config.protocol,
    tick=bar.tick,
    done=frozenset(records),
  ):
    record = {
      "experiment": config.experiment,
      "config": cell_config(config, cell),
      "source": dataset.source,
      "members_per_chunk": outcome.members_per_chunk,
      **environment,
      "seconds": round(outcome.seconds, 1),
      "seeds": list(config.protocol.seeds),
      "metrics": outcome.metrics,
    }
    path = cell_path(config, cell)
    results.write(path, record)
    records[cell] = results.read(path)
    bar.cell_done(cell, outcome, config.protocol.seeds)


def finished(config: Config) -> dict[simulations.Cell, dict]:
  """Reads the records of the cells that were trained before.

  Args:
    config: The run.

  Raises:
    results.ResultError: If one is of another configuration or cannot be read.
  """
  done = {}
  for cell in config.cells:
    path = cell_path(config, cell)
    try:
      record = results.find(path, cell_config(config, cell))
    except OSError as error:
      raise results.ResultError(
        f"{path}: cannot be read ({error.strerror}); choose another folder"
      ) from error
    if record is not None:
      done[cell] = record
  return done
