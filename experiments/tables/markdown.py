"""Tables in Markdown."""

from collections.abc import Sequence


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
