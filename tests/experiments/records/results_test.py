"""Tests of experiments.records.results."""

import concurrent.futures
import copy
import errno
import json
import os
import pathlib
import subprocess
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from experiments.records import results


def make_record(**changes):
  return {
    "experiment": "few_shot",
    "config": {"dataset": "digits", "alpha": 0.1, "epochs": 50},
    "versions": {"jax": "0.10.1", "bean_jax": bean_jax.__version__},
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "git": None,
    "seconds": 1.5,
    "seeds": [0, 1],
    "metrics": {"test_accuracy": [0.25, 0.5]},
    **changes,
  }


@pytest.fixture
def path(tmp_path):
  return tmp_path / "cell.json"


class TestWriteAndRead:
  def test_gives_back_what_was_written(self, path):
    record = make_record(metrics={"loss": [np.inf, 0.5]}, frozen=[{"seed": 1}])
    before = copy.deepcopy(record)
    results.write(path, record)
    assert record == before
    first, read = path.read_bytes(), results.read(path)
    # What was read can be written again.
    results.write(path, read)
    assert path.read_bytes() == first
    assert read.pop("schema") == 1
    assert len(read.pop("checksum")) == 64
    assert read == {**record, "metrics": {"loss": [None, 0.5]}}
    with pytest.raises(FileNotFoundError):
      results.read(path.with_name("none.json"))

  def test_takes_arrays_and_keeps_every_bit(self, path):
    values = np.random.default_rng(0).normal(size=(2, 3))
    results.write(
      path,
      make_record(
        seeds=np.arange(2),
        config={"alpha": np.float32(0.1), "sizes": (1, 2)},
        metrics={
          "float64": values,
          "float32": values.astype(np.float32),
          "jax": jnp.asarray([0.1, 0.2], jnp.float32),
          "count": np.array([3, 2**62]),
        },
      ),
    )
    read = results.read(path)
    assert read["seeds"] == [0, 1]
    assert read["config"] == {"alpha": float(np.float32(0.1)), "sizes": [1, 2]}
    np.testing.assert_array_equal(results.metric(read, "float64"), values)
    np.testing.assert_array_equal(
      results.metric(read, "float32").astype(np.float32),
      values.astype(np.float32),
    )
    np.testing.assert_array_equal(
      results.metric(read, "jax"), np.float32([0.1, 0.2]).astype(np.float64)
    )
    assert read["metrics"]["count"] == [3, 2**62]

  def test_nonfinite_metrics_are_null_in_strict_json(self, path):
    metrics = {"loss": [np.nan, 1.0], "curve": [[np.inf, 1.0], [2.0, -np.inf]]}
    results.write(path, make_record(metrics=metrics))
    text = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert text["metrics"] == {
      "loss": [None, 1.0],
      "curve": [[None, 1.0], [2.0, None]],
    }
    read = results.read(path)
    np.testing.assert_array_equal(results.metric(read, "loss"), [np.nan, 1.0])
    np.testing.assert_array_equal(
      results.metric(read, "curve"), [[np.nan, 1.0], [2.0, np.nan]]
    )

  def test_unknown_metric_lists_the_known(self):
    with pytest.raises(ValueError, match=r"\['test_accuracy'\], got 'loss'"):
      results.metric(make_record(), "loss")

  @pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
      ({"config": {"alpha": np.nan}}, ValueError, "config.alpha: .* got nan"),
      ({"seconds": np.inf}, ValueError, "seconds: .* got inf"),
      ({"seconds": "1"}, ValueError, "seconds: expected int | float, got str"),
      ({"config": {"a": object()}}, TypeError, "config.a: .* got object"),
      ({"config": {1: 2}}, TypeError, "config: .* as strings, got 1"),
      ({"seeds": [0, 0]}, ValueError, "different integers"),
      ({"seeds": [0, 1.0]}, ValueError, "different integers"),
      ({"metrics": {"loss": [0.5]}}, ValueError, "metrics.loss: expected 2"),
      ({"metrics": {"loss": 0.5}}, ValueError, "metrics.loss: expected 2"),
      ({"metrics": {"loss": ["1", 2]}}, ValueError, "expected numbers or"),
    ],
  )
  def test_refuses_to_write(self, path, changes, error, message):
    with pytest.raises(error, match=message):
      results.write(path, make_record(**changes))
    assert not path.exists()

  @pytest.mark.parametrize("name", make_record())
  def test_refuses_a_record_without(self, path, name):
    record = make_record()
    del record[name]
    with pytest.raises(ValueError, match=f"'{name}', which is missing"):
      results.write(path, record)


