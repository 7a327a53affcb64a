"""Tests of experiments.study: variants, their comparison, and the whole job."""

import functools

import numpy as np
import pytest

from experiments import study
from experiments.architectures import networks
from experiments.learning import methods
from experiments.population import cells, simulations
from experiments.records import results
from tests.experiments import in_process, tiny

SEEDS = (100, 101)
SMALL = (
  "--dataset=digits",
  "--seeds=100-101",
  "--epochs=4",
  "--validations=2",
  "--variants=usual,batch_full",
)


def make_record(name, alpha, best, last=None):
  hparam = methods.METHODS[name].hparam
  return {
    "config": {
      "dataset": "mnist",
      "shots": 1,
      "method": name,
      "seeds": list(SEEDS),
      **({hparam: alpha} if hparam else {}),
    },
    "seeds": list(SEEDS),
    "metrics": {
      "validation_accuracy": list(best),
      "validation_accuracy_last": list(last or best),
      "failed_step": [-1, -1],
    },
  }


RECORDS = {
  "usual": [
    make_record("vanilla", None, (0.4, 0.5)),
    make_record("bean1", 1.0, (0.5, 0.5), last=(0.1, 0.1)),
    make_record("bean1", 10.0, (0.4, 0.7), last=(0.3, 0.3)),
    make_record("bean1", 100.0, (0.6, 0.1), last=(0.2, 0.2)),
  ],
  "gamma_3": [make_record("bean1", 0.1, (0.6, 0.6))],
  "batch_full": [
    make_record("vanilla", None, (0.1, 0.2)),
    make_record("bean1", 1.0, (0.2, 0.2)),
  ],
}


def test_gain_is_over_vanilla_of_the_same_training():
  gains = study.gains(RECORDS)
  assert gains.keys() == {(name, "bean1") for name in RECORDS}
  means = {
    variant: difference.interval.mean
    for (variant, _), difference in gains.items()
  }
  # The best alpha of the first is 10; the second has no vanilla of its own.
  np.testing.assert_allclose(means["usual"], 0.1)
  np.testing.assert_allclose(means["gamma_3"], 0.15)
  np.testing.assert_allclose(means["batch_full"], 0.05)
  assert gains["batch_full", "bean1"].wins == 1


def test_without_vanilla_nothing_is_compared():
  assert study.gains({"gamma_3": RECORDS["gamma_3"]}) == {}


def test_a_choice_for_every_simulation():
  best = study.per_simulation(RECORDS["usual"], "bean1")
  assert best == {100: 0.6, 101: 0.7}
  assert study.per_simulation(RECORDS["usual"], "bean2") == {}


def cells_of(table):
  return [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in table.splitlines()
  ]


def test_table_has_the_alpha_of_each_choice():
  rows = cells_of(study.table(RECORDS))
  usual = next(row for row in rows if row[:3] == [rows[2][0], "BEAN-1", "10"])
  assert usual[3].startswith("55.0")
  assert usual[4].startswith("30.0")
  assert usual[4].endswith("(10)")
  alone = next(row for row in rows if row[0] == "gamma 3")
  assert alone[2] == "0.1 (edge)"
  assert rows[-1][0].endswith("alpha chosen in every simulation")
  assert rows[-1][3].startswith("65.0")


def test_table_of_every_alpha():
  rows = cells_of(study.alpha_table(RECORDS))
  rows = [row for row in rows if row[0] == "the protocol of Table 1"]
  assert [[*row[1:3], row[3].partition(" ")[0]] for row in rows] == [
    ["Vanilla", "", "45.0"],
    ["BEAN-1", "1", "50.0"],
    ["BEAN-1", "10", "55.0"],
    ["BEAN-1", "100", "35.0"],
  ]
  assert rows[1][4].startswith("10.0")


@pytest.mark.parametrize("name", study.VARIANTS)
def test_variant_differs_in_what_it_says(name):
  with parsed(f"--variants={name}"):
    config = study.make_runs()[name]
  with parsed("--variants=usual"):
    usual = study.make_runs()["usual"]
  cell = config.cells[-1]
  like = usual.cells[0]._replace(
    method=cell.method.partition("_")[0], strength=cell.strength
  )
  different = {
    field
    for field, value in cells.cell_config(config, cell).items()
    if cells.cell_config(usual, like).get(field) != value
  } - {"validate_every"}
  variant = study.VARIANTS[name]
  expected = set(variant.options) | {
    field
    for field in ("batch_size", "initializer", "learning_rate", "epochs")
    if getattr(variant, field) != getattr(study.VARIANTS["usual"], field)
  }
  if cell.method not in ("bean1", "bean2"):
    expected.add("method")
  assert different == expected
  assert (name == "usual") == (not different)
  assert config.output_dir.name == name


def test_seeds_are_not_those_of_the_table():
  with parsed():
    for config in study.make_runs().values():
      assert min(config.protocol.seeds) >= 100
      for cell in config.cells:
        schedule = cells.schedule(cell, config.protocol)
        assert schedule.epochs // schedule.epochs_per_lap == 10


parsed = functools.partial(in_process.parsed, study)
run = functools.partial(in_process.run, study)


@pytest.mark.parametrize(
  "flag,message",
  (
    ("--variants=gamma", "expected different ones of usual"),
    ("--shots=3", "the paper has 1, 5, 10, 20, got 3"),
    ("--epochs=0", "expected a number from 1"),
    ("--validations=7", "expected a divisor of 200 epochs"),
    ("--validations=0", "expected a number from 1"),
  ),
)
def test_wrong_flags(flag, message, tmp_path):
  line = in_process.refused(study, flag, f"--output_dir={tmp_path / 'new'}")
  assert message in line
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_job_and_again(tmp_path, monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *args, **kwargs: tiny.NETWORK)
  status, out, err = run(*SMALL, f"--output_dir={tmp_path}")
  assert (status, err) == (0, "")
  for name in ("usual", "batch_full"):
    variant = study.VARIANTS[name]
    count = 1 + sum(map(len, variant.alphas.values()))
    assert len(results.load_all(tmp_path / name)) == count
  text = (tmp_path / "table.md").read_text()
  assert out.endswith(text + "\n")
  for name in ("gains", "alpha_bean1", "alpha_bean2"):
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  monkeypatch.setattr(simulations, "run", None)
  status, out, err = run(*SMALL, f"--output_dir={tmp_path}")
  assert (status, err) == (0, "")
  assert "cells done already: " in out
