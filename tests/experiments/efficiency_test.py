"""Tests of experiments.efficiency: from checkpoints to tables and figures."""

import functools
import shutil

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
  f"digits-lenet5-{name}-seed{seed}"
  for name in ("vanilla", "bean1-alpha1")
  for seed in (0, 1)
]

run = functools.partial(in_process.run, efficiency)


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  digits = tiny.load_few_digits()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *_, **__: NETWORK)
    patch.setattr(datasets, "load", lambda name, **_: digits)
    yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Checkpoints of two methods and two seeds, hardly trained."""
  folder = tmp_path_factory.mktemp("full_data")
  in_process.done(
    full_data,
    *("--methods=vanilla,bean1", "--alphas=1", "--seeds=2"),
    *("--epochs=1", "--batch_size=20", "--learning_rate=0.01"),
    f"--output_dir={folder}",
  )
  return folder / "checkpoints"


@pytest.fixture
def folders(trained, tmp_path):
  return f"--checkpoint_dir={trained}", f"--output_dir={tmp_path}/out"


@pytest.mark.slow
def test_run_and_resume(folders, tmp_path, monkeypatch):
  status, out, err = run(*SMALL, *folders)
  assert (status, err) == (0, "")
  names = {path.name for path in (tmp_path / "out").iterdir()}
  drawn = {name for name in names if name.endswith((".png", ".pdf"))}
  assert names - drawn == {*(f"{stem}.json" for stem in STEMS), "table.md"}
  for kind in ("lost", "needed"):
    assert f"digits-lenet5-{kind}-strongest.pdf" in drawn
  assert out.splitlines()[0].startswith(f"{STEMS[0]}: ")
  text = (tmp_path / "out" / "table.md").read_text()
  assert "## digits, lenet5\n" in text
  assert "| BEAN-1 " in text
  assert "nan" not in text

  monkeypatch.setattr(heads, "split_network", None)
  monkeypatch.setattr(datasets, "load", pytest.fail)
  status, again, _ = run(*SMALL, *folders)
  assert status == 0
  assert (tmp_path / "out" / "table.md").read_text() == text
  assert again == "".join(out.splitlines(keepends=True)[len(STEMS) :])


@pytest.mark.slow
def test_record(trained, folders, tmp_path):
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
  variables = checkpoints.load(trained / f"{STEMS[1]}.npz").best
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
      np.testing.assert_allclose(metric(name)[0], accuracy, rtol=1e-6)
      # The network had hardly been trained.
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
  (path,) = (tmp_path / "out").iterdir()
  assert path.name == f"{STEMS[0]}.json"
  # Nor is anything measured that was not asked for.
  names = results.read(path)["metrics"]
  assert "units/parameters" in names
  for part in ("weights/", "merge/", "retrained", "time"):
    assert not any(part in name for name in names)


def refused(*args):
  return in_process.refused(efficiency, *QUICK, *args)


def test_values_that_are_refused(folders, tmp_path):
  for flag, message in (
    ("--methods=l1", "expected vanilla among them"),
    ("--methods=vanilla,l1", "such as vanilla, got l1"),
    ("--methods=vanilla,bean3", "got 'vanilla,bean3'"),
    ("--schemes=weights,neurons", "got 'weights,neurons'"),
    ("--weight_fractions=0.5,1", "below 1, got 1.0"),
    ("--unit_fractions=-0.1", "got -0.1"),
    ("--retrain_epochs=-1", "expected a number from 0"),
    ("--timing_repeats=-1", "expected a number from 0"),
    ("--timing_batches=0", "expected a number from 1"),
    ("--points=100", "got 100"),
  ):
    line = refused(*folders, flag)
    assert line.startswith(f"error: {flag.partition('=')[0]}"), flag
    assert message in line, flag
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_records_of_others_are_refused(trained, folders, tmp_path):
  assert run(*QUICK, *folders)[0] == 0
  message = "unit_fractions: expected [0.3], got [0.5]"
  assert message in refused(*folders, "--unit_fractions=0.3")
  # Networks of the same configuration.
  shutil.copytree(trained, tmp_path / "others")
  path = tmp_path / "others" / f"{STEMS[0]}.npz"
  checkpoint = checkpoints.load(path)
  checkpoint.best.params["fc1"]["bias"][0] += 1
  checkpoints.save(path, checkpoint)
  line = refused(*folders, f"--checkpoint_dir={tmp_path}/others")
  assert "checkpoint_sha256" in line
