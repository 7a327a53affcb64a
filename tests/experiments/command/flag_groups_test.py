"""Tests of experiments.command.flag_groups."""

import os
import pwd
import re

from absl import flags
import pytest

from benchmarks import run as benchmarks_run
from experiments import full_data, report
from experiments.command import flag_groups, parsing
from experiments.learning import methods
from tests.experiments import in_process, planned, tiny
from tests.faults import here

# Flags that hold paths.
PATHS = {"checkpoint_dir", "data_dir", "output", "output_dir", "results_dir"}


@pytest.mark.parametrize(
  "script",
  (*here.ALL.values(), report, benchmarks_run),
  ids=lambda script: script.__name__,
)
def test_every_path_may_begin_at_home(script, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  names = [n for n in script.FLAGS if n.endswith(("_dir", "output"))]
  assert names
  assert set(names) <= PATHS
  with in_process.parsed(script, *(f"--{name}=~/res" for name in names)):
    for name in names:
      assert script.FLAGS[name].value == str(tmp_path / "res")


def test_a_folder_named_so():
  with in_process.parsed(full_data, "--output_dir=./~"):
    assert full_data.FLAGS.output_dir == "./~"


def test_without_a_home(tmp_path, monkeypatch):
  def missing(uid):
    raise KeyError(uid)

  monkeypatch.delenv("HOME")
  monkeypatch.setattr(pwd, "getpwuid", missing)
  monkeypatch.chdir(tmp_path)
  error = in_process.refused(full_data, "--output_dir=~/res")
  assert "--output_dir=~/res: no home folder for '~/res'; give " in error
  assert os.listdir() == []


def parse(args):
  """The flags of a script that has all groups."""
  values = flags.FlagValues()
  flag_groups.define_alphas(values, known=list(methods.METHODS))
  flag_groups.define_bean(values)
  flag_groups.define_few_shot(values)
  flag_groups.define_imitation(values)
  flag_groups.define_competing(values)
  flag_groups.define(values, learning_rate="5e-4", validate_every=2)
  flag_groups.define(values, seeds="3", selection_seeds="100-101")
  flag_groups.define(values, shots=["1", "5"], epochs=["4"])
  values(["script", *(f"--{arg}" for arg in re.split("^--| --", args)[1:])])
  return values


def strengths(values):
  return flag_groups.strengths(values, ("vanilla", "dropout", "bean1"))


def learning_rates(values):
  return flag_groups.learning_rates(values, ("vanilla", "bean1"))


def options(values):
  network = tiny.NETWORK._replace(layers=("fc1", "fc2", "fc3"))
  return flag_groups.options(values, network)


DROPOUT, BEAN1 = (methods.METHODS[name].grid for name in ("dropout", "bean1"))


@pytest.mark.parametrize(
  "args,dropout,bean1",
  (
    ("", DROPOUT, BEAN1),
    ("--alphas=0.5,0.1", [0.5, 0.1], [0.5, 0.1]),
    ("--alphas=bean1:3,0", DROPOUT, [3.0, 0.0]),
    ("--alphas=bean1:3,0 0.5", [0.5], [3.0, 0.0]),
  ),
)
def test_strengths(args, dropout, bean1):
  expected = {"vanilla": (0.0,), "dropout": dropout, "bean1": bean1}
  assert strengths(parse(args)) == expected


@pytest.mark.parametrize(
  "read,args,expected",
  (
    *(
      (learning_rates, args, {"vanilla": vanilla, "bean1": bean1})
      for args, vanilla, bean1 in (
        ("", 5e-4, 5e-4),
        ("--learning_rate=0.01", 0.01, 0.01),
        ("--learning_rate=bean1:0.1 0.01", 0.01, 0.1),
        ("--learning_rate=bean1:0.1 vanilla:0.2", 0.2, 0.1),
      )
    ),
    (flag_groups.schedule, "", [(1, 4), (5, 4)]),
    (flag_groups.schedule, "--shots=5,1 --epochs=4,8", [(1, 8), (5, 4)]),
    (flag_groups.schedule, "--epochs=3 --validate_every=0", [(1, 3), (5, 3)]),
    (flag_groups.both_seeds, "--selection_seeds=3-4", ((0, 1, 2), (3, 4))),
    (options, "", methods.Options()),
  ),
)
def test_what_is_read(read, args, expected):
  assert read(parse(args)) == expected


def test_options():
  # In the order of the network.
  changed = planned.UNUSUAL._asdict() | {"layers": ("fc1", "fc3")}
  args = [f"--{n}={v}" for n, v in changed.items() if n != "layers"]
  found = options(parse(" ".join([*args, "--layers=fc3,fc1"])))
  assert found == methods.Options(**changed)


@pytest.mark.parametrize(
  "read,args,message",
  (
    (strengths, "--alphas=", "--alphas: expected numbers, got ''"),
    (strengths, "--alphas=bean2:1", "for some of vanilla, dropout, bean1, as"),
    (strengths, "--alphas=vanilla:1", "--alphas: vanilla has no strength"),
    (strengths, "--alphas=-1", "a number from 0 to 1e38, got -1.0"),
    # Also where a value for all does not suit one.
    (strengths, "--alphas=0.5,1", "a number from 0 to below 1, got 1.0"),
    (strengths, "--alphas=bean1:1 dropout:2", "from 0 to below 1, got 2.0"),
    (
      learning_rates,
      "--learning_rate=1,2",
      "one number for vanilla, got '1,2'",
    ),
    (learning_rates, "--learning_rate=bean1:1", "one number for vanilla, got"),
    (
      learning_rates,
      "--learning_rate=bean1:1,2 3",
      "one number for bean1, got",
    ),
    (learning_rates, "--learning_rate=0", "from 1e-30 to 1e38, got 0.0"),
    (options, "--gamma=-1", "--gamma: expected"),
    (options, "--pseudo_epochs=0", "--pseudo_epochs: expected"),
    (options, "--readout_epochs=0", "--readout_epochs: expected"),
    (options, "--layers=fc9", "--layers: expected different ones of fc1, fc2"),
    (options, "--first_pseudo=20000", "--last_pseudo: expected at least"),
    (flag_groups.schedule, "--shots=1,1", "--shots: expected different"),
    (flag_groups.schedule, "--shots=0", "--shots: expected a number from 1"),
    (flag_groups.schedule, "--epochs=0", "--epochs: expected a number from 1"),
    (flag_groups.schedule, "--epochs=2,2,2", "expected one number or 2, one"),
    (flag_groups.schedule, "--epochs=4,6 --validate_every=4", "got 4 for 6"),
    (flag_groups.both_seeds, "--selection_seeds=2-5", "got 2 in both"),
  ),
)
def test_refused(read, args, message):
  values = parse(args)
  with pytest.raises(parsing.ConfigError) as caught:
    read(values)
  assert message in str(caught.value)
