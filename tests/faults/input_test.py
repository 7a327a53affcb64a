"""Malformed input of every kind: an error in one line, and nothing written.

Values are drawn by Hypothesis, the same in every run. `test_flag` alone makes
more than two thousand of them.
"""

import contextlib
import os
import pathlib

from absl import flags
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.datasets import cache
from experiments.learning.streams import Whole
from experiments.population import cells, store as stores
from experiments.population.cells import Cell, Member
from experiments.records import results
from tests.experiments import planned
from tests.faults import here

pytestmark = pytest.mark.usefixtures("tiny_networks")

SETTINGS = {"deadline": None, "derandomize": True, "database": None}
# Hypothesis thinks of none of these by itself.
JUNK = (
  *("", " ", "-", "--", ",", ",,", "x", "é", "\U0001f642", "\ud800"),
  *("\0", "\n", "1\n2", "\x1b[2J", "a" * 5000, "None", "0x", "1.5.2", "1;2"),
  *("../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "..", "~", "$(ls)"),
)
TEXT = st.sampled_from(JUNK) | st.text(max_size=20)


def is_number(kind, text):
  """Whether a flag of this kind can have the text as its value."""
  for args in ((text, 0), (text,)) if kind is int else ((text,),):
    with contextlib.suppress(ValueError):
      kind(*args)
      return True
  return False


NO_INTEGER = TEXT.filter(lambda text: not is_number(int, text))
NO_NUMBER = TEXT.filter(lambda text: not is_number(float, text))
BAD_INTEGER = NO_INTEGER | st.one_of(
  st.integers(max_value=-1).map(str),
  st.integers(min_value=1_000_001).map(str),
  st.floats().map(repr),
)
BAD_NUMBER = NO_NUMBER | st.one_of(
  st.floats(max_value=0, exclude_max=True).map(repr),
  st.floats(min_value=1.1e38).map(repr),
  st.sampled_from(("nan", "-nan", "inf", "-inf", "1e999", "9" * 400)),
)


def some_of(good, bad):
  """Comma-separated lists, of which some parts are bad."""
  lists = st.tuples(st.lists(good, max_size=3), bad, st.lists(good, max_size=3))
  return lists.map(lambda parts: ",".join((*parts[0], parts[1], *parts[2])))


def unknown(known):
  return TEXT.filter(lambda text: text.strip(' "') not in known)


def malformed(script, name):
  """Values that a flag cannot have, or None where all can be used."""
  flag = here.ALL[script].FLAGS[name]
  by_name = {
    "methods": some_of(st.just("vanilla"), unknown(("vanilla", ""))),
    "datasets": some_of(st.just("digits"), unknown(("digits", ""))),
    "layers": some_of(st.just("fc2"), unknown(("fc2", ""))),
    "shots": some_of(st.just("2"), BAD_INTEGER),
    "epochs": some_of(st.just("2"), BAD_INTEGER),
    "alphas": some_of(st.just("2"), BAD_NUMBER),
    "learning_rate": BAD_NUMBER,
    "seeds": NO_INTEGER | st.sampled_from(("0", "-3", "9-5", "1-2-3", "1e3")),
    "selection_seeds": NO_INTEGER | st.sampled_from(("0", "2-1", "0-1")),
    "coordinator_address": TEXT.filter(bool),
  }
  by_kind = {
    flags.EnumParser: TEXT,
    flags.BooleanParser: TEXT,
    flags.IntegerParser: BAD_INTEGER,
    flags.FloatParser: BAD_NUMBER,
  }
  kinds = (
    bad for kind, bad in by_kind.items() if isinstance(flag.parser, kind)
  )
  bad = next(kinds, None)
  # A script may take one number where others take a list.
  return bad if bad is BAD_INTEGER else by_name.get(name, bad)


FLAGS = [
  (script, name)
  for script, module in here.ALL.items()
  for name in sorted(module.FLAGS)
  if malformed(script, name) is not None
]


def refused(directory, script, *args, output_dir="new"):
  """Refuses a small run, in a folder where nothing is written then."""
  err = here.refused(script, output_dir, *args)
  assert "\x1b" not in err
  assert "\0" not in err
  assert os.listdir(directory) == []
  return err


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
  """A folder, in which the process is, where nothing may be written."""
  directory = tmp_path_factory.mktemp("empty")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(directory)
    yield directory


@pytest.mark.parametrize("script,name", FLAGS)
def test_flag(script, name, empty):
  seen = set()

  @hypothesis.settings(max_examples=25, **SETTINGS)
  @hypothesis.given(malformed(script, name))
  def check(value):
    seen.add(value)
    line = refused(empty, script, f"--{name}={value}")
    assert f"--{name}" in line or name.removesuffix("s") in line

  check()
  assert len(seen) >= 18


# `test_flag` draws at least 18 different values for each.
assert 18 * len(FLAGS) > 2000


@pytest.mark.parametrize("script", here.SCRIPTS)
@pytest.mark.parametrize("form", ("--no_such_{}", "{}"))
@hypothesis.settings(max_examples=20, **SETTINGS)
@hypothesis.given(text=TEXT)
def test_flag_that_there_is_not_and_other_arguments(script, form, empty, text):
  argument = form.format(text)
  is_flag = argument.startswith("-")
  hypothesis.assume(is_flag == ("such" in form))
  line = refused(empty, script, argument)
  assert is_flag or "unexpected argument" in line


BAD_PATHS = ("\0", "a\0b", "a" * 5000, "a" * 300, "a\n" * 150)


@pytest.mark.parametrize("script", here.SCRIPTS)
@pytest.mark.parametrize("path", BAD_PATHS)
def test_output_dir(script, path, empty):
  line = refused(empty, script, output_dir=path)
  assert "choose another folder" in line


@pytest.mark.parametrize("script", ("few_shot", "full_data"))
@pytest.mark.parametrize("path", BAD_PATHS)
def test_checkpoint_dir(script, path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  here.refused(script, "new", f"--checkpoint_dir={path}")
  assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
  "path", ("\0", "a" * 5000, "no/such", "a\nb", __file__)
)
def test_data_dir(path, empty, monkeypatch):
  monkeypatch.setenv("BEAN_JAX_CACHE", str(empty))
  args = ("--dataset=mnist", f"--data_dir={path}")
  line = refused(empty, "few_shot", *args)
  assert "cannot be read" in line
  assert "correct --data_dir" in line


# Names that lead elsewhere.

LEADING_ELSEWHERE = st.sampled_from(
  ("..", "../x", "/x", "a/../../x", "a\\..\\x", "~", "C:x", ".", "x\0", "")
) | st.text(max_size=10).filter(
  lambda text: (
    not all("a" <= char <= "z" or char in "_0123456789" for char in text)
  )
)


@hypothesis.settings(max_examples=100, **SETTINGS)
@hypothesis.given(LEADING_ELSEWHERE, st.integers(0, 2))
def test_names_of_files(name, place):
  words = ["mnist", "lenet5", "vanilla"]
  words[place] = name
  dataset, model, method = words
  with pytest.raises(ValueError, match="expected a word"):
    results.cell_name(dataset, model, method)
  with pytest.raises(datasets.DatasetError, match="Unknown dataset"):
    datasets.load(name)
  config = make_config(dataset, model)
  cell = Cell(Whole(), method, 0.0, 1)
  with pytest.raises((ValueError, KeyError)):
    cells.cell_path(config, cell)
  with pytest.raises((ValueError, KeyError)):
    stores.path(stores.Store(config, {}), Member(cell, 0), 1)


def make_config(dataset="digits", model="lenet5"):
  network, folder = networks.Spec(model), pathlib.Path("out")
  return planned.make_config(
    dataset=dataset, network=network, checkpoint_dir=folder
  )


@pytest.mark.parametrize("seed", ("../x", "1", 1.5, None))
def test_seed_in_the_name_of_a_checkpoint(seed):
  member = Member(Cell(Whole(), "vanilla", 0.0, 1), seed)
  with pytest.raises((ValueError, TypeError)):
    stores.path(stores.Store(make_config(), {}), member, 1)


# Contents of the cache of decoded data.

IDENTITY = {"dataset": "mnist", "version": "3.0.1", "fingerprint": "f" * 64}


@hypothesis.settings(max_examples=60, **SETTINGS)
@hypothesis.given(st.binary(max_size=200), st.integers(-200, -1) | st.just(0))
def test_cached_data(tmp_path_factory, content, kept):
  path = tmp_path_factory.mktemp("cache") / "x.npz"
  cache.write(path, IDENTITY, [np.arange(9)])
  whole = path.read_bytes()
  content = whole[:kept] + content
  hypothesis.assume(content != whole)
  path.write_bytes(content)
  with pytest.raises(datasets.DatasetError) as caught:
    cache.read(path, IDENTITY)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)
  assert path.read_bytes() == content
