"""Tests of experiments.records.results; tests/faults has kinds of damage."""

import contextlib
import itertools
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


CONFIG = make_record()["config"]


@pytest.fixture
def path(tmp_path):
  return tmp_path / "cell.json"


def test_gives_back_what_was_written_to_the_bit(path):
  values = np.random.default_rng(0).normal(size=(2, 3))
  metrics = {
    "float64": values,
    "float32": values.astype(np.float32),
    "jax": jnp.asarray([0.1, 0.2], jnp.float32),
  }
  config = {"alpha": np.float32(0.1), "sizes": (1, 2)}
  record = make_record(
    seeds=np.arange(2), config=config, metrics=metrics, frozen=[{"seed": 1}]
  )
  results.write(path, record)
  first, read = path.read_bytes(), results.read(path)
  # What was read can be written again.
  results.write(path, read)
  assert path.read_bytes() == first
  for name, array in metrics.items():
    expected = np.asarray(array, np.float64)
    np.testing.assert_array_equal(results.metric(read, name), expected)
  assert read.pop("schema") == 1
  assert len(read.pop("checksum")) == 64
  del read["metrics"], record["metrics"]
  config = {"alpha": float(np.float32(0.1)), "sizes": [1, 2]}
  assert read == {**record, "seeds": [0, 1], "config": config}
  with pytest.raises(FileNotFoundError):
    results.read(path.with_name("none.json"))


def test_nonfinite_metrics_are_null_in_strict_json(path):
  metrics = {"loss": [np.nan, 1.0], "curve": [[np.inf, 1.0], [2.0, -np.inf]]}
  results.write(path, make_record(metrics=metrics))
  text = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert text["metrics"] == {
    "loss": [None, 1.0],
    "curve": [[None, 1.0], [2.0, None]],
  }
  np.testing.assert_array_equal(
    results.metric(results.read(path), "curve"), [[np.nan, 1.0], [2.0, np.nan]]
  )
  with pytest.raises(ValueError, match=r"\['test_accuracy'\], got 'loss'"):
    results.metric(make_record(), "loss")


@pytest.mark.parametrize(
  "changes",
  (
    *({"config": {"alpha": np.nan}}, {"seconds": np.inf}, {"seconds": "1"}),
    *({"seeds": [0, 0]}, {"seeds": [0, 1.0]}, {"metrics": {"loss": [0.5]}}),
    *({"metrics": {"loss": 0.5}}, {"metrics": {"loss": ["1", 2]}}),
    {"config": {"a": object()}},
  ),
)
def test_refuses_to_write(path, changes):
  with pytest.raises((ValueError, TypeError)):
    results.write(path, make_record(**changes))
  assert not path.exists()


@pytest.mark.parametrize("name", make_record())
def test_refuses_a_record_without(path, name):
  record = make_record()
  del record[name]
  with pytest.raises(ValueError, match=f"'{name}', which is missing"):
    results.write(path, record)
  # Nor is one used that was written all the same.
  with mock.patch.object(results, "_problem", return_value=None):
    results.write(path, record)
  with pytest.raises(results.DamagedError, match=f"'{name}', which is missing"):
    results.read(path)


def test_every_flipped_bit_and_every_cut_is_noticed(path):
  results.write(path, make_record(metrics={"loss": [1e-9, 2.0]}))
  record, data = results.read(path), path.read_bytes()
  altered = [data[:length] for length in range(len(data))]
  for place, bit in itertools.product(range(len(data)), range(8)):
    flipped = bytes([data[place] ^ 1 << bit])
    altered.append(data[:place] + flipped + data[place + 1 :])
  harmless = []
  with mock.patch.object(pathlib.Path, "read_bytes") as read_bytes:
    for read_bytes.return_value in altered:
      with contextlib.suppress(results.DamagedError):
        harmless.append(results.read(path))
  # The last line break cut off, and E instead of e in 1e-09.
  assert harmless == [record, record]


@pytest.mark.parametrize(
  "data",
  (
    *(b"", b"null", b"[]", b"{}", b'{"checksum": "0"}', b'{"loss": NaN}'),
    *(b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000),
  ),
)
def test_refuses_foreign_files(path, data):
  path.write_bytes(data)
  with pytest.raises(results.DamagedError, match="move this file away"):
    results.read(path)
  assert path.read_bytes() == data


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
  "error,expected,message",
  (
    (OSError(28, "No space"), results.ResultError, "No space.*make room"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
  ),
)
def test_failure_leaves_the_old_file_alone(
  path, function, error, expected, message
):
  results.write(path, make_record(seconds=1))
  with (
    mock.patch.object(os, function, side_effect=error),
    pytest.raises(expected, match=message),
  ):
    results.write(path, make_record(seconds=2))
  assert results.read(path)["seconds"] == 1
  assert os.listdir(path.parent) == [path.name]


