"""Tests of experiments.runs.partials."""

import copy
import json

import numpy as np
import pytest

from experiments.records import results
from experiments.runs import partials

CONFIG = {"method": "bean1", "alpha": 10.0, "members_per_chunk": 2}
ENVIRONMENT = results.environment()


def make_member(number):
  return {
    "test_accuracy": np.float64(np.nan if number == 2 else number / 7),
    "failed_step": np.int32(number - 1),
    "best_epoch": np.int32(3),
    # Whole numbers that are no integers.
    "loss_curve": np.array([1.0, 0.1 + number, np.inf, 2.0]),
    "whole_curve": np.array([1.0, 2.0]),
    "seconds": np.float64(0.1),
  }


@pytest.fixture
def path(tmp_path):
  return tmp_path / "digits-1shot-bean1-alpha10.json"


@pytest.fixture
def folder(path):
  return partials.folder(path, CONFIG, ENVIRONMENT)


def keep(folder, seeds):
  members = {seed: make_member(seed) for seed in seeds}
  partials.keep(folder, members, config=CONFIG, environment=ENVIRONMENT)


def test_members_come_back_with_their_bits_and_kinds(folder):
  keep(folder, (4, 2))
  keep(folder, (1,))
  found = partials.make_reader(folder, CONFIG)()
  assert sorted(found) == [1, 2, 4]
  for seed, member in found.items():
    expected = make_member(seed)
    # What is not finite is null in a file, hence NaN.
    expected["loss_curve"][2] = np.nan
    assert member.keys() == expected.keys()
    for name, values in expected.items():
      np.testing.assert_array_equal(member[name], values, err_msg=name)
      assert member[name].dtype.kind == np.asarray(values).dtype.kind, name


def test_a_record_of_them_is_the_same_to_the_byte(folder, tmp_path):
  keep(folder, (4, 2))
  found = partials.make_reader(folder, CONFIG)()
  for name, members in (("a", found), ("b", {4: make_member(4)})):
    record = {
      "experiment": "x",
      "config": CONFIG,
      **ENVIRONMENT,
      "seconds": 1,
      "seeds": [4],
      "metrics": {k: np.stack([v]) for k, v in members[4].items()},
    }
    results.write(tmp_path / name, record)
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reader_sees_what_comes_later_and_reads_nothing_twice(
  folder, monkeypatch
):
  read = partials.make_reader(folder, CONFIG)
  assert read() == {}
  keep(folder, (0, 1))
  assert sorted(read()) == [0, 1]
  keep(folder, (2,))
  opened = []
  find = results.find
  monkeypatch.setattr(
    results, "find", lambda p, c: opened.append(p.name) or find(p, c)
  )
  assert sorted(read()) == [0, 1, 2]
  assert sorted(read()) == [0, 1, 2]
  assert opened == ["seed2.json"]


@pytest.mark.parametrize(
  "change",
  (
    lambda config, _: config.update(alpha=11.0),
    lambda config, _: config.update(members_per_chunk=3),
    lambda _, environment: environment["versions"].update(jax="0.0"),
    lambda _, environment: environment["device"].update(kind="another"),
    lambda _, environment: environment.update(git=None),
  ),
)
def test_what_was_made_otherwise_is_kept_apart(change, path, folder):
  config, environment = copy.deepcopy((CONFIG, ENVIRONMENT))
  environment["git"] = {"commit": "0" * 40, "dirty": False}
  before = partials.folder(path, config, environment)
  change(config, environment)
  other = partials.folder(path, config, environment)
  assert other != before
  assert other.parent == before.parent
  other.mkdir(parents=True)
  assert partials.others(before, path) == [other]
  assert partials.others(other, path) == []
  # Of a cell whose name begins alike.
  longer = path.with_name("digits-1shot-bean1-alpha100.json")
  assert partials.others(before, longer) == []


def test_number_of_devices_does_not_matter(path, folder):
  environment = copy.deepcopy(ENVIRONMENT)
  environment["device"]["count"] += 1
  assert partials.folder(path, CONFIG, environment) == folder


@pytest.mark.parametrize("damage", ("cut", "flipped", "foreign"))
def test_damaged_files_are_renamed_and_not_used(damage, folder, capsys):
  keep(folder, (4, 2))
  keep(folder, (1,))
  path = folder / "seed2.json"
  data = path.read_bytes()
  path.write_bytes(
    {
      "cut": data[:-20],
      "flipped": data.replace(b"0.1", b"0.2", 1),
      "foreign": json.dumps({"seeds": [2, 4]}).encode(),
    }[damage]
  )
  damaged = path.read_bytes()
  assert damaged != data
  assert sorted(partials.make_reader(folder, CONFIG)()) == [1]
  assert [p.read_bytes() for p in folder.glob("*.damaged*")] == [damaged]
  assert str(path) in capsys.readouterr().err


def test_discard(path, folder):
  other = partials.folder(path, {**CONFIG, "alpha": 1.0}, ENVIRONMENT)
  for directory in (folder, other):
    partials.keep(
      directory,
      {0: make_member(0)},
      config=CONFIG,
      environment=ENVIRONMENT,
    )
  partials.discard(folder)
  assert not folder.exists()
  assert (other / "seed0.json").exists()
  # A damaged file is never deleted.
  damaged = other / "seed1.json.damaged"
  damaged.write_text("?")
  partials.discard(other)
  assert list(other.iterdir()) == [damaged]
  damaged.unlink()
  partials.discard(other)
  assert list(path.parent.iterdir()) == []
  partials.discard(other)


def test_where_nothing_can_be_written(folder):
  folder.parent.mkdir()
  folder.write_text("a file")
  with pytest.raises(results.ResultError, match="choose another folder"):
    keep(folder, (1,))
