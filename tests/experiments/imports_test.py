"""A reader can follow: imports run one way, and functions are short."""

import ast

import pytest

from tests.experiments import in_process

_ROOT = in_process.ROOT / "experiments"
# Each may import those before it, and none after it.
LAYERS = (
  "machine",
  "architectures",
  "records",
  "datasets",
  "learning",
  "population",
  "tables",
  "command",
  "assemblies",
  "compaction",
  "attacks",
  "weights",
  "rules",
  "account",
)
SCRIPTS = sorted(path.stem for path in _ROOT.glob("[a-z]*.py"))


def imported(path):
  """The parts of experiments that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      top, _, rest = node.module.partition(".")
      if top == "experiments":
        names = [rest.partition(".")[0]] if rest else []
        yield from names or (alias.name for alias in node.names)


def test_every_folder_has_a_place():
  folders = {path.parent.name for path in _ROOT.glob("*/__init__.py")}
  assert folders == set(LAYERS)


@pytest.mark.parametrize("folder", LAYERS)
def test_folders(folder):
  below = LAYERS[: LAYERS.index(folder) + 1]
  for path in (_ROOT / folder).rglob("*.py"):
    assert set(imported(path)) <= set(below), path


def test_scripts_import_no_scripts_but_table1():
  for name in SCRIPTS:
    # The study varies what Table 1 does.
    allowed = {*LAYERS, *(["table1"] if name == "study" else [])}
    assert set(imported(_ROOT / f"{name}.py")) <= allowed, name


def test_functions_are_no_longer_than_a_screen():
  for path in _ROOT.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        length = node.end_lineno - node.lineno + 1
        assert length <= 60, f"{path}: {node.name}"
