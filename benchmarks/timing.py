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

Row = dict[str, Any]


class Contender(NamedTuple):
  """One way to do a job.

  Attributes:
    name: Its name, different for all that are timed together.
    run: Does the job a few times over and returns when it is finished.
    units: How many times `run` does it.
    work: What the job takes at least, if it was counted.
    fields: What else a row of it should hold.
  """

  name: str
  run: Callable[[], Any]
  units: int = 1
  work: floors.Work | None = None
  fields: dict[str, Any] = {}


def alternate(
  contenders: Sequence[Contender], rates: floors.Rates | None, *, repeats: int
) -> list[Row]:
  """Times contenders in turns, A B C A B C ..., after a round that compiles.

  Returns:
    A row for each: its own fields, `summary` of the seconds of a unit, those
    that the first run took beyond a warm one, and beside its work the floor at
    these rates and the fraction of it that was reached (1: as fast as can be).

  Example:
    >>> calls = []
    >>> both = [Contender(c, lambda c=c: calls.append(c)) for c in "AB"]
    >>> rows = alternate(both, None, repeats=2)
    >>> len(rows[0]["seconds"]), "".join(calls)
    (2, 'ABABAB')
  """
  rounds = [_round(contenders) for _ in range(repeats + 1)]
  rows = []
  for contender, (first, *warm) in zip(
    contenders, zip(*rounds, strict=True), strict=True
  ):
    row = {
      **contender.fields,
      **summary(contender.name, [s / contender.units for s in warm]),
      "units_per_run": contender.units,
      "compile_seconds": max(0.0, first - statistics.median(warm)),
    }
    if contender.work is not None:
      floor = floors.seconds(contender.work, rates)
      row |= {
        "flops": contender.work.flops,
        "bytes": contender.work.num_bytes,
        "floor": floor,
        "fraction_of_floor": floor / row["median"],
      }
    rows.append(row)
  return rows


def summary(name: str, seconds: Sequence[float]) -> Row:
  """Returns the least row: name, median, least and greatest, and all."""
  return {
    "name": name,
    "median": statistics.median(seconds),
    "min": min(seconds),
    "max": max(seconds),
    "seconds": list(seconds),
  }


def ratio(row: Row, other: Row) -> float:
  """Returns how many times as long as `other` it took, paired by round.

  Example:
    >>> ratio({"seconds": [2.0, 8.0]}, {"seconds": [1.0, 4.0]})
    2.0
  """
  return statistics.median(
    mine / others
    for mine, others in zip(row["seconds"], other["seconds"], strict=True)
  )


def add_ratios(
  rows: Sequence[Row],
  field: str,
  name_of_other: Callable[[Row], str],
  *,
  faster: bool = False,
) -> None:
  """Writes into rows how many times as long they took as another.

  Args:
    rows: The rows, timed in the same rounds.
    field: Name of the ratio.
    name_of_other: Maps a row to the name of the other, which need not be there.
    faster: Whether the ratio says how many times faster, not slower, it was.
  """
  by_name = {row["name"]: row for row in rows}
  for row in rows:
    other = by_name.get(name_of_other(row))
    if other is not None:
      row[field] = ratio(other, row) if faster else ratio(row, other)


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
