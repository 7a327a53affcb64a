"""Tests of experiments.full_data: the main job from its flags to its files."""

import functools
import pathlib

import numpy as np
import pytest

from experiments import datasets, full_data
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.streams import Augmentation, Whole
from experiments.population import cells
from experiments.population.cells import Cell
from experiments.records import results
from tests.experiments import in_process, tiny

SMALL = (
  *("--methods=vanilla,bean1", "--alphas=1", "--seeds=2"),
  *("--epochs=2", "--batch_size=20"),
)
NAMES = (
  "digits-lenet5-bean1-alpha1.json",
  "digits-lenet5-vanilla.json",
  "accuracy_against_strength.png",
  "learning_curves.png",
  "table.md",
)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *args, **kwargs: tiny.NORMED)
  load, digits = datasets.load, tiny.load_few_digits()
  monkeypatch.setattr(
    datasets,
    "load",
    lambda name, **kwargs: digits if name == "digits" else load(name, **kwargs),
  )


parsed = functools.partial(in_process.parsed, full_data)
done = functools.partial(in_process.done, full_data)
refused = functools.partial(in_process.refused, full_data)


def parse(*args):
  with parsed(*args):
    return full_data.parse_config()


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def test_run(tmp_path):
  folder = tmp_path / "results"
  out = done(*SMALL, f"--output_dir={folder}")
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
  out = done(*SMALL, f"--output_dir={folder}")
  assert out.startswith("cells done already: 2\n")
  assert "\n".join(table) in out


class TestParseConfig:
  def test_defaults_are_the_authors_protocol(self):
    config = parse()
    assert (config.experiment, config.dataset) == ("full_data", "digits")
    assert config.protocol == cells.Protocol(
      networks.Spec("lenet5"), seeds=(0, 1, 2, 3, 4), batch_size=100
    )
    assert config.cells == tuple(
      Cell(Whole(Augmentation(), 1, 5, 1e-3), name, strength, 50, 5e-4)
      for name in ("vanilla", "bean1", "bean2")
      for strength in methods.METHODS[name].grid
    )
    assert config.checkpoint_dir == pathlib.Path(
      "outputs/full_data/checkpoints"
    )
    assert not config.needs_networks

  def test_images_of_cifar10_alone_are_mirrored(self):
    args = ("--model=resnet18", "--bfloat16", "--crop")
    for dataset, flip in (("cifar10", True), ("mnist", False)):
      config = parse(*args, f"--dataset={dataset}")
      assert config.cells[0].stream.augmentation == Augmentation(flip, True)
      assert config.protocol.network == networks.Spec("resnet18", bfloat16=True)

  def test_values_reach_the_protocol(self):
    config = parse(
      *("--model=mlp500", "--gamma=2", "--distance=absolute"),
      *("--alpha_units=paper", "--seeds=5-6", "--epochs=7", "--patience=2"),
      *("--tolerance=0.5", "--batch_size=0", "--members_per_chunk=3"),
      *("--checkpoint_seconds=0", "--checkpoint_dir=elsewhere"),
      *("--data_dir=data", "--noresume", "--methods=bean2,vanilla"),
      *("--learning_rate=bean2:0.1 0.2", "--alphas=0,2.5"),
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
    assert (config.data_dir, config.resume) == ("data", False)
    stream = Whole(patience=2, tolerance=0.5)
    assert config.cells == (
      Cell(stream, "bean2", 0.0, 7, 0.1),
      Cell(stream, "bean2", 2.5, 7, 0.1),
      Cell(stream, "vanilla", 0.0, 7, 0.2),
    )


@pytest.mark.slow
def test_mlp_learns_digits(tmp_path):
  """The script as a user runs it, with a network of the paper."""
  args = "--model=mlp500 --methods=bean1 --alphas=1 --seeds=2 --epochs=30"
  done = in_process.as_user(
    full_data, *args.split(), f"--output_dir={tmp_path}"
  )
  assert (done.returncode, done.stderr) == (0, "")
  (record,) = results.load_all(tmp_path).values()
  assert np.all(results.metric(record, "test_accuracy") > 0.93)
  curve = results.metric(record, "objective_curve")
  assert np.all(curve[:, -1] < 0.2 * curve[:, 0])
