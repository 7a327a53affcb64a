"""Tests of experiments.command.flag_groups."""

import os
import pathlib
import pwd

from absl import flags
import pytest

from benchmarks import run as benchmarks_run
from experiments import full_data, report
from experiments.command import flag_groups
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
