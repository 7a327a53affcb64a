"""The documented learner, a network and a dataset, each added by one entry."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import few_shot
from experiments.architectures import networks
from experiments.learning import methods
from experiments.records import results
from tests.experiments import in_process, tiny


@pytest.fixture
def _example(monkeypatch):
  text = (in_process.ROOT / "experiments" / "README.md").read_text()
  (code,) = [
    block
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if "METHODS[" in block
  ]
  assert len([line for line in code.splitlines() if line]) <= 20
  monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
  monkeypatch.setattr(networks, "make", lambda *_, **__: tiny.NETWORK)
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  exec(compile(code, "README.md", "exec"), {})


@pytest.mark.usefixtures("_example")
def test_it_learns_and_stands_in_the_table(tmp_path):
  out = in_process.done(
    few_shot,
    *("--methods=vanilla,perturbation", "--alphas=perturbation:0,0.02"),
    *("--shots=1", "--seeds=2", "--epochs=20", "--batch_size=0"),
    f"--output_dir={tmp_path}",
  )
  assert "1-shot Weight perturbation size=0.02: test " in out
  assert "| Weight perturbation | size 0.02" in re.sub(" +", " ", out)
  still, moving = (
    results.read(tmp_path / f"digits-1shot-perturbation-size{size}.json")
    for size in ("0", "0.02")
  )
  assert moving["config"]["size"] == 0.02
  curves = [results.metric(r, "train_loss_curve") for r in (still, moving)]
  np.testing.assert_allclose(curves[0], curves[0][:, :1].repeat(20, 1), 1e-6)
  # What lowers the loss of all images is kept, and nothing else.
  # Records have six digits after the point.
  assert np.all(np.diff(curves[1]) <= 2e-6)
  assert np.all(curves[1][:, -1] < 0.99 * curves[1][:, 0])


@pytest.mark.slow
def test_a_network_and_a_dataset_are_an_entry_each(tmp_path):
  """Flags, --help, records and tables follow, with few shots and with all."""
  for name in ("experiments", "bean_jax"):
    shutil.copytree(in_process.ROOT / name, tmp_path / name)
  for file, first, new in (
    (
      "architectures/networks.py",
      '  "mlp500": ',
      '"mlp20": Entry(functools.partial(_perceptron, (20,)), gray=True),',
    ),
    (
      "datasets/prepared.py",
      '  "cifar10": ',
      '"kmnist": Layout((28, 28, 1), 90, 30, 40, 10),',
    ),
  ):
    path = tmp_path / "experiments" / file
    before, entry, after = path.read_text().partition(first)
    path.write_text(f"{before}  {new}\n{entry}{after}")
  tiny.write_prepared(
    tmp_path, "kmnist", (28, 28, 1), num_train=120, num_test=40
  )

  def run(script, *args):
    command = [sys.executable, "-m", f"experiments.{script}", *args]
    environment = {**os.environ, "BEAN_JAX_CACHE": str(tmp_path / "cache")}
    options = {"capture_output": True, "text": True, "check": True}
    return subprocess.run(
      command, cwd=tmp_path, env=environment, **options
    ).stdout

  both = "--model=mlp20", "--dataset=kmnist", "--data_dir=."
  for script, place, title, args in (
    ("full_data", "mlp20", "## kmnist, mlp20, ", ()),
    ("few_shot", "1shot", "", ("--shots=1",)),
  ):
    text = run(script, "--help")
    assert "|mlp20|" in text
    assert "|kmnist" in text
    less = "--methods=vanilla", "--epochs=1", "--seeds=2", *args
    run(script, *both, *less, f"--output_dir={script}")
    record = results.read(tmp_path / script / f"kmnist-{place}-vanilla.json")
    assert record["config"]["model"] == "mlp20"
    assert record["source"].startswith("tfds kmnist:")
    assert title in (tmp_path / script / "table.md").read_text()
