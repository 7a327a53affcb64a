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
    laps_per_call: Laps that a call of `Program.run` trains.
    width: Members of a chunk, over all devices of this process.
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
  laps_per_call: int
  width: int
  dataset: datasets.Dataset
  shared: Samples | None
  validation: Samples
  test: Samples
  cost: int

  @property
  def width_per_device(self) -> int:
    """Members that a device trains at once."""
    return self.width // _num_devices(self.stream)

  def load(self, seeds: Sequence[int]) -> tuple[Samples, Samples]:
    """Returns training samples on the devices, as they were and prepared."""
    if self.shared is not None:
      return self.shared, self.shared
    spec, axis = self.stream.data_spec, self.stream.axis
    own = self.stream.load(self.dataset, seeds)
    own = devices.place(own, spec, axis=axis)
    return own, self.programs.prepare(own)

  def place(self, tree: PyTree) -> PyTree:
    """Moves arrays of members to the devices."""
    spec, axis = self.stream.members_spec, self.stream.axis
    return devices.place(tree, spec, axis=axis)


def make(
  planned: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  num_processes: int = 1,
) -> Group:
  """Makes what trains some cells.

  Args:
    planned: Cells that are equal but for their hyper-parameters.
    dataset: Images to train, validate and test on.
    protocol: How to train.
    num_processes: Processes that share the members.
  """
  cell, stream = planned[0], planned[0].stream
  schedule = cells.schedule(cell, protocol)
  network = networks.make(
    cells.network(cell, protocol),
    dataset.train.images.shape[1:],
    axis_name=None if stream.axis == devices.MEMBERS_AXIS else stream.axis,
  )
  learner = methods.learner(
    cell.method, network, stream, schedule, protocol.options
  )
  laps_per_call = _largest_divisor(learner.num_laps, stream.most_laps)
  num_samples = stream.num_samples(dataset)
  num_devices = _num_devices(stream)
  num_members = len(planned) * len(protocol.seeds)
  width = -(-num_members // (num_devices * num_processes))
  if protocol.members_per_chunk:
    width = min(width, protocol.members_per_chunk)
  else:
    alone = network.one_at_a_time or stream.axis != devices.MEMBERS_AXIS
    fast = 1 if alone else fast_width(schedule.batch_size or num_samples)
    width = program.fitting_width(
      learner,
      stream,
      image_shape=dataset.train.images.shape[1:],
      num_samples=num_samples,
      num_validation=len(dataset.validation.labels),
      wanted=min(width, fast),
    )
  shared = None
  if stream.data_axis is None:
    shared = stream.load(dataset, ())
    shared = devices.place(shared, stream.data_spec, axis=stream.axis)
  return Group(
    cells=tuple(planned),
    learner=learner,
    stream=stream,
    programs=program.make(learner, stream, laps_per_call),
    laps_per_call=laps_per_call,
    width=num_devices * width,
    dataset=dataset,
    shared=shared,
    validation=_place_held_out(dataset.validation, stream),
    test=_place_held_out(dataset.test, stream),
    cost=cells.cost(cell, dataset, protocol),
  )


def fast_width(batch_size: int) -> int:
  """Returns how many members a device trains fastest, by the batch size.

  A GPU takes all that fit. On a CPU a step's parameters and activations
  should stay in the cache, while a step should not be too small a task.
  """
  if devices.mesh().devices.flat[0].platform != "cpu":
    return 1000
  return max(1, min(5, 100 // batch_size))


def _num_devices(stream: Stream) -> int:
  """Returns how many devices have members of their own."""
  return devices.mesh().size if stream.axis == devices.MEMBERS_AXIS else 1


def _largest_divisor(number: int, limit: int) -> int:
  return next(n for n in range(limit, 0, -1) if number % n == 0)


def _place_held_out(split: datasets.Split, stream: Stream) -> Samples:
  """Moves samples to the devices that evaluate them.

  Where these have a part each, they are filled up with labels that are no
  class.
  """
  samples = Samples(*split)
  if stream.axis != devices.MEMBERS_AXIS:
    fill = -len(split.labels) % devices.mesh().size
    images = np.pad(split.images, ((0, fill), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(split.labels, (0, fill), constant_values=-1)
    samples = Samples(images, labels)
  return devices.place(samples, stream.held_out_spec, axis=stream.axis)
