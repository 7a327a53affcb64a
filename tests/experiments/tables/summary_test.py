"""Tests of experiments.tables.summary; published_test has whole tables."""

import pathlib

import numpy as np
import pytest

from experiments.tables import summary
from tests.experiments.tables import made

VANILLA = made.record(test=[0.1, 0.5, 0.9])
BEAN = made.record("bean1", 10.0, test=[0.2, 0.6, 1.0])


def rows_of(records):
  """The lines of a table, as dicts by column."""
  lines = summary.table(records).splitlines()
  cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
  assert len(cells) == 2 + len(records)
  return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_losses_of_simulations_that_failed_are_left_out():
  half = made.record("bean1", 1.0, test=[None, 0.5], shots=None, epochs=(1, 3))
  lost = made.record("bean1", 2.0, test=[None, None], shots=None)
  first, second = rows_of([half, lost])
  assert first["training loss"] == "2"
  assert (first["epochs"], first["failed"]) == ("1 to 3", "1")
  assert first["converged"] == "2 of 2"
  assert second["training loss"] == "none"


def test_differences_are_paired_by_seed_and_shots():
  # Alone, each has an interval of tens of percent.
  turned = made.record("bean1", 1.0, test=[0.8, 0.5, 0.0], seeds=[2, 1, 0])
  five = made.record("bean1", 1.0, test=[0.7, 0.7], shots=5)
  vanilla = made.record(test=[0.4, 0.4], shots=5)
  rows = rows_of([VANILLA, BEAN, turned, five, vanilla])
  gains = [row["difference to vanilla"] for row in rows]
  assert gains[1] == "+10.00 [+10.00, +10.00]"
  assert gains[2].startswith("-6.67 [-10.00, ")
  assert gains[3] == "+30.00 [+30.00, +30.00]"
  assert (gains[0], gains[4]) == ("", "")
  won = [row["seeds won"] for row in rows]
  assert won == ["", "3 of 3", "0 of 3", "2 of 2", ""]


def test_failed_simulations_are_counted_and_left_out():
  vanilla = made.record(test=[0.1, None, 0.9])
  bean = made.record("bean1", 1.0, test=[0.3, 0.9, None])
  lost = made.record("bean2", 1.0, test=[None, None, None])
  row, other, none = rows_of([vanilla, bean, lost])
  assert (row["failed"], other["failed"], none["failed"]) == ("1", "1", "3")
  assert row["test accuracy, best epoch"].startswith("50.00 [")
  assert other["test accuracy, best epoch"].startswith("60.00 [")
  # Only seed 0 is left of both, and one seed has no interval.
  assert other["difference to vanilla"] == "+20.00"
  assert other["seeds won"] == "1 of 1"
  for column in ("test accuracy, best epoch", "last epoch", "validation"):
    assert none[column] == "none"
  assert none["strength"] == "alpha 1"
  assert none["difference to vanilla"] == none["seeds won"] == ""


def test_no_vanilla_no_difference():
  lost = made.record(test=[None, None, None])
  others = made.record(test=[0.1, 0.2, 0.3], seeds=[7, 8, 9])
  for baseline in ([], [lost], [others]):
    row = rows_of([*baseline, BEAN])[-1]
    assert row["difference to vanilla"] == row["seeds won"] == ""
    assert row["test accuracy, best epoch"].startswith("60.00 [")


def test_best_validation_is_chosen_not_best_test():
  records = [
    made.record("bean1", 1.0, test=[0.9, 0.9], validation=0.6),
    made.record("bean1", 10.0, test=[0.1, 0.1], validation=0.7),
    made.record("bean1", 100.0, test=[0.2, 0.2], validation=0.7),
    made.record("bean2", 10.0, test=[None, 0.3], validation=0.2),
    made.record("bean2", 30.0, test=[0.3, 0.3], validation=0.1),
    made.record("bean1", 1.0, test=[0.9, 0.9], validation=0.8, shots=5),
    made.record("bean1", 10.0, test=[0.9, 0.9], validation=0.7, shots=5),
    made.record("l1", 1.0, test=[None, None], validation=0.9),
  ]
  # Of equals, the first; a failure does not win or lose the choice.
  assert summary.chosen(records) == [records[index] for index in (1, 3, 5)]
  stars = ["*" in row["strength"] for row in rows_of(records)]
  assert [index for index, star in enumerate(stars) if star] == [1, 3, 5]
  last = summary.chosen(records[:3], "validation_accuracy_last")
  assert last == records[:1]


