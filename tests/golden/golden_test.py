"""What is computed here is what was computed when it was known to be right."""

import json
import re

import jax
import numpy as np
import pytest

from tests.golden import make

pytestmark = pytest.mark.optimized


def version_of(path):
  return [int(part) for part in re.findall(r"\d+", path.stem)]


@pytest.fixture(scope="module")
def golden():
  """Those of this jax, else of the last one that this backend has."""
  known = sorted(
    make.FOLDER.glob(f"{jax.default_backend()}-jax*.json"), key=version_of
  )
  if not known:
    pytest.skip(f"no golden results of this backend: {make.COMMAND}")
  path = make.path() if make.path() in known else known[-1]
  return json.loads(path.read_text())


# `python -m tests.golden.make` with other versions shows how far they differ.
RELATIVE = 1e-4
IMAGES = 2


def assert_close(numbers, expected):
  """Compares within what versions of jax and kinds of CPUs differ by."""
  assert numbers.keys() == expected.keys()
  for name, values in numbers.items():
    ours, theirs = np.array(values, float), np.array(expected[name], float)
    within = {"rtol": RELATIVE}
    if "accuracy" in name:
      within = {"rtol": 0, "atol": IMAGES / 500}
    np.testing.assert_allclose(ours, theirs, err_msg=name, **within)


def test_penalties(golden):
  assert_close(make.penalties(), golden["penalties"])


@pytest.mark.slow
@pytest.mark.parametrize("name", make.ARGS)
def test_runs(golden, name):
  assert_close(make.run(name), golden[name])


def test_files_say_what_made_them():
  paths = sorted(make.FOLDER.glob("*.json"))
  assert paths
  for path in paths:
    fields = json.loads(path.read_text())
    assert fields["command"] == make.COMMAND
    platform, version = fields["device"]["platform"], fields["versions"]["jax"]
    assert path.name == f"{platform}-jax{version}.json"
    assert fields.keys() > {"penalties", *make.ARGS}


def test_a_difference_is_seen():
  for name in ("order 1, squared: x", "test_accuracy"):
    numbers = {name: [[0.5, 0.25], [None, 1.0]]}
    assert_close(numbers, numbers)
    for other in ([[0.51, 0.25], [None, 1.0]], [[0.5, 0.25], [0.5, 1.0]]):
      with pytest.raises(AssertionError):
        assert_close({name: other}, numbers)
  with pytest.raises(AssertionError):
    assert_close({}, numbers)
