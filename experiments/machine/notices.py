"""Lines for the user on standard error, beside the output of a script."""

import sys


def note(text: str) -> None:
  """Prints a line that says what takes so long.

  Args:
    text: What to say; line breaks become spaces.
  """
  print(" ".join(text.splitlines()), file=sys.stderr)


def warn(text: str) -> None:
  """Prints a warning.

  Args:
    text: What to say; line breaks become spaces.
  """
  note(f"warning: {text}")