def test_finds_what_the_same_configuration_made_or_makes_it(path):
  assert results.find(path, CONFIG) is None
  fields = make_record()
  measured = {"metrics": fields.pop("metrics")}
  record, is_new = results.made(path, fields, lambda: measured)
  assert is_new
  assert record["metrics"] == measured["metrics"]
  reordered = dict(reversed(CONFIG.items()))
  assert results.find(path, reordered) == record
  assert results.made(path, fields, pytest.fail) == (record, False)
  again, is_new = results.made(path, fields, lambda: measured, resume=False)
  assert is_new
  assert again["metrics"] == measured["metrics"]


# Settings as of a record of other keys, or one from before they were pinned.
@pytest.mark.parametrize(
  "changes,config,reason",
  (
    (
      *({"versions": {"jax": "0.10.1", "bean_jax": "0.0.1"}}, {}),
      f"made by bean_jax 0.0.1, this is {bean_jax.__version__}",
    ),
    (
      *({"settings": {"jax_default_prng_impl": "rbg"}}, {}),
      "made with jax_default_prng_impl=rbg, this is threefry2x32",
    ),
    (
      *({}, {"alpha": 1.0, "shots": 1}),
      "made with another configuration (alpha: expected 1.0, got 0.1;"
      " shots: expected 1, got nothing)",
    ),
  ),
)
def test_what_was_made_otherwise_is_refused_and_stays(
  changes, config, reason, path
):
  results.write(path, make_record(**changes))
  before = path.read_bytes()
  with pytest.raises(results.ResultError) as caught:
    results.find(path, {**CONFIG, **config})
  assert str(caught.value) == (
    f"{path}: {reason}; move this file away or choose another folder"
  )
  assert path.read_bytes() == before


def test_what_settings_do_not_say_is_no_difference(path):
  for settings in ({}, {"jax_enable_x64": False}, {"XLA_FLAGS": "--a", "b": 1}):
    results.write(path, make_record(settings=settings))
    assert results.find(path, CONFIG)


def test_digest_sees_values_and_names_but_no_order():
  digest = results.config_digest({"a": 1, "b": [1, 2]})
  assert digest == results.config_digest({"b": (1, 2), "a": 1})
  for other in ({"a": 2, "b": [1, 2]}, {"a": 1, "c": [1, 2]}, {"a": 1}):
    assert digest != results.config_digest(other)


def test_every_record_of_a_folder_is_read_by_name(tmp_path):
  for name in ("b.json", "a.json"):
    results.write(tmp_path / name, make_record(experiment=name))
  (tmp_path / "curves.png").write_bytes(b"")
  records = results.load_all(tmp_path)
  assert [*records] == ["a.json", "b.json"]
  assert records["b.json"]["experiment"] == "b.json"
  # One that is damaged is not passed over.
  (tmp_path / "b.json").write_text("{")
  with pytest.raises(results.ResultError, match=r"b\.json"):
    results.load_all(tmp_path)


@pytest.mark.parametrize(
  "hparams,end",
  (
    ({}, ""),
    ({"alpha": 10}, "-alpha10"),
    ({"alpha": 10.0}, "-alpha10"),
    ({"alpha": -0.0}, "-alpha0"),
    ({"alpha": np.float64(0.1)}, "-alpha0.1"),
    ({"alpha": 0.1 + 1e-16}, "-alpha0.1000000000000001"),
    ({"alpha": 1e-05}, "-alpha1e-05"),
    ({"l1": 0.5}, "-l1_0.5"),
    ({"gamma": 3, "alpha": 1}, "-alpha1-gamma3"),
  ),
)
def test_names_of_cells(hparams, end):
  """tests/faults has those that are refused."""
  name = results.cell_name("mnist", "5shot", "bean1", **hparams)
  assert name == f"mnist-5shot-bean1{end}.json"


def test_environment_fits_a_record(path):
  environment = results.environment()
  results.write(path, make_record(**environment))
  for module in (jax, flax, bean_jax):
    version = environment["versions"][module.__name__]
    assert version == module.__version__
  assert environment["device"]["count"] == len(jax.devices())


def test_git_commit_and_changes(tmp_path):
  def git(*arguments):
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", *names, *arguments]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

  git("init")
  assert results._git(tmp_path) is None
  (tmp_path / "file").write_text("1")
  git("add", "file")
  git("commit", "--message=first")
  (tmp_path / "untracked").touch()
  clean = results._git(tmp_path)
  assert (len(clean["commit"]), clean["dirty"]) == (40, False)
  (tmp_path / "file").write_text("2")
  assert results._git(tmp_path) == {**clean, "dirty": True}
  assert results._git(tmp_path.parent) is None
