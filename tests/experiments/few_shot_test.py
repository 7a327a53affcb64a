"""Tests of experiments.few_shot: the main job from its flags to its files."""

import functools
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest

from experiments import few_shot
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.streams import Shots
from experiments.machine import progress
from experiments.population import cells, simulations
from experiments.population.cells import Cell
from experiments.records import results
from tests.experiments import in_process, tiny

_REAL_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
NAMES = ("digits-1shot-bean1-alpha1.json", "digits-1shot-vanilla.json")
FIGURES = (
  "accuracy_against_shots.png",
  "accuracy_against_strength_1shot.png",
  "learning_curves_1shot.png",
)
# mlp500 is replaced by a smaller network in the tests of this process.
SMALL = (
  *("--model=mlp500", "--methods=vanilla,bean1", "--alphas=1"),
  *("--shots=1", "--seeds=2", "--epochs=2"),
)
VANILLA = Cell(Shots(1), "vanilla", 0.0, 2)
BEAN = Cell(Shots(1), "bean1", 1.0, 2)


@pytest.fixture(autouse=True, scope="module")
def _small_network():
  with pytest.MonkeyPatch.context() as patch:
    entry = networks.Entry(lambda *_: tiny.NETWORK, gray=True)
    patch.setitem(networks.NETWORKS, "mlp500", entry)
    networks.make.cache_clear()
    yield
  networks.make.cache_clear()


parsed = functools.partial(in_process.parsed, few_shot)
run = functools.partial(in_process.run, few_shot)
done = functools.partial(in_process.done, few_shot)


def parse(*args):
  with parsed(*args):
    return few_shot.parse_config()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The folder of a small run, and what it printed."""
  directory = tmp_path_factory.mktemp("finished") / "deep" / "folder"
  return directory, done(*SMALL, f"--output_dir={directory}")


@pytest.fixture
def copy(finished, tmp_path):
  """A copy of that folder, to be run again."""
  return shutil.copytree(finished[0], tmp_path / "copy")


class TestRun:
  def test_records_and_output(self, finished):
    directory, out = finished
    records = results.load_all(directory)
    assert tuple(records) == NAMES
    bean, vanilla = records.values()
    assert vanilla["metrics"] != bean["metrics"]
    for record, cell in ((bean, BEAN), (vanilla, VANILLA)):
      config = json.loads(json.dumps(cells.cell_config(parse(*SMALL), cell)))
      assert record["config"] == config
      assert record["experiment"] == "few_shot"
      assert record["seeds"] == [0, 1]
      assert record["members_per_chunk"] == 1  # Two members, two devices.
      assert record["source"] == "scikit-learn load_digits"
      assert record["seconds"] > 0
      values = results.metric(record, "test_accuracy_last")
      assert np.all((values > 0) & (values < 1))
      assert results.metric(record, "train_loss_curve").shape == (2, 2)
    lines = out.splitlines()
    assert lines[0].startswith("1-shot Vanilla: test ")
    assert lines[1].startswith("1-shot BEAN-1 alpha=1: test ")
    table = (directory / "table.md").read_text()
    assert out.endswith(
      f"\n{table}* chosen on validation images; files in {directory}\n"
    )
    assert "| alpha 1 * " in table

  def test_second_run_trains_nothing(self, copy, monkeypatch):
    monkeypatch.setattr(simulations, "run", None)
    before = in_process.contents(copy)
    (copy / "table.md").unlink()
    (copy / FIGURES[0]).unlink()
    out = done(*SMALL, "--members_per_chunk=1", f"--output_dir={copy}")
    assert out.startswith("cells done already: 2\n")
    after = in_process.contents(copy)
    assert sorted(after) == sorted([*NAMES, *FIGURES, "table.md"])
    assert all(after[name] == before[name] for name in (*NAMES, "table.md"))
    for name in FIGURES:
      assert after[name].startswith(b"\x89PNG")

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
    assert os.listdir(tmp_path) == [NAMES[1]]
    out = done(*SMALL, f"--output_dir={tmp_path}")
    assert out.startswith("cells done already: 1\n")
    assert in_process.numbers(tmp_path) == in_process.numbers(finished[0])
    assert set(os.listdir(tmp_path)) == set(os.listdir(finished[0]))


class TestParseConfig:
  def test_defaults_are_the_authors_protocol(self):
    config = parse()
    assert (config.dataset, config.resume) == ("digits", True)
    assert (config.data_dir, config.checkpoint_dir) == (None, None)
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

  def test_options_reach_the_protocol(self):
    config = parse(
      *("--gamma=2", "--layers=fc3,fc1", "--last_pseudo=2000"),
      *("--readout_epochs=5", "--batch_size=0", "--learning_rate=0.1"),
      *("--members_per_chunk=7", "--initializer=lecun_normal"),
      *("--validate_every=10", "--checkpoint_dir=networks"),
      "--checkpoint_seconds=7",
    )
    options = {"layers": ("fc1", "fc3"), "last_pseudo": 2000}
    assert config.protocol == cells.Protocol(
      networks.Spec("lenet5", "lecun_normal"),
      tuple(range(20)),
      methods.Options(2.0, readout_epochs=5, **options),
      batch_size=0,
      validate_every=10,
      members_per_chunk=7,
    )
    assert {cell.learning_rate for cell in config.cells} == {0.1}
    assert config.checkpoint_dir == pathlib.Path("networks")
    assert config.checkpoint_seconds == 7


@pytest.mark.slow
@pytest.mark.skipif(
  not _REAL_DATA_DIR, reason="needs TFDS_DATA_DIR with prepared datasets"
)
def test_real_mnist(tmp_path):
  cache = tmp_path / "cache"
  done = in_process.as_user(
    few_shot,
    *("--dataset=mnist", f"--data_dir={_REAL_DATA_DIR}", "--methods=vanilla"),
    *("--shots=1", "--seeds=2", "--epochs=1", f"--output_dir={tmp_path}"),
    environment={"BEAN_JAX_CACHE": str(cache)},
  )
  assert done.returncode == 0
  # Nothing of other packages.
  assert done.stderr.startswith(f"decoding mnist into {cache}")
  assert done.stderr.count("\n") == 1
  record = results.read(tmp_path / "mnist-1shot-vanilla.json")
  assert record["source"].startswith("tfds mnist:")
  accuracy = results.metric(record, "test_accuracy")
  # Parts of 10,000 images; one epoch of ten steps says no more.
  np.testing.assert_allclose(accuracy * 10_000 % 1, 0, atol=1e-6)
  assert np.all((accuracy > 0.02) & (accuracy < 0.6))
