"""The examples of docstrings are true."""

import doctest
import importlib

import pytest

from tests.experiments import in_process

MODULES = [
  ".".join(path.relative_to(in_process.ROOT).with_suffix("").parts)
  for folder in ("experiments", "benchmarks")
  for path in sorted((in_process.ROOT / folder).rglob("*.py"))
  if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  outcome = doctest.testmod(
    importlib.import_module(name.removesuffix(".__init__"))
  )
  assert outcome.attempted > 0
  assert outcome.failed == 0
