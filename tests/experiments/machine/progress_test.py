"""Tests of experiments.machine.progress."""

import contextlib

import numpy as np
import pytest

from experiments.machine import progress

CELL = "5-shot BEAN-1 alpha=0.5"
SEEDS = (3, 4, 9)


def make_metrics(failed_step):
  failed_step = np.array(failed_step)
  accuracy = np.where(failed_step < 0, (0.25, 0.5, 0.3), np.nan)
  return {
    "test_accuracy": accuracy,
    "failed_step": failed_step,
    "epochs": np.array([50, 30, 10]),
  }


@pytest.fixture
def terminal(monkeypatch):
  monkeypatch.setenv("TTY_COMPATIBLE", "1")
  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setenv("COLUMNS", "120")


def test_lines_of_finished_cells_away_from_a_terminal(capsys):
  """Simulations that failed are named."""
  with progress.bar(total=100, skipped=0) as bar:
    bar.tick(CELL, 60, 0.5)
    for failed_step in ((-1, -1, -1), (-1, 17, -1), (0, 1, 2)):
      bar.cell_done(CELL, make_metrics(failed_step), 12.4, SEEDS)
    bar.tick(CELL, 40, 0.6)
  all_, one, reason, none, *reasons = capsys.readouterr().out.splitlines()
  assert all_ == (
    "5-shot BEAN-1 alpha=0.5: test 35.00 %, 3 of 3 simulations, 30 epochs, 12 s"
  )
  assert one.endswith(": test 27.50 %, 2 of 3 simulations, 30 epochs, 12 s")
  assert reason == "  seed 4 met a non-finite loss in step 17: left out"
  assert none.endswith(": test none, 0 of 3 simulations, 30 epochs, 12 s")
  assert [line[:8] for line in reasons] == ["  seed 3", "  seed 4", "  seed 9"]


def test_bar_on_a_terminal(terminal, capsys):
  with progress.bar(total=200, skipped=0) as bar:
    bar.tick(CELL, 50, 0.4567)
    bar.display.refresh()
    task = bar.display.tasks[0]
    assert task.percentage == 25
    bar.tick("5-shot Vanilla", 150, 0.5)
    assert task.finished
  out = capsys.readouterr().out
  shown = ("compiling", CELL, "25%", "validation 45.7 %", "Vanilla", "100%")
  assert all(text in out for text in shown)


def test_the_cursor_is_shown_again_after_an_interrupt(terminal, capsys):
  with (
    contextlib.suppress(KeyboardInterrupt),
    progress.bar(total=200, skipped=0) as bar,
  ):
    bar.tick(CELL, 50, 0.5)
    raise KeyboardInterrupt
  out = capsys.readouterr().out
  assert out.rfind("\x1b[?25h") > out.rfind("\x1b[?25l") >= 0
