"""Cells of full-data experiments as files: what is there, what is missing.

A run is a set of cells of one dataset and protocol, the folder of their records
and that of their members' checkpoints. Nothing that is there is trained again.
"""

import dataclasses
import functools
import pathlib

from experiments import datasets
from experiments.command import distributed, interruption, progress
from experiments.learning import methods
from experiments.records import results
from experiments.runs import full_simulations
from experiments.runs.full_simulations import Cell, Member


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    dataset: Name of the dataset.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of the records.
    checkpoint_dir: Folder of the checkpoints.
    checkpoint_seconds: Least time between two checkpoints of a member.
    resume: Whether records and checkpoints that are there are used.
    protocol: How every cell is trained.
    cells: What is trained, cells of one method after each other.
  """

  dataset: str
  data_dir: str | None
  output_dir: pathlib.Path
  checkpoint_dir: pathlib.Path
  checkpoint_seconds: float
  resume: bool
  protocol: full_simulations.Protocol
  cells: tuple[Cell, ...]


def cell_config(config: Config, cell: Cell) -> dict:
  """Lists everything that the numbers of a cell depend on.

  Args:
    config: The run.
    cell: One of its cells.

  Returns:
    Fields for `results.write`; those of `methods.Options` only where the
    method depends on them.
  """
  method = methods.METHODS[cell.method]
  protocol = config.protocol
  options = protocol.options._asdict()
  return {
    "dataset": config.dataset,
    "model": protocol.model,
    "method": cell.method,
    **({method.hparam: cell.strength} if method.hparam else {}),
    **{
      name: options[name]
      for name in methods.ALWAYS_NAMED
      if name in method.options
    },
    "epochs": protocol.epochs,
    "patience": protocol.patience,
    "tolerance": protocol.tolerance,
    "batch_size": protocol.batch_size,
    "optimizer": "adam",
    "learning_rate": protocol.learning_rate,
    "bfloat16": protocol.bfloat16,
    **protocol.augmentation._asdict(),
    # Left out where it is not so, so that older files stay valid.
    **({"data_parallel": True} if protocol.data_parallel else {}),
    "seeds": list(protocol.seeds),
  }


def member_config(config: Config, member: Member) -> dict:
  """Lists everything that a member depends on, for its checkpoint.

  Args:
    config: The run.
    member: A member of one of its cells.

  Returns:
    The configuration of the cell with the one seed.
  """
  fields = cell_config(config, member.cell)
  del fields["seeds"]
  return {**fields, "seed": member.seed}


def cell_path(config: Config, cell: Cell) -> pathlib.Path:
  """Returns the file of a cell's record."""
  return config.output_dir / f"{_name(config, cell)}.json"


def checkpoint_path(config: Config, member: Member) -> pathlib.Path:
  """Returns the file of a member's checkpoint."""
  name = f"{_name(config, member.cell)}-seed{member.seed:d}.npz"
  return config.checkpoint_dir / name


def comparable_records(config: Config) -> list[dict]:
  """Reads all records of a run's folder that were made as its cells are.

  Args:
    config: The run.

  Returns:
    Records of the same dataset, protocol and release, of any method, strength
    and seeds, in the order of `methods.METHODS` and of strengths. Other files
    are passed over.
  """
  found = {}
  for path in config.output_dir.glob("*.json"):
    try:
      record = results.read(path)
    except (results.ResultError, OSError):
      continue
    method = record["config"].get("method")
    if method not in methods.METHODS or results.other_numbers(record):
      continue
    hparam = methods.METHODS[method].hparam
    strength = record["config"].get(hparam, 0.0) if hparam else 0.0
    protocol = config.protocol._replace(seeds=tuple(record["seeds"]))
    like = dataclasses.replace(config, protocol=protocol)
    if record["config"] == cell_config(like, Cell(method, strength)):
      found[list(methods.METHODS).index(method), strength] = record
  return [found[key] for key in sorted(found)]


