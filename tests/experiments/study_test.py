"""Tests of experiments.study: variants, their comparison, and the whole job."""

import functools

import pytest

from experiments import study
from experiments.architectures import networks
from experiments.population import cells, simulations
from experiments.records import results
from tests.experiments import in_process, tiny
from tests.experiments.tables import made

SMALL = (
  *("--dataset=digits", "--seeds=100-101", "--epochs=4", "--validations=2"),
  "--variants=usual,batch_full",
)
parsed = functools.partial(in_process.parsed, study)
run = functools.partial(in_process.run, study)


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


def test_without_vanilla_nothing_is_compared():
  assert study.gains({"gamma_3": [made.record("bean1", 0.1)]}) == {}
