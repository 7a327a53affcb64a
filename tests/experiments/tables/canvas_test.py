"""Tests of experiments.tables.canvas."""

import os
import re
import subprocess
import sys

import matplotlib
from PIL import Image
import pytest

from experiments.records import results
from experiments.tables import canvas, figures, stats
from tests.experiments import in_process

SERIES = [("BEAN-1", [1, 5], [stats.Interval(0.5, 0.4, 0.6)] * 2)]


def draw(path):
  with canvas.attempt(path):
    figures.accuracy_against_shots(path, SERIES, title="digits")
  with Image.open(path) as image:
    assert (image.format, image.width) == ("PNG", 7 * 150)
  return path.read_bytes()


def test_settings_of_a_user_change_nothing(tmp_path, capsys):
  expected = draw(tmp_path / "plain.png")
  settings = {"text.usetex": True, "savefig.dpi": 30, "lines.color": "red"}
  with matplotlib.rc_context(settings):
    before = matplotlib.rcParams.copy()
    assert draw(tmp_path / "given.png") == expected
    assert matplotlib.rcParams.copy() == before
  assert capsys.readouterr() == ("", "")


def test_a_figure_that_fails_is_a_line(capsys):
  with canvas.attempt("folder/it.png"):
    raise RuntimeError("Failed to process string\nwith tex")
  assert capsys.readouterr() == (
    "",
    "warning: folder/it.png: could not be drawn (RuntimeError: Failed to "
    "process string)\n",
  )


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
  with pytest.raises(results.ResultError, match="could not be written"):
    draw(tmp_path / "missing" / "it.png")
  # Nor is who ends the program held up.
  with pytest.raises(KeyboardInterrupt), canvas.attempt("it.png"):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
  "backend,expected", (("inline", "agg"), ("svg", "svg"))
)
def test_backend_of_a_notebook(backend, expected):
  """And no script imports matplotlib before it draws, which takes long."""
  program = (
    "import os, sys; from experiments import few_shot; "
    "assert 'matplotlib' not in sys.modules; "
    "from experiments.tables import canvas; canvas.blank(1, 1); "
    "import matplotlib; "
    "print(os.environ['MPLBACKEND'], matplotlib.get_backend())"
  )
  process = subprocess.run(
    [sys.executable, "-c", program],
    cwd=in_process.ROOT,
    env=os.environ | {"MPLBACKEND": backend, "DISPLAY": ""},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert process.stderr == ""
  assert process.stdout == f"{backend} {expected}\n"


def test_all_take_matplotlib_from_here():
  importing = {
    path.relative_to(in_process.ROOT).as_posix()
    for folder in ("experiments", "benchmarks")
    for path in (in_process.ROOT / folder).rglob("*.py")
    if re.search(r"^ *(import|from) matplotlib", path.read_text(), re.MULTILINE)
  }
  assert importing == {"experiments/tables/canvas.py"}
