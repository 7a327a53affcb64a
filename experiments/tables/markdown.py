"""Tables in Markdown, and how a terminal shows them."""

from collections.abc import Iterator, Sequence
import itertools
import shutil
import sys
import textwrap


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Formats rows as a Markdown table, aligned for a terminal too.

  Args:
    head: Names of the columns.
    rows: A text for each column.

  Returns:
    The table, without a line break at its end.

  Example:
    >>> print(table(["method", "accuracy"], [["BEAN-1", "50.0"]]))
    | method | accuracy |
    | ------ | -------- |
    | BEAN-1 | 50.0     |
  """
  lines = [head, *rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, ["-" * width for width in widths])
  return "\n".join(
    "| "
    + " | ".join(
      text.ljust(width) for text, width in zip(line, widths, strict=True)
    )
    + " |"
    for line in lines
  )


def show(text: str) -> None:
  """Prints Markdown, on a terminal with tables that are no wider than it.

  Args:
    text: Whose tables `table` made.
  """
  if sys.stdout.isatty():
    text = fitted(text, shutil.get_terminal_size().columns)
  print(text)


def fitted(text: str, width: int) -> str:
  """Breaks tables that are too wide into several, below each other.

  Args:
    text: Markdown whose tables `table` made.
    width: Columns of the terminal.

  Returns:
    The text. Of a table that was broken each part has the columns that tell the
    rows apart, and as many others as fit.

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
      head, _, *rows = (
        [c.strip() for c in b[2:-2].split(" | ")] for b in block
      )
      parts += "\n\n".join(_broken(head, rows, width)).splitlines()
    else:
      parts += block
  return "\n".join(parts)


def _broken(
  head: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[str]:
  """Yields the parts of a table."""
  num_keys = next(
    (n for n in range(1, len(head)) if len({*_first(rows, n)}) == len(rows)), 1
  )
  keys = [*_first([head, *rows], num_keys)]
  longest = max(map(len, keys))
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  # At least a third is for what the rows are called.
  room = width - min(longest, width // 3)
  first = num_keys
  while first < len(head):
    last = first + 1
    while (
      last < len(head)
      and sum(widths[first : last + 1]) + 2 * (last + 1 - first) <= room
    ):
      last += 1
    yield _columns(
      keys,
      [row[first:last] for row in [head, *rows]],
      widths[first:last],
      width,
    )
    first = last


def _first(rows: Sequence[Sequence[str]], number: int) -> list[str]:
  """Joins the first columns of every row."""
  return [", ".join(filter(None, row[:number])) for row in rows]


def _columns(
  keys: Sequence[str],
  rows: Sequence[Sequence[str]],
  widths: Sequence[int],
  width: int,
) -> str:
  """Formats a part, with keys that are broken into lines where they must."""
  room = min(
    max(1, *map(len, keys)), max(8, width - sum(w + 2 for w in widths))
  )
  lines = []
  for key, row in zip(keys, rows, strict=True):
    names = textwrap.wrap(key, room) or [""]
    cells = "".join(f"  {c:{w}}" for c, w in zip(row, widths, strict=True))
    lines += [f"{names[0]:{room}}{cells}".rstrip(), *names[1:]]
  return "\n".join(lines)
