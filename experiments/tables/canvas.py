"""matplotlib, whatever a user's own settings of it are.

All that draws takes matplotlib from here. No backend is needed, so none that
the environment names can fail, and `attempt` draws with matplotlib's own
defaults instead of a user's matplotlibrc.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import sys

from experiments.machine import notices
from experiments.records import results

if "matplotlib" in sys.modules:
  import matplotlib
else:
  # A notebook names its backend to programs that it starts; where that is not
  # installed, the import fails.
  _backend = os.environ.pop("MPLBACKEND", None)
  import matplotlib

  if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
      matplotlib.rcParams["backend"] = _backend

from matplotlib import (
  axes as axes,
  axis as axis,
  collections as collections,
  colors as colors,
  figure as figure,
  patches as patches,
  style,
  ticker as ticker,
)


@contextlib.contextmanager
def attempt(path: str | os.PathLike[str]) -> Iterator[None]:
  """Draws a figure in its block; one that fails costs a line, and no number.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  try:
    with style.context("default"):
      yield
  except results.ResultError:
    raise
  # Fonts, LaTeX and numbers fail in ways that have no type in common.
  except Exception as error:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    notices.warn(f"{os.fspath(path)}: could not be drawn ({reason})")


def save(drawing: figure.Figure, path: str | os.PathLike[str]) -> None:
  """Writes a PNG file whole or not at all, equal bytes for equal data."""
  buffer = io.BytesIO()
  # Without the version of matplotlib.
  drawing.savefig(buffer, format="png", metadata={"Software": None})
  results.write_bytes(path, buffer.getvalue())
