"""Groups: cells of one compiled program, and all that it needs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.learner import Learner, Samples
from experiments.learning.streams import Stream
from experiments.machine import devices
from experiments.population import cells, program
from experiments.population.cells import Cell, Protocol

PyTree = Any


class Group(NamedTuple):
  """Cells that are trained by the same programs, and all that these need.

  Attributes:
    cells: Equal but for their hyper-parameters.
    learner: How a member is trained.
    stream: What it sees.
    programs: What trains members.
    width: Members of a chunk, over all devices of this process.
    width_per_device: Members that a device trains at once.
    dataset: Images.
    shared: Training samples on the devices, where members share them.
    validation: Validation samples on the devices, and perhaps some that fill
      them up.
    test: Test samples there, likewise.
    cost: Work of a member.
  """

  cells: tuple[Cell, ...]
  learner: Learner
  stream: Stream
  programs: program.Program
  width: int
  width_per_device: int
  dataset: datasets.Dataset
  shared: Samples | None
  validation: Samples
  test: Samples
  cost: int

  def load(self, seeds: Sequence[int]) -> tuple[Samples, Samples]:
    """Returns training samples on the devices, as they were and prepared."""
    if self.shared is not None:
      return self.shared, self.shared
    own = self.stream.load(self.dataset, seeds)
    own = devices.place(own, self.stream.layout.data)
    return own, self.programs.prepare(own)

  def place(self, tree: PyTree) -> PyTree:
    """Moves arrays of members to the devices."""
    return devices.place(tree, self.stream.layout.members)


def make(
  planned: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  num_processes: int = 1,
) -> Group:
  """Makes what trains cells that are equal but for their hyper-parameters."""
  cell, stream = planned[0], planned[0].stream
  schedule = cells.schedule(cell, protocol)
  # Whether each device has members of its own.
  alone = stream.num_shards == 1
  image_shape = dataset.train.images.shape[1:]
  network = networks.make(
    cells.network(cell, protocol),
    image_shape,
    axis_name=None if alone else devices.AXIS,
  )
  learner = methods.learner(
    cell.method, network, stream, schedule, protocol.options
  )
  num_samples = stream.num_samples(dataset)
  num_devices = devices.mesh().size if alone else 1
  num_members = len(planned) * len(protocol.seeds)
  width = -(-num_members // (num_devices * num_processes))
  if protocol.members_per_chunk:
    width = min(width, protocol.members_per_chunk)
  else:
    fast = fast_width(schedule.batch_size or num_samples)
    if network.one_at_a_time or not alone:
      fast = 1
    width = program.fitting_width(
      learner,
      stream,
      image_shape=image_shape,
      num_samples=num_samples,
      num_validation=len(dataset.validation.labels),
      wanted=min(width, fast),
    )
  shared = None
  if stream.data_axis is None:
    shared = devices.place(stream.load(dataset, ()), stream.layout.data)
  laps_per_call = next(
    n for n in range(stream.most_laps, 0, -1) if learner.num_laps % n == 0
  )
  return Group(
    cells=tuple(planned),
    learner=learner,
    stream=stream,
    programs=program.make(learner, stream, laps_per_call),
    width=num_devices * width,
    width_per_device=width,
    dataset=dataset,
    shared=shared,
    validation=_place_held_out(dataset.validation, stream),
    test=_place_held_out(dataset.test, stream),
    cost=cells.cost(cell, dataset, protocol),
  )


def _place_held_out(split: datasets.Split, stream: Stream) -> Samples:
  # Devices that have a part each: filled up with labels that are no class.
  fill = -len(split.labels) % stream.num_shards
  images = np.pad(split.images, ((0, fill), (0, 0), (0, 0), (0, 0)))
  labels = np.pad(split.labels, (0, fill), constant_values=-1)
  return devices.place(Samples(images, labels), stream.layout.held_out)


def fast_width(batch_size: int) -> int:
  """Returns how many members a device trains fastest, by the batch size.

  A GPU takes all that fit. On a CPU a step's parameters and activations
  should stay in the cache, while a step should not be too small a task.
  """
  if devices.mesh().devices.flat[0].platform != "cpu":
    return 1000
  return max(1, min(5, 100 // batch_size))
