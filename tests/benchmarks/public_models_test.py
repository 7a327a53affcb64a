"""Public models that the tests have anyway, and the page of all of them."""

import importlib.metadata
import pathlib
import re

import pytest

from benchmarks import public_model_makers, public_models

ROOT = pathlib.Path(__file__).parent.parent.parent
PINNED = re.findall(
  r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.M
)
# The others of these packages take longer.
QUICK = [
  "nets.MLP",
  "nn.MLP",
  "nn.MLP(scan=True)",
  "example_libraries.stax",
  "linen.MultiHeadDotProductAttention",
]
IN_TESTS = [
  name
  for name, (package, _) in public_model_makers.MAKERS.items()
  if package in PINNED
]


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in IN_TESTS
  ],
)
def test_what_is_found_is_what_a_public_model_meets(name):
  package, make = public_model_makers.MAKERS[name]
  assert importlib.metadata.version(package)
  verdict = public_models.examine(*make())
  assert verdict.faults == []
  assert verdict.numbers["taken"] > 0


def test_page_has_each_model_once():
  page = (ROOT / "docs" / "models.md").read_text()
  rows = re.findall(r"^\| (\S+) \S+ \| (.*?) \| \d", page, re.M)
  makers = public_model_makers.MAKERS
  assert rows == [(package, name) for name, (package, _) in makers.items()]
