"""Lines for the user on standard error, beside the output of a script."""

import sys


def note(text: str) -> None:
  """Prints a line; breaks of the text become spaces."""
  print(" ".join(text.splitlines()), file=sys.stderr)


def warn(text: str) -> None:
  """Prints a warning as a line."""
  note(f"warning: {text}")
