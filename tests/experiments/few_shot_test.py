"""Tests of experiments.few_shot: the main job from its flags to its files."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import flags
import jax
import numpy as np
from PIL import Image
import pytest

from experiments import datasets, few_shot
from experiments.architectures import networks
from experiments.command import parsing
from experiments.datasets import copies
from experiments.learning import learner, methods, options
from experiments.learning.streams import Shots
from experiments.machine import progress
from experiments.population import cells, simulations
from experiments.population.cells import Cell
from experiments.records import checkpoints, results
from tests.experiments import in_process, tiny

_ROOT = pathlib.Path(__file__).parents[2]
_REAL_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
NAMES = ("digits-1shot-bean1-alpha1.json", "digits-1shot-vanilla.json")
FIGURES = (
  "accuracy_against_shots.png",
  "accuracy_against_strength_1shot.png",
  "learning_curves_1shot.png",
)
# mlp500 is replaced by a smaller network in the tests of this process.
SMALL = (
  "--model=mlp500",
  "--methods=vanilla,bean1",
  "--alphas=1",
  "--shots=1",
  "--seeds=2",
  "--epochs=2",
)


@pytest.fixture(autouse=True, scope="module")
def _small_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(networks._MAKERS, "mlp500", lambda *_: tiny.NETWORK)
    networks.make.cache_clear()
    yield
  networks.make.cache_clear()


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  monkeypatch.delenv("TTY_COMPATIBLE", raising=False)


parsed = functools.partial(in_process.parsed, few_shot)
run = functools.partial(in_process.run, few_shot)


def parse(*args):
  with parsed(*args):
    return few_shot.parse_config()


def read(directory):
  """The bytes of all files of a folder."""
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def numbers(directory):
  """All that a run's records say, but for what differs from run to run."""
  return {
    name: (record["config"], record["seeds"], record["metrics"])
    for name, record in results.load_all(directory).items()
  }


refused = functools.partial(in_process.refused, few_shot)


@pytest.fixture(scope="module")
def outcomes():
  """What the small run simulated, by cell."""
  return {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, outcomes):
  """The folder of a small run, and what it printed."""
  simulate = simulations.run

  def recording(*args, **kwargs):
    for cell, outcome in simulate(*args, **kwargs):
      outcomes[cell] = outcome
      yield cell, outcome

  directory = tmp_path_factory.mktemp("finished") / "deep" / "folder"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(simulations, "run", recording)
    status, out, err = run(*SMALL, f"--output_dir={directory}")
  assert (status, err) == (0, "")
  return directory, out


@pytest.fixture
def copy(finished, tmp_path):
  """A copy of that folder, to be run again."""
  directory = tmp_path / "copy"
  directory.mkdir()
  for name, data in read(finished[0]).items():
    (directory / name).write_bytes(data)
  return directory


@pytest.fixture
def trained(monkeypatch):
  """The cells that the script trains from now on."""
  cells = []
  simulate = simulations.run

  def recording(*args, **kwargs):
    for cell, outcome in simulate(*args, **kwargs):
      cells.append(cell)
      yield cell, outcome

  monkeypatch.setattr(simulations, "run", recording)
  return cells


