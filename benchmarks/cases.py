"""What a benchmark is told, what it hands back, and how that is printed."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import floors, timing


class Settings(NamedTuple):
  """How a suite is run.

  Attributes:
    quick: Whether all is so small that only the code is tested.
    repeats: Warm runs of each contender.
    torch: Whether PyTorch's contenders take part.
  """

  quick: bool
  repeats: int
  torch: bool


class Case(NamedTuple):
  """A finished benchmark.

  Attributes:
    title: What was measured.
    unit: Of the numbers, after "s" or "bytes".
    rows: One a contender. Each has a name and either seconds ("median", "min",
      "max") or "temp_bytes"; rows with "series" and "x" are points of lines.
    rates: What the machine could do at that time, or None.
    x_label: Of the lines.
  """

  title: str
  unit: str
  rows: Sequence[timing.Row]
  rates: floors.Rates | None = None
  x_label: str | None = None


def measure(
  options: Settings,
  contenders: Sequence[timing.Contender],
  *,
  title: str,
  unit: str,
  x_label: str | None = None,
) -> Case:
  """Times contenders beside what the machine can do at that time."""
  rates = floors.measure(quick=options.quick)
  rows = timing.alternate(contenders, rates, repeats=options.repeats)
  return Case(title, unit, rows, rates, x_label)


# Of the ratios that a row may have, in this order.
_RATIOS = {
  "faster_than_penalized_peer": "{:.3g}x the penalized peer's speed",
  "faster_than_plain_peer": "{:.3g}x the plain peer's",
  "times_own_plain_step": "{:.3g} of its plain step's time",
  "faster_than_peer": "{:.3g}x the peer's speed",
  "faster_than_one_process": "{:.3g}x the speed of one",
  "times_dense": "{:.3g} of the dense layer's time",
  "fraction_of_floor": "{:.2g} of the floor's speed",
}


def table(case: Case) -> str:
  """Formats a case for the terminal.

  Example:
    >>> row = {"name": "it", "median": 0.5, "min": 0.4, "max": 0.6}
    >>> print(table(Case("Time", "s", [row])))
    Time
      it      500 ms  (400 to 600)
  """
  width = max(len(row["name"]) for row in case.rows)
  lines = [f"  {row['name']:{width}}  {_numbers(row)}" for row in case.rows]
  return "\n".join([case.title, *lines])


def _numbers(row: timing.Row) -> str:
  if "temp_bytes" in row:
    return f"{row['temp_bytes'] / 1e6:9.1f} MB"
  low, middle, high = (1e3 * row[name] for name in ("min", "median", "max"))
  return ", ".join(
    [
      f"{middle:7.4g} ms  ({low:.4g} to {high:.4g})",
      *(text.format(row[f]) for f, text in _RATIOS.items() if f in row),
    ]
  )
