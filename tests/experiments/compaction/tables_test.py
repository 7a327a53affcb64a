"""Tests of experiments.compaction.tables; published_test has whole tables."""

from experiments.compaction import drawing, tables
from tests.experiments.compaction import fake_records


def rows(text):
  lines = [line.strip("| ").split("|") for line in text.splitlines()]
  return [[cell.strip() for cell in line] for line in lines]


def test_headline_says_where_there_is_no_match():
  group = fake_records.group(fake_records.make_all())
  group = fake_records.without(group, 0.1)
  text = tables.headline(group, "strongest")
  assert rows(text)[3] == ["l1", "none", "none"]


def test_a_single_seed_has_no_interval(tmp_path):
  group = fake_records.group(fake_records.make_all()[::2])
  assert rows(tables.headline(group, "best"))[2] == ["Vanilla", "0.5", "0.5"]
  assert "nan" not in tables.report([group])
  # Nor a bar.
  assert drawing.needs(tmp_path / "a", group, "best").axes
