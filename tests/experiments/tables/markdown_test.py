"""Tests of experiments.tables.markdown."""

import sys

import markdown_it
import pytest

from experiments.tables import markdown


def test_cells_survive_rendering():
  rows = [["a", "1"], ["longer than its column", ""]]
  text = markdown.table(["x", "y and z"], rows)
  assert len({len(line) for line in text.splitlines()}) == 1
  html = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
  assert html.count("<td>") == 4
  assert "<th>y and z</th>" in html
  assert "<td>longer than its column</td>" in html


def test_no_rows():
  assert markdown.table(["a"], []) == "| a |\n| - |"


def test_rows_of_other_lengths_are_refused():
  with pytest.raises(ValueError, match="zip"):
    markdown.table(["a", "b"], [["1"]])


HEAD = ["shots", "method", "accuracy", "gain over vanilla", "seeds won"]
ROWS = [
  ["1", "BEAN-1, A random", "50.0 [48.1, 52.3]", "+4.0 [+3.1, +5.2]", "17"],
  ["1", "Vanilla", "46.0", "", ""],
  ["5", "Vanilla", "83.0", "", ""],
]


@pytest.mark.parametrize("width", (40, 60, 80))
def test_fitted_loses_nothing(width):
  text = f"# Few-shot\n\n{markdown.table(HEAD, ROWS)}\n\nnotes\n"
  found = markdown.fitted(text, width)
  lines = found.splitlines()
  assert (lines[:2], lines[-2:]) == (["# Few-shot", ""], ["", "notes"])
  assert max(map(len, lines)) <= width
  words = found.replace("\n", " ").split()
  for row in [HEAD, *ROWS]:
    for cell in row:
      assert set(cell.split()) <= {*words, *(w.rstrip(",") for w in words)}


def test_fitted_keeps_numbers_with_their_rows_and_columns():
  parts = markdown.fitted(markdown.table(HEAD, ROWS), 60).split("\n\n")
  assert len(parts) == 2
  head, *rows = parts[0].splitlines()
  place = head.index("accuracy")
  assert [row[place:].split("  ")[0] for row in rows] == [
    row[2] for row in ROWS
  ]
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


def test_what_fits_stays_as_it_is():
  text = "before\n\n" + markdown.table(HEAD, ROWS) + "\n\nafter"
  width = max(map(len, text.splitlines()))
  assert markdown.fitted(text, width) == text
  assert markdown.fitted(text, width - 1) != text


@pytest.mark.parametrize("is_terminal", (True, False))
def test_only_a_terminal_is_fitted(is_terminal, monkeypatch, capsys):
  text = markdown.table(HEAD, ROWS)
  monkeypatch.setenv("COLUMNS", "60")
  monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
  markdown.show(text)
  widest = max(map(len, capsys.readouterr().out.splitlines()))
  assert (widest <= 60) is is_terminal
