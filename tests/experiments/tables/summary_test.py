"""Tests of experiments.tables.summary; published_test has whole tables."""

import pathlib

import numpy as np
from PIL import Image
import pytest

from experiments.learning import methods
from experiments.records import results
from experiments.tables import summary


def make_record(
  method="vanilla",
  alpha=None,
  *,
  test,
  validation=0.5,
  last=0.25,
  shots=1,
  seeds=None,
  epochs=4,
):
  """A record as `results.read` returns it; None is a simulation that failed.

  `validation`, `last` and `epochs` are numbers for all seeds, or one for each.
  Without shots it is of a whole dataset.
  """
  num_seeds = len(test)
  failed = [value is None for value in test]
  epochs = [epochs] * num_seeds if isinstance(epochs, int) else list(epochs)

  def curve(*values):
    """Also a member that failed has one; none goes on after its epochs."""
    return [
      [value if place < last else None for place, value in enumerate(values)]
      for last in epochs
    ]

  def spread(value):
    values = [value] * num_seeds if isinstance(value, float) else value
    return [None if lost else v for v, lost in zip(values, failed, strict=True)]

  return {
    "config": {
      "dataset": "digits",
      **({"shots": shots} if shots else {}),
      "method": method,
      **({} if alpha is None else {"alpha": alpha}),
    },
    "seeds": list(range(num_seeds)) if seeds is None else seeds,
    "metrics": {
      "test_accuracy": list(test),
      "test_accuracy_last": spread(last),
      "validation_accuracy": spread(validation),
      "failed_step": [7 if lost else -1 for lost in failed],
      "validation_accuracy_curve": curve(0.1, 0.2, 0.3, 0.4),
      "train_loss_curve": curve(4.0, 3.0, 2.0, 1.0),
      "epochs": epochs,
      "converged": [int(number < 4) for number in epochs],
    },
  }


VANILLA = make_record(test=[0.1, 0.5, 0.9])
BEAN = make_record("bean1", 10.0, test=[0.2, 0.6, 1.0])


def rows_of(records):
  """The lines of a table, as dicts by column."""
  lines = summary.table(records).splitlines()
  cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
  assert len(cells) == 2 + len(records)
  return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_losses_of_simulations_that_failed_are_left_out():
  half = make_record("bean1", 1.0, test=[None, 0.5], shots=None, epochs=(1, 3))
  lost = make_record("bean1", 2.0, test=[None, None], shots=None)
  first, second = rows_of([half, lost])
  assert first["training loss"] == "2"
  assert (first["epochs"], first["failed"]) == ("1 to 3", "1")
  assert second["training loss"] == "none"


def test_differences_are_paired_by_seed():
  # Alone, each has an interval of tens of percent.
  _, row = rows_of([VANILLA, BEAN])
  assert row["difference to vanilla"] == "+10.00 [+10.00, +10.00]"
  assert row["seeds won"] == "3 of 3"
  turned = make_record("bean1", 1.0, test=[0.8, 0.5, 0.0], seeds=[2, 1, 0])
  _, row = rows_of([VANILLA, turned])
  assert row["difference to vanilla"].startswith("-6.67 [-10.00, ")
  assert row["seeds won"] == "0 of 3"
  # And to vanilla of the same shots.
  more = [
    make_record("bean1", 1.0, test=[0.7, 0.7], shots=5),
    make_record(test=[0.4, 0.4], shots=5),
  ]
  rows = rows_of([VANILLA, BEAN, *more])
  assert rows[1]["difference to vanilla"] == "+10.00 [+10.00, +10.00]"
  assert rows[2]["difference to vanilla"] == "+30.00 [+30.00, +30.00]"
  assert rows[3]["difference to vanilla"] == ""


def test_failed_simulations_are_counted_and_left_out():
  vanilla = make_record(test=[0.1, None, 0.9])
  bean = make_record("bean1", 1.0, test=[0.3, 0.9, None])
  row, other = rows_of([vanilla, bean])
  assert row["failed"] == other["failed"] == "1"
  assert row["test accuracy, best epoch"].startswith("50.00 [")
  assert other["test accuracy, best epoch"].startswith("60.00 [")
  # Only seed 0 is left of both.
  assert other["difference to vanilla"] == "+20.00"
  assert other["seeds won"] == "1 of 1"


