"""Timing of contenders side by side, in turns, so that ratios hold.

On a machine that others use too, times drift by factors while ratios of
neighbouring runs do not. So every round runs each contender once, and a ratio
is the median over rounds of the ratio within a round.
"""

from collections.abc import Callable, Sequence
import gc
import statistics
import time
from typing import Any, NamedTuple

from benchmarks import floors


class Contender(NamedTuple):
  """One way to do a job.

  Attributes:
    name: Its name, different for all that are timed together.
    run: Does the job a few times over and returns when it is finished.
    units: How many times `run` does it.
    work: What the job takes at least, if it was counted.
    fields: What else a record of it should hold.
  """

  name: str
  run: Callable[[], Any]
  units: int = 1
  work: floors.Work | None = None
  fields: dict[str, Any] = {}


class Timing(NamedTuple):
  """What was measured of a contender.

  Attributes:
    seconds: Time of one unit in each round, all warm.
    first: Time of its first run beyond a warm one: compilation, if any.
  """

  seconds: tuple[float, ...]
  first: float


def alternate(
  contenders: Sequence[Contender], *, repeats: int
) -> dict[str, Timing]:
  """Times contenders in turns: A B C A B C ...

  Args:
    contenders: What to time.
    repeats: Rounds after the first, which compiles and warms caches.

  Returns:
    {name: Timing}.

  Raises:
    ValueError: If two contenders have the same name, or there are no rounds.

  Example:
    >>> calls = []
    >>> both = [Contender(c, lambda c=c: calls.append(c)) for c in "AB"]
    >>> len(alternate(both, repeats=2)["A"].seconds), "".join(calls)
    (2, 'ABABAB')
  """
  names = [contender.name for contender in contenders]
  if len(set(names)) < len(names):
    raise ValueError(f"contenders must have different names, got {names}")
  if repeats < 1:
    raise ValueError(f"repeats must be at least 1, got {repeats}")
  rounds = [_round(contenders) for _ in range(repeats + 1)]
  timings = {}
  for contender, (first, *warm) in zip(
    contenders, zip(*rounds, strict=True), strict=True
  ):
    timings[contender.name] = Timing(
      tuple(seconds / contender.units for seconds in warm),
      max(0.0, first - statistics.median(warm)),
    )
  return timings


def ratio(timing: Timing, other: Timing) -> float:
  """Returns how many times as long as `other` it took, paired by round.

  Args:
    timing: Of one contender.
    other: Of another that was timed in the same rounds.

  Example:
    >>> ratio(Timing((2.0, 8.0), 0.0), Timing((1.0, 4.0), 0.0))
    2.0
  """
  return statistics.median(
    mine / others
    for mine, others in zip(timing.seconds, other.seconds, strict=True)
  )


def row(
  contender: Contender, timing: Timing, rates: floors.Rates
) -> dict[str, Any]:
  """Puts together what a record holds of one contender.

  Args:
    contender: It.
    timing: Its times.
    rates: What the machine can do.

  Returns:
    Its name, the median, least and greatest seconds of a unit, all of them,
    seconds of compilation, the floor in seconds and the fraction of it that
    was reached (1: as fast as can be), and the fields of its own.
  """
  median = statistics.median(timing.seconds)
  result = {
    "name": contender.name,
    **contender.fields,
    "median": median,
    "min": min(timing.seconds),
    "max": max(timing.seconds),
    "seconds": list(timing.seconds),
    "units_per_run": contender.units,
    "compile_seconds": timing.first,
  }
  if contender.work is not None:
    floor = floors.seconds(contender.work, rates)
    result |= {
      "flops": contender.work.flops,
      "bytes": contender.work.num_bytes,
      "floor": floor,
      "fraction_of_floor": floor / median,
    }
  return result


def _round(contenders: Sequence[Contender]) -> list[float]:
  """Runs each contender once, with no garbage collection within."""
  seconds = []
  enabled = gc.isenabled()
  gc.collect()
  gc.disable()
  try:
    for contender in contenders:
      started = time.perf_counter()
      contender.run()
      seconds.append(time.perf_counter() - started)
  finally:
    if enabled:
      gc.enable()
  return seconds
