"""Tests of experiments.runs.full_cells and experiments.tables.full_summary."""

import dataclasses
import doctest
import os
import shutil

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.learning import full_training, methods
from experiments.records import checkpoints, results
from experiments.runs import full_cells, full_simulations
from experiments.runs.full_simulations import Cell, Member
from experiments.tables import full_summary
from tests.experiments import tiny_network

CELLS = (Cell("vanilla", 0.0), Cell("bean1", 1.0), Cell("bean1", 3.0))
NAMES = (
  "digits-lenet5-bean1-alpha_1.json",
  "digits-lenet5-bean1-alpha_3.json",
  "digits-lenet5-vanilla.json",
)
PROTOCOL = full_simulations.Protocol(
  model="lenet5", seeds=(0, 4), epochs=3, batch_size=20, learning_rate=2e-2
)


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      networks, "make", lambda *args, **kwargs: tiny_network.NETWORK
    )
    digits = tiny_network.load_digits()
    patch.setattr(datasets, "load", lambda *args, **kwargs: digits)
    # As in the script, so that its test needs no programs of its own.
    with jax.default_matmul_precision("highest"):
      yield


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  monkeypatch.delenv("TTY_COMPATIBLE", raising=False)


def make_config(folder, **changes):
  fields = {
    "dataset": "digits",
    "data_dir": None,
    "output_dir": folder / "deep" / "results",
    "checkpoint_dir": folder / "networks",
    "checkpoint_seconds": 0.0,
    "resume": True,
    "protocol": PROTOCOL,
    "cells": CELLS,
  }
  return full_cells.Config(**{**fields, **changes})