class TestRun:
  def test_files(self, finished):
    directory, _ = finished
    assert names(directory) == sorted([*NAMES, *FIGURES, "table.md"])
    for name in FIGURES:
      with Image.open(directory / name) as image:
        assert image.format == "PNG"

  def test_records(self, finished):
    records = results.load_all(finished[0])
    bean, vanilla = (records[name] for name in NAMES)
    shared = {
      "dataset": "digits",
      "model": "mlp500",
      "shots": 1,
      "epochs": 2,
      "batch_size": 1,
      "optimizer": "adam",
      "learning_rate": 5e-4,
      "seeds": [0, 1],
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
    for record in records.values():
      assert record["experiment"] == "few_shot"
      assert record["seeds"] == [0, 1]
      assert record["members_per_chunk"] == 1  # Two members, two devices.
      assert record["source"] == "scikit-learn load_digits"
      assert record["device"]["platform"] == "cpu"
      assert record["versions"]["jax"] == jax.__version__
      assert record["seconds"] > 0
      for name in ("test_accuracy", "test_accuracy_last"):
        values = results.metric(record, name)
        assert values.shape == (2,)
        assert np.all((values > 0) & (values < 1))
      curve = results.metric(record, "train_loss_curve")
      assert curve.shape == (2, 2)
    assert vanilla["metrics"] != bean["metrics"]

  def test_records_are_what_was_simulated(self, finished, outcomes):
    assert len(outcomes) == len(NAMES)
    for cell, outcome in outcomes.items():
      config = parse(*SMALL, f"--output_dir={finished[0]}")
      record = results.read(cells.cell_path(config, cell))
      assert record["config"]["method"] == cell.method
      assert set(record["metrics"]) == set(outcome.metrics)
      for name, values in outcome.metrics.items():
        np.testing.assert_array_equal(results.metric(record, name), values)

  def test_output(self, finished):
    directory, out = finished
    lines = out.splitlines()
    assert lines[0].startswith("1-shot Vanilla: test ")
    assert lines[1].startswith("1-shot BEAN-1 alpha=1: test ")
    table = (directory / "table.md").read_text()
    assert out.endswith(
      f"\n{table}* chosen on validation images; files in {directory}\n"
    )
    assert "| alpha 1 * " in table

  def test_second_run_trains_nothing(self, copy, trained):
    before = read(copy)
    stamps = [(copy / name).stat().st_mtime_ns for name in NAMES]
    (copy / "table.md").unlink()
    (copy / FIGURES[0]).unlink()
    status, out, err = run(*SMALL, f"--output_dir={copy}")
    assert (status, err) == (0, "")
    assert trained == []
    assert out.startswith("cells done already: 2\n")
    assert [(copy / name).stat().st_mtime_ns for name in NAMES] == stamps
    after = read(copy)
    assert sorted(after) == sorted(before)
    assert all(after[name] == before[name] for name in (*NAMES, "table.md"))

  def test_chunks_are_no_part_of_the_configuration(self, copy, trained):
    status, _, _ = run(*SMALL, "--members_per_chunk=1", f"--output_dir={copy}")
    assert status == 0
    assert trained == []

  def test_more_cells_in_the_same_folder(self, copy, trained):
    before = read(copy)
    status, out, _ = run(*SMALL, "--alphas=5,1", f"--output_dir={copy}")
    assert status == 0
    assert trained == [Cell(Shots(1), "bean1", 5.0, 2)]
    after = read(copy)
    assert all(after[name] == before[name] for name in NAMES)
    # In the order of the flags, not of the training.
    rows = [line for line in out.splitlines() if "| BEAN-1" in line]
    assert ["alpha 5" in row for row in rows] == [True, False]

  def test_a_list_of_seeds(self, finished, tmp_path):
    status, _, _ = run(*SMALL, "--seeds=7,1", f"--output_dir={tmp_path}")
    assert status == 0
    expected = results.load_all(finished[0])
    for name, record in results.load_all(tmp_path).items():
      assert record["seeds"] == [1, 7]
      assert record["config"]["seeds"] == [1, 7]
      for metric, values in record["metrics"].items():
        assert values[0] == expected[name]["metrics"][metric][1]

  def test_without_resume_all_is_trained_again(self, copy, trained):
    expected = numbers(copy)
    (copy / NAMES[0]).write_text("an altered file")
    status, _, _ = run(
      *SMALL, "--methods=bean1", "--noresume", f"--output_dir={copy}"
    )
    assert status == 0
    assert trained == [Cell(Shots(1), "bean1", 1.0, 2)]
    assert numbers(copy) == expected

  def test_interrupt_loses_nothing_that_is_done(
    self, finished, tmp_path, monkeypatch
  ):
    tick = progress.Bar.tick

    def interrupted(bar, cell, *args):
      tick(bar, cell, *args)
      if "BEAN" in cell:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
      patch.setattr(progress.Bar, "tick", interrupted)
      status, _, err = run(*SMALL, f"--output_dir={tmp_path}")
    assert status == 130
    assert err == (
      "\nstopped; finished cells are kept, the same command goes on from"
      " there\n"
    )
    assert names(tmp_path) == [NAMES[1]]
    status, out, _ = run(*SMALL, f"--output_dir={tmp_path}")
    assert status == 0
    assert out.startswith("cells done already: 1\n")
    assert numbers(tmp_path) == numbers(finished[0])
    assert names(tmp_path) == names(finished[0])

  def test_failed_simulations_are_reported(self, tmp_path):
    status, out, _ = run(
      *SMALL,
      "--methods=vanilla",
      "--learning_rate=1e38",
      f"--output_dir={tmp_path}",
    )
    assert status == 0
    assert "Vanilla: test none, 0 of 2 simulations" in out
    record = results.read(tmp_path / "digits-1shot-vanilla.json")
    assert record["metrics"]["test_accuracy"] == [None, None]
    step = record["metrics"]["failed_step"][1]
    assert step > 0
    assert f"seed 1 met a non-finite loss in step {step}: left out" in out
    assert "none" in (tmp_path / "table.md").read_text()

  @pytest.mark.parametrize(
    "flag,field",
    (
      ("--gamma=2", "gamma: expected 2.0, got 1.0"),
      ("--distance=absolute", 'distance: expected "absolute", got "squared"'),
      ("--alpha_units=paper", 'alpha_units: expected "paper", got "code"'),
      ("--epochs=3", "epochs: expected 3, got 2"),
      ("--batch_size=0", "batch_size: expected 0, got 1"),
      ("--learning_rate=0.1", "learning_rate: expected 0.1, got 0.0005"),
      ("--seeds=3", "seeds: expected [0, 1, 2], got [0, 1]"),
      ("--model=lenet5", 'model: expected "lenet5", got "mlp500"'),
    ),
  )
  def test_results_of_another_configuration_are_refused(
    self, flag, field, copy, trained
  ):
    before = read(copy)
    message = refused(*SMALL, flag, f"--output_dir={copy}")
    assert field in message
    assert ".json" in message
    assert trained == []
    assert read(copy) == before

  def test_altered_result_is_set_aside(self, copy, trained):
    expected = numbers(copy)
    path = copy / NAMES[1]
    altered = path.read_bytes().replace(b'"epochs": 2', b'"epochs": 3')
    path.write_bytes(altered)
    status, _, err = run(*SMALL, f"--output_dir={copy}")
    assert status == 0
    assert err == (
      f"warning: {path}: its checksum does not fit: it was altered; renamed to"
      f" {NAMES[1]}.damaged, not used\n"
    )
    assert (copy / f"{NAMES[1]}.damaged").read_bytes() == altered
    assert trained == [Cell(Shots(1), "vanilla", 0.0, 2)]
    assert numbers(copy) == expected


# Choices that are not the usual ones, of methods that depend on them. With this
# learning rate parameters stay what they were in the beginning.
UNUSUAL = (
  *SMALL,
  "--methods=dropout,weight_decay",
  "--alphas=0.5",
  "--dropout_at_eval",
  "--decoupled_decay",
  "--initializer=lecun_normal",
  "--epochs=6",
  "--validate_every=2",
  "--learning_rate=1e-30",
)
UNUSUAL_NAMES = (
  "digits-1shot-dropout-rate0.5.json",
  "digits-1shot-weight_decay-decay0.5.json",
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """The folders of a run's records and of its networks."""
  records = tmp_path_factory.mktemp("records")
  networks = tmp_path_factory.mktemp("outer") / "networks"
  status, _, err = run(
    *SMALL, f"--output_dir={records}", f"--checkpoint_dir={networks}"
  )
  assert (status, err) == (0, "")
  return records, networks


class TestCheckpoints:
  def test_networks_are_those_that_were_tested(self, kept):
    records, networks = kept
    test = datasets.load("digits").test
    files = {path.name for path in networks.iterdir()}
    for name, record in results.load_all(records).items():
      for row, seed in enumerate(record["seeds"]):
        file = f"{name.removesuffix('.json')}-seed{seed}.npz"
        files.remove(file)
        found = checkpoints.load(networks / file, config={"seed": seed})
        assert found.config.keys() - {"seed"} == record["config"].keys() - {
          "seeds"
        }
        for variables, metric in (
          (found.best, "test_accuracy"),
          (found.last, "test_accuracy_last"),
        ):
          logits, _ = tiny.NETWORK.evaluate(variables, test.images)
          classes = np.asarray(logits).argmax(axis=1)
          expected = record["metrics"][metric][row]
          assert np.mean(classes == test.labels) == expected
          assert found.metrics[metric] == expected
    assert not files

  def test_numbers_are_those_without(self, kept, finished):
    assert numbers(kept[0]) == numbers(finished[0])

  def test_a_missing_network_is_trained_again(self, kept, tmp_path):
    records, networks = kept
    before = read(networks)
    (networks / "digits-1shot-vanilla-seed1.npz").unlink()
    status, out, err = run(
      *SMALL, f"--output_dir={records}", f"--checkpoint_dir={networks}"
    )
    assert (status, err) == (0, "")
    assert "cells done already: 1\n" in out
    assert read(networks).keys() == before.keys()
    load = checkpoints.load
    (again,) = (
      load(networks / name).last.params
      for name in before
      if name == "digits-1shot-vanilla-seed1.npz"
    )
    (tmp_path / "old.npz").write_bytes(before["digits-1shot-vanilla-seed1.npz"])
    jax.tree.map(
      np.testing.assert_array_equal,
      again,
      load(tmp_path / "old.npz").last.params,
    )


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
  """The folder of a small run of unusual choices."""
  directory = tmp_path_factory.mktemp("unusual")
  status, out, err = run(*UNUSUAL, f"--output_dir={directory}")
  assert (status, err) == (0, "")
  for words in ("Dropout rate=0.5", "Weight decay decay=0.5"):
    assert f"1-shot {words}: test " in out
  return directory


class TestUnusualChoices:
  def test_records(self, unusual):
    shared = {
      "dataset": "digits",
      "model": "mlp500",
      "shots": 1,
      "epochs": 6,
      "validate_every": 2,
      "batch_size": 1,
      "optimizer": "adam",
      "learning_rate": 1e-30,
      "initializer": "lecun_normal",
      "seeds": [0, 1],
    }
    records = results.load_all(unusual)
    assert tuple(records) == UNUSUAL_NAMES
    dropout, decay = (record["config"] for record in records.values())
    assert dropout == {
      **shared,
      "method": "dropout",
      "rate": 0.5,
      "dropout_at_eval": True,
    }
    assert decay == {
      **shared,
      "method": "weight_decay",
      "decay": 0.5,
      "decoupled_decay": True,
    }

  def test_initial_parameters_are_evaluated(self, unusual):
    dropout, decay = results.load_all(unusual).values()
    init = networks.make(networks.Spec("mlp500", "lecun_normal")).init
    test = datasets.load("digits").test
    expected = []
    for seed in (0, 1):
      key = jax.random.fold_in(jax.random.key(seed), learner.INIT)
      logits, _ = tiny.NETWORK.evaluate(init(key), test.images)
      classes = np.asarray(logits).argmax(axis=1)
      expected.append(np.mean(classes == test.labels))
    for name in ("test_accuracy", "test_accuracy_last"):
      np.testing.assert_array_equal(results.metric(decay, name), expected)
    curves = results.metric(decay, "validation_accuracy_curve")
    assert curves.shape == (2, 3)
    assert np.all(curves == curves[:, :1])
    np.testing.assert_array_equal(results.metric(decay, "best_epoch"), 2)
    # Another draw of dropout for every validation and member, ...
    curves = results.metric(dropout, "validation_accuracy_curve")
    assert len(np.unique(curves)) == curves.size
    accuracies = results.metric(dropout, "test_accuracy")
    assert np.all(accuracies != np.array(expected))
    # ... and one for the test.
    last = results.metric(dropout, "test_accuracy_last")
    np.testing.assert_array_equal(last, accuracies)

  def test_same_numbers_twice(self, unusual, trained, tmp_path):
    status, _, err = run(*UNUSUAL, f"--output_dir={tmp_path}")
    assert (status, err) == (0, "")
    assert len(trained) == 2
    assert numbers(tmp_path) == numbers(unusual)

  def test_second_run_trains_nothing(self, unusual, trained):
    status, _, err = run(*UNUSUAL, f"--output_dir={unusual}")
    assert (status, err) == (0, "")
    assert trained == []

  @pytest.mark.parametrize(
    "flag,name,field",
    (
      ("--nodropout_at_eval", UNUSUAL_NAMES[0], "dropout_at_eval: expected"),
      ("--nodecoupled_decay", UNUSUAL_NAMES[1], "decoupled_decay: expected"),
      ("--initializer=pytorch_uniform", ".json", "initializer: expected"),
      ("--validate_every=1", ".json", "validate_every: expected"),
    ),
  )
  def test_results_of_another_choice_are_refused(
    self, flag, name, field, unusual, trained
  ):
    before = read(unusual)
    message = refused(*UNUSUAL, flag, f"--output_dir={unusual}")
    assert name in message
    assert field in message
    assert trained == []
    assert read(unusual) == before

  def test_choices_of_other_methods_do_not_matter(self, unusual, trained):
    status, _, err = run(
      *UNUSUAL,
      "--methods=dropout",
      "--nodecoupled_decay",
      "--layers=fc2",
      "--gamma=3",
      f"--output_dir={unusual}",
    )
    assert (status, err) == (0, "")
    assert trained == []


class TestRefused:
  @pytest.mark.parametrize(
    "flag,message",
    (
      ("--shots=0", "expected a number from 1 to 1e6, got 0"),
      ("--shots=1,-5", "expected a number from 1 to 1e6, got -5"),
      ("--shots=a", "expected different numbers of type int"),
      ("--shots=1.5", "got '1.5'"),
      ("--shots=1,1", "expected different numbers"),
      ("--shots=", "expected different numbers"),
      ("--methods=", "expected different ones of vanilla, dropout"),
      ("--methods=bean3", "got 'bean3'"),
      ("--methods=bean1,bean1", "got 'bean1,bean1'"),
      ("--alphas=nan", "expected a number from 0 to 1e38, got nan"),
      ("--alphas=-1", "expected a number from 0 to 1e38, got -1.0"),
      ("--alphas=1,inf", "expected a number from 0 to 1e38, got inf"),
      ("--alphas=x", "expected different numbers of type float"),
      ("--alphas=1,1.0", "got '1,1.0'"),
      ("--alphas=", "expected numbers, got ''"),
      ("--alphas=magic:1", "as bean1:1,10, got 'magic:1'"),
      ("--alphas=vanilla:1", "vanilla has no strength"),
      ("--learning_rate=1,2", "expected one number for vanilla, got '1,2'"),
      ("--learning_rate=bean1:1", "expected one number for vanilla"),
      ("--gamma=nan", "expected a number from 0 to 1e38, got nan"),
      ("--alphas=1e39", "expected a number from 0 to 1e38, got 1e+39"),
      ("--seeds=20260101", "expected 1 to 10000 of them"),
      ("--gamma=-1", "expected a number from 0 to 1e38, got -1"),
      ("--epochs=0", "expected a number from 1 to 1e6, got 0"),
      ("--epochs=5,5", "expected one number or 1, one for each of --shots"),
      ("--epochs=many", "expected numbers of type int"),
      (
        "--seeds=x",
        "expected a number like 20, a range like 5-9 or a list like 0,5,9, got",
      ),
      ("--seeds=-3", "got '-3'"),
      ("--seeds=0", "expected 1 to 10000 of them, got '0'"),
      ("--seeds=9-5", "expected 1 to 10000 of them, got '9-5'"),
      ("--batch_size=-1", "expected a number from 0 to 1e6, got -1"),
      ("--learning_rate=0", "expected a number from 1e-30 to 1e38"),
      ("--learning_rate=-1", "got -1.0"),
      ("--learning_rate=inf", "got inf"),
      ("--members_per_chunk=-1", "expected a number from 0 to 1e6"),
      ("--validate_every=-1", "expected a number from 0 to 1e6"),
      ("--validate_every=7", "expected a divisor of all --epochs, got 7"),
      ("--layers=fc2,fc9", "expected different ones of fc2"),
      ("--dataset=cifar10", "choose digits, mnist or fashion_mnist"),
    ),
  )
  def test_value(self, flag, message, tmp_path):
    directory = tmp_path / "new"
    line = refused(*SMALL, flag, f"--output_dir={directory}")
    assert line.startswith(f"error: {flag.partition('=')[0]}")
    assert message in line
    assert not directory.exists()

  def test_rate_of_dropout_at_its_limit(self, tmp_path):
    directory = tmp_path / "new"
    args = (*SMALL, "--methods=vanilla,dropout", f"--output_dir={directory}")
    assert refused(*args, "--alphas=0.5,1") == (
      "error: --alphas: expected a number from 0 to below 1, got 1.0\n"
    )
    assert not directory.exists()

  # absl itself refuses these, with exit status 1.
  @pytest.mark.parametrize(
    "flag",
    (
      "--dataset=emnist",
      "--model=resnet",
      "--distance=cosine",
      "--alpha_units=mine",
      "--initializer=zeros",
      "--decoupled_decay=maybe",
      "--batch_size=1.5",
      "--gamma=much",
      "--no_such_flag",
    ),
  )
  def test_value_by_absl(self, flag):
    with (
      pytest.raises(flags.Error, match=flag.strip("-").partition("=")[0]),
      parsed(*SMALL, flag),
    ):
      pass

  def test_positional_argument(self, tmp_path):
    directory = tmp_path / "new"
    line = refused(*SMALL, f"--output_dir={directory}", "mnist")
    assert "unexpected argument 'mnist'" in line
    assert not directory.exists()

  def test_more_shots_than_a_class_has(self, tmp_path):
    directory = tmp_path / "new"
    line = refused(*SMALL, "--shots=1,75", f"--output_dir={directory}")
    assert "75 shots" in line
    assert not directory.exists()

  def test_data_that_is_not_there(self, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_has_tensorflow", lambda: False)
    monkeypatch.setenv("BEAN_JAX_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "new"
    line = refused(
      *SMALL,
      "--dataset=mnist",
      f"--data_dir={tmp_path / 'nothing'}",
      f"--output_dir={directory}",
    )
    assert str(tmp_path / "nothing") in line
    assert "--data_dir" in line
    assert not directory.exists()

  @pytest.mark.parametrize("resume", ("--resume", "--noresume"))
  @pytest.mark.parametrize("below", ("", "folder"))
  def test_folder_that_cannot_be_written(self, below, resume, tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    line = refused(*SMALL, resume, f"--output_dir={file / below}")
    assert str(file) in line
    assert "choose another folder" in line
    assert file.read_text() == "a file"

  def test_folder_in_the_place_of_a_result(self, tmp_path):
    (tmp_path / NAMES[0]).mkdir()
    assert NAMES[0] in refused(*SMALL, f"--output_dir={tmp_path}")
    assert names(tmp_path) == [NAMES[0]]


class TestParseConfig:
  def test_defaults_are_the_authors_protocol(self):
    config = parse()
    assert config.dataset == "digits"
    assert config.resume
    assert config.data_dir is None
    assert config.checkpoint_dir is None
    assert config.protocol == cells.Protocol(
      networks.Spec("lenet5", "pytorch_uniform"),
      seeds=tuple(range(20)),
      options=methods.Options(1.0, "squared", "code"),
      batch_size=1,
      validate_every=1,
      members_per_chunk=0,
    )
    assert config.cells == tuple(
      Cell(Shots(shots), name, strength, 50, 5e-4)
      for shots in (1, 5)
      for name in ("vanilla", "bean1", "bean2")
      for strength in methods.METHODS[name].grid
    )

  def test_cheapest_shots_first_each_with_its_epochs(self):
    config = parse("--shots=10,1", "--epochs=50,200", "--methods=vanilla")
    assert config.cells == (
      Cell(Shots(1), "vanilla", 0.0, 200),
      Cell(Shots(10), "vanilla", 0.0, 50),
    )

  @pytest.mark.parametrize(
    "alphas,bean,dropout",
    (
      ("0,0.5", [0.0, 0.5], [0.0, 0.5]),
      ("bean2:1,1e3 dropout:0.25", [1.0, 1e3], [0.25]),
      ("dropout:0.25 7", [7.0], [0.25]),
      ("bean2:3", [3.0], list(methods.METHODS["dropout"].grid)),
    ),
  )
  def test_strengths_are_for_the_methods_that_have_one(
    self, alphas, bean, dropout
  ):
    config = parse(
      "--shots=1", f"--alphas={alphas}", "--methods=bean2,vanilla,dropout"
    )
    tried = {}
    for cell in config.cells:
      tried.setdefault(cell.method, []).append(cell.strength)
    assert tried == {"bean2": bean, "vanilla": [0.0], "dropout": dropout}

  def test_learning_rates_by_method(self):
    rates = "--learning_rate=bean1:1e-3 2e-3"
    config = parse(rates, "--methods=vanilla,bean1", "--shots=1")
    assert {(cell.method, cell.learning_rate) for cell in config.cells} == {
      ("vanilla", 2e-3),
      ("bean1", 1e-3),
    }

  def test_imitation_networks_have_epochs_of_their_own(self):
    for every in ("0", "10"):
      config = parse(
        *("--methods=imitation", "--shots=1", "--pseudo_epochs=5"),
        f"--validate_every={every}",
      )
      schedule = cells.schedule(config.cells[0], config.protocol)
      assert (schedule.epochs, schedule.epochs_per_lap) == (40, 5)

  def test_pseudo_examples_do_not_shrink(self):
    with pytest.raises(parsing.ConfigError, match="at least --first_pseudo=9"):
      parse("--first_pseudo=9", "--last_pseudo=8")

  def test_validations_divide_the_epochs_of_all_shots(self):
    parse("--shots=1,2", "--epochs=10,15", "--validate_every=5")
    with pytest.raises(parsing.ConfigError, match="got 10 for 15"):
      parse("--shots=1,2", "--epochs=10,15", "--validate_every=10")

  def test_seeds(self):
    assert parse("--seeds=3").protocol.seeds == (0, 1, 2)
    assert parse("--seeds=5-7").protocol.seeds == (5, 6, 7)
    assert parse("--seeds=5-5").protocol.seeds == (5,)

  def test_options_reach_the_protocol(self):
    config = parse(
      "--gamma=2",
      "--distance=absolute",
      "--alpha_units=paper",
      "--batch_size=0",
      "--learning_rate=0.1",
      "--members_per_chunk=7",
      "--layers=fc3,fc1",
      "--decoupled_decay",
      "--dropout_at_eval",
      "--first_pseudo=8",
      "--last_pseudo=20",
      "--pseudo_periods=2",
      "--pseudo_epochs=3",
      "--initializer=lecun_normal",
      "--validate_every=10",
      "--checkpoint_dir=networks",
      "--checkpoint_seconds=7",
    )
    assert config.protocol == cells.Protocol(
      networks.Spec("lenet5", "lecun_normal"),
      tuple(range(20)),
      methods.Options(
        2.0, "absolute", "paper", ("fc1", "fc3"), True, True, 8, 20, 2, 3
      ),
      batch_size=0,
      validate_every=10,
      members_per_chunk=7,
    )
    assert {cell.learning_rate for cell in config.cells} == {0.1}
    assert config.checkpoint_dir == pathlib.Path("networks")
    assert config.checkpoint_seconds == 7

  def test_configuration_of_a_cell_follows_its_method(self):
    config = parse("--gamma=2")
    for cell in config.cells:
      method = methods.METHODS[cell.method]
      fields = cells.cell_config(config, cell)
      named = set(method.options) & set(options.ALWAYS_NAMED)
      expected = named | ({method.hparam} - {None})
      assert expected <= set(fields)
      assert set(fields) & set(methods.Options._fields) == named
      if method.hparam:
        assert fields[method.hparam] == cell.strength
      results.config_digest(fields)


def start(*args, python=(), **options):
  """Starts the script as a user does."""
  return subprocess.Popen(
    [sys.executable, *python, "-m", "experiments.few_shot", *args],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


# Without docstrings, too.
@pytest.mark.parametrize("python", ((), ("-OO",)))
def test_help_names_every_flag(python):
  process = start("--helpshort", python=python)
  out, err = process.communicate(timeout=120)
  assert err == ""
  for flag in few_shot.FLAGS.flags_by_module_dict()["experiments.few_shot"]:
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    assert f"--{name}: " in out
  assert out.startswith(few_shot.__doc__.partition("\n")[0])
  assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
class TestLeNet5:
  """The script as a user runs it, with the network of the paper."""

  ARGS = ("--shots=1", "--seeds=2", "--epochs=2", "--alphas=1")

  def test_interrupted_and_resumed(self, tmp_path):
    args = (*self.ARGS, "--methods=vanilla,bean1")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(*args, f"--output_dir={broken}")
    deadline = time.monotonic() + 300
    while not (broken / NAMES[1]).exists() and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.startswith("\nstopped; finished cells are kept")
    assert "Traceback" not in err
    assert names(broken) == [NAMES[1]]
    for directory in (broken, whole):
      process = start(*args, f"--output_dir={directory}")
      out, err = process.communicate(timeout=300)
      assert (process.returncode, err) == (0, "")
      assert "| BEAN-1" in out
      assert names(directory) == sorted([*NAMES, *FIGURES, "table.md"])
    assert numbers(broken) == numbers(whole)

  @pytest.mark.skipif(
    not _REAL_DATA_DIR, reason="needs TFDS_DATA_DIR with prepared datasets"
  )
  def test_real_mnist(self, tmp_path):
    cache = tmp_path / "cache"
    process = start(
      *self.ARGS,
      "--dataset=mnist",
      "--epochs=1",
      "--methods=vanilla",
      f"--data_dir={_REAL_DATA_DIR}",
      f"--output_dir={tmp_path}",
      env=os.environ | {"BEAN_JAX_CACHE": str(cache)},
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0
    # Nothing of other packages.
    assert err.startswith(f"decoding mnist into {cache}")
    assert err.count("\n") == 1
    record = results.read(tmp_path / "mnist-1shot-vanilla.json")
    assert record["source"].startswith("tfds mnist:")
    accuracy = results.metric(record, "test_accuracy")
    # Parts of 10,000 images; one epoch of ten steps says no more.
    np.testing.assert_allclose(accuracy * 10_000 % 1, 0, atol=1e-6)
    assert np.all((accuracy > 0.02) & (accuracy < 0.6))
