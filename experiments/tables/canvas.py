"""matplotlib, whatever a user's own settings of it are.

All that draws takes matplotlib from here. No backend is needed, so none that
the environment names can fail, and `attempt` draws with matplotlib's own
defaults instead of a user's matplotlibrc.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import io
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from experiments.machine import notices
from experiments.records import results

if TYPE_CHECKING:
  from matplotlib import axes as axes, axis as axis, figure as figure


def __getattr__(name: str) -> Any:
  """Imports a module of matplotlib where a figure is drawn.

  That takes a third of the time in which a script would start. Annotations name
  such modules too, so they must not be evaluated where they stand.
  """
  if name.startswith("_"):
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return _load(name)


def _load(name: str) -> Any:
  if "matplotlib" not in sys.modules:
    # A notebook names its backend to programs that it starts; where that is not
    # installed, the import fails.
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
      os.environ["MPLBACKEND"] = backend
      with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend
  return importlib.import_module(f"matplotlib.{name}")


@contextlib.contextmanager
def attempt(path: str | os.PathLike[str]) -> Iterator[None]:
  """Draws a figure in its block; one that fails costs a line, and no number.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  try:
    with _load("style").context("default"):
      yield
  except results.ResultError:
    raise
  # Fonts, LaTeX and numbers fail in ways that have no type in common.
  except Exception as error:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    notices.warn(f"{os.fspath(path)}: could not be drawn ({reason})")


def blank(
  width: float, height: float, *, title: str = "", dpi: int = 150
) -> figure.Figure:
  """Makes a figure of so many inches, with a title above all of its axes."""
  drawing: figure.Figure = _load("figure").Figure(
    figsize=(width, height), dpi=dpi, layout="constrained"
  )
  if title:
    drawing.suptitle(title, fontsize=13, wrap=True)
  return drawing


def legend(
  drawing: figure.Figure, plot: axes.Axes, *, columns: int = 3, **options: Any
) -> None:
  """Names the lines of a plot below all plots, where it covers none."""
  options = {"fontsize": 10, "frameon": False, "handlelength": 3.5} | options
  for count in range(columns, 0, -1):
    drawn = drawing.legend(
      *plot.get_legend_handles_labels(),
      loc="outside lower center",
      ncols=count,
      **options,
    )
    if drawn.get_window_extent().width <= drawing.bbox.width or count == 1:
      break
    drawn.remove()


# Without versions and dates, so that equal data make equal bytes.
_METADATA: dict[str, dict[str, None]] = {
  ".png": {"Software": None},
  ".pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
}


def save(
  drawing: figure.Figure, path: pathlib.Path, *, with_pdf: bool = False
) -> figure.Figure:
  """Writes a PNG file whole or not at all, and a PDF file beside it."""
  for ending in (".png", ".pdf")[: 1 + with_pdf]:
    buffer = io.BytesIO()
    metadata = _METADATA[ending]
    drawing.savefig(buffer, format=ending[1:], metadata=metadata)
    results.write_bytes(path.with_suffix(ending), buffer.getvalue())
  return drawing
