"""Tests of experiments.runs.cells; few_shot_test trains them for real."""

import pathlib

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import models
from experiments.command import progress
from experiments.learning import methods
from experiments.records import results
from experiments.runs import cells, simulations
from tests.experiments import tiny

_ROOT = pathlib.Path(__file__).parents[3]
VANILLA = simulations.Cell(1, "vanilla", 0.0, 6)
BEAN = simulations.Cell(1, "bean1", 10.0, 6)
DROPOUT = simulations.Cell(2, "dropout", 0.5, 6)


@pytest.fixture(autouse=True)
def _tiny_model(monkeypatch):
  monkeypatch.setitem(models.MODELS, "tiny", tiny.MODEL)


def make_config(
  directory="folder",
  *,
  cells_=(VANILLA, BEAN),
  dataset="digits",
  data_dir=None,
  resume=True,
  options=None,
  **choices,
):
  protocol = simulations.Protocol(
    model="tiny", options=methods.Options(**options or {}), seeds=(3, 5)
  )
  return cells.Config(
    experiment="test",
    dataset=dataset,
    data_dir=data_dir,
    output_dir=pathlib.Path(directory),
    resume=resume,
    protocol=protocol._replace(**choices),
    cells=tuple(cells_),
  )


def fields(cell, **choices):
  return cells.cell_config(make_config(**choices), cell)


SHARED = {
  "dataset": "digits",
  "model": "tiny",
  "shots": 1,
  "epochs": 6,
  "batch_size": 1,
  "optimizer": "adam",
  "learning_rate": 5e-4,
  "seeds": [3, 5],
}
UNUSUAL = {
  "gamma": 2.0,
  "distance": "absolute",
  "alpha_units": "paper",
  "layers": ("fc2",),
  "decoupled_decay": True,
  "dropout_at_eval": True,
  "first_pseudo": 8,
  "last_pseudo": 20,
  "pseudo_periods": 2,
  "pseudo_epochs": 30,
}


class TestCellConfig:
  @pytest.mark.parametrize(
    "method,strength,named",
    (
      ("vanilla", 0.0, {}),
      ("dropout", 0.5, {"rate": 0.5}),
      ("weight_decay", 0.01, {"decay": 0.01}),
      ("l1", 0.1, {"l1": 0.1}),
      ("group_lasso", 0.1, {"lasso": 0.1}),
      *(
        (
          name,
          3.0,
          {
            "alpha": 3.0,
            "gamma": 1.0,
            "distance": "squared",
            "alpha_units": "code",
          },
        )
        for name in ("bean1", "bean2", "bean1_frozen", "bean1_random")
      ),
    ),
  )
  def test_usual_choices_are_left_out(self, method, strength, named):
    cell = simulations.Cell(1, method, strength, 6)
    assert fields(cell) == {**SHARED, "method": method, **named}

  @pytest.mark.parametrize("name", methods.METHODS)
  def test_unusual_choices_of_the_method_are_named(self, name):
    method = methods.METHODS[name]
    assert set(UNUSUAL) == set(methods.Options._fields)
    cell = simulations.Cell(1, name, 0.5, 60)
    usual = fields(cell)
    expected = {field: UNUSUAL[field] for field in method.options}
    if name == "imitation":
      # It is validated after every period.
      expected["validate_every"] = UNUSUAL["pseudo_epochs"]
    assert fields(cell, options=UNUSUAL) == {**usual, **expected}

  def test_validations_and_initializer_are_named_where_unusual(self):
    usual = fields(VANILLA)
    for every, named in ((2, 2), (6, 6), (0, 6)):
      assert fields(VANILLA, validate_every=every) == {
        **usual,
        "validate_every": named,
      }
    assert fields(VANILLA, initializer="lecun_normal") == {
      **usual,
      "initializer": "lecun_normal",
    }

  def test_batches_are_those_of_the_method(self):
    cell = simulations.Cell(1, "vanilla10", 0.0, 60)
    config = fields(cell)
    assert config["batch_size"] == config["validate_every"] == 10
    assert fields(cell, batch_size=0)["batch_size"] == 0
    assert fields(cell, batch_size=20)["batch_size"] == 20

  def test_everything_that_numbers_depend_on_tells_cells_apart(self):
    variants = [
      fields(BEAN),
      fields(BEAN, dataset="mnist"),
      *(
        fields(BEAN._replace(**change))
        for change in (
          {"shots": 2},
          {"method": "bean2"},
          {"strength": 1.0},
          {"epochs": 12},
        )
      ),
      *(
        fields(BEAN, **change)
        for change in (
          {"model": "lenet5"},
          {"seeds": (3, 6)},
          {"batch_size": 2},
          {"learning_rate": 1e-3},
          {"validate_every": 2},
          {"initializer": "lecun_normal"},
        )
      ),
    ]
    # So that a field which is added is thought of.
    assert simulations.Cell._fields == ("shots", "method", "strength", "epochs")
    assert set(simulations.Protocol._fields) == {
      *("model", "seeds", "batch_size", "learning_rate", "validate_every"),
      *("initializer", "options", "members_per_chunk"),
    }
    digests = {results.config_digest(variant) for variant in variants}
    assert len(digests) == len(variants)
    same = fields(
      BEAN, members_per_chunk=2, resume=False, directory="x", data_dir="y"
    )
    assert same == fields(BEAN)

  def test_records_of_before_are_valid(self):
    """Those that results/ holds of the script's usual choices."""
    directory = _ROOT / "results" / "few_shot_mnist"
    records = results.load_all(directory)
    assert len(records) == 18
    for name, record in records.items():
      old = record["config"]
      hparam = methods.METHODS[old["method"]].hparam
      cell = simulations.Cell(
        old["shots"], old["method"], old.get(hparam, 0.0), old["epochs"]
      )
      config = make_config(
        directory,
        dataset="mnist",
        model="lenet5",
        seeds=tuple(range(20)),
      )
      assert cells.cell_config(config, cell) == old
      assert cells.cell_path(config, cell) == directory / name