class TestDamage:
  def test_every_flipped_bit_and_every_cut_is_noticed(self, path):
    results.write(path, make_record(metrics={"loss": [1e-9, 2.0]}))
    record = results.read(path)
    data = path.read_bytes()
    cuts = [data[:length] for length in range(len(data))]
    flips = [
      data[:i] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :]
      for i in range(len(data))
      for bit in range(8)
    ]
    messages, harmless = [], []
    with mock.patch.object(pathlib.Path, "read_bytes") as read_bytes:
      for read_bytes.return_value in cuts + flips:
        try:
          harmless.append(results.read(path))
        except results.ResultError as error:
          messages.append(str(error))
    # The last line break cut off, and E instead of e in 1e-09.
    assert harmless == [record, record]
    assert len(messages) == len(cuts) + len(flips) - 2
    for message in messages:
      assert message.startswith(f"{path}: ")
      assert "move this file away" in message
      assert "\n" not in message

  @pytest.mark.parametrize(
    "data",
    [
      b"",
      b"null",
      b"[]",
      b"7",
      b"{}",
      b'{"checksum": "0"}',
      b'{"loss": NaN}',
      b'{"loss": 1e999}',
      b"\xff\xfe\x00",
      b"\x89PNG\r\n\x1a\n",
      b"[" * 100_000,
      b'{"a":' * 100_000,
      b"9" * 10_000,
    ],
  )
  def test_refuses_foreign_files(self, path, data):
    path.write_bytes(data)
    with pytest.raises(results.ResultError, match="move this file away"):
      results.read(path)
    assert path.read_bytes() == data

  def test_refuses_another_schema(self, path):
    with mock.patch.object(results, "SCHEMA", 2):
      results.write(path, make_record())
    with pytest.raises(results.ResultError, match="expected schema 1, got 2"):
      results.read(path)

  def test_refuses_a_valid_checksum_over_missing_fields(self, path):
    with mock.patch.object(results, "_problem", return_value=None):
      results.write(path, {"experiment": "few_shot"})
    with pytest.raises(results.ResultError, match="'config', which is missing"):
      results.read(path)


class TestAtomicity:
  @pytest.mark.parametrize("function", ["fsync", "replace"])
  @pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()]
  )
  def test_failure_leaves_the_old_file_alone(self, path, function, error):
    results.write(path, make_record(seconds=1))
    expected = (
      results.ResultError if isinstance(error, OSError) else KeyboardInterrupt
    )
    with (
      mock.patch.object(os, function, side_effect=error),
      pytest.raises(expected) as caught,
    ):
      results.write(path, make_record(seconds=2))
    if expected is results.ResultError:
      assert "(No space left); make room" in str(caught.value)
    assert results.read(path)["seconds"] == 1
    assert os.listdir(path.parent) == [path.name]

  def test_paths_that_can_and_cannot_be_written(self, path):
    with pytest.raises(results.ResultError, match="No such file or directory"):
      results.write(path / "cell.json", make_record())
    path.mkdir()
    with pytest.raises(results.ResultError, match="could not be written"):
      results.write(path, make_record())
    assert os.listdir(path.parent) == [path.name]
    longest = path.with_name("a" * 250 + ".json")
    results.write(longest, make_record())
    assert results.read(longest)["seconds"] == 1.5

  def test_is_readable_by_others(self, path):
    results.write(path, make_record())
    reference = path.with_name("reference")
    reference.touch()
    assert path.stat().st_mode == reference.stat().st_mode

  def test_readers_see_whole_files_while_writers_compete(self, path):
    results.write(path, make_record(seconds=0))

    def write(seconds):
      results.write(path, make_record(seconds=seconds))
      return results.read(path)["seconds"]

    with concurrent.futures.ThreadPoolExecutor(4) as executor:
      seen = list(executor.map(write, range(40)))
    assert set(seen) <= set(range(40))
    assert os.listdir(path.parent) == [path.name]