def test_versions_that_differ_stand_below_the_table(tmp_path):
  records = [
    {**record, "versions": {"jax": version}}
    for record, version in ((VANILLA, "0.10.1"), (BEAN, "0.11.2"))
  ]
  summary.write(records, tmp_path, title="## Title")
  assert (tmp_path / "table.md").read_text() == (
    f"## Title\n\n{summary.table(records)}\n\n"
    "Made by different versions: jax 0.10.1 (1 cell), 0.11.2 (1).\n"
  )


@pytest.fixture
def shown(monkeypatch, tmp_path):
  """Draws records; what goes into each figure, rather than how it looks."""

  def shown(records):
    seen = {}

    def draw(path, series, **options):
      seen[pathlib.Path(path).stem] = series, options

    for name in ("learning_curves", "accuracy_against_hparam"):
      monkeypatch.setattr(summary.figures, name, draw)
    monkeypatch.setattr(summary.figures, "accuracy_against_shots", draw)
    summary.draw(records, tmp_path)
    return seen

  return shown


def test_only_what_has_something_to_show_is_drawn(shown):
  lost = made.record("bean1", 1e9, test=[None, None, None])
  assert not shown([lost])
  assert shown([VANILLA]).keys() == {
    *("accuracy_against_shots", "learning_curves_1shot")
  }
  five = made.record(test=[0.1, None, 0.9], shots=5)
  strong = made.record("bean2", 10.0, test=[0.2, None, 1.0], shots=5)
  assert shown([VANILLA, lost, BEAN, five, strong]).keys() == {
    *("accuracy_against_shots", "learning_curves_1shot"),
    *("accuracy_against_strength_1shot", "learning_curves_5shot"),
    "accuracy_against_strength_5shot",
  }
  whole = made.record("bean1", 1.0, test=[0.2, None], shots=None, epochs=(2, 4))
  assert shown([whole]).keys() == {
    *("learning_curves", "accuracy_against_strength")
  }


def means(intervals):
  return [round(interval.mean, 6) for interval in intervals]


def test_figures_show_the_records(shown):
  seen = shown(
    [
      VANILLA,
      made.record("bean1", 1.0, test=[0.9, 0.9, 0.9], validation=0.1),
      BEAN,
      made.record("bean1", 1.0, test=[0.2, 0.2], validation=0.8, shots=5),
      made.record(test=[0.1, None], shots=5),
    ]
  )
  series, options = seen["accuracy_against_shots"]
  assert "digits" in options["title"]
  assert [(label, shots, means(found)) for label, shots, found in series] == [
    ("Vanilla", (1, 5), [0.5, 0.1]),
    ("BEAN-1", (1, 5), [0.6, 0.2]),
  ]
  series, options = seen["accuracy_against_strength_1shot"]
  assert options["baseline"][0] == "Vanilla"
  assert means([options["baseline"][1]]) == [0.5]
  ((label, strengths, intervals),) = series
  assert (label, strengths) == ("BEAN-1", [1.0, 10.0])
  assert means(intervals) == [0.9, 0.6]
  curves, options = seen["learning_curves_5shot"]
  assert "5-shot" in options["title"]
  assert [c[0] for c in curves] == ["BEAN-1, alpha = 1", "Vanilla"]
  for _, epochs, values in curves:
    np.testing.assert_array_equal(epochs, (1, 2, 3, 4))
    np.testing.assert_array_equal(values[0], (0.1, 0.2, 0.3, 0.4))
  assert np.all(np.isnan(curves[1][2][1]))


def test_curves_of_seldom_validation_and_of_who_has_converged(shown):
  record = made.record(test=[0.1, 0.2, None], shots=None, epochs=(2, 4, 3))
  record["config"]["validate_every"] = 5
  ((_, epochs, values),), options = shown([record])["learning_curves"]
  assert options["title"] == "digits: validation accuracy"
  np.testing.assert_array_equal(epochs, (5, 10, 15, 20))
  np.testing.assert_array_equal(
    values, ((0.1, 0.2, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4), [np.nan] * 4)
  )
