"""Tables in Markdown, and narrow ones for a terminal."""

from collections.abc import Sequence
import itertools
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


def plain(
  head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 80
) -> str:
  """Formats rows as columns for a terminal.

  Args:
    head: Names of the columns.
    rows: A text for each column.
    width: Of the terminal; a first column that leaves the others no room is
      broken into lines.

  Returns:
    The table, without a line break at its end.

  Example:
    >>> print(plain(["", "accuracy"], [["BEAN-1, alpha 10", "50.0"]], width=20))
                accuracy
    BEAN-1,     50.0
    alpha 10
  """
  lines = [head, *rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  widths[0] = min(widths[0], max(7, width - sum(w + 2 for w in widths[1:])))
  text = []
  for first, *others in lines:
    parts = textwrap.wrap(first, widths[0]) or [""]
    text += itertools.zip_longest(
      parts,
      ["".join(f"  {o:{w}}" for o, w in zip(others, widths[1:], strict=True))],
      fillvalue="",
    )
  return "\n".join(
    f"{first:{widths[0]}}{others}".rstrip() for first, others in text
  )
