"""Tests of experiments.command.flag_groups."""

import os
import pathlib
import pwd

from absl import flags
import pytest

from benchmarks import run as benchmarks_run
from experiments import full_data, report
from experiments.command import flag_groups, parsing
from experiments.learning import methods
from tests.experiments import in_process
from tests.faults import here

# Flags that hold paths.
PATHS = {"checkpoint_dir", "data_dir", "output", "output_dir", "results_dir"}


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


@pytest.fixture
def no_home(monkeypatch):
  def missing(uid):
    raise KeyError(uid)

  monkeypatch.delenv("HOME")
  monkeypatch.setattr(pwd, "getpwuid", missing)


@pytest.mark.parametrize(
  "script",
  (*here.ALL.values(), report, benchmarks_run),
  ids=lambda script: script.__name__,
)
def test_every_path_may_begin_at_home(script, home):
  names = [name for name in script.FLAGS if name in PATHS]
  assert names
  with in_process.parsed(script, *(f"--{name}=~/res" for name in names)):
    for name in names:
      assert script.FLAGS[name].value == str(home / "res")
  other = [n for n in script.FLAGS if n.endswith(("_dir", "output"))]
  assert set(other) <= PATHS


def test_a_folder_named_so(home):
  with in_process.parsed(full_data, "--output_dir=./~"):
    assert full_data.FLAGS.output_dir == "./~"


@pytest.mark.parametrize("path", ("~", "~/res"))
def test_without_a_home(path, no_home, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  error = in_process.refused(full_data, f"--output_dir={path}")
  assert f"--output_dir={path}: no home folder for {path!r}; give " in error
  assert os.listdir() == []


def test_a_default_may_be_none():
  values = flags.FlagValues()
  flag_groups.define_path(values, "folder", None, "where")
  values(["script"])
  assert values.folder is None
  values(["script", "--folder=here"])
  assert pathlib.Path(values.folder) == pathlib.Path("here")


def read(function, define, names, *args):
  """Reads a flag of a script that trains these methods."""
  values = flags.FlagValues()
  define(values)
  values(["script", *args])
  return function(values, names)


def strengths(*args, names=("vanilla", "dropout", "bean1")):
  def define(values):
    flag_groups.define_alphas(values, known=list(methods.METHODS))

  return read(flag_groups.strengths, define, names, *args)


def learning_rates(*args, names=("vanilla", "bean1")):
  define = flag_groups.define_learning_rate
  return read(flag_groups.learning_rates, define, names, *args)


class TestStrengths:
  GRIDS = {
    name: methods.METHODS[name].grid for name in ("vanilla", "dropout", "bean1")
  }

  def test_grids_by_default(self):
    assert strengths() == self.GRIDS

  def test_of_all_that_have_one(self):
    expected = {"vanilla": (0.0,), "dropout": [0.5, 0.1], "bean1": [0.5, 0.1]}
    assert strengths("--alphas=0.5,0.1") == expected

  def test_method_by_method(self):
    found = strengths("--alphas=bean1:3,0")
    assert found == {**self.GRIDS, "bean1": [3.0, 0.0]}
    found = strengths("--alphas=bean1:3,0 0.5")
    assert found == {"vanilla": (0.0,), "dropout": [0.5], "bean1": [3.0, 0.0]}

  @pytest.mark.parametrize(
    "alphas,message",
    (
      ("", "expected numbers, got ''"),
      ("bean2:1", "for some of vanilla, dropout, bean1, as bean1:1,10, got "),
      ("vanilla:1", "vanilla has no strength"),
      ("-1", "expected a number from 0 to 1e38, got -1.0"),
      # Also where a value for all does not suit one.
      ("0.5,1", "expected a number from 0 to below 1, got 1.0"),
      ("bean1:1 dropout:2", "expected a number from 0 to below 1, got 2.0"),
    ),
  )
  def test_refused(self, alphas, message):
    with pytest.raises(parsing.ConfigError) as caught:
      strengths(f"--alphas={alphas}")
    assert str(caught.value).startswith("--alphas: ")
    assert message in str(caught.value)


class TestLearningRates:
  @pytest.mark.parametrize(
    "args,vanilla,bean1",
    (
      ((), 5e-4, 5e-4),
      (("--learning_rate=0.01",), 0.01, 0.01),
      (("--learning_rate=bean1:0.1 0.01",), 0.01, 0.1),
      (("--learning_rate=bean1:0.1 vanilla:0.2",), 0.2, 0.1),
    ),
  )
  def test_one_for_each_method(self, args, vanilla, bean1):
    assert learning_rates(*args) == {"vanilla": vanilla, "bean1": bean1}

  @pytest.mark.parametrize(
    "rate,message",
    (
      ("1,2", "expected one number for vanilla, got '1,2'"),
      ("bean1:1", "expected one number for vanilla, got 'bean1:1'"),
      ("bean1:1,2 3", "expected one number for bean1, got 'bean1:1,2 3'"),
      ("bean2:1 3", "for some of vanilla, bean1, as bean1:1,10, got "),
      ("0", "expected a number from 1e-30 to 1e38, got 0.0"),
    ),
  )
  def test_refused(self, rate, message):
    with pytest.raises(parsing.ConfigError) as caught:
      learning_rates(f"--learning_rate={rate}")
    assert str(caught.value).startswith("--learning_rate: ")
    assert message in str(caught.value)
