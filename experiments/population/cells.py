"""Cells: what is trained, and what identifies it in files and for people.

A cell is a method with its hyper-parameters on a stream of images; a member is
a cell with one seed. A run is a set of cells of one dataset and protocol, and
the folder of their records.
"""

import dataclasses
import pathlib
from typing import NamedTuple

from experiments import datasets
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.learner import Schedule
from experiments.learning.options import ALWAYS_NAMED
from experiments.learning.streams import Stream
from experiments.records import results


class Cell(NamedTuple):
  """One entry of a table, trained for every seed.

  Attributes:
    stream: What a member sees.
    method: Name in `methods.METHODS`.
    strength: The method's hyper-parameter; 0 where it has none.
    epochs: Passes over the training images, at most; methods that need larger
      batches make more.
    learning_rate: The optimizer's.
  """

  stream: Stream
  method: str
  strength: float
  epochs: int
  learning_rate: float = 5e-4


class Member(NamedTuple):
  """One simulation: a cell, and the seed of its images, weights and order."""

  cell: Cell
  seed: int


class Protocol(NamedTuple):
  """How every cell is trained.

  Attributes:
    network: Which network, for methods that have none of their own.
    seeds: Of the members of each cell.
    options: Choices that methods depend on.
    batch_size: Samples in a step; 0 for all.
    validate_every: Epochs from one validation to the next; 0 for one after the
      last epoch alone.
    members_per_chunk: Members that a device trains at once; 0 for as many as
      are fast.
  """

  network: networks.Spec
  seeds: tuple[int, ...]
  options: methods.Options = methods.Options()
  batch_size: int = 1
  validate_every: int = 1
  members_per_chunk: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    experiment: What makes it, such as "few_shot".
    dataset: Name of the dataset.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of the records.
    protocol: How every cell is trained.
    cells: What is trained, in this order.
    resume: Whether records and members that are there are used.
    checkpoint_dir: Folder where trained networks are kept, or None.
    needs_networks: Whether a cell without its networks is trained again.
    checkpoint_seconds: Least time between two checkpoints of a member.
  """

  experiment: str
  dataset: str
  data_dir: str | None
  output_dir: pathlib.Path
  protocol: Protocol
  cells: tuple[Cell, ...]
  resume: bool = True
  checkpoint_dir: pathlib.Path | None = None
  needs_networks: bool = True
  checkpoint_seconds: float = 30.0


def schedule(cell: Cell, protocol: Protocol) -> Schedule:
  """Returns how long and in which steps a cell is trained."""
  every = protocol.validate_every or cell.epochs
  planned = Schedule(cell.epochs, protocol.batch_size, every)
  return methods.schedule(cell.method, planned, protocol.options)


def network(cell: Cell, protocol: Protocol) -> networks.Spec:
  """Returns which network a cell trains."""
  name = methods.METHODS[cell.method].network
  return protocol.network if name is None else networks.Spec(name)


def cost(cell: Cell, dataset: datasets.Dataset, protocol: Protocol) -> int:
  """Estimates the work of one member, in images that pass forward."""
  planned = schedule(cell, protocol)
  validations = planned.epochs // planned.validate_every
  steps = methods.cost(
    cell.method, planned, protocol.options, cell.stream.num_samples(dataset)
  )
  return steps + validations * len(dataset.validation.labels)


def cell_config(config: Config, cell: Cell) -> dict:
  """Lists everything that the numbers of a cell depend on, for `results.write`.

  A choice that has a usual value is left out where it has that, so that older
  records stay valid when a choice is added; `methods.Options` are named only
  where the method depends on them.
  """
  method = methods.METHODS[cell.method]
  protocol = config.protocol
  planned = schedule(cell, protocol)
  spec = network(cell, protocol)
  usual = {"validate_every": 1, **networks.Spec(spec.name)._asdict()}
  chosen = {"validate_every": planned.validate_every, **spec._asdict()}
  return {
    "dataset": config.dataset,
    "model": spec.name,
    "method": cell.method,
    **cell.stream.fields,
    **_hparams(cell),
    **{
      name: value
      for name, value in protocol.options._asdict().items()
      if name in method.options
      and (name in ALWAYS_NAMED or value != getattr(methods.Options(), name))
    },
    "epochs": planned.epochs,
    "batch_size": planned.batch_size,
    "optimizer": method.optimizer,
    "learning_rate": cell.learning_rate,
    **{name: v for name, v in chosen.items() if v != usual[name]},
    "seeds": list(protocol.seeds),
  }


def member_config(config: Config, member: Member) -> dict:
  """Lists everything that a member depends on, the last bits aside."""
  fields = cell_config(config, member.cell)
  del fields["seeds"]
  return {**fields, "seed": member.seed}


def cell_path(config: Config, cell: Cell) -> pathlib.Path:
  """Returns the file of a cell's record."""
  place = cell.stream.label or network(cell, config.protocol).name
  name = results.cell_name(config.dataset, place, cell.method, **_hparams(cell))
  return config.output_dir / name


def describe(cell: Cell) -> str:
  """Names a cell for people, such as "1-shot BEAN-1 alpha=10"."""
  strength = "".join(f" {k}={v:g}" for k, v in _hparams(cell).items())
  return f"{cell.stream.title}{methods.METHODS[cell.method].title}{strength}"


def _hparams(cell: Cell) -> dict[str, float]:
  hparam = methods.METHODS[cell.method].hparam
  return {hparam: cell.strength} if hparam else {}
