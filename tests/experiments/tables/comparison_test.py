"""Tests of experiments.tables.comparison; published_test has whole tables."""

import numpy as np
import pytest

from experiments.learning import methods
from experiments.tables import comparison

SEEDS = (0, 1, 2)


def make_record(
  name,
  strength=None,
  *,
  shots=1,
  best=0.5,
  last=0.4,
  choice=0.5,
  dataset="mnist",
):
  """A record as `results.read` returns it; None is a simulation that failed.

  `best` and `last` are test accuracies and `choice` that on validation images
  after the last epoch: numbers for all seeds, or one for each.
  """

  def spread(value):
    return [value] * len(SEEDS) if isinstance(value, float) else list(value)

  best = spread(best)
  hparam = methods.METHODS[name].hparam
  return {
    "config": {
      "dataset": dataset,
      "shots": shots,
      "method": name,
      **({hparam: strength} if hparam else {}),
    },
    "seeds": list(SEEDS),
    "metrics": {
      "test_accuracy": best,
      "test_accuracy_last": spread(last),
      "validation_accuracy": best,
      "validation_accuracy_last": spread(choice),
      "failed_step": [7 if value is None else -1 for value in best],
    },
  }


def make_grid(name, accuracies, **fields):
  """A record for each value of a method's grid, its choice given."""
  grid = methods.METHODS[name].grid
  return [
    make_record(name, strength, choice=accuracy, **fields)
    for strength, accuracy in zip(grid, accuracies, strict=True)
  ]


def test_strict_strength_is_best_over_all_shots_with_the_whole_grid():
  # The best value at 1 shot (the first) is not that of the mean (the third).
  selection = [
    *make_grid("bean1", (0.6, 0.1, 0.5, 0.1, 0.1), shots=1),
    *make_grid("bean1", (0.1, 0.2, 0.7, 0.1, 0.1), shots=5),
    make_record("vanilla", choice=0.9),
  ]
  strengths = comparison.strict_strengths(selection)
  assert strengths == {"bean1": 10.0, "vanilla": None}
  whole = make_grid("bean1", (0.1, 0.2, 0.3, 0.4, 0.1), shots=1)
  part = make_grid("bean1", (0.9, 0.1, 0.1, 0.1, 0.1), shots=5)[:4]
  assert comparison.strict_strengths(whole + part) == {"bean1": 30.0}
  assert comparison.strict_strengths(part) == {}
  # Nor are values chosen of which all failed.
  whole[3]["metrics"]["validation_accuracy_last"] = [None] * len(SEEDS)
  assert comparison.strict_strengths(whole) == {"bean1": 10.0}


@pytest.fixture
def records():
  """BEAN-1 is better by 0.1, 0.2, 0.0 where chosen for each number of shots."""
  evaluation = [
    make_record("vanilla", best=(0.4, 0.4, 0.4), last=(0.3, 0.2, 0.1)),
    *(
      make_record("bean1", strength, last=(0.4, 0.4, strength / 1000))
      for strength in methods.METHODS["bean1"].grid
    ),
  ]
  return comparison.Records(
    selection=[
      make_record("vanilla"),
      *make_grid("bean1", (0.1, 0.2, 0.3, 0.4, 0.5)),
    ],
    evaluation=evaluation,
    chosen=[
      make_record("vanilla", best=(0.4, 0.4, 0.4)),
      make_record("bean1", 1.0, best=(0.5, 0.6, 0.4)),
    ],
  )


def test_paper_protocol_reports_the_chosen_cells(records):
  found = comparison.entries("paper", records)
  entry = found["bean1", 1]
  assert entry.accuracies == {0: 0.5, 1: 0.6, 2: 0.4}
  assert (entry.strength, entry.at_edge, entry.num_failed) == (1.0, False, 0)
  assert entry.difference.wins == 2
  np.testing.assert_allclose(entry.difference.interval.mean, 0.1)
  assert found["vanilla", 1].difference is None


def test_strict_protocol_reports_the_last_epoch_of_the_other_seeds_choice(
  records,
):
  found = comparison.entries("strict", records)
  entry = found["bean1", 1]
  # The greatest value is the choice of the selection seeds.
  assert (entry.strength, entry.at_edge) == (100.0, True)
  assert entry.accuracies == {0: 0.4, 1: 0.4, 2: 0.1}
  np.testing.assert_allclose(entry.difference.interval.mean, 0.1)


def test_failed_simulations_are_left_out_and_counted(records):
  records.chosen[1] = make_record("bean1", 1.0, best=(0.5, None, 0.4))
  entry = comparison.entries("paper", records)["bean1", 1]
  assert entry.accuracies == {0: 0.5, 2: 0.4}
  assert entry.num_failed == 1
  assert entry.difference.num_pairs == 2


def test_markdown_and_latex_of_the_same_rows():
  rows = [["method", "1-shot"], ["a", "**2** (1.00)"], ["b", "__1__"]]
  assert comparison.to_markdown(rows).splitlines() == [
    "| method | 1-shot       |",
    "| ------ | ------------ |",
    "| a      | **2** (1.00) |",
    "| b      | <u>1</u>     |",
  ]
  latex = comparison.to_latex(rows)
  assert r"a & \textbf{2} (1.00) \\" in latex
  assert r"b & \underline{1} \\" in latex
  assert latex.count(r"\midrule") == 1


def test_files(records, tmp_path):
  text = comparison.write(
    {"mnist": records}, ["vanilla", "bean1"], [1], tmp_path
  )
  comparison.draw({"mnist": records}, ["vanilla", "bean1"], tmp_path)
  assert (tmp_path / "table.md").read_text() == text
  assert {path.name for path in tmp_path.iterdir()} == {
    "table.md",
    "table.tex",
    "accuracy_against_shots_mnist_paper.png",
    "accuracy_against_shots_mnist_strict.png",
    "gains_mnist_paper.png",
    "gains_mnist_strict.png",
    "sensitivity_mnist_bean1.png",
  }
  for protocol in comparison.PROTOCOLS:
    assert f"## MNIST, protocol {protocol}: " in text


def test_sizes_of_imitation_networks_are_said():
  record = make_record("imitation", 0.002)
  record["config"] |= {
    "first_pseudo": 62,
    "last_pseudo": 500,
    "pseudo_periods": 8,
    "pseudo_epochs": 25,
  }
  note = comparison.imitation_note([record] * 2)
  assert note.count("62 pseudo examples at first, 500 at last") == 1
  assert "1,250 to 10,000" in note
  assert comparison.imitation_note([make_record("vanilla")]) == ""


def test_gain_of_large_batches_is_over_vanilla_with_the_same():
  chosen = [
    make_record("vanilla", best=(0.4, 0.4, 0.4)),
    make_record("vanilla10", best=(0.5, 0.5, 0.5)),
    make_record("decov", 1.0, best=(0.7, 0.7, 0.7)),
  ]
  records = comparison.Records([], [], chosen)
  found = comparison.entries("paper", records)
  np.testing.assert_allclose(found["decov", 1].difference.interval.mean, 0.2)
  _, batches, decov = comparison.details(
    found, ["vanilla10", "decov"], [1], "mnist"
  )
  assert batches[5] == "+10.00 [+10.00, +10.00]"
  title = "(to Vanilla, batches of 10)"
  assert decov[5] == f"+20.00 [+20.00, +20.00] {title}"
  alone = comparison.Records([], [], [chosen[0], chosen[2]])
  assert comparison.entries("paper", alone)["decov", 1].difference is None