def train(config: Config) -> list[dict]:
  """Trains the cells that are missing and keeps records and checkpoints.

  Args:
    config: The run.

  Returns:
    The records of its cells, in their order.

  Raises:
    datasets.DatasetError: If the data cannot be had.
    results.ResultError: If a folder holds a file of another configuration or
      cannot be written. Nothing has been trained then.
    interruption.Stopped: If a stop was requested before all was done.
  """
  done = _finished(config) if config.resume else {}
  missing = [cell for cell in config.cells if cell not in done]
  dataset = None
  if missing:  # Before a folder is made: there may be no data.
    dataset = datasets.load(config.dataset, data_dir=config.data_dir)
  for folder in (config.output_dir, config.checkpoint_dir):
    results.prepare_directory(folder)
  # Once: the checkout may change while this code runs on.
  environment = distributed.environment()
  protocol = config.protocol
  store = full_simulations.Store(
    path=functools.partial(checkpoint_path, config),
    config=functools.partial(member_config, config),
    environment=environment,
    seconds=config.checkpoint_seconds,
  )
  found = {}
  if config.resume:
    found = full_simulations.find(missing, protocol, store)
  epochs = sum(
    full_simulations.epochs_left(protocol, found.get(member))
    for member in full_simulations.members(missing, protocol)
  )
  with progress.bar(total=epochs, skipped=len(done)) as bar:
    if dataset is not None:
      _train(config, dataset, store, done, found, bar)
  return [done[cell] for cell in config.cells]


def describe(cell: Cell) -> str:
  """Names a cell for people.

  Args:
    cell: The cell.

  Returns:
    Such as "BEAN-1 alpha=10".

  Example:
    >>> describe(Cell("bean1", 10.0))
    'BEAN-1 alpha=10'
  """
  method = methods.METHODS[cell.method]
  strength = f" {method.hparam}={cell.strength:g}" if method.hparam else ""
  return method.title + strength


def _name(config: Config, cell: Cell) -> str:
  """Returns what the names of a cell's files begin with."""
  parts = [
    results.word(name, value)
    for name, value in (
      ("dataset", config.dataset),
      ("model", config.protocol.model),
      ("method", cell.method),
    )
  ]
  if hparam := methods.METHODS[cell.method].hparam:
    # All digits: cells that differ in the last one are different files.
    parts.append(f"{hparam}_{float(cell.strength)!r}".removesuffix(".0"))
  return "-".join(parts)


def _finished(config: Config) -> dict[Cell, dict]:
  """Reads the records of the cells that were trained before."""
  done = {}
  for cell in config.cells:
    record = results.find(cell_path(config, cell), cell_config(config, cell))
    if record is not None:
      done[cell] = record
  return done


def _train(
  config: Config,
  dataset: datasets.Dataset,
  store: full_simulations.Store,
  done: dict[Cell, dict],
  found: dict[Member, full_simulations.Metrics],
  bar: progress.Bar,
) -> None:
  def tick(member: Member, epochs: int, accuracy: float) -> None:
    bar.display.update(
      bar.task,
      advance=epochs,
      description=f"{describe(member.cell)} seed {member.seed}",
      accuracy=f"validation {100 * accuracy:.1f} %",
    )

  for cell, outcome in full_simulations.run(
    config.cells,
    dataset,
    config.protocol,
    store,
    done=frozenset(done),
    found=found,
    tick=tick,
    share=distributed.share(),
    stop_requested=interruption.stop_requested,
  ):
    record = {
      "experiment": "full_data",
      "config": cell_config(config, cell),
      "source": dataset.source,
      "members_per_chunk": outcome.members_per_chunk,
      **store.environment,
      "seconds": round(outcome.seconds, 1),
      "seeds": list(config.protocol.seeds),
      "metrics": outcome.metrics,
    }
    results.write(cell_path(config, cell), record)
    done[cell] = results.read(cell_path(config, cell))
    for line in _lines(cell, outcome, config.protocol.seeds):
      bar.display.console.print(line, highlight=False)
  if not distributed.is_first():
    _wait_for_records(config, done)


def _wait_for_records(config: Config, done: dict[Cell, dict]) -> None:
  """Reads the records that the first process writes, when they are there."""
  for cell in config.cells:
    path = cell_path(config, cell)
    for _ in distributed.waiting(f"process 0 to write {path}"):
      if path.exists():
        done |= _finished(dataclasses.replace(config, cells=(cell,)))
      if cell in done:
        break


def _lines(
  cell: Cell, outcome: full_simulations.Outcome, seeds: tuple[int, ...]
) -> list[str]:
  """Returns a line about a finished cell, and one for each failed member."""
  accuracy = 100 * outcome.metrics["test_accuracy"]
  failed_step = outcome.metrics["failed_step"]
  kept = accuracy[failed_step < 0]
  mean = f"{kept.mean():.2f} %" if kept.size else "none"
  lines = [
    f"{describe(cell)}: test {mean}, {kept.size} of {accuracy.size} "
    f"simulations, {outcome.metrics['epochs'].mean():.0f} epochs, "
    f"{outcome.seconds:.0f} s"
  ]
  return lines + [
    f"  seed {seed} met a non-finite loss in step {step}: left out"
    for seed, step in zip(seeds, failed_step, strict=True)
    if step >= 0
  ]
