"""What a method is: a way to train a network, and all that is said of it."""

from collections.abc import Callable
from typing import NamedTuple

from experiments.architectures.networks import Network
from experiments.learning.learner import Learner, Schedule
from experiments.learning.options import Options
from experiments.learning.streams import Stream

Maker = Callable[[Network, Stream, Schedule, Options], Learner]


class Method(NamedTuple):
  """A way to train a network.

  Attributes:
    title: Its name in tables.
    hparam: Name of its hyper-parameter, or None if it has none.
    grid: Values that are tried by default; (0.0,) without hyper-parameter.
    options: Fields of `Options` that it depends on.
    make: Maps (network, stream, schedule, options) to the learner.
    limit: What a value of the hyper-parameter must be below.
    batch: Samples that a step needs at least. A run with smaller batches gives
      it more epochs, so that there are as many steps.
    whole_batch: Whether it needs all of a batch on one device.
    step_cost: What a step takes beside its images, about, in images that pass
      forward: passes over the parameters, and the penalty of a few samples.
    baseline: The entry of `METHODS` that its gain is taken over; None for the
      one that all others are compared with.
    optimizer: Name of its optimizer, for records.
    pace: Maps options to a schedule of its own, whatever that of a run; None
      for a method that takes the run's.
    network: Name of the network that it trains, with its usual initial
      parameters, whatever that of a run; None for a method that takes the
      run's.
    nonnegative: Whether its weights stay at 0 or above, so that inputs must not
      be negative.
    shots_alone: Whether it learns from few shots alone.
    cost: Maps (options, number of samples) to the work of a whole training of
      its own pace, without validation.
  """

  title: str
  hparam: str | None
  grid: tuple[float, ...]
  options: tuple[str, ...]
  make: Maker
  limit: float = float("inf")
  batch: int = 1
  whole_batch: bool = False
  step_cost: int = 5
  baseline: str | None = "vanilla"
  optimizer: str = "adam"
  pace: Callable[[Options], Schedule] | None = None
  network: str | None = None
  nonnegative: bool = False
  shots_alone: bool = False
  cost: Callable[[Options, int], int] | None = None
