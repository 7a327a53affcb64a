"""Tests of experiments.datasets.

Most use a small dataset made here, with real array_record files, in place of
MNIST. Those of the real data run where TFDS_DATA_DIR is set.
"""

import errno
import io
import os
import pwd
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from sklearn.datasets import load_digits
import tensorflow_datasets as tfds

from experiments import datasets
from experiments.datasets import cache, copies, digits, prepared
from experiments.records import archives
from tests.experiments import tiny

_REAL_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
_LAYOUT = prepared.Layout((6, 5, 1), 8, 3, 4, 10)
_SIZES = 0, 70_000  # Of a file of records that was cut off.
_IDENTITY = {"dataset": "mnist", "version": "3.0.1", "fingerprint": "f" * 64}

# Without what it remembers.
load = datasets.load.__wrapped__

needs_real_data = pytest.mark.skipif(
  not _REAL_DATA_DIR, reason="needs TFDS_DATA_DIR with prepared datasets"
)


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
  """A home of its own for every test, and a small MNIST."""
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setenv("BEAN_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setitem(prepared.LAYOUTS, "mnist", _LAYOUT)
  monkeypatch.setattr(copies, "_has_tensorflow", lambda: False)


def refused(function, *args, **kwargs):
  """Returns the line of the DatasetError that a call raises."""
  with pytest.raises(datasets.DatasetError) as caught:
    function(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


def load_refused(name, data_dir, *parts):
  """Loads what is refused, with a message that has these parts."""
  message = refused(load, name, data_dir=data_dir)
  for part in parts:
    assert part in message


def write_prepared(root, **kwargs):
  return tiny.write_prepared(root, "mnist", _LAYOUT.image_shape, **kwargs)


@pytest.fixture
def data_dir(tmp_path):
  write_prepared(tmp_path / "data")
  return tmp_path / "data"


def cached_file(tmp_path):
  (path,) = (tmp_path / "cache").glob("*.npz")
  return path


def no_decoding():
  return mock.patch.object(
    prepared, "decode", side_effect=AssertionError("decoded again")
  )


def assert_equal(first, second):
  assert first[:3] == second[:3]
  for ours, theirs in zip(first[3:], second[3:], strict=True):
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_digits_are_a_pinned_partition_of_the_original():
  dataset = load("digits")
  assert dataset[:3] == ("digits", 10, "scikit-learn load_digits")
  original = load_digits()

  def rows(images, labels):
    return sorted(
      image.tobytes() + bytes([label])
      for image, label in zip(images, labels, strict=True)
    )

  together = [np.concatenate(parts) for parts in zip(*dataset[3:], strict=True)]
  assert [array.dtype for array in together] == [np.uint8, np.int32]
  assert rows(*together) == rows(
    digits.enlarge(original.images), original.target
  )
  for split in (dataset.validation, dataset.test):
    np.testing.assert_array_equal(np.bincount(split.labels), np.full(10, 50))
  # Results are compared across versions: the split must never move.
  assert [split.labels[:12].tolist() for split in dataset[3:]] == [
    [1, 2, 5, 8, 9, 1, 4, 5, 6, 7, 8, 9],
    [0, 0, 0, 7, 5, 8, 8, 5, 0, 1, 2, 3],
    [3, 4, 6, 7, 2, 3, 2, 4, 5, 6, 8, 0],
  ]


def test_enlarged_images_look_like_their_originals():
  original = load_digits().images[:200]
  large = digits.enlarge(original)[..., 0].astype(float)
  border = large.copy()
  border[:, 4:24, 4:24] = 0
  assert not border.any()
  # 5 x 5 large pixels cover the same area as 2 x 2 original ones.
  ours = large[:, 4:24, 4:24].reshape(-1, 4, 5, 4, 5).mean((2, 4))
  theirs = original.reshape(-1, 4, 2, 4, 2).mean((2, 4)) * 255 / 16
  assert np.abs(ours - theirs).mean() < 8
  assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
  # Smooth, where repeated pixels would have the 17 levels of the originals.
  assert np.unique(large).size > 200


def test_enlarged_images_do_not_wrap_around():
  """Cubic interpolation overshoots next to an edge."""
  step = np.zeros((1, 8, 8))
  step[:, :, 4:] = 16
  large = digits.enlarge(step)[0, 14, :, 0].astype(int)
  assert large[8:12].max() < 30
  assert large[17:20].min() > 225


def test_import_is_light_and_digits_need_scikit_learn_alone():
  code = """
import sys
sys.modules["tensorflow_datasets"] = sys.modules["tensorflow"] = None
sys.modules["array_record"] = None
from experiments import datasets
assert not {"sklearn", "scipy", "jax"} & set(sys.modules)
assert datasets.load("digits").train.labels.size == 797
"""
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
  "name,meant",
  (("MNIST", "mnist"), ("cifar", "cifar10"), ("../mnist", None), (None, None)),
)
def test_unknown_name(name, meant):
  message = refused(load, name)
  assert repr(name) in message
  assert meant is None or f"Did you mean '{meant}'?" in message


@pytest.mark.parametrize("chunk", (4, 1000))
def test_decodes_in_stored_order(chunk, tmp_path, monkeypatch):
  monkeypatch.setattr(prepared, "_CHUNK", chunk)
  _, (images, labels, test_images, test_labels) = write_prepared(tmp_path)
  dataset = load("mnist", data_dir=tmp_path)
  assert_equal(
    dataset,
    datasets.Dataset(
      name="mnist",
      num_classes=10,
      source="tfds mnist:3.0.1",
      train=datasets.Split(images[:8], labels[:8]),
      validation=datasets.Split(images[8:], labels[8:]),
      test=datasets.Split(test_images, test_labels),
    ),
  )
  for split in dataset[3:]:
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_argument_before_environment_before_home(tmp_path, monkeypatch):
  labels = {}
  home = tmp_path / "home" / "tensorflow_datasets"
  for seed, root in enumerate((tmp_path / "a", tmp_path / "b", home)):
    labels[root] = write_prepared(root, seed=seed)[1][1][:8].tolist()
  assert len({tuple(drawn) for drawn in labels.values()}) == 3

  def loaded(**kwargs):
    return load("mnist", **kwargs).train.labels.tolist()

  assert loaded() == labels[home]
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a"))
  assert loaded() == labels[tmp_path / "a"]
  assert loaded(data_dir=str(tmp_path / "b")) == labels[tmp_path / "b"]
  monkeypatch.setenv("TFDS_DATA_DIR", "")
  assert loaded(data_dir="~/tensorflow_datasets") == labels[home]
  assert loaded() == labels[home]


def test_newest_version_is_used(tmp_path):
  write_prepared(tmp_path, seed=1, version="3.0.9")
  _, arrays = write_prepared(tmp_path, seed=2, version="3.0.10")
  unfinished = tmp_path / "mnist" / "incomplete.ABC_3.0.11"
  unfinished.mkdir()
  half_copied = tmp_path / "mnist" / "3.0.12"
  half_copied.mkdir()
  (half_copied / "mnist-test.array_record-00000-of-00001").write_bytes(b"x")
  dataset = load("mnist", data_dir=tmp_path)
  assert dataset.source == "tfds mnist:3.0.10"
  np.testing.assert_array_equal(dataset.test.labels, arrays[3])


def test_what_is_not_prepared(tmp_path, data_dir):
  cures = ('pip install ".[download]"', "--data_dir", "TFDS_DATA_DIR", "digits")
  load_refused("mnist", tmp_path, *cures, str(tmp_path))
  load_refused(
    "fashion_mnist",
    None,
    "home/tensorflow_datasets has no prepared fashion_mnist",
  )
  load_refused("cifar10", data_dir, "no prepared cifar10 (it has mnist)")


def test_tfrecord_copy(tmp_path):
  folder = tmp_path / "mnist" / "3.0.1"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text("{}")
  (folder / "mnist-train.tfrecord-00000-of-00001").write_bytes(b"x")
  load_refused("mnist", tmp_path, str(folder), "TensorFlow", "array_record")


@pytest.mark.parametrize(
  "name,missing,package",
  (
    ("digits", "sklearn", "scikit-learn"),
    ("mnist", "tensorflow_datasets", "tensorflow-datasets"),
  ),
)
def test_missing_packages(name, missing, package, data_dir, monkeypatch):
  monkeypatch.setitem(sys.modules, missing, None)
  load_refused(name, data_dir, package, 'pip install ".[experiments]"')


def test_missing_array_record(data_dir):
  missing = ModuleNotFoundError("No module named 'array_record'")
  with mock.patch.object(tfds, "builder_from_directory", side_effect=missing):
    load_refused("mnist", data_dir, str(missing), '".[experiments]"')


@pytest.mark.parametrize(
  "name,size,message",
  (
    *(
      ("mnist-train.array_record-00000-of-00001", n, "damaged") for n in _SIZES
    ),
    ("dataset_info.json", 0, ""),
    ("features.json", 0, ""),
  ),
)
def test_damaged_copies(name, size, message, tmp_path):
  folder, _ = write_prepared(tmp_path)
  assert (folder / name).stat().st_size > size
  os.truncate(folder / name, size)
  load_refused("mnist", tmp_path, str(folder), message)
  (folder / name).write_text("[]")
  load_refused("mnist", tmp_path, str(folder), message)
  assert not list(tmp_path.glob("cache/*"))


def test_other_images_and_labels_than_the_layout_has(tmp_path, monkeypatch):
  write_prepared(tmp_path / "few", num_train=10)
  load_refused(
    "mnist", tmp_path / "few", "uint8 (11, 6, 5, 1), got uint8 (10, 6, 5, 1)"
  )
  layout = _LAYOUT._replace(num_classes=3)
  monkeypatch.setitem(prepared.LAYOUTS, "mnist", layout)
  write_prepared(tmp_path / "all")
  load_refused("mnist", tmp_path / "all", "labels from 0 to 2")


@pytest.fixture
def builder(monkeypatch):
  """TensorFlow is there, as far as anybody asks; what prepares a dataset."""
  monkeypatch.setattr(copies, "_has_tensorflow", lambda: True)
  with mock.patch("tensorflow_datasets.builder") as builder:
    yield builder


@pytest.mark.parametrize(
  "outcome,parts",
  (
    (
      ConnectionError("no route\nto host"),
      ("no route", "network", "free space", "--data_dir", "digits"),
    ),
    (OSError(28, "no space"), ("no space", "free space")),
    (
      ImportError("No module named 'importlib_resources'"),
      ("importlib_resources", 'pip install ".[download]"'),
    ),
    (None, ("no array_record copy",)),
  ),
)
def test_failing_download(outcome, parts, tmp_path, builder):
  builder.return_value.download_and_prepare.side_effect = outcome
  load_refused("mnist", tmp_path, *parts)


def test_prepares_once(tmp_path, builder, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, "tensorflow_datasets", None)
    load_refused("mnist", tmp_path, 'pip install ".[experiments]"')
  builder.assert_not_called()
  builder.return_value.download_and_prepare.side_effect = lambda: (
    write_prepared(tmp_path)
  )
  first = load("mnist", data_dir=tmp_path)
  assert_equal(first, load("mnist", data_dir=tmp_path))
  builder.assert_called_once_with(
    "mnist", data_dir=tmp_path, file_format="array_record"
  )


def test_second_load_does_not_decode(tmp_path, data_dir, monkeypatch):
  first = load("mnist", data_dir=data_dir)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with no_decoding():
    second = load("mnist", data_dir=data_dir)
  assert_equal(first, second)
  assert os.listdir(tmp_path / "cache") == [cached_file(tmp_path).name]
  # Whoever loads it gets the same arrays.
  assert datasets.load("digits") is datasets.load("digits")
  for split in (second.train, second.validation, second.test):
    assert not any(array.flags.writeable for array in split)


def test_cache_folder(tmp_path, monkeypatch):
  assert cache.folder() == tmp_path / "cache"
  monkeypatch.setenv("BEAN_JAX_CACHE", "~/x")
  assert cache.folder() == tmp_path / "home" / "x"
  monkeypatch.setenv("BEAN_JAX_CACHE", "")
  assert cache.folder() == tmp_path / "home" / ".cache" / "bean_jax"
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  assert cache.folder() == tmp_path / "xdg" / "bean_jax"


def test_without_a_home_nothing_is_put_elsewhere(
  tmp_path, data_dir, monkeypatch
):
  def missing(uid):
    raise KeyError(uid)

  monkeypatch.delenv("HOME")
  monkeypatch.delenv("BEAN_JAX_CACHE")
  monkeypatch.setattr(pwd, "getpwuid", missing)
  folder = tmp_path / "cwd"
  folder.mkdir()
  monkeypatch.chdir(folder)
  with pytest.raises(datasets.DatasetError, match="set BEAN_JAX_CACHE to a"):
    load("mnist", data_dir=data_dir)
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  with pytest.raises(datasets.DatasetError, match="point --data_dir or"):
    load("mnist")
  assert list(folder.iterdir()) == []


def test_equal_copies_alone_share_a_cache(tmp_path):
  for name in ("a", "b"):
    write_prepared(tmp_path / name)
  _, arrays = write_prepared(tmp_path / "c", num_test=3, seed=1)
  first = load("mnist", data_dir=tmp_path / "a")
  with no_decoding():
    assert_equal(first, load("mnist", data_dir=tmp_path / "b"))
  prepared.LAYOUTS["mnist"] = _LAYOUT._replace(num_test=3)
  other = load("mnist", data_dir=tmp_path / "c")
  np.testing.assert_array_equal(other.test.images, arrays[2])
  assert len(list((tmp_path / "cache").glob("*.npz"))) == 2


def test_fingerprint_sees_descriptions_names_and_contents(tmp_path):
  folder, _ = write_prepared(tmp_path / "a")
  other, _ = write_prepared(tmp_path / "b", seed=1)
  for name in os.listdir(folder):
    assert (folder / name).stat().st_size == (other / name).stat().st_size

  def fingerprint(folder=folder):
    return copies.fingerprint(copies.Copy(folder, "3.0.1"))

  seen = {fingerprint(), fingerprint(), fingerprint(other)}
  assert len(seen) == 2
  for name in ("dataset_info.json", "features.json"):
    with (folder / name).open("a") as file:
      file.write(" ")
    seen.add(fingerprint())
  path = folder / "mnist-test.array_record-00000-of-00001"
  path.rename(folder / "mnist-test.array_record-00000-of-00002")
  seen.add(fingerprint())
  assert len(seen) == 5


def other_data(content):
  """As if written for another version."""
  arrays = archives.unpack(content)
  arrays["identity"][-3] += 1
  return archives.pack(arrays)


# tests/faults/input_test.py has what does not match its digest.
@pytest.mark.parametrize(
  "damage",
  (
    lambda content: archives.sign(b"[]"),
    lambda content: archives.pack({}),
    other_data,
  ),
)
def test_damaged_cache_is_refused_and_left_alone(damage, tmp_path, data_dir):
  load("mnist", data_dir=data_dir)
  path = cached_file(tmp_path)
  damaged = damage(path.read_bytes())
  path.write_bytes(damaged)
  with no_decoding():
    load_refused("mnist", data_dir, str(path), "delete it and run again")
  assert path.read_bytes() == damaged
  # The message's cure works.
  path.unlink()
  load("mnist", data_dir=data_dir)
  with no_decoding():
    load("mnist", data_dir=data_dir)


def test_pickles_are_not_loaded(tmp_path):
  class Evil:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "evil"),)

  buffer = io.BytesIO()
  np.savez(buffer, np.array([Evil()], dtype=object))
  path = tmp_path / "x.npz"
  # The attacker's file has a checksum that fits.
  path.write_bytes(archives.sign(buffer.getvalue()))
  assert "delete it" in refused(cache.read, path, _IDENTITY)
  assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("why", ("Not a directory", "No space left on device"))
