"""Tests of experiments.population.runs; the scripts' tests train for real."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.streams import Shots, Whole
from experiments.machine import progress
from experiments.population import (
  cells,
  chunks,
  runs,
  simulations,
  store as stores,
)
from experiments.population.cells import Cell, Member
from experiments.records import results
from tests.experiments import in_process, planned, tiny

VANILLA = Cell(Shots(1), "vanilla", 0.0, 6)
BEAN = Cell(Shots(1), "bean1", 10.0, 6)
DROPOUT = Cell(Shots(2), "dropout", 0.5, 6)
OPTIONS = methods.Options(layers=("fc2",), gamma=2.0)


def make_config(folder, *chosen, **changes):
  return planned.make_config(folder, chosen or (VANILLA, BEAN), **changes)


def train(*configs, **options):
  """Trains runs one after the other, under one progress bar."""
  with progress.bar(total=1, skipped=0) as bar:
    return [runs.train(config, bar, **options) for config in configs]


def numbers(records):
  return [(r["config"], r["seeds"], r["metrics"]) for r in records]


class Simulator:
  """Takes the place of `simulations.run`; records what it is asked for."""

  def __init__(self):
    self.calls = []
    self.trained = []
    self.work = 0

  def run(self, chosen, dataset, store, *, tick, done=(), **_):
    self.calls.append((tuple(chosen), set(done)))
    protocol = store.config.protocol
    for cell in chosen:
      if cell in done:
        continue
      for seed in protocol.seeds:
        cost = cells.cost(cell, dataset, protocol)
        tick(Member(cell, seed), cost, 0.5)
        self.work += cost
      self.trained.append(cell)
      num_seeds = len(protocol.seeds)
      metrics = {
        "test_accuracy": np.full(num_seeds, len(self.trained) / 100),
        "failed_step": np.full(num_seeds, -1),
        "epochs": np.full(num_seeds, 6),
      }
      yield cell, simulations.Outcome(metrics, 1.0, 2)


class TestTrain:
  @pytest.fixture
  def simulator(self, monkeypatch):
    fake = Simulator()
    monkeypatch.setattr(simulations, "run", fake.run)
    return fake

  def test_only_what_is_missing_of_several_runs(self, simulator, tmp_path):
    first = make_config(tmp_path / "a", BEAN)
    ((record,),) = train(first)
    assert simulator.trained == [BEAN]
    whole = make_config(tmp_path / "a")
    other = make_config(tmp_path / "b", DROPOUT, BEAN, seeds=(8,))
    assert runs.missing(whole).cells == (VANILLA,)
    assert runs.missing(other) == other
    assert runs.finished(whole) == {BEAN: record}
    records = train(whole, first, other)
    assert simulator.trained == [BEAN, VANILLA, DROPOUT, BEAN]
    # The simulator is told of all, so that chunks keep their width.
    assert simulator.calls[1:] == [
      ((VANILLA, BEAN), {BEAN}),
      ((DROPOUT, BEAN), set()),
    ]
    assert [[r["config"]["method"] for r in found] for found in records] == [
      ["vanilla", "bean1"],
      ["bean1"],
      ["dropout", "bean1"],
    ]
    assert records[0][1] == records[1][0] == record
    assert records[2][1]["seeds"] == [8]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
      "digits-1shot-bean1-alpha10.json",
      "digits-1shot-vanilla.json",
    ]
    # Once more: all is there.
    assert train(whole, first, other) == records
    assert len(simulator.trained) == 4
    assert runs.missing(whole).cells == ()

  def test_unusual_choices_are_found_again(self, simulator, tmp_path):
    """JSON has no tuples."""
    config = make_config(tmp_path, options=OPTIONS)
    expected = train(config)
    assert expected[0][1]["config"]["layers"] == ["fc2"]
    assert train(config) == expected
    assert len(simulator.trained) == 2
    with pytest.raises(results.ResultError, match="layers: expected"):
      train(make_config(tmp_path, options=OPTIONS._replace(layers=())))

  def test_without_resume_and_cheapest_first(self, simulator, tmp_path):
    config = make_config(tmp_path, DROPOUT, BEAN, VANILLA, resume=False)
    (records,) = train(config)
    assert runs.work(config) == simulator.work
    assert runs.work(dataclasses.replace(config, cells=())) == 0
    assert runs.missing(config) == config
    assert train(config, cheapest_first=True) != [records]
    assert simulator.trained == [*config.cells, VANILLA, BEAN, DROPOUT]
    assert [r["config"]["method"] for r in records] == [
      *("dropout", "bean1", "vanilla")
    ]

  @pytest.mark.parametrize("what", ("record", "shots", "folder"))
  def test_nothing_is_trained_where_a_run_is_impossible(
    self, what, simulator, tmp_path
  ):
    train(make_config(tmp_path / "a", VANILLA._replace(learning_rate=1e-3)))
    simulator.trained.clear()
    before = in_process.contents(tmp_path / "a")
    file = tmp_path / "file"
    file.write_text("a file")
    many = VANILLA._replace(stream=Shots(75))
    config, error, message = {
      "record": (
        make_config(tmp_path / "a"),
        results.ResultError,
        "learning_rate: expected 0.0005, got 0.001",
      ),
      "shots": (
        make_config(tmp_path / "b", VANILLA, many),
        datasets.DatasetError,
        "75 shots",
      ),
      "folder": (make_config(file), results.ResultError, "choose another"),
    }[what]
    with pytest.raises(error, match=message):
      train(config)
    assert simulator.trained == []
    assert not (tmp_path / "b").exists()
    assert in_process.contents(tmp_path / "a") == before

  def test_finished_cells_need_no_data(self, simulator, tmp_path, monkeypatch):
    def make(data_dir):
      return make_config(tmp_path, dataset="mnist", data_dir=data_dir)

    digits = datasets.load("digits")
    with monkeypatch.context() as patch:
      patch.setattr(datasets, "load", lambda name, data_dir: digits)
      expected = train(make("somewhere"))
    monkeypatch.setattr(datasets, "load", None)
    assert train(make("nowhere")) == expected
    assert len(simulator.trained) == 2

  def test_networks_that_must_be_kept(self, simulator, tmp_path):
    """A record without them is not enough, where they were asked for."""
    folder = tmp_path / "networks"
    config = make_config(tmp_path, BEAN, checkpoint_dir=folder)
    train(config)
    assert runs.missing(config).cells == (BEAN,)
    relaxed = dataclasses.replace(config, needs_networks=False)
    assert runs.missing(relaxed).cells == ()
    for seed in (3, 5):
      name = f"digits-1shot-bean1-alpha10-seed{seed}.npz"
      (folder / name).touch()
    assert runs.missing(config).cells == ()


CELLS = tuple(
  Cell(Whole(), method, strength, 3, 2e-2)
  for method, strength in (("vanilla", 0.0), ("bean1", 1.0), ("bean1", 3.0))
)


def make_whole(folder, *chosen, **changes):
  fields = {
    "output_dir": folder / "deep" / "results",
    "checkpoint_dir": folder / "networks",
    "needs_networks": False,
    "checkpoint_seconds": 0.0,
    "seeds": (0, 4),
    "batch_size": 20,
  }
  return make_config(folder, *(chosen or CELLS), **{**fields, **changes})


@pytest.fixture(scope="module")
def _small():
  digits = tiny.load_few_digits()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *_, **__: tiny.NORMED)
    patch.setattr(datasets, "load", lambda *_, **__: digits)
    with jax.default_matmul_precision("highest"):
      yield


@pytest.fixture(scope="module")
def finished(_small, tmp_path_factory):
  """A small run with checkpoints: its folder and records."""
  folder = tmp_path_factory.mktemp("finished")
  (records,) = train(make_whole(folder))
  return folder, records


@pytest.mark.usefixtures("_small")
class TestCheckpoints:
  def test_checkpoints_spare_the_training_of_lost_records(
    self, finished, tmp_path, monkeypatch
  ):
    folder, records = finished
    monkeypatch.setattr(chunks, "train", None)
    config = make_whole(
      tmp_path, checkpoint_dir=make_whole(folder).checkpoint_dir
    )
    assert numbers(*train(config)) == numbers(records)
    # Members are the same, whatever others there are.
    one = dataclasses.replace(
      config,
      output_dir=tmp_path / "one",
      protocol=config.protocol._replace(seeds=(4,)),
      cells=CELLS[:1],
    )
    ((record,),) = train(one)
    for name, values in record["metrics"].items():
      assert values == records[0]["metrics"][name][1:]

  def test_without_resume_all_is_trained_again(self, finished, tmp_path):
    config = make_whole(tmp_path, CELLS[0])
    train(config)
    store = stores.Store(config, results.environment())
    for path in (
      cells.cell_path(config, CELLS[0]),
      stores.path(store, Member(CELLS[0], 0), 1),
    ):
      path.write_text("an altered file")
    again = train(dataclasses.replace(config, resume=False))
    assert numbers(*again) == numbers(finished[1][:1])


@pytest.mark.usefixtures("_small")
class TestComparableRecords:
  def test_whatever_the_method_strength_and_seeds(self, finished, tmp_path):
    folder, records = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = make_whole(tmp_path, CELLS[2])
    first = {k: v[:1] for k, v in records[1]["metrics"].items()}
    more = {**records[1]["config"], "alpha": 0.5, "seeds": [0]}
    results.write(
      config.output_dir / "more.json",
      {**records[1], "config": more, "seeds": [0], "metrics": first},
    )
    found = runs.comparable_records(config)
    assert [record["config"].get("alpha") for record in found] == [
      *(None, 0.5, 1.0, 3.0)
    ]
    assert found[1]["seeds"] == [0]
    assert [found[0], *found[2:]] == records

  def test_what_was_made_otherwise_is_passed_over(self, finished, tmp_path):
    _, (vanilla, *_) = finished
    config = make_whole(tmp_path)
    config.output_dir.mkdir(parents=True)
    for name, value in (
      ("epochs", 4),
      ("dataset", "mnist"),
      ("method", "magic"),
      ("release", None),
    ):
      record = {**vanilla, "config": {**vanilla["config"], name: value}}
      if name == "release":
        record = {**vanilla, "versions": {"bean_jax": "0.0.1"}}
      results.write(config.output_dir / f"{name}.json", record)
    (config.output_dir / "damaged.json").write_text("{")
    (config.output_dir / "folder.json").mkdir()
    assert runs.comparable_records(config) == []
