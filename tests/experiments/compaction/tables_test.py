"""Tests of experiments.compaction.tables; published_test has whole tables."""

from experiments.compaction import drawing, tables
from tests.experiments.compaction import fake_records


def test_headline_says_where_there_is_no_match():
  group = fake_records.group(fake_records.make_all())
  group = fake_records.without(group, 0.1)
  text = tables.headline(group, "strongest").replace(" ", "")
  assert "\n|l1|none|none|\n" in text


def test_a_single_seed_has_no_interval(tmp_path):
  group = fake_records.group(fake_records.make_all()[::2])
  text = tables.headline(group, "best").replace(" ", "")
  assert "\n|Vanilla|0.5|0.5|\n" in text
  assert "nan" not in tables.report([group])
  # Nor a bar.
  assert drawing.needs(tmp_path / "a.png", group, "best").axes