def test_unwritable_cache_is_a_warning(
  why, tmp_path, data_dir, capsys, monkeypatch
):
  """results_test has what is left of files when they are written."""
  (tmp_path / "file").write_text("")
  full = OSError(errno.ENOSPC, "No space left on device")
  with monkeypatch.context() as patch:
    if why == "Not a directory":
      patch.setenv("BEAN_JAX_CACHE", str(tmp_path / "file" / "below"))
    else:
      patch.setattr(os, "fsync", mock.Mock(side_effect=full))
    where = cache.folder()
    first = load("mnist", data_dir=data_dir)
  decoding, warning = capsys.readouterr().err.splitlines()
  assert decoding.startswith("decoding mnist into ")
  assert warning.startswith(f"warning: {where}")
  assert f"cannot be written ({why})" in warning
  assert "BEAN_JAX_CACHE" in warning
  assert not list(tmp_path.glob("cache/*"))
  assert_equal(first, load("mnist", data_dir=data_dir))


_LABELS = np.random.default_rng(0).integers(0, 10, 1000)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@pytest.mark.parametrize("num_shots", [1, 82])
def test_draws_so_many_of_each_class(num_shots, seed):
  drawn = datasets.draw_shots(_LABELS, num_shots=num_shots, seed=seed)
  np.testing.assert_array_equal(
    _LABELS[drawn], np.repeat(np.arange(10), num_shots)
  )
  assert np.unique(drawn).size == 10 * num_shots
  # One shot is the first of many.
  first = datasets.draw_shots(_LABELS, num_shots=1, seed=seed)
  np.testing.assert_array_equal(first, drawn[::num_shots])