def test_all_simulations_failed():
  lost = make_record("bean1", 1e9, test=[None, None])
  for records in ([VANILLA, lost, BEAN], [lost]):
    row = rows_of(records)[records.index(lost)]
    assert row["test accuracy, best epoch"] == "none"
    assert row["last epoch"] == row["validation"] == "none"
    assert row["difference to vanilla"] == row["seeds won"] == ""
    assert row["strength"] == "alpha 1e+09"
    assert row["failed"] == "2"
  assert summary.chosen([lost]) == []


@pytest.mark.parametrize(
  "baseline",
  (
    [],
    [make_record(test=[None, None, None])],
    [make_record(test=[0.1, 0.2, 0.3], seeds=[7, 8, 9])],
  ),
  ids=("missing", "failed", "of other seeds"),
)
def test_no_vanilla_no_difference(baseline):
  row = rows_of([*baseline, BEAN])[-1]
  assert row["difference to vanilla"] == row["seeds won"] == ""
  assert row["test accuracy, best epoch"].startswith("60.00 [")


def test_one_seed_has_no_interval():
  records = [
    make_record(test=[0.25], last=0.125, validation=0.5),
    make_record("bean2", 100.0, test=[0.5]),
  ]
  row, other = rows_of(records)
  assert row["test accuracy, best epoch"] == "25.00"
  assert row["last epoch"] == "12.50"
  assert row["validation"] == "50.00"
  assert other["difference to vanilla"] == "+25.00"
  assert other["seeds won"] == "1 of 1"


def test_best_validation_is_chosen_not_best_test():
  records = [
    make_record("bean1", 1.0, test=[0.9, 0.9], validation=0.6),
    make_record("bean1", 10.0, test=[0.1, 0.1], validation=0.7),
    make_record("bean1", 100.0, test=[0.2, 0.2], validation=0.7),
    make_record("bean2", 10.0, test=[0.3, 0.3], validation=0.2),
    make_record("bean1", 1.0, test=[0.9, 0.9], validation=0.8, shots=5),
    make_record("bean1", 10.0, test=[0.9, 0.9], validation=0.7, shots=5),
  ]
  picked = summary.chosen(records)
  # Of equals, the first.
  assert [records.index(record) for record in picked] == [1, 3, 4]
  assert [row["strength"] for row in rows_of(records)] == [
    "alpha 1",
    "alpha 10 *",
    "alpha 100",
    "alpha 10 *",
    "alpha 1 *",
    "alpha 10",
  ]


@pytest.mark.parametrize("shots", (1, None))
def test_failures_do_not_win_or_lose_the_choice(shots):
  lost = make_record("bean1", 1.0, test=[None, None], shots=shots)
  half = make_record(
    "bean1", 10.0, test=[None, 0.1], validation=0.6, shots=shots
  )
  whole = make_record(
    "bean1", 100.0, test=[0.1, 0.1], validation=0.5, shots=shots
  )
  assert summary.chosen([lost, half, whole]) == [half]
  assert summary.chosen([lost, whole]) == [whole]


def test_strength_of_each_method():
  for name, method in methods.METHODS.items():
    record = make_record(name, method.grid[0], test=[0.5])
    if method.hparam is None:
      assert summary.strength(record) is None
    else:
      record["config"][method.hparam] = 0.125
      assert summary.strength(record) == 0.125


def test_versions_that_differ_stand_below_the_table(tmp_path):
  records = [VANILLA, BEAN]
  summary.write(records, tmp_path)
  text = (tmp_path / "table.md").read_text()
  assert text == summary.table(records) + "\n"
  records = [
    {**record, "versions": {"jax": version}}
    for record, version in zip(records, ("0.10.1", "0.11.2"), strict=True)
  ]
  summary.write(records, tmp_path, title="## Title")
  assert (tmp_path / "table.md").read_text() == (
    f"## Title\n\n{text}\n"
    "Made by different versions: jax 0.10.1 (1 cell), 0.11.2 (1).\n"
  )


FIGURES = ("accuracy_against_strength", "learning_curves")


