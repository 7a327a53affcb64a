"""Tests of experiments.tables.markdown."""

import sys

import markdown_it
import pytest

from experiments.tables import markdown

HEAD = ["shots", "method", "accuracy", "gain over vanilla", "seeds won"]
ROWS = [
  ["1", "BEAN-1, A random", "50.0 [48.1, 52.3]", "+4.0 [+3.1, +5.2]", "17"],
  ["1", "Vanilla", "46.0", "", ""],
  ["5", "Vanilla", "83.0", "", ""],
]
TABLE = markdown.table(HEAD, ROWS)


def test_cells_survive_rendering():
  assert len({len(line) for line in TABLE.splitlines()}) == 1
  html = markdown_it.MarkdownIt("commonmark").enable("table").render(TABLE)
  assert html.count("<td>") == 15
  assert "<th>gain over vanilla</th>" in html
  assert "<td>BEAN-1, A random</td>" in html
  assert markdown.table(["a"], []) == "| a |\n| - |"
  with pytest.raises(ValueError, match="zip"):
    markdown.table(["a", "b"], [["1"]])


@pytest.mark.parametrize("width", range(36, 82))
def test_fitted_is_no_wider_and_loses_nothing(width):
  found = markdown.fitted(f"# Few-shot\n\n{TABLE}\n\nnotes\n", width)
  lines = found.splitlines()
  assert (lines[:2], lines[-2:]) == (["# Few-shot", ""], ["", "notes"])
  assert max(map(len, lines)) <= width
  words = found.replace("\n", " ").split()
  for row in [HEAD, *ROWS]:
    for cell in row:
      assert set(cell.split()) <= {*words, *(w.rstrip(",") for w in words)}


def test_fitted_keeps_numbers_with_their_rows_and_columns():
  parts = markdown.fitted(TABLE, 60).split("\n\n")
  assert len(parts) == 2
  head, *rows = parts[0].splitlines()
  place = head.index("accuracy")
  cells = [row[place:].split("  ")[0] for row in rows]
  assert cells == [row[2] for row in ROWS]
  # Neither shots nor method alone tells the rows apart.
  assert [row[:place].strip() for row in rows] == [
    "1, BEAN-1, A random",
    "1, Vanilla",
    "5, Vanilla",
  ]


def test_fitted_breaks_long_names():
  rows = [["a name that is longer than there is room", "1.0", "x" * 30]]
  lines = markdown.fitted(markdown.table(["what", "n", "text"], rows), 50)
  assert max(map(len, lines.splitlines())) <= 50
  assert "  1.0" in lines
  # One without a name is no stranger.
  assert "y" in markdown.fitted(markdown.table(["", "n"], [["", "y"]]), 4)


@pytest.mark.parametrize("is_terminal", (True, False))
def test_only_a_terminal_is_fitted(is_terminal, monkeypatch, capsys):
  width = TABLE.index("\n")
  assert markdown.fitted(TABLE, width) == TABLE
  monkeypatch.setenv("COLUMNS", str(width - 1))
  monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
  markdown.show(TABLE)
  assert (capsys.readouterr().out == f"{TABLE}\n") is not is_terminal