def test_draws_are_pinned():
  # The first five words of Philox4x64-10 (Salmon et al., 2011) under the keys
  # (7, 0) and (7, 1), from a program of its own, ascend in the orders
  # 4 1 3 2 0 and 3 1 2 4 0. Classes 0 and 1 have the even and odd places.
  drawn = datasets.draw_shots(np.arange(10) % 2, num_shots=2, seed=7)
  assert drawn.tolist() == [8, 2, 7, 3]


def test_seeds_and_classes_differ():
  labels = np.repeat(np.arange(10), 100)
  draws = np.stack(
    [datasets.draw_shots(labels, num_shots=5, seed=seed) for seed in range(50)]
  )
  ranks = (draws % 100).reshape(500, 5)
  assert np.unique(ranks, axis=0).shape[0] == 500


def test_a_class_does_not_see_the_others():
  relabelled = np.where(_LABELS == 3, 4, np.where(_LABELS == 4, 3, _LABELS))
  before, after = (
    datasets.draw_shots(labels, num_shots=5, seed=0).reshape(10, 5)
    for labels in (_LABELS, relabelled)
  )
  kept = [0, 1, 2, 5, 6, 7, 8, 9]
  np.testing.assert_array_equal(before[kept], after[kept])


@pytest.mark.parametrize("num_shots", (0, 3))
def test_numbers_of_shots_that_cannot_be_drawn(num_shots):
  labels = np.array([1, 0, 0, 0, 1])
  message = refused(datasets.draw_shots, labels, num_shots=num_shots, seed=0)
  assert f"Cannot draw {num_shots} shots of class" in message


