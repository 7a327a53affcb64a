"""Tables in Markdown, and how a terminal shows them."""

from collections.abc import Iterator, Sequence
import itertools
import shutil
import sys
import textwrap


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Formats rows as a Markdown table, aligned for a terminal too."""
  lines = [head, *rows]
  widths = _widths(lines)
  lines.insert(1, ["-" * width for width in widths])
  return "\n".join(f"| {' | '.join(_padded(line, widths))} |" for line in lines)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
  return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
  return [f"{text:{width}}" for text, width in zip(line, widths, strict=True)]


def show(text: str) -> None:
  """Prints Markdown, on a terminal with tables that are no wider than it."""
  if sys.stdout.isatty():
    text = fitted(text, shutil.get_terminal_size().columns)
  print(text)


def fitted(text: str, width: int) -> str:
  """Breaks tables that are wider than a terminal into several.

  Each part has the columns that tell the rows apart, and as many others as fit.

  Example:
    >>> head, row = ["method", "accuracy", "gain"], ["BEAN-1", "50.0", "+4.0"]
    >>> print(fitted(table(head, [row]), width=20))
    method  accuracy
    BEAN-1  50.0
    <BLANKLINE>
    method  gain
    BEAN-1  +4.0
  """
  parts = []
  for is_table, lines in itertools.groupby(
    text.splitlines(), lambda line: line.startswith("| ")
  ):
    block = list(lines)
    if is_table and max(map(len, block)) > width:
      del block[1]
      cells = [[c.strip() for c in b[2:-2].split(" | ")] for b in block]
      parts += "\n\n".join(_broken(cells, width)).splitlines()
    else:
      parts += block
  return "\n".join(parts)


def _broken(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
  """Yields the parts of a table whose first row is its head."""
  num_columns = len(rows[0])
  num_keys = next(
    (n for n in range(1, num_columns) if len({*_keys(rows, n)}) == len(rows)), 1
  )
  keys = _keys(rows, num_keys)
  widths = _widths(rows)
  # At least a third is for what the rows are called.
  room = width - min(max(map(len, keys)), width // 3)
  first = num_keys
  while first < num_columns:
    last = first + 1
    while (
      last < num_columns
      and sum(w + 2 for w in widths[first : last + 1]) <= room
    ):
      last += 1
    part = slice(first, last)
    yield _part(keys, [row[part] for row in rows], widths[part], width)
    first = last


def _keys(rows: Sequence[Sequence[str]], number: int) -> list[str]:
  """Joins the first columns of every row."""
  return [", ".join(filter(None, row[:number])) for row in rows]


def _part(
  keys: Sequence[str],
  rows: Sequence[Sequence[str]],
  widths: Sequence[int],
  width: int,
) -> str:
  """Formats a part, with keys that are broken into lines where they must."""
  left = max(8, width - sum(w + 2 for w in widths))
  room = min(max(1, *map(len, keys)), left)
  lines = []
  for key, row in zip(keys, rows, strict=True):
    first, *others = textwrap.wrap(key, room) or [""]
    cells = "  ".join([f"{first:{room}}", *_padded(row, widths)])
    lines += [cells.rstrip(), *others]
  return "\n".join(lines)
