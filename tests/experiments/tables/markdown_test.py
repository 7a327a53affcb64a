"""Tests of experiments.tables.markdown."""

import doctest

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


@pytest.mark.parametrize("width", (30, 40, 80))
def test_plain_fits_and_loses_nothing(width):
  rows = [["BEAN-1, A random, alpha 0.1", "50.0", "+1"], ["Vanilla", "49", ""]]
  text = markdown.plain(["1-shot", "accuracy", "gain"], rows, width=width)
  lines = text.splitlines()
  assert max(map(len, lines)) <= width
  assert sorted(text.split()) == sorted(
    " ".join(["1-shot accuracy gain", *map(" ".join, rows)]).split()
  )
  # Numbers stand below the name of their column.
  column = lines[0].index("accuracy")
  for line in lines:
    if "50.0" in line or "Vanilla" in line:
      assert line[column : column + 2] in ("50", "49")


def test_examples():
  assert doctest.testmod(markdown).failed == 0