class TestFind:
  config = make_record()["config"]

  def test_finds_what_the_same_configuration_made(self, path):
    assert results.find(path, self.config) is None
    results.write(path, make_record())
    reordered = dict(reversed(self.config.items()))
    assert results.find(path, reordered)["seconds"] == 1.5

  # Settings as of a record of other keys, or one from before they were pinned.
  @pytest.mark.parametrize(
    "changes,config,reason",
    (
      (
        {"versions": {"jax": "0.10.1", "bean_jax": "0.0.1"}},
        {},
        f"made by bean_jax 0.0.1, this is {bean_jax.__version__}",
      ),
      (
        {"settings": {"jax_default_prng_impl": "rbg"}},
        {},
        "made with jax_default_prng_impl=rbg, this is threefry2x32",
      ),
      (
        {},
        {"alpha": 1.0, "shots": 1},
        "made with another configuration (alpha: expected 1.0, got 0.1;"
        " shots: expected 1, got nothing)",
      ),
    ),
  )
  def test_what_was_made_otherwise_is_refused_and_stays(
    self, changes, config, reason, path
  ):
    results.write(path, make_record(**changes))
    before = path.read_bytes()
    with pytest.raises(results.ResultError) as caught:
      results.find(path, {**self.config, **config})
    assert str(caught.value) == (
      f"{path}: {reason}; move this file away or choose another folder"
    )
    assert path.read_bytes() == before

  @pytest.mark.parametrize(
    "settings", ({}, {"jax_enable_x64": False}, {"XLA_FLAGS": "--a", "b": 1})
  )
  def test_what_settings_do_not_say_is_no_difference(self, settings, path):
    results.write(path, make_record(settings=settings))
    assert results.find(path, self.config)["settings"] == settings

  def test_sets_damaged_files_aside(self, path, capsys):
    """tests/faults has every kind of damage."""
    path.write_text("{")
    assert results.find(path, self.config) is None
    assert not path.exists()
    assert path.with_name("cell.json.damaged").read_text() == "{"
    assert capsys.readouterr().err == (
      f"warning: {path}: expected a JSON object, cut off or foreign; renamed to"
      " cell.json.damaged, not used\n"
    )

  def test_digest_sees_values_and_names_but_no_order(self):
    digest = results.config_digest({"a": 1, "b": [1, 2]})
    assert digest == results.config_digest({"b": (1, 2), "a": 1})
    for other in ({"a": 2, "b": [1, 2]}, {"a": 1, "c": [1, 2]}, {"a": 1}):
      assert digest != results.config_digest(other)


class TestLoadAll:
  def test_reads_every_record_by_name(self, tmp_path):
    for name, seconds in (("b.json", 2), ("a.json", 1)):
      results.write(tmp_path / name, make_record(seconds=seconds))
    (tmp_path / "curves.png").write_bytes(b"")
    (tmp_path / ".0123.tmp").write_bytes(b"half")
    records = results.load_all(tmp_path)
    assert [(k, v["seconds"]) for k, v in records.items()] == [
      ("a.json", 1),
      ("b.json", 2),
    ]
    # One that is damaged is not passed over.
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(results.ResultError, match=r"b\.json"):
      results.load_all(tmp_path)
    with pytest.raises(FileNotFoundError):
      results.load_all(tmp_path / "none")


