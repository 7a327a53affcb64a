"""The records of results/, read as they are, give the tables beside them.

Every number of those tables is recomputed from records, to the byte.
"""

import os

import pytest

import bean_jax
from experiments import learning_rules, study, table1
from experiments.assemblies import sources, summary as assemblies
from experiments.compaction import needed, tables
from experiments.learning import methods
from experiments.records import results
from experiments.rules import drawing, tables as rule_tables
from experiments.tables import comparison, summary
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
    (
      "full_data/mnist-competing2000",
      "## mnist, competing2000, at most 500 epochs",
    ),
    (
      "full_data/mnist-competing2000-rate0.002",
      "## mnist, competing2000, at most 500 epochs",
    ),
    (
      "full_data/mnist-rules",
      "## mnist, lenet5, competing100, mlp500, at most 500 epochs",
    ),
    (
      "full_data/fashion_mnist-rules",
      "## fashion_mnist, lenet5, competing100, mlp500, at most 500 epochs",
    ),
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


def test_rules_of_whole_datasets():
  """Whose networks are not published, so that no script reads them."""
  name = "learning_rules/fashion_mnist-whole"
  _, expected = published(name)
  found = in_order(
    results.load_all(_RESULTS / name / "networks_measured").values(),
    lambda record: record["config"]["cell"],
  )
  parts = {}
  for record in found:
    cell = record["config"]["cell"]
    by_method = parts.setdefault(sources.setting(cell), {})
    by_method[cell["method"]] = record
  ordered = [(setting, {}, parts[setting]) for setting in sorted(parts)]
  names = [record["config"]["cell"]["method"] for record in found]
  text = rule_tables.text(ordered, names, [], found)
  assert f"{text}\n" == expected


RULES = (
  *("--notrain", "--seeds=20", "--selection_seeds=100-119", "--attacked=200"),
  *("--members_per_chunk=5", "--validate_every=5"),
  "--methods=vanilla,bean1,bean2,nonnegative,pc_fixed,pc_strict,competing100,"
  "nonnegative_competing100,hebbian",
)


@pytest.mark.parametrize(
  "script,name,args",
  (
    (study, "study", ()),
    (
      table1,
      "table1",
      ("--notrain", "--first_pseudo=62", "--last_pseudo=500"),
    ),
    (
      learning_rules,
      "learning_rules/mnist",
      (
        *RULES,
        *("--dataset=mnist", "--shots=1,2,5,10,20,50,100"),
        *("--epochs=200,200,100,100,50,50,50", "--selection_shots=1,5"),
        *("--evaluated_shots=1,5,100", f"{RULES[-1]},hebbian_unbiased"),
      ),
    ),
    (
      learning_rules,
      "learning_rules/fashion_mnist",
      (
        *RULES,
        *("--dataset=fashion_mnist", "--shots=1,2,5,10,20,50,100"),
        *("--epochs=200,200,100,100,50,50,50", "--selection_shots=1,5"),
        "--evaluated_shots=5,100",
      ),
    ),
    (
      learning_rules,
      "learning_rules/digits-hebbian",
      (
        *("--notrain", "--seeds=20", "--members_per_chunk=5"),
        "--methods=hebbian,hebbian_signed,hebbian_alone,hebbian_unbiased,"
        "hebbian_gradient",
      ),
    ),
    (
      learning_rules,
      "learning_rules/mnist-nonnegative",
      (
        *RULES,
        *("--dataset=mnist", "--shots=1,5", "--epochs=200,100"),
        *("--selection_shots=1,5", "--evaluated_shots=5"),
        "--methods=nonnegative,nonnegative_bean1,nonnegative_bean2",
      ),
    ),
    (
      learning_rules,
      "learning_rules/mnist-controls",
      (
        *RULES,
        *("--dataset=mnist", "--methods=bean1_constant,mean_square"),
        *("--shots=1,5,100", "--epochs=200,100,50"),
        *("--selection_shots=1,5", "--evaluated_shots=5,100"),
      ),
    ),
  ),
)
@pytest.mark.slow
def test_scripts(script, name, args, tmp_path, monkeypatch):
  """Which find every record, and train nothing."""
  for folder in (_RESULTS / name).glob("*/"):
    os.symlink(folder, tmp_path / folder.name)
  # Scripts use the records of their own release alone.
  record = results.read(next((_RESULTS / name).rglob("*.json")))
  release = record["versions"]["bean_jax"]
  monkeypatch.setattr(bean_jax, "__version__", release)
  for module in (study, comparison):
    monkeypatch.setattr(module, "draw", lambda *_: None)
  monkeypatch.setattr(drawing, "paths", lambda *_: [])
  status, _, _ = in_process.run(script, *args, f"--output_dir={tmp_path}")
  assert status == 0
  for path in tmp_path.glob("table.*"):
    assert path.read_text() == (_RESULTS / name / path.name).read_text()
