"""Tests of experiments.efficiency: from checkpoints to tables and figures."""

import functools

import jax
import numpy as np
import pytest

from experiments import datasets, efficiency, full_data
from experiments.architectures import models, networks
from experiments.compaction import heads, measures
from experiments.machine import interruption
from experiments.records import checkpoints, results
from tests.experiments import in_process, tiny

NETWORK = networks.from_linen(
  models.MLP(num_hidden=(12, 8)), (28, 28, 1), ("fc2", "fc3")
)
SMALL = (
  *("--weight_fractions=0.9,0.5", "--unit_fractions=0.5"),
  *("--timing_batches=2", "--timing_repeats=1"),
)
QUICK = (*SMALL, "--retrain_epochs=0", "--timing_repeats=0")
STEMS = [
  f"digits-mlp300_100-{name}-seed{seed}"
  for name in ("vanilla", "bean1-alpha1")
  for seed in (0, 1)
]

run = functools.partial(in_process.run, efficiency)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *args, **kwargs: NETWORK)
  digits = tiny.load_few_digits()
  monkeypatch.setattr(datasets, "load", lambda name, **kwargs: digits)


@pytest.fixture
def folder(tmp_path):
  """Checkpoints of two methods and two seeds."""
  folder = tmp_path / "checkpoints"
  folder.mkdir()
  for seed in (0, 1):
    save(folder, "vanilla", seed)
    save(folder, "bean1", seed, alpha=1.0)
  return folder


@pytest.fixture
def folders(folder, tmp_path):
  return f"--checkpoint_dir={folder}", f"--output_dir={tmp_path}/out"


def save(folder, method, seed, *, failed_step=-1, change=0.0, **fields):
  """Writes a checkpoint of a network that was not trained."""
  variables = jax.jit(NETWORK.init)(jax.random.key(seed))
  variables.params["fc1"]["bias"] += change
  name = results.cell_name("digits", "mlp300_100", method, **fields)
  config = {"dataset": "digits", "model": "mlp300_100", "method": method}
  config |= {**fields, "batch_size": 20, "learning_rate": 0.01, "seed": seed}
  metrics = {
    "failed_step": np.int32(failed_step),
    "validation_accuracy": np.float64(0.1),
  }
  checkpoints.save(
    folder / f"{name.removesuffix('.json')}-seed{seed}.npz",
    checkpoints.Checkpoint(
      config, {}, *[jax.device_get(variables)] * 2, metrics, {}
    ),
  )


def test_run_and_resume(folders, tmp_path, monkeypatch):
  status, out, err = run(*SMALL, *folders)
  assert (status, err) == (0, "")
  figures = [
    f"digits-mlp300_100-{kind}-strongest.{ending}"
    for kind in ("lost", "needed")
    for ending in ("png", "pdf")
  ]
  names = {path.name for path in (tmp_path / "out").iterdir()}
  assert names == {*(f"{stem}.json" for stem in STEMS), *figures, "table.md"}
  assert out.splitlines()[0].startswith(f"{STEMS[0]}: ")
  text = (tmp_path / "out" / "table.md").read_text()
  assert "## digits, mlp300_100\n" in text
  assert "| BEAN-1 " in text
  assert "nan" not in text

  monkeypatch.setattr(heads, "split_network", None)
  status, again, _ = run(*SMALL, *folders)
  assert status == 0
  assert (tmp_path / "out" / "table.md").read_text() == text
  assert again == "".join(out.splitlines(keepends=True)[len(STEMS) :])


def test_record(folder, folders, tmp_path):
  run(*SMALL, "--methods=vanilla", "--retrain_epochs=30", *folders)
  record = results.read(tmp_path / "out" / f"{STEMS[1]}.json")
  config = record["config"]
  assert (record["experiment"], record["seeds"]) == ("efficiency", [1])
  assert config["checkpoint"]["method"] == "vanilla"
  assert config["weight_fractions"] == [0.5, 0.9]
  assert (config["retrain_epochs"], config["timing_batches"]) == (30, [2])

  def metric(name):
    return results.metric(record, name)[0].tolist()

  # 784 x 12, 12 x 8 and 8 x 10 weights; the whole, then the fractions.
  assert metric("weights/fraction") == [0, 0.5, 0.9]
  assert metric("weights/parameters") == [9614, 4822, 988]
  assert metric("weights/flops") == [2 * 9584 + 30, 2 * 4792 + 30, 1946]
  sparse = 4 * 30 + 8 * 4792 + 4 * (30 + 3)
  assert metric("weights/bytes")[:2] == [4 * 9614, sparse]
  assert metric("units/bytes")[1] == 4 * metric("units/parameters")[1]
  assert metric("merge/parameters")[1] <= 784 * 6 + 6 * 4 + 4 * 10 + 20
  assert metric("parameters_outside") == 0
  assert len(metric("units/time_ratio_2")) == 2
  # As the network classifies, counted here.
  variables = checkpoints.load(folder / f"{STEMS[1]}.npz").best
  kernels = [leaves["kernel"].ravel() for leaves in variables.params.values()]
  small = np.abs(np.concatenate(kernels))
  np.testing.assert_allclose(
    metric("small_fraction/all"), np.mean(small <= 0.01 * small.max())
  )
  for split in ("validation", "test"):
    images, labels = getattr(tiny.load_few_digits(), split)
    logits, _ = NETWORK.evaluate(variables, images)
    accuracy = np.mean(np.argmax(logits, axis=1) == labels)
    for scheme in ("weights", "units", "merge"):
      name = f"{scheme}/{split}_accuracy"
      assert metric(name)[0] == accuracy
      # The network had not been trained at all.
      assert metric(f"{name}_retrained")[0] > accuracy + 0.2


