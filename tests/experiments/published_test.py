"""The records of results/, read as they are, give the tables beside them.

Every number of those tables is recomputed from records, to the byte.
"""

import os

import pytest

import bean_jax
from experiments import study, table1
from experiments.assemblies import summary as assemblies
from experiments.compaction import needed, tables
from experiments.learning import methods
from experiments.records import results
from experiments.rules import tables as rules
from experiments.tables import comparison, protocols, summary
from tests.experiments import in_process

_RESULTS = in_process.ROOT / "results"


def published(name):
  """The records of a folder in results/, and its table."""
  folder = _RESULTS / name
  records = list(results.load_all(folder).values())
  return records, (folder / "table.md").read_text()


def in_order(records, config_of=lambda record: record["config"]):
  """As the tables have them: by shots, by method and by strength."""
  place = list(methods.METHODS).index

  def order(record):
    config = config_of(record)
    strength = config.get(methods.METHODS[config["method"]].hparam, 0.0)
    return config.get("shots", 0), place(config["method"]), strength

  return sorted(records, key=order)


@pytest.mark.parametrize(
  "name,title",
  (
    ("few_shot_mnist", ""),
    ("dropout_at_eval", ""),
    ("full_data/mnist-lenet5", "## mnist, lenet5, at most 20 epochs"),
    ("full_data/mnist-lenet5-50epochs", "## mnist, lenet5, at most 50 epochs"),
    ("full_data/mnist-mlp500", "## mnist, mlp500, at most 50 epochs"),
  ),
)
def test_training(name, title, tmp_path):
  records, expected = published(name)
  summary.write(in_order(records), tmp_path, title=title)
  assert (tmp_path / "table.md").read_text() == expected


@pytest.mark.parametrize(
  "name", ("mnist-lenet5", "mnist-lenet5-10shot", "mnist-mlp300_100")
)
def test_efficiency(name):
  records, expected = published(f"efficiency/{name}")
  text = tables.report(needed.make_groups(records, points=0.5))
  assert expected.startswith(text)


@pytest.mark.parametrize(
  "name",
  (
    *("mnist-lenet5", "mnist-lenet5-10shot", "mnist-lenet5-50epochs"),
    "mnist-mlp500",
  ),
)
def test_assemblies(name):
  records, expected = published(f"interpret/{name}")
  ordered = in_order(records, lambda record: record["config"]["checkpoint"])
  text = assemblies.text(assemblies.groups(ordered), margin=0.01)
  assert f"{text}\n" == expected


def test_learning_rules():
  folder = _RESULTS / "learning_rules" / "mnist"
  selection, evaluation, measured = (
    in_order(
      results.load_all(folder / name).values(),
      lambda record: record["config"].get("cell", record["config"]),
    )
    for name in ("selection", "evaluation", "networks_measured")
  )
  chosen = summary.chosen(protocols.with_whole_grid(evaluation))
  records = protocols.Records(selection, evaluation, chosen)
  networks = {}
  for record in measured:
    cell = record["config"]["cell"]
    networks.setdefault(cell["shots"], {})[cell["method"]] = record
  names = [name for name in methods.METHODS if name in networks[1]]
  paper, strict = (
    protocols.entries(name, records) for name in protocols.PROTOCOLS
  )
  parts = [
    ("MNIST, protocol paper", paper, {}),
    ("MNIST, 5-shot, protocol strict", strict, networks[5]),
    ("MNIST, 1-shot, protocol strict", {}, networks[1]),
  ]
  used = [*selection, *evaluation, *measured]
  shots = sorted({record["config"]["shots"] for record in evaluation})
  text = rules.text(parts, names, shots, used)
  assert f"{text}\n" == (folder / "table.md").read_text()


@pytest.mark.parametrize(
  "script,args",
  (
    (study, ()),
    (table1, ("--notrain", "--first_pseudo=62", "--last_pseudo=500")),
  ),
)
def test_scripts(script, args, tmp_path, monkeypatch):
  """Which find every record, and train nothing."""
  name = script.__name__.rpartition(".")[2]
  for folder in (_RESULTS / name).glob("*/"):
    os.symlink(folder, tmp_path / folder.name)
  # Scripts use the records of their own release alone.
  record = results.read(next((_RESULTS / name).rglob("*.json")))
  release = record["versions"]["bean_jax"]
  monkeypatch.setattr(bean_jax, "__version__", release)
  for module in (study, comparison):
    monkeypatch.setattr(module, "draw", lambda *_: None)
  status, _, _ = in_process.run(script, *args, f"--output_dir={tmp_path}")
  assert status == 0
  for path in tmp_path.glob("table.*"):
    assert path.read_text() == (_RESULTS / name / path.name).read_text()