class Simulator:
  """Takes the place of `simulations.run`; records what it is asked for."""

  def __init__(self):
    self.calls = []
    self.trained = []

  def run(self, planned, dataset, protocol, *, tick, done=(), **_):
    self.calls.append((tuple(planned), set(done), protocol))
    for cell in planned:
      if cell in done:
        continue
      num_seeds = len(protocol.seeds)
      tick(cell, num_seeds * simulations.cost(cell, dataset, protocol), 0.5)
      self.trained.append(cell)
      metrics = {
        "test_accuracy": np.full(num_seeds, len(self.trained) / 100),
        "failed_step": np.full(num_seeds, -1),
      }
      yield cell, simulations.Outcome(metrics, 1.0, 2)


@pytest.fixture
def simulator(monkeypatch):
  fake = Simulator()
  monkeypatch.setattr(simulations, "run", fake.run)
  return fake


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def train(*configs):
  """Trains runs one after the other, under one progress bar."""
  with progress.bar(total=1, skipped=0) as bar:
    return [cells.train(config, bar) for config in configs]


class TestTrain:
  def test_only_what_is_missing_of_several_runs(self, simulator, tmp_path):
    first = make_config(tmp_path / "a", cells_=(BEAN,))
    ((record,),) = train(first)
    assert simulator.trained == [BEAN]
    whole = make_config(tmp_path / "a", cells_=(VANILLA, BEAN))
    other = make_config(tmp_path / "b", cells_=(DROPOUT, BEAN), seeds=(8,))
    assert cells.missing(whole).cells == (VANILLA,)
    assert cells.missing(other) == other
    assert cells.finished(whole) == {BEAN: record}
    records = train(whole, first, other)
    assert simulator.trained == [BEAN, VANILLA, DROPOUT, BEAN]
    # The simulator is told of all, so that chunks keep their width.
    assert simulator.calls[1:] == [
      ((VANILLA, BEAN), {BEAN}, whole.protocol),
      ((DROPOUT, BEAN), set(), other.protocol),
    ]
    assert [
      [record["config"]["method"] for record in run] for run in records
    ] == [["vanilla", "bean1"], ["bean1"], ["dropout", "bean1"]]
    assert records[0][1] == records[1][0] == record
    assert records[2][1]["seeds"] == [8]
    assert names(tmp_path / "a") == [
      "digits-1shot-bean1-alpha10.json",
      "digits-1shot-vanilla.json",
    ]
    # Once more: all is there.
    assert train(whole, first, other) == records
    assert len(simulator.trained) == 4
    assert cells.missing(whole).cells == ()

  def test_record(self, simulator, tmp_path):
    config = make_config(tmp_path, cells_=(DROPOUT,))
    ((record,),) = train(config)
    assert record == results.read(cells.cell_path(config, DROPOUT))
    assert record["experiment"] == "test"
    assert record["config"] == cells.cell_config(config, DROPOUT)
    assert record["source"] == "scikit-learn load_digits"
    assert record["members_per_chunk"] == 2
    assert record["seconds"] == 1.0
    assert record["seeds"] == [3, 5]
    assert record["versions"]["jax"] == jax.__version__
    np.testing.assert_array_equal(
      results.metric(record, "test_accuracy"), (0.01, 0.01)
    )

  def test_unusual_choices_are_found_again(self, simulator, tmp_path):
    """JSON has no tuples."""
    config = make_config(tmp_path, options=UNUSUAL)
    expected = train(config)
    assert expected[0][1]["config"]["layers"] == ["fc2"]
    assert train(config) == expected
    assert len(simulator.trained) == 2
    with pytest.raises(results.ResultError, match="layers: expected"):
      train(make_config(tmp_path, options={**UNUSUAL, "layers": ()}))

  def test_without_resume(self, simulator, tmp_path):
    config = make_config(tmp_path, resume=False)
    train(config)
    assert cells.missing(config) == config
    train(config)
    assert simulator.trained == [VANILLA, BEAN] * 2

  def test_work_is_what_the_simulator_will_tell(
    self, simulator, tmp_path, monkeypatch
  ):
    told = []
    monkeypatch.setattr(
      progress.Bar, "tick", lambda bar, cell, work, accuracy: told.append(work)
    )
    config = make_config(
      tmp_path, cells_=(VANILLA, DROPOUT), seeds=(1, 2, 3), validate_every=2
    )
    train(config)
    assert len(told) == 2
    assert cells.work(config) == sum(told)

  @pytest.mark.parametrize("what", ("record", "shots", "folder"))
  def test_nothing_is_trained_where_a_run_is_impossible(
    self, what, simulator, tmp_path
  ):
    train(make_config(tmp_path / "a", learning_rate=1e-3))
    simulator.trained.clear()
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    file = tmp_path / "file"
    file.write_text("a file")
    many = VANILLA._replace(shots=75)
    config, error, message = {
      "record": (
        make_config(tmp_path / "a"),
        results.ResultError,
        "learning_rate: expected 0.0005, got 0.001",
      ),
      "shots": (
        make_config(tmp_path / "b", cells_=(VANILLA, many)),
        datasets.DatasetError,
        "75 shots",
      ),
      "folder": (make_config(file), results.ResultError, "choose another"),
    }[what]
    with pytest.raises(error, match=message):
      train(config)
    assert simulator.trained == []
    assert not (tmp_path / "b").exists()
    after = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert after == before

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
