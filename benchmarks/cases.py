"""What a benchmark hands back, and what is kept of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import floors


class Case(NamedTuple):
  """A finished benchmark.

  Attributes:
    title: What was measured.
    unit: Of the numbers, after "s" or "bytes".
    rows: One a contender. Each has a name and either seconds ("median", "min",
      "max") or "bytes"; rows with "series" and "x" are points of lines.
    rates: What the machine could do at that time, or None.
    x_label: Of the lines.
  """

  title: str
  unit: str
  rows: Sequence[dict[str, Any]]
  rates: floors.Rates | None = None
  x_label: str | None = None


def table(case: Case) -> str:
  """Formats a case for the terminal.

  Args:
    case: The case.

  Example:
    >>> row = {"name": "it", "median": 0.5, "min": 0.4, "max": 0.6}
    >>> print(table(Case("Time", "s", [row])))
    Time
      it      500 ms  (400 to 600)
  """
  width = max(len(row["name"]) for row in case.rows)
  lines = [
    f"  {row['name']:{width}}  {_numbers(row)}".rstrip() for row in case.rows
  ]
  return "\n".join([case.title, *lines])


def _numbers(row: dict[str, Any]) -> str:
  if "temp_bytes" in row:
    return f"{row['temp_bytes'] / 1e6:9.1f} MB"
  low, middle, high = (1e3 * row[name] for name in ("min", "median", "max"))
  text = f"{middle:7.4g} ms  ({low:.4g} to {high:.4g})"
  ratios = (
    ("faster_than_penalized_peer", "{:.3g}x the penalized peer's speed"),
    ("faster_than_plain_peer", "{:.3g}x the plain peer's"),
    ("times_own_plain_step", "{:.3g} of its plain step's time"),
    ("faster_than_peer", "{:.3g}x the peer's speed"),
    ("faster_than_one_process", "{:.3g}x the speed of one"),
    ("times_dense", "{:.3g} of the dense layer's time"),
    ("fraction_of_floor", "{:.2g} of the floor's speed"),
  )
  for name, words in ratios:
    if name in row:
      text += ", " + words.format(row[name])
  return text