def read(folder):
  """The bytes of all files in a folder and below."""
  return {
    path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def records(folder):
  """The records of a small run."""
  return full_cells.train(make_config(folder))


class TestComparableRecords:
  def test_whatever_the_method_strength_and_seeds(
    self, records, folder, tmp_path
  ):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = make_config(tmp_path, cells=CELLS[2:])
    other = {**records[1], "config": {**records[1]["config"], "alpha": 0.5}}
    results.write(config.output_dir / "more.json", with_seeds(other, 1))
    found = full_cells.comparable_records(config)
    strengths = [record["config"].get("alpha") for record in found]
    assert strengths == [None, 0.5, 1.0, 3.0]
    assert found[1]["seeds"] == other["seeds"][:1]
    assert [found[0], *found[2:]] == records

  def test_what_was_made_otherwise_is_passed_over(
    self, records, folder, tmp_path
  ):
    config = make_config(tmp_path)
    config.output_dir.mkdir(parents=True)
    vanilla = records[0]
    for name, record in (
      ("epochs", {"config": {**vanilla["config"], "epochs": 4}}),
      ("dataset", {"config": {**vanilla["config"], "dataset": "mnist"}}),
      ("method", {"config": {**vanilla["config"], "method": "magic"}}),
      ("release", {"versions": {"bean_jax": "0.0.1"}}),
    ):
      path = config.output_dir / f"{name}.json"
      results.write(path, {**vanilla, **record})
    (config.output_dir / "damaged.json").write_text("{")
    (config.output_dir / "folder.json").mkdir()
    before = read(config.output_dir)
    assert full_cells.comparable_records(config) == []
    assert read(config.output_dir) == before


def with_seeds(record, number):
  """A record of the first of its seeds only."""
  seeds = record["seeds"][:number]
  metrics = {k: v[:number] for k, v in record["metrics"].items()}
  config = {**record["config"], "seeds": seeds}
  return {**record, "seeds": seeds, "metrics": metrics, "config": config}


def numbers(records):
  return [(r["config"], r["seeds"], r["metrics"]) for r in records]


class TestTrain:
  def test_files(self, records, folder):
    config = make_config(folder)
    assert sorted(os.listdir(config.output_dir)) == sorted(NAMES)
    assert sorted(os.listdir(config.checkpoint_dir)) == sorted(
      f"{name.removesuffix('.json')}-seed{seed}.npz"
      for name in NAMES
      for seed in (0, 4)
    )

  def test_records(self, records):
    vanilla, bean, _ = records
    shared = {
      "dataset": "digits",
      "model": "lenet5",
      "epochs": 3,
      "patience": 5,
      "tolerance": 1e-3,
      "batch_size": 20,
      "optimizer": "adam",
      "learning_rate": 2e-2,
      "bfloat16": False,
      "flip": False,
      "crop": False,
      "seeds": [0, 4],
    }
    assert vanilla["config"] == {**shared, "method": "vanilla"}
    assert bean["config"] == {
      **shared,
      "method": "bean1",
      "alpha": 1.0,
      "gamma": 1.0,
      "distance": "squared",
      "alpha_units": "code",
    }
    for record in records:
      assert record["experiment"] == "full_data"
      assert record["members_per_chunk"] == jax.device_count()
      assert record["source"] == "scikit-learn load_digits"
      assert record["versions"]["jax"] == jax.__version__
      values = results.metric(record, "test_accuracy")
      assert values.shape == (2,)
      assert np.all((values > 0) & (values < 1))
      assert results.metric(record, "train_loss_curve").shape == (2, 3)
    assert vanilla["metrics"] != bean["metrics"]

  def test_checkpoints_say_what_they_are(self, records, folder):
    member = Member(CELLS[1], 4)
    path = full_cells.checkpoint_path(make_config(folder), member)
    assert path.name == "digits-lenet5-bean1-alpha_1-seed4.npz"
    checkpoint = checkpoints.load(path)
    expected = {**records[1]["config"], "seed": 4}
    del expected["seeds"]
    assert checkpoint.config == expected
    assert checkpoint.environment["versions"] == records[1]["versions"]
    assert (
      checkpoint.metrics["test_accuracy"]
      == (records[1]["metrics"]["test_accuracy"][1])
    )

  def test_lines(self, records, tmp_path, capsys):
    cells = (CELLS[0], Cell("bean1", 1e38))
    full_cells.train(make_config(tmp_path, cells=cells))
    first, second, *failed = capsys.readouterr().out.splitlines()
    assert first.startswith("Vanilla: test ")
    assert "2 of 2 simulations, 3 epochs" in first
    assert second.startswith(
      "BEAN-1 alpha=1e+38: test none, 0 of 2 simulations, 1 epochs"
    )
    assert [line.split()[1] for line in failed] == ["0", "4"]
    assert all("met a non-finite loss" in line for line in failed)

  def test_nothing_is_trained_twice(self, records, folder, monkeypatch, capsys):
    before = read(folder)
    with monkeypatch.context() as patch:
      patch.setattr(full_simulations, "run", None)
      patch.setattr(datasets, "load", None)
      again = full_cells.train(make_config(folder))
    assert again == records
    assert read(folder) == before
    assert capsys.readouterr().out == "cells done already: 3\n"

  def test_checkpoints_spare_the_training_of_lost_records(
    self, records, folder, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(full_simulations, "_run_chunk", None)
    config = make_config(
      tmp_path, checkpoint_dir=make_config(folder).checkpoint_dir
    )
    again = full_cells.train(config)
    assert numbers(again) == numbers(records)

  def test_interrupted_and_resumed(self, records, tmp_path, monkeypatch):
    calls = []
    save = checkpoints.save

    def interrupted(*args):
      save(*args)
      calls.append(args)
      if len(calls) == 9:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
      patch.setattr(checkpoints, "save", interrupted)
      with pytest.raises(KeyboardInterrupt):
        full_cells.train(make_config(tmp_path))
    assert numbers(full_cells.train(make_config(tmp_path))) == numbers(records)

  def test_without_resume_all_is_trained_again(self, records, tmp_path):
    cells = CELLS[:1]
    config = make_config(tmp_path, cells=cells)
    full_cells.train(config)
    for path in (
      full_cells.cell_path(config, CELLS[0]),
      full_cells.checkpoint_path(config, Member(CELLS[0], 0)),
    ):
      path.write_text("an altered file")
    again = full_cells.train(dataclasses.replace(config, resume=False))
    assert numbers(again) == numbers(records[:1])


class TestRefused:
  @pytest.mark.parametrize(
    "change,message",
    (
      ({"epochs": 4}, "epochs: expected 4, got 3"),
      ({"patience": 3}, "patience: expected 3, got 5"),
      ({"tolerance": 0.5}, "tolerance: expected 0.5, got 0.001"),
      ({"batch_size": 7}, "batch_size: expected 7, got 20"),
      ({"seeds": (0,)}, r"seeds: expected \[0\], got \[0, 4\]"),
      ({"options": methods.Options(gamma=2.0)}, "gamma: expected 2.0, got 1.0"),
      (
        {"augmentation": full_training.Augmentation(crop=True)},
        "crop: expected true, got false",
      ),
    ),
  )
  def test_another_configuration(self, change, message, records, folder):
    config = make_config(
      folder, protocol=PROTOCOL._replace(**change), cells=CELLS[1:]
    )
    before = read(folder)
    with pytest.raises(results.ResultError, match=message) as caught:
      full_cells.train(config)
    assert "\n" not in str(caught.value)
    if "seeds" not in change:
      config = dataclasses.replace(config, output_dir=folder / "none")
      with pytest.raises(checkpoints.CheckpointError, match=message):
        full_cells.train(config)
      os.rmdir(config.output_dir)
    assert read(folder) == before

  def test_seeds_alone_are_taken_from_checkpoints(
    self, records, folder, monkeypatch
  ):
    """Members are the same, whatever others there are."""
    monkeypatch.setattr(full_simulations, "_run_chunk", None)
    protocol = PROTOCOL._replace(seeds=(4,))
    config = make_config(
      folder, protocol=protocol, output_dir=folder / "one", cells=CELLS[:1]
    )
    (record,) = full_cells.train(config)
    for name, values in record["metrics"].items():
      assert values == records[0]["metrics"][name][1:]

  def test_altered_checkpoint_is_set_aside(self, records, tmp_path, capsys):
    config = make_config(tmp_path)
    os.makedirs(config.checkpoint_dir)
    path = full_cells.checkpoint_path(config, Member(CELLS[2], 4))
    path.write_bytes(b"PK")
    assert numbers(full_cells.train(config)) == numbers(records)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b"PK"
    assert checkpoints.load(path)
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: does not end with its SHA-256")
    assert more == []

  @pytest.mark.parametrize("name", ("output_dir", "checkpoint_dir"))
  def test_folder_that_cannot_be_written(self, name, tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    config = make_config(tmp_path, **{name: file / "below"})
    with pytest.raises(results.ResultError, match="choose another folder"):
      full_cells.train(config)
    assert file.read_text() == "a file"


def test_every_cell_has_a_file_of_its_own(tmp_path):
  cells = [
    Cell(name, strength)
    for name in methods.DESCENDED
    for strength in (*methods.METHODS[name].grid, 1.0000001, 1e-5)
    if methods.METHODS[name].hparam
  ]
  config = make_config(tmp_path, cells=tuple(dict.fromkeys(cells)))
  paths = {full_cells.cell_path(config, cell) for cell in config.cells}
  assert len(paths) == len(config.cells)
  assert all(
    set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-+")
    for path in paths
  )


class TestTable:
  def test_rows(self, records):
    head, rule, *rows = full_summary.table(records).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(
      full_summary.COLUMNS
    )
    assert set(rule) <= set("|- ")
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    cells = [[c.strip() for c in row.strip("| ").split("|")] for row in rows]
    assert [row[:1] for row in cells] == [["Vanilla"], ["BEAN-1"], ["BEAN-1"]]
    assert [row[1].rstrip(" *") for row in cells] == ["", "alpha 1", "alpha 3"]
    for row, record in zip(cells, records, strict=True):
      accuracy = 100 * results.metric(record, "test_accuracy")
      assert row[2].startswith(f"{accuracy.mean():.2f} [")
      loss = results.metric(record, "train_loss_curve")[:, -1].mean()
      assert row[6] == f"{loss:.2g}"
      assert row[7:] == ["3 to 3", "0 of 2", "0"]
    vanilla, bean = (results.metric(r, "test_accuracy") for r in records[:2])
    assert cells[0][4] == ""
    assert cells[1][4].startswith(f"{100 * (bean - vanilla).mean():+.2f} [")

  def test_the_best_of_validation_is_chosen(self, records):
    vanilla, *beans = records
    accuracy = [np.mean(r["metrics"]["validation_accuracy"]) for r in beans]
    expected = [vanilla, beans[int(np.argmax(accuracy))]]
    assert full_summary.chosen(records) == expected
    assert full_summary.table(records).count("*") == 1

  def test_failed_members_are_counted_and_left_out(self, records):
    vanilla, bean, other = records
    metrics = {
      **bean["metrics"],
      "failed_step": [5, -1],
      "epochs": [1, 3],
      "test_accuracy": [None, 0.5],
      "validation_accuracy": [None, 0.5],
      "train_loss_curve": [[None, None, None], [3.0, 2.0, 1.0]],
    }
    row = full_summary.table([vanilla, {**bean, "metrics": metrics}, other])
    row = [cell.strip() for cell in row.splitlines()[3].strip("| ").split("|")]
    assert row[2] == "50.00"
    assert row[6:] == ["1", "1 to 3", "0 of 2", "1"]
    assert full_summary.kept({**bean, "metrics": metrics}, "test_accuracy") == {
      4: 0.5
    }
    nothing = {
      **metrics,
      "failed_step": [5, 5],
      "test_accuracy": [None, None],
      "validation_accuracy": [None, None],
      "train_loss_curve": [[None] * 3] * 2,
    }
    lost = {**bean, "metrics": nothing}
    assert full_summary.chosen([vanilla, lost, other]) == [vanilla, other]
    assert "none" in full_summary.table([vanilla, lost, other])


def test_examples_of_docstrings():
  assert doctest.testmod(full_cells).failed == 0
