"""Tests of experiments.full_data: the main job from its flags to its files."""

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
import pytest

from experiments import datasets, full_data
from experiments.architectures import networks
from experiments.datasets import copies
from experiments.learning import methods
from experiments.learning.streams import Augmentation, Whole
from experiments.population import cells, runs
from experiments.population.cells import Cell
from experiments.records import checkpoints, results
from tests.experiments import in_process, tiny

_ROOT = pathlib.Path(__file__).parents[2]
_REAL_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
SMALL = (
  "--methods=vanilla,bean1",
  "--alphas=1",
  "--seeds=2",
  "--epochs=2",
  "--batch_size=20",
)
NAMES = (
  "digits-lenet5-bean1-alpha1.json",
  "digits-lenet5-vanilla.json",
  "accuracy_against_strength.png",
  "learning_curves.png",
  "table.md",
)


FLAGS = full_data.FLAGS


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *args, **kwargs: tiny.NORMED)
  load, digits = datasets.load, tiny.load_few_digits()
  monkeypatch.setattr(
    datasets,
    "load",
    lambda name, **kwargs: digits if name == "digits" else load(name, **kwargs),
  )
  runs._load_from.cache_clear()
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  monkeypatch.delenv("TTY_COMPATIBLE", raising=False)


parsed = functools.partial(in_process.parsed, full_data)
run = functools.partial(in_process.run, full_data)


def parse(*args):
  with parsed(*args):
    return full_data.parse_config()


def names(directory):
  return sorted(path.name for path in directory.iterdir())


refused = functools.partial(in_process.refused, full_data)


def test_run(tmp_path):
  folder = tmp_path / "results"
  status, out, err = run(*SMALL, f"--output_dir={folder}")
  assert (status, err) == (0, "")
  assert names(folder) == sorted([*NAMES, "checkpoints"])
  assert len(names(folder / "checkpoints")) == 4
  first, second, *table = out.splitlines()
  assert first.startswith("Vanilla: test ")
  assert second.startswith("BEAN-1 alpha=1: test ")
  text = (folder / "table.md").read_text()
  title = "## digits, lenet5, at most 2 epochs"
  assert text == "\n".join([title, "", *table[:-1], ""])
  assert "| alpha 1 * |" in text
  assert table[-1] == (
    f"* chosen on validation images; files in {folder}, networks in"
    f" {folder / 'checkpoints'}"
  )
  status, out, _ = run(*SMALL, f"--output_dir={folder}")
  assert status == 0
  assert out.startswith("cells done already: 2\n")
  assert "\n".join(table) in out


def test_interrupt(tmp_path, monkeypatch):
  save = checkpoints.save

  def interrupted(*args):
    save(*args)
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoints, "save", interrupted)
  status, out, err = run(*SMALL, f"--output_dir={tmp_path}")
  assert status == 130
  assert out == ""
  assert err.startswith("\nstopped; finished cells are kept")
  assert len(names(tmp_path / "checkpoints")) == 1


def test_altered_files_are_set_aside(tmp_path):
  checkpoint = tmp_path / "checkpoints" / "digits-lenet5-vanilla-seed1.npz"
  checkpoint.parent.mkdir()
  record = tmp_path / NAMES[0]
  for path in (checkpoint, record):
    path.write_bytes(b"altered")
  status, _, err = run(*SMALL, f"--output_dir={tmp_path}")
  assert status == 0
  for path, line in zip((record, checkpoint), err.splitlines(), strict=True):
    assert line.startswith(f"warning: {path}: ")
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b"altered"
  assert results.read(record)
  assert checkpoints.load(checkpoint)