@pytest.mark.parametrize(
  "records,figures",
  (
    ([make_record(test=[None, None])], ()),
    ([VANILLA], ("learning_curves_1shot",)),
    (
      [make_record("bean1", 0.0, test=[0.2, 0.3])],
      [f"{name}_1shot" for name in FIGURES],
    ),
    (
      [make_record("bean1", 2.0, test=[0.2])],
      [f"{name}_1shot" for name in FIGURES],
    ),
    (
      [
        VANILLA,
        make_record("bean1", 0.0, test=[0.2, 0.6, 1.0], validation=0.25),
        BEAN,
        make_record("bean1", 1e9, test=[None, None, None]),
        make_record(test=[0.1, None, 0.9], shots=5),
        make_record("bean2", 10.0, test=[0.2, None, 1.0], shots=5),
      ],
      [f"{name}_{shots}shot" for name in FIGURES for shots in (1, 5)],
    ),
    (
      [
        make_record(test=[0.1, 0.5], shots=None),
        make_record("bean1", 1.0, test=[0.2, None], shots=None, epochs=(2, 4)),
      ],
      FIGURES,
    ),
  ),
  ids=("failed", "vanilla", "strength 0", "one seed", "several", "whole"),
)
def test_files(records, figures, tmp_path):
  """Only figures that have something to show are drawn."""
  summary.write(records, tmp_path)
  summary.draw(records, tmp_path)
  expected = set(figures)
  if figures and "shots" in records[0]["config"]:
    expected.add("accuracy_against_shots")
  assert {path.name for path in tmp_path.iterdir()} == {
    *("table.md", *(f"{name}.png" for name in expected))
  }
  for path in tmp_path.glob("*.png"):
    with Image.open(path) as image:
      assert image.format == "PNG"
      assert np.asarray(image.convert("L")).std() > 5


@pytest.fixture
def shown(monkeypatch, tmp_path):
  """Draws records; what goes into each figure, rather than how it looks."""

  def shown(records):
    seen = {}
    for name in (*FIGURES, "accuracy_against_shots"):
      monkeypatch.setattr(
        summary.figures,
        name.replace("strength", "hparam"),
        lambda path, series, **options: seen.setdefault(
          pathlib.Path(path).stem, (series, options)
        ),
      )
    summary.draw(records, tmp_path)
    return seen

  return shown


def test_figures_show_the_records(shown):
  seen = shown(
    [
      VANILLA,
      make_record("bean1", 1.0, test=[0.9, 0.9, 0.9], validation=0.1),
      BEAN,
      make_record("bean1", 1.0, test=[0.2, 0.2], validation=0.8, shots=5),
      make_record(test=[0.1, None], shots=5),
    ]
  )
  series, options = seen["accuracy_against_shots"]
  assert "digits" in options["title"]
  assert [(label, shots) for label, shots, _ in series] == [
    ("Vanilla", [1, 5]),
    ("BEAN-1", [1, 5]),
  ]
  assert [round(i.mean, 6) for i in series[0][2]] == [0.5, 0.1]
  assert [round(i.mean, 6) for i in series[1][2]] == [0.6, 0.2]
  series, options = seen["accuracy_against_strength_1shot"]
  assert options["baseline"][0] == "Vanilla"
  assert round(options["baseline"][1].mean, 6) == 0.5
  ((label, strengths, intervals),) = series
  assert (label, strengths) == ("BEAN-1", [1.0, 10.0])
  assert [round(i.mean, 6) for i in intervals] == [0.9, 0.6]
  curves, options = seen["learning_curves_5shot"]
  assert "5-shot" in options["title"]
  labels = [label for label, _, _ in curves]
  assert labels == ["BEAN-1, alpha = 1", "Vanilla"]
  for _, epochs, values in curves:
    np.testing.assert_array_equal(epochs, (1, 2, 3, 4))
    np.testing.assert_array_equal(values[0], (0.1, 0.2, 0.3, 0.4))
  assert np.all(np.isnan(curves[1][2][1]))


def test_curves_of_seldom_validation_are_drawn_at_their_epochs(shown):
  record = make_record(test=[0.1, 0.2])
  record["config"]["validate_every"] = 5
  ((_, epochs, _),), _ = shown([record])["learning_curves_1shot"]
  np.testing.assert_array_equal(epochs, (5, 10, 15, 20))


def test_curves_of_who_has_converged_go_on_as_they_ended(shown):
  record = make_record(test=[0.1, 0.2, None], shots=None, epochs=(2, 4, 3))
  ((_, epochs, values),), options = shown([record])["learning_curves"]
  assert options["title"] == "digits: validation accuracy"
  np.testing.assert_array_equal(epochs, (1, 2, 3, 4))
  np.testing.assert_array_equal(
    values, ((0.1, 0.2, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4), [np.nan] * 4)
  )


def test_folder_that_cannot_be_written(tmp_path):
  with pytest.raises(results.ResultError, match="table.md"):
    summary.write([VANILLA], tmp_path / "missing")
