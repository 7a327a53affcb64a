"""Tests of experiments.efficiency: from checkpoints to tables and figures."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from experiments import datasets, efficiency, full_data
from experiments.architectures import models, networks
from experiments.compaction import records
from experiments.machine import interruption
from experiments.records import checkpoints, results
from tests.experiments import in_process, tiny

NETWORK = networks.from_linen(
  models.MLP(num_hidden=(12, 8)), (28, 28, 1), ("fc2", "fc3")
)
SMALL = (
  "--weight_fractions=0.9,0.5",
  "--unit_fractions=0.5",
  "--timing_batches=2",
  "--timing_repeats=1",
)
STEMS = [
  f"digits-mlp300_100-{name}-seed{seed}"
  for name in ("bean1-alpha1", "vanilla")
  for seed in (0, 1)
]
FIGURES = [
  f"digits-mlp300_100-{kind}-strongest.{ending}"
  for kind in ("lost", "needed")
  for ending in ("png", "svg")
]


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
  for method, fields in (("vanilla", {}), ("bean1", {"alpha": 1.0})):
    for seed in (0, 1):
      save(folder, method, seed, **fields)
  return folder


def save(folder, method, seed, *, failed_step=-1, done=True, **fields):
  """Writes a checkpoint of a network that was not trained."""
  variables = jax.device_get(jax.jit(NETWORK.init)(jax.random.key(seed)))
  name = results.cell_name("digits", "mlp300_100", method, **fields)
  path = folder / f"{name.removesuffix('.json')}-seed{seed}.npz"
  metrics = {"failed_step": np.int32(failed_step)}
  if done:
    metrics["test_accuracy"] = np.float64(0.1)
  config = {
    "dataset": "digits",
    "model": "mlp300_100",
    "method": method,
    **fields,
    "batch_size": 20,
    "learning_rate": 0.01,
    "seed": seed,
  }
  checkpoints.save(
    path,
    checkpoints.Checkpoint(config, {}, variables, variables, metrics, {}),
  )
  return path


parsed = functools.partial(in_process.parsed, efficiency)
run = functools.partial(in_process.run, efficiency)
refused = functools.partial(in_process.refused, efficiency)


def parse(*args):
  with parsed(*args):
    return efficiency.parse_config()


def test_run_and_resume(folder, tmp_path, monkeypatch):
  args = (*SMALL, f"--checkpoint_dir={folder}", f"--output_dir={tmp_path}/out")
  status, out, err = run(*args)
  assert (status, err) == (0, "")
  names = sorted(path.name for path in (tmp_path / "out").iterdir())
  expected = [*(f"{stem}.json" for stem in STEMS), *FIGURES, "table.md"]
  assert names == sorted(expected)
  assert out.splitlines()[0].startswith(f"{STEMS[0]}: ")
  text = (tmp_path / "out" / "table.md").read_text()
  assert "## digits, mlp300_100\n" in text
  assert "| BEAN-1 " in text
  assert "nan" not in text

  monkeypatch.setattr(records, "make", None)
  status, again, _ = run(*args)
  assert status == 0
  assert (tmp_path / "out" / "table.md").read_text() == text
  assert again == "".join(out.splitlines(keepends=True)[len(STEMS) :])


def test_record(folder, tmp_path):
  run(
    *SMALL,
    "--methods=vanilla",
    "--retrain_epochs=30",
    f"--checkpoint_dir={folder}",
    f"--output_dir={tmp_path}/out",
  )
  record = results.read(tmp_path / "out" / f"{STEMS[3]}.json")
  assert record["experiment"] == "efficiency"
  assert record["seeds"] == [1]
  config = record["config"]["checkpoint"]
  assert config["method"] == "vanilla"

  def metric(name):
    return results.metric(record, name)[0].tolist()

  # 784 x 12, 12 x 8 and 8 x 10 weights; the whole, then the fractions.
  assert metric("weights/fraction") == [0, 0.5, 0.9]
  assert metric("weights/parameters") == [9614, 4822, 988]
  assert metric("weights/flops") == [2 * 9584 + 30, 2 * 4792 + 30, 1946]
  assert metric("weights/dense_bytes") == [4 * 9614] * 3
  assert metric("merge/parameters")[1] <= 784 * 6 + 6 * 4 + 4 * 10 + 20
  assert metric("units/parameters")[0] == 9614
  assert metric("units_active/fc2") <= 12
  assert len(metric("units/time_ratio_2")) == 2
  assert 0 < metric("gini_index/all") < 1
  # As the network classifies, counted here.
  variables = checkpoints.load(folder / f"{STEMS[3]}.npz").best
  test = tiny.load_few_digits().test
  logits, _ = NETWORK.evaluate(variables, test.images)
  accuracy = np.mean(np.argmax(logits, axis=1) == test.labels)
  for scheme in ("weights", "units", "merge"):
    assert metric(f"{scheme}/test_accuracy")[0] == accuracy
  for split in ("validation", "test"):
    before, after = (
      metric(f"units/{split}_accuracy{end}") for end in ("", "_retrained")
    )
    # The network had not been trained at all.
    assert after[0] > before[0] + 0.2


@pytest.mark.slow
def test_without_retraining_and_timing(folder, tmp_path):
  status, _, err = run(
    *SMALL,
    "--timing_repeats=0",
    "--retrain_epochs=0",
    "--schemes=merge",
    "--methods=vanilla",
    f"--checkpoint_dir={folder}",
    f"--output_dir={tmp_path}/out",
  )
  assert (status, err) == (0, "")
  record = results.read(tmp_path / "out" / f"{STEMS[2]}.json")
  kinds = {name.split("/")[0] for name in record["metrics"]}
  assert {"weights", "units"} & kinds == set()
  names = {name for name in record["metrics"] if name.startswith("merge/")}
  assert not any("retrained" in name or "time" in name for name in names)
  assert "BEAN-1" not in (tmp_path / "out" / "table.md").read_text()


def test_stops_in_good_order(folder, tmp_path, monkeypatch):
  make = records.make

  def stopped(*args):
    interruption.request()
    return make(*args)

  monkeypatch.setattr(records, "make", stopped)
  quick = ("--retrain_epochs=0", "--timing_repeats=0", "--schemes=units")
  status, out, err = run(
    *SMALL, *quick, f"--checkpoint_dir={folder}", f"--output_dir={tmp_path}/out"
  )
  assert status == 0
  assert "stopped as asked" in err
  assert "##" not in out
  names = [path.name for path in (tmp_path / "out").iterdir()]
  assert names == [f"{STEMS[0]}.json"]


@pytest.mark.slow
def test_failed_trainings_are_left_out(folder, tmp_path):
  save(folder, "l1", 0, l1=0.1, failed_step=7)
  save(folder, "vanilla", 2, failed_step=7)
  args = ("--timing_repeats=0", f"--output_dir={tmp_path}/out")
  status, out, _ = run(*SMALL, *args, f"--checkpoint_dir={folder}")
  assert status == 0
  assert "l1-l1_0.1-seed0.npz: training failed, left out" in out
  assert "| l1" not in out
  for path in folder.glob("*-seed[01].npz"):
    path.unlink()
  status, _, err = run(*SMALL, *args, f"--checkpoint_dir={folder}")
  assert status == 2
  assert "every training failed" in err


class TestRefused:
  def check(self, folder, *parts, flags=()):
    line = refused(
      *SMALL, f"--checkpoint_dir={folder}", f"--output_dir={folder}/out", *flags
    )
    for part in parts:
      assert str(part) in line
    assert not (folder / "out").exists()

  def test_checkpoints_that_are_of_no_use(self, folder, tmp_path):
    self.check(tmp_path / "nothing", tmp_path / "nothing", "no checkpoints")
    self.check(tmp_path, "train networks with experiments.full_data")
    other = ["--model=lenet5"]
    self.check(folder, STEMS[0], '"lenet5"', '"mlp300_100"', flags=other)
    missing = "no checkpoints of l1; there are bean1, vanilla"
    self.check(folder, missing, flags=["--methods=vanilla,l1"])
    path = save(folder, "vanilla", 3, done=False)
    self.check(folder, path, "training is not over")
    path = folder / f"{STEMS[0]}.npz"
    path.write_bytes(b"altered")
    self.check(folder, path)
    assert path.read_bytes() == b"altered"

  @pytest.mark.slow
  def test_record_of_other_settings(self, folder, tmp_path):
    args = (f"--checkpoint_dir={folder}", f"--output_dir={tmp_path}/out")
    quick = ("--retrain_epochs=0", "--timing_repeats=0")
    assert run(*SMALL, *quick, *args)[0] == 0
    line = refused(*SMALL, *quick, "--unit_fractions=0.3", *args)
    assert "unit_fractions: expected [0.3], got [0.5]" in line
    # And those of other networks under the same names.
    for path in folder.iterdir():
      path.unlink()
    save(folder, "vanilla", 0)
    checkpoint = checkpoints.load(folder / f"{STEMS[2]}.npz")
    checkpoint.best.params["fc1"]["bias"][0] += 1
    checkpoints.save(folder / f"{STEMS[2]}.npz", checkpoint)
    assert "checkpoint_sha256" in refused(*SMALL, *quick, *args)

  @pytest.mark.parametrize(
    "flag,message",
    (
      ("--methods=l1", "expected vanilla among them"),
      ("--methods=vanilla,bean3", "got 'vanilla,bean3'"),
      ("--schemes=weights,neurons", "got 'weights,neurons'"),
      ("--weight_fractions=0.5,1", "below 1, got 1.0"),
      ("--unit_fractions=-0.1", "got -0.1"),
      ("--unit_fractions=0.5,0.5", "expected different numbers"),
      ("--retrain_epochs=-1", "expected a number from 0"),
      ("--timing_repeats=-1", "expected a number from 0"),
      ("--timing_batches=0", "expected a number from 1"),
      ("--points=-0.5", "got -0.5"),
      ("--points=100", "got 100"),
    ),
  )
  def test_value(self, flag, message, folder):
    line = refused(*SMALL, flag, f"--checkpoint_dir={folder}")
    assert line.startswith(f"error: {flag.partition('=')[0]}")
    assert message in line


def test_flags_reach_the_configuration():
  config = parse(
    "--checkpoint_dir=networks",
    "--model=lenet5",
    "--methods=bean2,vanilla",
    "--schemes=units,weights_by_layer",
    "--weight_fractions=0.9,0.25",
    "--unit_fractions=0",
    "--retrain_epochs=3",
    "--points=2",
    "--timing_batches=7",
    "--timing_repeats=0",
    "--data_dir=data",
    "--output_dir=out",
    "--noresume",
  )
  assert config == efficiency.Config(
    checkpoint_dir=pathlib.Path("networks"),
    model="lenet5",
    methods=("bean2", "vanilla"),
    settings=records.Settings(
      schemes=("units", "weights_by_layer"),
      weight_fractions=(0.25, 0.9),
      unit_fractions=(0.0,),
      retrain_epochs=3,
      timing_batches=(7,),
      timing_repeats=0,
    ),
    points=2.0,
    data_dir="data",
    output_dir=pathlib.Path("out"),
    resume=False,
  )


@pytest.mark.slow
def test_from_training_to_tables(tmp_path):
  """The commands of the script's docstring, on fewer epochs."""
  done = in_process.as_user(
    full_data,
    *("--model=mlp300_100", "--methods=vanilla,l1", "--alphas=3e-4"),
    *("--seeds=2", "--epochs=20", f"--output_dir={tmp_path}/trained"),
  )
  assert done.returncode == 0, done.stderr
  done = in_process.as_user(
    efficiency,
    *("--weight_fractions=0.8", "--unit_fractions=0.5", "--timing_repeats=1"),
    f"--checkpoint_dir={tmp_path}/trained/checkpoints",
    f"--output_dir={tmp_path}/out",
  )
  assert done.returncode == 0, done.stderr
  vanilla, l1 = (
    results.read(tmp_path / "out" / f"digits-mlp300_100-{name}-seed0.json")
    for name in ("vanilla", "l1-l1_0.0003")
  )
  for record in (vanilla, l1):
    for scheme in ("weights", "units", "merge"):
      whole, smaller = results.metric(record, f"{scheme}/test_accuracy")[0]
      assert whole > 0.9
      # Chance is 0.1.
      assert smaller > 0.4
  # What l1 is for.
  assert l1["metrics"]["gini_index/all"] > vanilla["metrics"]["gini_index/all"]