class TestRefused:
  @pytest.mark.parametrize(
    "flag,message",
    (
      ("--methods=bean1,bean1", "expected different ones of vanilla, "),
      ("--methods=bean3", "got 'bean3'"),
      ("--methods=", "got ''"),
      ("--alphas=1,x", "expected different numbers of type float"),
      ("--alphas=1,1", "expected different numbers"),
      ("--alphas=-1", "got -1.0"),
      ("--alphas=nan", "got nan"),
      ("--seeds=x", "expected a number like 20, a range like 5-9 or"),
      ("--seeds=0", "expected 1 to 10000 of them"),
      ("--epochs=0", "expected a number from 1"),
      ("--patience=-1", "expected a number from 0"),
      ("--tolerance=-0.1", "got -0.1"),
      ("--tolerance=1", "got 1.0"),
      ("--gamma=-1", "got -1.0"),
      ("--batch_size=-1", "expected a number from 0"),
      ("--learning_rate=0", "expected a number from 1e-30"),
      ("--learning_rate=inf", "got inf"),
      ("--members_per_chunk=-1", "expected a number from 0"),
      ("--checkpoint_seconds=-1", "got -1.0"),
      ("--dataset=cifar10", "choose --model=resnet18"),
      ("--bfloat16", "only resnet18 computes in it, got --model=lenet5"),
    ),
  )
  def test_value(self, flag, message, tmp_path):
    folder = tmp_path / "new"
    line = refused(*SMALL, flag, f"--output_dir={folder}")
    assert line.startswith(f"error: {flag.partition('=')[0]}")
    assert message in line
    assert not folder.exists()

  @pytest.mark.parametrize("method", ("nonnegative", "nonnegative_bean1"))
  def test_negative_pixels_of_a_non_negative_rule(self, method, tmp_path):
    folder = tmp_path / "new"
    line = refused(
      "--model=resnet18", f"--methods={method}", f"--output_dir={folder}"
    )
    assert line.startswith(f"error: --model=resnet18: {method} needs pixels")
    assert not folder.exists()

  @pytest.mark.parametrize("flag", ("competing_epochs", "readout_epochs"))
  def test_epochs_of_competing_units(self, flag, tmp_path):
    folder = tmp_path / "new"
    line = refused(
      "--methods=competing100", f"--{flag}=0", f"--output_dir={folder}"
    )
    assert line.startswith(f"error: --{flag}: ")
    assert not folder.exists()

  # absl itself refuses these, with exit status 1.
  @pytest.mark.parametrize(
    "flag",
    (
      "--dataset=emnist",
      "--model=resnet50",
      "--distance=cosine",
      "--alpha_units=mine",
      "--epochs=1.5",
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
    folder = tmp_path / "new"
    line = refused(*SMALL, f"--output_dir={folder}", "mnist")
    assert "unexpected argument 'mnist'" in line
    assert not folder.exists()

  def test_data_that_is_not_there(self, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_has_tensorflow", lambda: False)
    monkeypatch.setenv("BEAN_JAX_CACHE", str(tmp_path / "cache"))
    line = refused(
      *SMALL,
      "--dataset=mnist",
      f"--data_dir={tmp_path / 'nothing'}",
      f"--output_dir={tmp_path / 'new'}",
    )
    assert str(tmp_path / "nothing") in line
    assert "--data_dir" in line

  def test_folder_that_cannot_be_written(self, tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    for flag in ("--output_dir", "--checkpoint_dir"):
      line = refused(*SMALL, f"--output_dir={tmp_path}", f"{flag}={file}")
      assert "choose another folder" in line
    assert file.read_text() == "a file"


class TestParseConfig:
  def test_defaults_are_the_authors_protocol(self):
    config = parse()
    expected = cells.Config(
      experiment="full_data",
      dataset="digits",
      data_dir=None,
      output_dir=pathlib.Path("outputs/full_data"),
      resume=True,
      protocol=cells.Protocol(
        networks.Spec("lenet5"),
        seeds=(0, 1, 2, 3, 4),
        options=methods.Options(1.0, "squared", "code"),
        batch_size=100,
        validate_every=1,
        members_per_chunk=0,
      ),
      cells=tuple(
        Cell(
          Whole(Augmentation(flip=False, crop=False), 1, 5, 1e-3),
          name,
          strength,
          50,
          5e-4,
        )
        for name in ("vanilla", "bean1", "bean2")
        for strength in methods.METHODS[name].grid
      ),
      checkpoint_dir=pathlib.Path("outputs/full_data/checkpoints"),
      needs_networks=False,
      checkpoint_seconds=30.0,
    )
    assert config == expected

  def test_images_of_cifar10_alone_are_mirrored(self):
    args = ("--model=resnet18", "--bfloat16", "--crop")
    for dataset, flip in (("cifar10", True), ("mnist", False)):
      config = parse(*args, f"--dataset={dataset}")
      assert config.cells[0].stream.augmentation == Augmentation(flip, True)
      assert config.protocol.network == networks.Spec("resnet18", bfloat16=True)

  def test_values_reach_the_protocol(self):
    config = parse(
      "--model=mlp500",
      "--gamma=2",
      "--distance=absolute",
      "--alpha_units=paper",
      "--seeds=5-6",
      "--epochs=7",
      "--patience=2",
      "--tolerance=0.5",
      "--batch_size=0",
      "--learning_rate=bean2:0.1 0.2",
      "--members_per_chunk=3",
      "--checkpoint_seconds=0",
      "--checkpoint_dir=elsewhere",
      "--data_dir=data",
      "--noresume",
      "--methods=bean2,vanilla",
      "--alphas=0,2.5",
    )
    assert config.protocol == cells.Protocol(
      networks.Spec("mlp500"),
      seeds=(5, 6),
      options=methods.Options(2.0, "absolute", "paper"),
      batch_size=0,
      members_per_chunk=3,
    )
    assert config.checkpoint_seconds == 0
    assert config.checkpoint_dir == pathlib.Path("elsewhere")
    assert config.needs_networks
    assert config.data_dir == "data"
    assert not config.resume
    stream = Whole(patience=2, tolerance=0.5)
    assert config.cells == (
      Cell(stream, "bean2", 0.0, 7, 0.1),
      Cell(stream, "bean2", 2.5, 7, 0.1),
      Cell(stream, "vanilla", 0.0, 7, 0.2),
    )


def start(*args, **options):
  """Starts the script as a user does."""
  return subprocess.Popen(
    [sys.executable, "-m", "experiments.full_data", *args],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


@pytest.mark.slow
def test_help_names_every_flag():
  process = start("--helpshort")
  out, err = process.communicate(timeout=300)
  assert err == ""
  for flag in FLAGS.flags_by_module_dict()["experiments.full_data"]:
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    assert f"--{name}: " in out
  assert out.startswith(full_data.__doc__.partition("\n")[0])
  assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
class TestMLP:
  """The script as a user runs it, with a network of the paper."""

  ARGS = ("--model=mlp500", "--methods=bean1", "--alphas=1", "--seeds=2")
  NAME = "digits-mlp500-bean1-alpha1"

  def test_killed_and_resumed(self, tmp_path):
    args = (*self.ARGS, "--epochs=6", "--checkpoint_seconds=0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(*args, f"--output_dir={broken}")
    path = broken / "checkpoints" / f"{self.NAME}-seed0.npz"
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert checkpoints.load(path).memory
    assert not (broken / f"{self.NAME}.json").exists()
    for folder in (broken, whole):
      process = start(*args, f"--output_dir={folder}")
      out, err = process.communicate(timeout=300)
      assert (process.returncode, err) == (0, "")
      assert "| BEAN-1" in out
    records = [
      results.read(folder / f"{self.NAME}.json") for folder in (broken, whole)
    ]
    for name in ("config", "metrics"):
      assert records[0][name] == records[1][name]
    for seed in (0, 1):
      ours, expected = (
        checkpoints.load(folder / "checkpoints" / f"{self.NAME}-seed{seed}.npz")
        for folder in (broken, whole)
      )
      for part in ("last", "best"):
        jax.tree.map(
          np.testing.assert_array_equal,
          getattr(ours, part),
          getattr(expected, part),
        )

  def test_learns_digits(self, tmp_path):
    process = start(*self.ARGS, "--epochs=30", f"--output_dir={tmp_path}")
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    record = results.read(tmp_path / f"{self.NAME}.json")
    assert np.all(results.metric(record, "test_accuracy") > 0.93)
    curve = results.metric(record, "objective_curve")
    assert np.all(curve[:, -1] < 0.2 * curve[:, 0])

  @pytest.mark.skipif(
    not _REAL_DATA_DIR, reason="needs TFDS_DATA_DIR with prepared datasets"
  )
  def test_real_mnist(self, tmp_path):
    process = start(
      *self.ARGS,
      "--dataset=mnist",
      "--epochs=1",
      "--seeds=1",
      f"--data_dir={_REAL_DATA_DIR}",
      f"--output_dir={tmp_path}",
    )
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    record = results.read(tmp_path / "mnist-mlp500-bean1-alpha1.json")
    assert record["source"].startswith("tfds mnist:")
    assert results.metric(record, "test_accuracy")[0] > 0.92
