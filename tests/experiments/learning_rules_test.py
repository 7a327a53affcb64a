"""Tests of experiments.learning_rules: the job from its flags to its files."""

import functools
import shutil

import numpy as np
import optax
import pytest

from experiments import datasets, learning_rules
from experiments.architectures import networks
from experiments.architectures.networks import Variables
from experiments.attacks import curves
from experiments.learning import methods
from experiments.population import simulations
from experiments.records import results
from experiments.rules import drawing, tables
from experiments.rules.evaluations import EVALUATIONS, Evaluation, Population
from experiments.tables import protocols
from tests.experiments import in_process, tiny

pytestmark = pytest.mark.slow

L1 = (1e-5, 1e-2)
SMALL = (
  *("--methods=vanilla,l1", "--shots=1,2", "--epochs=4", "--validate_every=2"),
  *(
    "--seeds=3",
    "--selection_seeds=100-101",
    "--evaluated_protocols=paper,strict",
  ),
  *("--epsilons=0.3,0,0.1", "--attacked=40"),
)
EPOCHS = learning_rules.EPOCHS


@pytest.fixture(autouse=True, scope="module")
def _small():
  digits = tiny.load_few_digits()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *args, **kwargs: tiny.NETWORK)
    patch.setattr(datasets, "load", lambda name, **_: digits)
    fewer = methods.METHODS["l1"]._replace(grid=L1)
    patch.setitem(methods.METHODS, "l1", fewer)
    yield


run = functools.partial(in_process.done, learning_rules)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp("learning_rules")
  out = run(*SMALL, f"--output_dir={directory}")
  return directory, out


@pytest.fixture
def _without_figures(monkeypatch):
  """They take as long as all the rest."""
  monkeypatch.setattr(drawing, "paths", lambda *_: [])


def measured(directory):
  return results.load_all(directory / "networks_measured")


def best_of(folder, metric, shots):
  """The strength of l1 of greatest mean."""
  found = {strength: [] for strength in (None, *L1)}
  for record in results.load_all(folder).values():
    if record["config"]["shots"] in shots:
      found[record["config"].get("l1")].append(record["metrics"][metric])
  return max(L1, key=lambda strength: np.mean(found[strength]))


def test_networks_are_those_that_the_protocols_choose(finished):
  directory, _ = finished
  # One strength for all shots, by the last epoch of other seeds.
  choice = directory / "selection", "validation_accuracy_last", (1, 2)
  strict = best_of(*choice)
  paper = best_of(directory / "evaluation", "validation_accuracy", (2,))
  assert measured(directory).keys() == {
    "digits-2shot-vanilla-best.json",
    "digits-2shot-vanilla-last.json",
    f"digits-2shot-l1-l1_{paper:g}-best.json",
    f"digits-2shot-l1-l1_{strict:g}-last.json",
  }


def test_records_alone_give_the_table(finished, tmp_path):
  """Without networks, which are large and not kept for good."""
  directory, _ = finished
  for name in ("selection", "evaluation", "networks_measured"):
    shutil.copytree(directory / name, tmp_path / name)
  args = (*SMALL, "--notrain")
  run(*args, f"--output_dir={tmp_path}")
  table = (directory / "table.md").read_bytes()
  assert (tmp_path / "table.md").read_bytes() == table
  figures = [path.name for path in tmp_path.glob("*.png")]
  assert "weights_2shot_strict.png" in figures
  assert not [name for name in figures if name.startswith("receptive")]
  empty = f"--output_dir={tmp_path / 'empty'}"
  assert "found none" in in_process.refused(learning_rules, *args, empty)


