"""Tests of experiments.table1: the job from its flags to its files."""

import functools
import re
import shutil

import pytest

from experiments import table1
from experiments.architectures import networks
from experiments.learning import methods
from experiments.records import results
from experiments.tables import figures, protocols
from tests.experiments import in_process, tiny

L1 = methods.METHODS["l1"].grid
SMALL = (
  *("--datasets=digits", "--methods=vanilla,l1", "--shots=1", "--seeds=2"),
  *("--selection_seeds=100-101", "--epochs=4", "--validate_every=2"),
)


@pytest.fixture(autouse=True, scope="module")
def _small_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *args, **kwargs: tiny.NETWORK)
    # Drawn, but not written, which takes long.
    patch.setattr(figures, "_finish", lambda drawing, path: path.touch())
    yield


run = functools.partial(in_process.done, table1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp("table1")
  out = run(*SMALL, f"--output_dir={directory}")
  return directory, out


def records_of(directory, folder):
  return results.load_all(directory / folder)


def test_methods_are_those_of_the_table():
  """Others are trained only where they are asked for."""
  with in_process.parsed(table1):
    trained = table1.FLAGS.methods
  others = set(methods.METHODS) - set(trained)
  rules = ("nonnegative", "pc_", "competing", "hebbian")
  assert others == {name for name in methods.METHODS if name.startswith(rules)}


def test_every_cell_of_both_groups_of_seeds(finished):
  directory, _ = finished
  # The only validation of those that choose comes after the last epoch.
  for folder, seeds, every in (
    ("selection", [100, 101], 4),
    ("evaluation", [0, 1], 2),
  ):
    found = records_of(directory, folder).values()
    assert len(found) == 1 + len(L1)
    for record in found:
      assert record["seeds"] == seeds
      assert record["config"]["validate_every"] == every
      curve, _ = record["metrics"]["validation_accuracy_curve"]
      assert len(curve) == 4 // every


def test_chosen_values_are_validated_after_every_epoch(finished):
  directory, _ = finished
  tried = {
    record["config"]["l1"]: sum(record["metrics"]["validation_accuracy"])
    for record in records_of(directory, "evaluation").values()
    if record["config"]["method"] == "l1"
  }
  l1, vanilla = records_of(directory, "chosen").values()
  assert tried[l1["config"]["l1"]] == max(tried.values())
  assert vanilla["config"]["method"] == "vanilla"
  for record in (l1, vanilla):
    assert "validate_every" not in record["config"]
    assert len(record["metrics"]["validation_accuracy_curve"][0]) == 4


def test_second_run_trains_nothing(finished, monkeypatch):
  directory, out = finished
  before = (directory / "table.md").read_text()
  assert out.endswith(before + "\n")
  assert "not run" not in before
  monkeypatch.setattr(table1.runs.simulations, "run", None)
  out = run(*SMALL, f"--output_dir={directory}")
  done = 2 * (1 + len(L1)) + 2
  assert out.startswith(f"cells done already: {done}\n")
  assert (directory / "table.md").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(
  "order,first", [("table", "1-shot BEAN-1"), ("cost", "1-shot Vanilla")]
)
def test_what_is_trained_first(order, first, tmp_path):
  flags = ("--methods=bean1,vanilla", f"--order={order}", "--seeds=1")
  out = run(*SMALL, *flags, f"--output_dir={tmp_path}")
  assert out.startswith(first)
  assert out.count(" simulations, ") == 2 * (1 + 5) + 2


def test_what_is_missing_is_not_run(finished, tmp_path):
  directory, _ = finished
  others = {"dirs_exist_ok": True, "ignore": shutil.ignore_patterns("*l1*")}
  shutil.copytree(directory, tmp_path, **others)
  shutil.rmtree(tmp_path / "chosen")
  # All but one of a grid.
  for path in sorted((directory / "evaluation").glob("*l1*"))[1:]:
    shutil.copy(path, tmp_path / "evaluation")
  out = run(*SMALL, "--notrain", f"--output_dir={tmp_path}")
  paper_part, strict_part = out.split("protocol strict")
  for part, vanilla in ((paper_part, "not run"), (strict_part, r"\*\*")):
    assert re.search(rf"\| Vanilla +\| {vanilla}", part)
    assert re.search(r"\| l1 +\| not run +\|", part)
  assert not (tmp_path / "chosen").exists()


@pytest.mark.slow
def test_other_shots_take_the_strict_choice_alone(finished, tmp_path):
  directory = shutil.copytree(finished[0], tmp_path / "copy")
  shots = "--shots=1,2", "--selection_shots=1"
  out = run(*SMALL, *shots, f"--output_dir={directory}")
  found = records_of(directory, "selection").values()
  chosen = protocols.best_strengths("strict", list(found))["l1"]
  cell = f"digits-2shot-l1-l1_{chosen:g}.json"
  evaluated = records_of(directory, "evaluation")
  assert {name for name in evaluated if "-2shot-" in name} == {
    "digits-2shot-vanilla.json",
    cell,
  }
  assert not list((directory / "selection").glob("*-2shot-*"))
  accuracies = evaluated[cell]["metrics"]["test_accuracy_last"]
  paper_part, strict_part = out.split("protocol strict")
  for part, expected in (
    (paper_part, "not run"),
    (strict_part, f"{100 * sum(accuracies) / 2:.1f}"),
  ):
    row, *_ = re.findall(r"\| l1 +\|.*", part)
    assert expected in row.split("|")[3]


@pytest.mark.parametrize(
  "protocol,trained",
  [
    ("paper", {"evaluation": 1 + len(L1), "chosen": 2}),
    ("strict", {"selection": 1 + len(L1), "evaluation": 2}),
  ],
)
def test_one_protocol_alone(protocol, trained, finished, tmp_path):
  directory, everything = finished
  flags = f"--protocols={protocol}", f"--output_dir={tmp_path}"
  out = run(*SMALL, *flags)
  folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
  assert {name: len(records_of(tmp_path, name)) for name in folders} == trained
  part = {"paper": 0, "strict": 1}[protocol]
  table, expected = (
    text[text.index("## ") :].split("protocol strict")[part]
    for text in (out, everything)
  )
  assert table == expected
  assert "not run" in out.split("protocol strict")[1 - part]


@pytest.mark.slow
def test_imitation_networks_are_chosen_among_those_evaluated(tmp_path):
  sizes = ("--first_pseudo=5", "--last_pseudo=9", "--pseudo_periods=2")
  methods_of = ("--methods=vanilla,imitation", "--pseudo_epochs=2")
  args = (*SMALL, *methods_of, *sizes, f"--output_dir={tmp_path}")
  run(*args)
  grid = len(methods.METHODS["imitation"].grid)
  assert len(records_of(tmp_path, "evaluation")) == 1 + grid
  assert list(records_of(tmp_path, "chosen")) == ["digits-1shot-vanilla.json"]
  text = (tmp_path / "table.md").read_text()
  assert len(re.findall(r"\| Imitation networks +\|", text)) == 4
  assert "not run" not in text


def test_nothing_to_report(tmp_path):
  args = (*SMALL, "--notrain", f"--output_dir={tmp_path}")
  assert "found none" in in_process.refused(table1, *args)
