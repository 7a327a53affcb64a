"""Tests of experiments.compaction.tables; published_test has whole tables."""

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


def test_headline_says_where_there_is_no_match(group):
  group = group._replace(cells=tuple(c for c in group.cells if c[1] != 0.1))
  text = tables.headline(group, "strongest", points=0.5)
  assert rows(text)[3] == ["l1", "none"]


def test_a_single_seed_has_no_interval():
  records = [r for r in fake_records.make_all() if r["seeds"] == [0]]
  (group,) = needed.make_groups(records)
  text = tables.headline(group, "best", points=0.5)
  assert rows(text)[2] == ["Vanilla", "0.5"]
  assert "nan" not in tables.report([group], points=0.5)