@pytest.mark.parametrize("labels", ([0, 2], [1, 2, 3], [7], [-1, 0, 1], []))
def test_classes_that_are_not_numbered_from_0(labels):
  message = refused(datasets.draw_shots, labels, num_shots=1, seed=0)
  assert f"without a gap, got {sorted(set(labels))}" in message
  if labels:
    # The cure that it names.
    _, numbers = np.unique(labels, return_inverse=True)
    drawn = datasets.draw_shots(numbers, num_shots=1, seed=0)
    assert sorted(np.array(labels)[drawn]) == sorted(set(labels))


@needs_real_data
@pytest.mark.slow
def test_real_mnist(tmp_path, monkeypatch):
  monkeypatch.setitem(
    prepared.LAYOUTS, "mnist", prepared.LAYOUTS["fashion_mnist"]
  )
  dataset = load("mnist", data_dir=_REAL_DATA_DIR)
  labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
  # The class counts of the original files.
  assert np.bincount(labels).tolist() == [
    *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
  ]
  assert np.bincount(dataset.test.labels).tolist() == [
    *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
  ]
  # The original mean and standard deviation, as everybody normalizes by them.
  images = np.concatenate([dataset.train.images, dataset.validation.images])
  assert abs(images.mean() / 255 - 0.1307) < 1e-4
  assert abs(images.std() / 255 - 0.3081) < 1e-4
  # Shots and validation images have no image in common.
  seen = {image.tobytes() for image in dataset.validation.images}
  drawn = datasets.draw_shots(dataset.train.labels, num_shots=20, seed=0)
  assert not seen & {dataset.train.images[i].tobytes() for i in drawn}


@needs_real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_real_datasets(name):
  dataset = load(name, data_dir=_REAL_DATA_DIR)
  labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
  assert len(set(np.bincount(labels))) == 1
  assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
  num = {"fashion_mnist": 50_000, "cifar10": 40_000}[name]
  shape = {"fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[name]
  assert dataset.train.images.shape == (num, *shape)
  assert dataset.validation.images.shape == (10_000, *shape)
