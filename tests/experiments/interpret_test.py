"""Tests of experiments.interpret: from checkpoints to tables and figures."""

import functools

import numpy as np
import pytest

from experiments import datasets, full_data, interpret
from experiments.architectures import networks
from experiments.assemblies import measures
from experiments.records import checkpoints, results
from tests.experiments import in_process, tiny
from tests.experiments.assemblies import planted

SMALL = ("--max_clusters=11", "--restarts=2", "--controls=2")
MEASURED = "AMI of clusters and classes"


@pytest.fixture(autouse=True, scope="module")
def _small_network():
  digits = tiny.load_few_digits()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *_, **__: planted.NETWORK)
    patch.setattr(datasets, "load", lambda name, **_: digits)
    yield


run = functools.partial(in_process.run, interpret)
refused = functools.partial(in_process.refused, interpret)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Trains vanilla and BEAN-1 networks for an epoch; their checkpoints."""
  folder = tmp_path_factory.mktemp("full_data")
  in_process.done(
    full_data,
    *("--methods=vanilla,bean1", "--alphas=1,100", "--seeds=2"),
    *("--epochs=1", "--batch_size=20", f"--output_dir={folder}"),
  )
  return folder / "checkpoints"


@pytest.fixture(scope="module")
def looked_at(trained, tmp_path_factory):
  """Looks at them; the arguments, the folder and what was printed."""
  folder = tmp_path_factory.mktemp("interpret")
  args = (*SMALL, f"--checkpoint_dir={trained}", f"--output_dir={folder}")
  return args, folder, in_process.done(interpret, *args)


@pytest.mark.slow
def test_files(looked_at):
  _, folder, out = looked_at
  names = {path.name for path in folder.iterdir()}
  stems = {
    f"digits-lenet5-{name}-seed{seed}-fc2"
    for name in ("vanilla", "bean1-alpha1", "bean1-alpha100")
    for seed in (0, 1)
  }
  drawn = {name for name in names if name.endswith((".png", ".pdf"))}
  assert names - drawn == {*(f"{stem}.json" for stem in stems), "table.md"}
  whats = {name.rpartition("-")[2].partition(".")[0] for name in drawn}
  assert whats == {
    *("silhouettes", "strength", "maps", "ablation", "coactivation", "wiring")
  }
  assert "digits-lenet5-fc2-bean1-1-wiring.png" in drawn
  text = (folder / "table.md").read_text()
  assert text in out
  assert "## digits-lenet5-fc2: 24 neurons" in text
  assert "nan" not in text
  assert out.count(MEASURED) == 6


@pytest.mark.slow
def test_records(looked_at, trained):
  _, folder, _ = looked_at
  record = results.read(folder / "digits-lenet5-bean1-alpha100-seed1-fc2.json")
  assert (record["experiment"], record["seeds"]) == ("interpret", [1])
  assert record["config"]["checkpoint"]["alpha"] == 100
  assert record["config"]["max_clusters"] == 11
  checkpoint = checkpoints.load(
    trained / "digits-lenet5-bean1-alpha100-seed1.npz"
  )
  for name in ("test_accuracy", "validation_accuracy"):
    np.testing.assert_allclose(
      results.metric(record, name)[0], checkpoint.metrics[name], rtol=1e-6
    )
  # What the network itself gets right, class by class.
  test = tiny.load_few_digits().test
  logits, _ = planted.NETWORK.evaluate(checkpoint.best, test.images)
  correct = np.asarray(logits).argmax(-1) == test.labels
  np.testing.assert_allclose(
    results.metric(record, "ablation_class_accuracy")[0],
    [correct[test.labels == c].mean() for c in range(10)],
    rtol=1e-6,
  )
  assert results.metric(record, "trained_silhouettes").shape == (1, 10)


@pytest.mark.slow
def test_records_are_not_made_again(looked_at, monkeypatch):
  args, folder, text = looked_at
  monkeypatch.setattr(measures, "measure", None)
  status, out, _ = run(*args, "--figures=none")
  assert status == 0
  assert MEASURED not in out
  assert (folder / "table.md").read_text() in text
  assert "max_clusters" in refused(*args, "--max_clusters=12")
  with pytest.raises(TypeError):
    run(*args, "--noresume")


@pytest.mark.slow
def test_last_epoch_of_one_method(trained, tmp_path):
  out = in_process.done(
    *(interpret, *SMALL, "--methods=vanilla", "--epoch=last"),
    *("--figures=chosen", f"--checkpoint_dir={trained}"),
    f"--output_dir={tmp_path}",
  )
  assert "## digits-lenet5-fc2-last: 24 neurons" in out
  names = {path.name for path in tmp_path.iterdir()}
  assert {
    "digits-lenet5-vanilla-seed1-fc2-last.json",
    "table-last.md",
    "digits-lenet5-fc2-last-vanilla-wiring.png",
  } <= names
  # There are no strengths to draw numbers against.
  assert not any("strength" in name for name in names)


@pytest.mark.slow
def test_errors(trained, tmp_path):
  folders = f"--checkpoint_dir={trained}", f"--output_dir={tmp_path}"
  for arg, text in (
    (f"--checkpoint_dir={tmp_path / 'none'}", "is no folder"),
    ("--layer=fc9", "--layer: expected one of fc2"),
    ("--methods=bean9", "--methods: expected different ones of vanilla"),
    ("--max_clusters=24", "less than the neurons that enter fc2, got 24"),
    ("--max_clusters=1", "--max_clusters: expected a number from 2"),
    ("--restarts=0", "--restarts: expected a number from 1"),
    ("--controls=0", "--controls: expected a number from 1"),
    ("--margin=-1", "--margin: expected a number from 0"),
    ("--figures=some", "--figures: expected different ones of chosen"),
  ):
    assert text in refused(*folders, arg), arg
  assert not list(tmp_path.glob("*.json"))
