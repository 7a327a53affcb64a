"""Runs: which cells have records, which are missing, and their training.

Records that are there are never trained again, nor are the members of cells
that a run left unfinished.
"""

from collections.abc import Sequence
import dataclasses

from experiments import datasets
from experiments.learning import methods
from experiments.machine import processes, progress
from experiments.population import cells, simulations, store as stores
from experiments.population.cells import Cell, Config
from experiments.records import results


def work(config: Config) -> int:
  """Sums up the work of a run, done or not, in units of `cells.cost`."""
  if not config.cells:
    return 0
  dataset = datasets.load(config.dataset, data_dir=config.data_dir)
  for cell in config.cells:
    cell.stream.load(dataset, [0])
    planned = cells.schedule(cell, config.protocol)
    size = planned.size(cell.stream.num_samples(dataset))
    if size % cell.stream.num_shards:
      raise datasets.DatasetError(
        f"{cells.describe(cell)}: a batch of {size} images cannot be shared by "
        f"{cell.stream.num_shards} devices; choose another --batch_size"
      )
  return len(config.protocol.seeds) * sum(
    cells.cost(cell, dataset, config.protocol) for cell in config.cells
  )


def finished(config: Config) -> dict[Cell, dict]:
  """Reads the records of the cells that were trained before."""
  done = {}
  for cell in config.cells:
    fields = cells.cell_config(config, cell)
    record = results.find(cells.cell_path(config, cell), fields)
    if record is not None and stores.has_networks(config, cell):
      done[cell] = record
  return done


def missing(config: Config) -> Config:
  """Returns a run of the cells without a record alone."""
  done = finished(config) if config.resume else {}
  left = tuple(cell for cell in config.cells if cell not in done)
  return dataclasses.replace(config, cells=left)


def comparable_records(config: Config) -> list[dict]:
  """Reads all records of a run's folder that were made as its cells are.

  They are of the same dataset, protocol and release, of any method, strength
  and seeds, in the order of `methods.METHODS` and of strengths. Other files are
  passed over.
  """
  found = {}
  order = list(methods.METHODS)
  for file in config.output_dir.glob("*.json"):
    try:
      record = results.read(file)
    except (results.ResultError, OSError):
      continue
    fields = record["config"]
    method = fields.get("method")
    if method not in methods.METHODS or results.other_numbers(record):
      continue
    hparam = methods.METHODS[method].hparam
    strength = fields.get(hparam, 0.0) if hparam else 0.0
    protocol = config.protocol._replace(seeds=tuple(record["seeds"]))
    like = dataclasses.replace(config, protocol=protocol)
    cell = config.cells[0]._replace(
      method=method,
      strength=strength,
      learning_rate=fields.get("learning_rate"),
    )
    expected = results.config_digest(cells.cell_config(like, cell))
    if results.config_digest(fields) == expected:
      found[order.index(method), strength] = record
  return [found[key] for key in sorted(found)]


def train_all(planned: Sequence[Config]) -> list[list[dict]]:
  """Trains what is missing of runs, with a bar; returns the records of each."""
  left = [missing(config) for config in planned]
  skipped = sum(len(config.cells) for config in planned)
  skipped -= sum(len(config.cells) for config in left)
  with progress.bar(total=sum(map(work, left)), skipped=skipped) as bar:
    return [train(config, bar) for config in planned]


def train(
  config: Config, bar: progress.Bar, *, cheapest_first: bool = False
) -> list[dict]:
  """Trains the cells that are missing; returns the records of all.

  They are trained in the order of the run, or of their cost; none is where
  data or files make the run impossible.
  """
  records = finished(config) if config.resume else {}
  if len(records) < len(config.cells):
    work(config)
    results.prepare_directory(config.output_dir)
    if config.checkpoint_dir is not None:
      results.prepare_directory(config.checkpoint_dir)
    _train(config, records, bar, cheapest_first=cheapest_first)
  return [records[cell] for cell in config.cells]


def _train(
  config: Config,
  records: dict[Cell, dict],
  bar: progress.Bar,
  *,
  cheapest_first: bool,
) -> None:
  dataset = datasets.load(config.dataset, data_dir=config.data_dir)
  planned = list(config.cells)
  if cheapest_first:
    planned.sort(key=lambda cell: cells.cost(cell, dataset, config.protocol))
  # Once: the checkout may change while this code runs on.
  environment = processes.agreed("environment", results.environment)
  store = stores.Store(config, environment)
  seeds = config.protocol.seeds
  for cell, outcome in simulations.run(
    planned,
    dataset,
    store,
    done=frozenset(records),
    tick=lambda member, *args: bar.tick(cells.describe(member.cell), *args),
    share=processes.share(),
  ):
    record = {
      "experiment": config.experiment,
      "config": cells.cell_config(config, cell),
      "source": dataset.source,
      "members_per_chunk": outcome.members_per_chunk,
      **store.environment,
      "seconds": round(outcome.seconds, 1),
      "seeds": list(seeds),
      "metrics": outcome.metrics,
    }
    file = cells.cell_path(config, cell)
    results.write(file, record)
    records[cell] = results.read(file)
    stores.discard(store, cell, outcome.members_per_chunk)
    bar.cell_done(cells.describe(cell), outcome.metrics, outcome.seconds, seeds)
  if not processes.is_first():
    _wait_for_records(config, records)


def _wait_for_records(config: Config, records: dict[Cell, dict]) -> None:
  """Reads the records that the first process writes, when they are there."""
  for cell in config.cells:
    file = cells.cell_path(config, cell)
    for _ in processes.waiting(f"process 0 to write {file}"):
      if file.exists():
        records |= finished(dataclasses.replace(config, cells=(cell,)))
      if cell in records:
        break
