"""Cells of few-shot experiments as files: what is there, what is missing.

A run is a set of cells of one dataset and protocol, and the folder of their
records. Records that are there are never trained again, nor are the members of
cells that a run left unfinished.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib

from experiments import datasets
from experiments.architectures import models
from experiments.architectures.networks import Variables
from experiments.command import distributed, interruption, notices, progress
from experiments.learning import methods
from experiments.records import checkpoints, results
from experiments.runs import partials, simulations


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
    checkpoint_dir: Folder where the trained networks are kept, or None.
  """

  experiment: str
  dataset: str
  data_dir: str | None
  output_dir: pathlib.Path
  resume: bool
  protocol: simulations.Protocol
  cells: tuple[simulations.Cell, ...]
  checkpoint_dir: pathlib.Path | None = None


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
    "optimizer": "nadam" if method.loss is None else "adam",
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


def checkpoint_path(
  config: Config, cell: simulations.Cell, seed: int
) -> pathlib.Path:
  """Returns the file of a member's trained networks."""
  stem = cell_path(config, cell).name.removesuffix(".json")
  return config.checkpoint_dir / f"{stem}-seed{seed}.npz"


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


def train(
  config: Config, bar: progress.Bar, *, cheapest_first: bool = False
) -> list[dict]:
  """Trains the cells that are missing and keeps their records.

  Args:
    config: The run.
    bar: Where progress is shown.
    cheapest_first: Whether cells are trained in the order of their cost, not
      in that of the run.

  Returns:
    The records of all cells, in their order.

  Raises:
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If the folder holds a record of another configuration
      or cannot be written. Nothing has been trained then.
    interruption.Stopped: If a stop was requested before all was done.
  """
  records = finished(config) if config.resume else {}
  if len(records) < len(config.cells):
    work(config)
    results.prepare_directory(config.output_dir)
    if config.checkpoint_dir is not None:
      results.prepare_directory(config.checkpoint_dir)
    _train(_cheapest_first(config) if cheapest_first else config, records, bar)
  return [records[cell] for cell in config.cells]


@functools.cache
def _load_from(name: str, data_dir: str | None) -> datasets.Dataset:
  return datasets.load(name, data_dir=data_dir)


def _load(config: Config) -> datasets.Dataset:
  return _load_from(config.dataset, config.data_dir)


def _cheapest_first(config: Config) -> Config:
  dataset = _load(config)
  ordered = sorted(
    config.cells,
    key=lambda cell: simulations.cost(cell, dataset, config.protocol),
  )
  return dataclasses.replace(config, cells=tuple(ordered))


def _train(
  config: Config,
  records: dict[simulations.Cell, dict],
  bar: progress.Bar,
) -> None:
  dataset = _load(config)
  # Once: the checkout may change while this code runs on.
  environment = distributed.environment()
  store = _make_store(config, environment)
  for cell, outcome in simulations.run(
    config.cells,
    dataset,
    config.protocol,
    tick=bar.tick,
    done=frozenset(records),
    store=store,
    share=distributed.share(),
    stop_requested=interruption.stop_requested,
    keep_networks=_make_keep_networks(config, environment),
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
    members_config = _members_config(config, cell, outcome.members_per_chunk)
    partials.discard(partials.folder(path, members_config, environment))
    bar.cell_done(cell, outcome, config.protocol.seeds)
  if not distributed.is_first():
    _wait_for_records(config, records)


def _wait_for_records(
  config: Config, records: dict[simulations.Cell, dict]
) -> None:
  """Reads the records that the first process writes, when they are there."""
  for cell in config.cells:
    path = cell_path(config, cell)
    for _ in distributed.waiting(f"process 0 to write {path}"):
      if path.exists():
        records |= finished(dataclasses.replace(config, cells=(cell,)))
      if cell in records:
        break


def _make_keep_networks(
  config: Config, environment: Mapping
) -> Callable[..., None] | None:
  """Makes what writes checkpoints, in the form of full-data experiments."""
  if config.checkpoint_dir is None:
    return None

  def keep(
    cell: simulations.Cell,
    seed: int,
    networks: simulations.Networks,
    metrics: simulations.Metrics,
  ) -> None:
    fields = cell_config(config, cell)
    del fields["seeds"]
    checkpoint = checkpoints.Checkpoint(
      config={**fields, "seed": seed},
      environment=environment,
      last=Variables(networks.last, {}),
      best=Variables(networks.best, {}),
      metrics=metrics,
      opt_state={},
    )
    checkpoints.save(checkpoint_path(config, cell, seed), checkpoint)

  return keep


def _has_networks(config: Config, cell: simulations.Cell, seed: int) -> bool:
  """Tells whether the networks that are to be kept of a member are there."""
  if config.checkpoint_dir is None:
    return True
  return checkpoint_path(config, cell, seed).exists()


def _members_config(
  config: Config, cell: simulations.Cell, members_per_chunk: int
) -> dict:
  """Lists everything that the last bits of members of a cell depend on."""
  fields = cell_config(config, cell)
  del fields["seeds"]
  return {**fields, "members_per_chunk": members_per_chunk}


def _make_store(config: Config, environment: Mapping) -> simulations.Store:
  """Makes the store of members of cells that are not whole yet."""

  @functools.cache
  def place(
    cell: simulations.Cell, members_per_chunk: int
  ) -> tuple[pathlib.Path, dict, Callable[[], dict]]:
    path = cell_path(config, cell)
    fields = _members_config(config, cell, members_per_chunk)
    folder = partials.folder(path, fields, environment)
    if not config.resume:
      partials.discard(folder)
    if (others := partials.others(folder, path)) and distributed.is_first():
      notices.warn(
        f"{', '.join(map(str, others))}: members of another version, device, "
        "configuration or --members_per_chunk; not used"
      )
    return folder, fields, partials.make_reader(folder, fields)

  def find(cell: simulations.Cell, members_per_chunk: int) -> dict:
    _, _, read = place(cell, members_per_chunk)
    found = read()
    return {
      seed: found[seed]
      for seed in config.protocol.seeds
      if seed in found and _has_networks(config, cell, seed)
    }

  def keep(cell: simulations.Cell, members_per_chunk: int, new: Mapping):
    folder, fields, _ = place(cell, members_per_chunk)
    partials.keep(folder, new, config=fields, environment=environment)

  return simulations.Store(find, keep)


def finished(config: Config) -> dict[simulations.Cell, dict]:
  """Reads the records of the cells that were trained before.

  Args:
    config: The run.

  Raises:
    results.ResultError: If one is of another configuration or cannot be read.
  """
  done = {}
  for cell in config.cells:
    record = results.find(cell_path(config, cell), cell_config(config, cell))
    has_networks = (
      _has_networks(config, cell, seed) for seed in config.protocol.seeds
    )
    if record is not None and all(has_networks):
      done[cell] = record
  return done
