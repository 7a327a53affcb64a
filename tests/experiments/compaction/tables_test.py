"""Tests of experiments.compaction.tables."""

import pytest

from experiments.compaction import needed, tables
from tests.experiments.compaction import fake_records


@pytest.fixture
def group():
  (group,) = needed.make_groups(fake_records.make_all())
  return group


def rows(text):
  lines = [line.strip("| ").split("|") for line in text.splitlines()]
  return [[cell.strip() for cell in line] for line in lines]


def test_headline(group):
  header, _, *lines = rows(tables.headline(group, "strongest", points=0.5))
  assert header == ["method", "weights pruned"]
  assert lines == [
    ["Vanilla", "0.5 [0.5, 0.5]"],
    ["l1", "0.1 [0.1, 0.1] (l1 0.1)"],
    ["BEAN-1", "1.0 [1.0, 1.0] (alpha 10)"],
  ]


def test_headline_says_where_there_is_no_match(group):
  group = group._replace(cells=tuple(c for c in group.cells if c[1] != 0.1))
  text = tables.headline(group, "strongest", points=0.5)
  assert rows(text)[3] == ["l1", "none"]


def test_details(group):
  header, _, *lines = rows(tables.details(group, "strongest", points=0.5))
  assert header[0] == "scheme"
  assert lines[0] == [
    "weights pruned",
    "no",
    "Vanilla",
    "",
    "91.00 [90.00, 92.00]",
    "0.5 [0.5, 0.5] k",
    "",
    "+0.00 [+0.00, +0.00]",
    "1.0 k",
    "2.0 k",
    "0.80 (1)",
    "2 of 2",
  ]
  assert lines[1][2:8] == [
    "l1",
    "l1 0.1",
    "90.70 [89.60, 91.80]",
    "0.1 [0.1, 0.1] k",
    "0.22 [0.22, 0.22]",
    "+0.30 [+0.20, +0.40]",
  ]


def test_a_single_seed_has_no_interval():
  records = [r for r in fake_records.make_all() if r["seeds"] == [0]]
  (group,) = needed.make_groups(records)
  text = tables.headline(group, "best", points=0.5)
  assert rows(text)[2] == ["Vanilla", "0.5"]
  assert "nan" not in tables.report([group], points=0.5)


def test_report_has_every_table(group):
  # One strength a method that matters: all choices are the same. Then another
  # which is the strongest that loses little, and not the best.
  text = tables.report([group], points=0.5)
  assert text.count("\n| scheme ") == 1
  assert text.count("\n| method ") == 2
  more = [
    fake_records.make("bean1", 20.0, seed, [0.8951 + 0.02 * seed] * 3)
    for seed in (0, 1)
  ]
  (group,) = needed.make_groups(fake_records.make_all() + more)
  text = tables.report([group, group._replace(title="other")], points=0.5)
  assert text.count("## digits, lenet5\n") == 1
  assert text.count("## other\n") == 1
  assert text.count("\n| scheme ") == 2 * 2
  assert text.count("\n| method ") == 2 * (2 + 1)
  assert "2 seeds." in text
  assert "7 parameters lie before them" in text
  assert "at most 0.5 points lost" in text
  assert "| Vanilla |          | all    | 0.250 [0.250, 0.250] |" in text
