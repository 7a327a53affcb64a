"""The learner that BUILD.md adds as an example, and a network, in scripts."""

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
  text = (in_process.ROOT / "BUILD.md").read_text()
  (code,) = [
    block
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if "METHODS[" in block
  ]
  assert len([line for line in code.splitlines() if line]) <= 20
  monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
  monkeypatch.setattr(networks, "make", lambda *_, **__: tiny.NETWORK)
  monkeypatch.delenv("FORCE_COLOR", raising=False)
  exec(compile(code, "BUILD.md", "exec"), {})


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
def test_a_network_is_an_entry(tmp_path):
  """Flags, --help, records and tables of whole datasets follow."""
  for name in ("experiments", "bean_jax"):
    shutil.copytree(in_process.ROOT / name, tmp_path / name)
  path = tmp_path / "experiments" / "architectures" / "networks.py"
  before, entry, after = path.read_text().partition('  "mlp500": ')
  new = '  "mlp20": functools.partial(_perceptron, (20,)),\n'
  path.write_text(before + new + entry + after)

  def run(*args):
    command = [sys.executable, "-m", "experiments.full_data", *args]
    options = {"capture_output": True, "text": True, "check": True}
    return subprocess.run(command, cwd=tmp_path, **options).stdout

  assert "|mlp20|" in run("--help")
  run("--model=mlp20", "--methods=vanilla", "--epochs=1", "--output_dir=out")
  record = results.read(tmp_path / "out" / "digits-mlp20-vanilla.json")
  assert record["config"]["model"] == "mlp20"
  assert "## digits, mlp20, " in (tmp_path / "out" / "table.md").read_text()