@pytest.mark.usefixtures("_without_figures")
def test_accuracy_without_attack_is_that_of_training(finished, tmp_path):
  """Of the right network, epoch and images."""
  directory = shutil.copytree(finished[0], tmp_path / "copy")
  args = (*SMALL, "--attacked=0", f"--output_dir={directory}")
  message = "made with another configuration (attacked: expected 80, got 40"
  status, _, err = in_process.run(learning_rules, *args)
  assert (status, message in err) == (2, True)
  shutil.rmtree(directory / "networks_measured")
  run(*args)
  trained = results.load_all(directory / "evaluation").values()
  for record in measured(directory).values():
    cell, epoch = record["config"]["cell"], record["config"]["epoch"]
    # The seeds are those of the members of a cell.
    (own,) = (r for r in trained if cell.items() <= r["config"].items())
    name = "test_accuracy_last" if epoch == "last" else "test_accuracy"
    assert record["config"]["epsilons"] == [0, 0.1, 0.3]
    for attack in ("fgsm", "pgd", "pgd_random"):
      accuracy = results.metric(record, attack)
      assert accuracy.shape == (3, 3)
      expected = own["metrics"][name]
      np.testing.assert_allclose(accuracy[:, 0], expected, atol=1e-6)
      assert np.all(accuracy[:, 2] <= accuracy[:, 0])


@pytest.mark.usefixtures("_without_figures")
def test_other_shots_take_the_choice_of_each_protocol(
  finished, tmp_path, monkeypatch
):
  directory = shutil.copytree(finished[0], tmp_path / "copy")
  # By the best epoch of the seeds that are reported.
  choice = directory / "evaluation", "validation_accuracy", (1, 2)
  chosen = {"paper": best_of(*choice)}
  (chosen["strict"],) = set(L1) - {chosen["paper"]}
  choose = protocols.best_strengths
  monkeypatch.setattr(
    protocols,
    "best_strengths",
    lambda protocol, records: (
      choose(protocol, records)
      | ({"l1": chosen["strict"]} if protocol == "strict" else {})
    ),
  )
  out = run(
    *SMALL,
    "--shots=1,2,3",
    "--selection_shots=1,2",
    "--evaluated_shots=2",
    f"--output_dir={directory}",
  )
  assert not list((directory / "selection").glob("digits-3shot-*"))
  names = {k: f"digits-3shot-l1-l1_{v:g}.json" for k, v in chosen.items()}
  evaluated = results.load_all(directory / "evaluation")
  assert {path for path in evaluated if "-3shot-" in path} == {
    "digits-3shot-vanilla.json",
    *names.values(),
  }
  for protocol, metric in (
    ("paper", "test_accuracy"),
    ("strict", "test_accuracy_last"),
  ):
    accuracy = np.mean(evaluated[names[protocol]]["metrics"][metric])
    _, _, table = out.partition(f"## digits, 2-shot, protocol {protocol}\n")
    cell = table.splitlines()[4].split("|")[4].strip()
    assert cell.startswith(f"{100 * accuracy:.1f} [")


def test_files(finished):
  directory, out = finished
  text = (directory / "table.md").read_text()
  assert text in out
  assert "not run" not in text
  for protocol, epoch in (("paper", "best"), ("strict", "last")):
    _, _, table = text.partition(f"## digits, 2-shot, protocol {protocol}\n")
    head, _, vanilla, l1 = table.splitlines()[1:5]
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    assert titles[:4] == ["rule", "1-shot", "2-shot", "FGSM 0.1"]
    # Differences to vanilla at both numbers of shots.
    assert (vanilla.count(";"), l1.count(";")) == (0, 2)
    record = measured(directory)[f"digits-2shot-vanilla-{epoch}.json"]
    assert tables.columns(record)["PGD 0.1"] in vanilla
  assert {path.name for path in directory.glob("*.png")} == {
    *(f"accuracy_against_shots_{protocol}.png" for protocol in EPOCHS),
    *(
      f"{name}_2shot_{protocol}.png"
      for name in ("accuracy_against_epsilon", "weights", "receptive_fields")
      for protocol in EPOCHS
    ),
  }


@pytest.mark.usefixtures("_without_figures")
def test_second_run_trains_and_measures_nothing(finished, monkeypatch):
  directory, _ = finished
  before = (directory / "table.md").read_bytes()
  monkeypatch.setattr(simulations, "run", None)
  monkeypatch.setattr(curves, "measure", None)
  out = run(*SMALL, f"--output_dir={directory}")
  assert f"cells done already: {4 * (1 + len(L1))}" in out
  assert (directory / "table.md").read_bytes() == before