def test_stops_in_good_order(folders, tmp_path, monkeypatch):
  measure = measures.measure

  def stopped(*args):
    interruption.request()
    return measure(*args)

  monkeypatch.setattr(measures, "measure", stopped)
  status, out, err = run(*QUICK, "--schemes=units", *folders)
  assert status == 0
  assert "stopped as asked" in err
  assert "##" not in out
  names = [path.name for path in (tmp_path / "out").iterdir()]
  assert names == [f"{STEMS[0]}.json"]


@pytest.mark.slow
def test_what_is_left_out(folder, folders, tmp_path):
  save(folder, "l1", 0, l1=0.1, failed_step=7)
  status, out, _ = run(*QUICK, "--schemes=merge", *folders)
  assert status == 0
  assert "l1-l1_0.1-seed0.npz: met a non-finite loss, left out" in out
  assert "| l1" not in out
  names = results.read(tmp_path / "out" / f"{STEMS[0]}.json")["metrics"]
  assert "merge/parameters" in names
  for part in ("weights/", "units/", "retrained", "time"):
    assert not any(part in name for name in names)


class TestRefused:
  def check(self, folders, flags, *parts):
    line = in_process.refused(efficiency, *QUICK, *folders, *flags)
    for part in parts:
      assert part in line

  def test_checkpoints_that_are_of_no_use(self, folder, folders, tmp_path):
    missing = ["--methods=vanilla,l1"]
    self.check(folders, missing, "such as vanilla, got l1")
    path = folder / f"{STEMS[0]}.npz"
    path.write_bytes(b"altered")
    self.check(folders, [], str(path))
    assert path.read_bytes() == b"altered"
    assert not (tmp_path / "out").exists()

  @pytest.mark.slow
  def test_record_of_others(self, folder, folders):
    assert run(*QUICK, *folders)[0] == 0
    parts = "unit_fractions: expected [0.3], got [0.5]"
    self.check(folders, ["--unit_fractions=0.3"], parts)
    # Networks of the same configuration.
    save(folder, "vanilla", 0, change=1.0)
    self.check(folders, [], "checkpoint_sha256")

  def test_value(self, folders):
    for flag, message in (
      ("--methods=l1", "expected vanilla among them"),
      ("--methods=vanilla,bean3", "got 'vanilla,bean3'"),
      ("--schemes=weights,neurons", "got 'weights,neurons'"),
      ("--weight_fractions=0.5,1", "below 1, got 1.0"),
      ("--unit_fractions=-0.1", "got -0.1"),
      ("--retrain_epochs=-1", "expected a number from 0"),
      ("--timing_repeats=-1", "expected a number from 0"),
      ("--timing_batches=0", "expected a number from 1"),
      ("--points=100", "got 100"),
    ):
      self.check(folders, [flag], f"error: {flag.partition('=')[0]}", message)


@pytest.mark.slow
def test_networks_of_full_data(tmp_path):
  status, _, err = in_process.run(
    full_data,
    *("--model=mlp300_100", "--methods=vanilla,l1", "--alphas=3e-3"),
    *("--seeds=2", "--epochs=20", f"--output_dir={tmp_path}/trained"),
  )
  assert (status, err) == (0, "")
  networks = tmp_path / "trained" / "checkpoints"
  status, _, err = run(
    *SMALL, f"--checkpoint_dir={networks}", f"--output_dir={tmp_path}/out"
  )
  assert (status, err) == (0, "")
  gini, vanilla = (
    results.read(path)["metrics"]["gini_index/all"]
    for path in sorted((tmp_path / "out").glob("*seed0.json"))
  )
  # What l1 is for.
  assert gini > vanilla