class TestCellName:
  @pytest.mark.parametrize(
    ("hparams", "expected"),
    [
      ({}, "mnist-5shot-bean1.json"),
      ({"alpha": 10}, "mnist-5shot-bean1-alpha10.json"),
      ({"alpha": 10.0}, "mnist-5shot-bean1-alpha10.json"),
      ({"alpha": -0.0}, "mnist-5shot-bean1-alpha0.json"),
      ({"alpha": np.float64(0.1)}, "mnist-5shot-bean1-alpha0.1.json"),
      ({"alpha": 1e-05}, "mnist-5shot-bean1-alpha1e-05.json"),
      ({"l1": 0.5}, "mnist-5shot-bean1-l1_0.5.json"),
      (
        {"gamma": 3, "distance": "absolute"},
        "mnist-5shot-bean1-distance_absolute-gamma3.json",
      ),
    ],
  )
  def test_names(self, hparams, expected):
    assert results.cell_name("mnist", "5shot", "bean1", **hparams) == expected

  def test_close_numbers_have_different_names(self):
    first = results.cell_name("mnist", "1shot", "bean1", alpha=0.1)
    second = results.cell_name("mnist", "1shot", "bean1", alpha=0.1 + 1e-16)
    assert first != second

  # Among them the Arabic digit one after a letter; tests/faults has more.
  @pytest.mark.parametrize(
    "word", ("", "..", "a/b", "MNIST", "a b", "a-b", "a\n", "a\u0661", None, 3)
  )
  def test_refuses_what_is_not_a_word(self, word):
    for place in range(3):
      words = ["mnist", "1shot", "bean1"]
      words[place] = word
      name = ("dataset", "place", "method")[place]
      with pytest.raises(ValueError, match=f"{name}: expected a word"):
        results.cell_name(*words)
    if isinstance(word, str):
      with pytest.raises(ValueError, match="distance: expected a word"):
        results.cell_name("mnist", "1shot", "bean1", distance=word)
      with pytest.raises(ValueError, match="hparams: expected a word"):
        results.cell_name("mnist", "1shot", "bean1", **{word: 1.0})

  def test_refuses_other_values_and_long_names(self):
    for value in (np.nan, np.inf, True, None, [1]):
      with pytest.raises(ValueError, match="alpha: expected a"):
        results.cell_name("mnist", "1shot", "bean1", alpha=value)
    with pytest.raises(ValueError, match="at most 200 characters, got 212"):
      results.cell_name("a" * 195, "1shot", "bean1")


class TestVersions:
  def test_several_versions_are_counted(self):
    jax_of = {"a": "0.10.1", "b": "0.10.1", "c": "0.11.2"}
    jax_of |= {"d": "0.11.2", "e": "0.10.1"}
    records = [
      make_record(
        git={"commit": name * 10, "dirty": name == "b"},
        versions={"python": "3.11.7", "jax": jax_of[name]},
      )
      for name in "abbcde"
    ]
    records.append(make_record(versions={"jax": "0.10.1"}))
    assert results.mixed_versions(records) == (
      "Made by different versions: commit bbbbbbb with changes (2 cells),"
      " aaaaaaa (1), ccccccc (1), 3 more; python 3.11.7 (6 cells), none (1);"
      " jax 0.10.1 (5 cells), 0.11.2 (2)."
    )
    assert results.mixed_versions(records[:1] * 3) == ""
    assert results.mixed_versions([]) == ""

  def test_the_present_version_goes_without_saying(self, capsys):
    environment = results.environment()
    results.tell_versions([make_record(**environment)] * 2)
    results.tell_versions([])
    assert capsys.readouterr() == ("", "")

  def test_other_versions_are_named_in_a_line(self, capsys, monkeypatch):
    git = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(results, "_git", lambda root: git)
    environment = results.environment()
    ours = make_record(**environment)
    other = make_record(**environment)
    other["versions"] = {**other["versions"], "jax": "0.9.0"}
    other["git"] = {"commit": "b" * 40, "dirty": True}
    results.tell_versions([ours, other, ours])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
      "warning: 1 of 3 cells were made by other versions and are used: commit"
      " bbbbbbb with changes (1 cell), now aaaaaaa; jax 0.9.0 (1 cell), now"
      f" {jax.__version__}\n"
    )


class TestEnvironment:
  def test_fits_a_record(self, path):
    environment = results.environment()
    results.write(path, make_record(**environment))
    for module in (jax, flax, bean_jax):
      version = environment["versions"][module.__name__]
      assert version == module.__version__
    assert environment["device"]["platform"] == "cpu"
    assert environment["device"]["count"] == len(jax.devices())

  def test_git_commit_and_changes(self, tmp_path):
    assert results._git(tmp_path) is None

    def git(*arguments):
      subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=tmp_path,
        check=True,
        capture_output=True,
      )

    git("init")
    assert results._git(tmp_path) is None
    file = tmp_path / "file"
    file.write_text("1")
    git("add", "file")
    git("commit", "--message=first")
    clean = results._git(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "untracked").touch()
    assert results._git(tmp_path) == clean
    file.write_text("2")
    assert results._git(tmp_path) == {**clean, "dirty": True}
