"""The examples of docstrings are true."""

import doctest
import importlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
MODULES = [
  ".".join(path.relative_to(_ROOT).with_suffix("").parts)
  for path in sorted((_ROOT / "experiments").rglob("*.py"))
  if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  outcome = doctest.testmod(
    importlib.import_module(name.removesuffix(".__init__"))
  )
  assert outcome.attempted > 0
  assert outcome.failed == 0