@pytest.mark.usefixtures("_without_figures")
def test_missing_networks_are_trained_again(finished, tmp_path):
  directory = shutil.copytree(finished[0], tmp_path / "copy")
  before = measured(directory)
  for path in (directory / "networks").glob("*vanilla*"):
    path.unlink()
    # As another version may have trained it.
    shots = path.name.partition("shot")[0]
    place = directory / "evaluation" / f"{shots}shot-vanilla.json"
    record = results.read(place)
    accuracies = record["metrics"]["test_accuracy_last"]
    record["metrics"]["test_accuracy_last"] = [0.5 * x for x in accuracies]
    results.write(place, record)
  out = run(*SMALL, f"--output_dir={directory}")
  assert out.count(" simulations, ") == 1
  # The same to the bit, so that nothing has to be measured again.
  assert measured(directory) == before
  table = (finished[0] / "table.md").read_text()
  assert (directory / "table.md").read_text() == table


def test_networks_of_a_folder(finished, tmp_path, monkeypatch):
  """Of each method the strength of best validation accuracy."""
  directory, _ = finished
  monkeypatch.setattr(simulations, "run", None)
  folders = f"--checkpoint_dir={directory}/networks", f"--output_dir={tmp_path}"
  out = run("--methods=l1,vanilla,bean1", "--epsilons=0.1", *folders)
  assert "## digits-lenet5-2shot" in out
  found = measured(tmp_path)
  assert len(found) == 2
  assert all(record["config"]["epoch"] == "best" for record in found.values())
  assert (tmp_path / "weights_digits-lenet5-2shot.png").exists()


def test_the_weights_that_are_looked_at():
  """Of a network whose numbers are known."""
  params = {
    "fc1": {"kernel": np.random.default_rng(0).lognormal(-3, 0.5, (784, 6))},
    "fc2": {"kernel": np.repeat([[1.0], [-1.0]] * 3, 10, axis=1)},
  }
  params["fc1"]["kernel"][0] = 0
  population = Population(tiny.NETWORK, [Variables(params, {})], [0], None)
  found = {
    name: value[0]
    for what in ("weights", "signs")
    for name, value in EVALUATIONS[what].measure(population, None).items()
  }
  names = ("lognormal", "stretched", "compressed")
  assert max(names, key=lambda n: found[f"{n}_likelihood"]) == "lognormal"
  np.testing.assert_allclose(found["below"], 1 / 784)
  assert found["histogram"].sum() == 783 * 6
  assert (found["dale"], found["agreement"]) == (1.0, 1.0)
  assert found["dale_chance"] < 0.01


@pytest.mark.usefixtures("_without_figures")
def test_an_evaluation_is_one_entry(finished, tmp_path, monkeypatch):
  """Records that lack it are made anew, and the table has its column."""

  def norms(population, _):
    return {
      "norm": [float(optax.tree.norm(m.params)) for m in population.members]
    }

  def column(record):
    return {"norm": f"{results.metric(record, 'norm').mean():.3f}"}

  monkeypatch.setitem(EVALUATIONS, "norm", Evaluation(("norm",), norms, column))
  directory = shutil.copytree(finished[0], tmp_path / "copy")
  before = measured(directory)
  args = (*SMALL, f"--output_dir={directory}")
  out = run(*args)
  after = measured(directory)
  assert before.keys() == after.keys()
  norm = after["digits-2shot-vanilla-last.json"]["metrics"]["norm"]
  assert len(set(norm)) == 3
  assert f"{np.mean(norm):.3f}" in out
  for name, record in after.items():
    assert record["metrics"].items() >= before[name]["metrics"].items()
  written = in_process.contents(directory / "networks_measured")
  run(*args)
  assert in_process.contents(directory / "networks_measured") == written
