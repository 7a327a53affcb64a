"""Datasets read from a prepared folder of TensorFlow Datasets (TFDS)."""

import os
from typing import Any, NamedTuple

import numpy as np

from experiments.datasets import cache, copies
from experiments.datasets.structure import Dataset, DatasetError, Split, install
from experiments.machine import notices

_CHUNK = 4096


class Layout(NamedTuple):
  """How many images of which shape a dataset has.

  Attributes:
    image_shape: height, width and channels.
    num_train: images for training: the first of TFDS's training split.
    num_validation: images for validation: the rest of TFDS's training split.
    num_test: images of TFDS's test split.
    num_classes: number of classes.
    flippable: whether the mirror image of one is another of its class.
  """

  image_shape: tuple[int, int, int]
  num_train: int
  num_validation: int
  num_test: int
  num_classes: int
  flippable: bool = False


LAYOUTS = {
  "mnist": Layout((28, 28, 1), 50_000, 10_000, 10_000, 10),
  "fashion_mnist": Layout((28, 28, 1), 50_000, 10_000, 10_000, 10),
  "cifar10": Layout((32, 32, 3), 40_000, 10_000, 10_000, 10, flippable=True),
}


def load(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
  """Load a dataset that TFDS prepared, through the cache.

  Training images are the first of TFDS's training split in its stored order,
  validation images the last 10,000. TFDS stores examples in a fixed
  pseudo-random order, not in that of the original files, so both parts hold
  all classes.
  """
  copy = copies.find_or_prepare(name, data_dir)
  identity = {
    "dataset": name,
    "version": copy.version,
    "fingerprint": copies.fingerprint(copy),
  }
  path = cache.folder() / (
    f"{name}-{copy.version}-{identity['fingerprint'][:16]}.npz"
  )
  arrays = cache.read(path, identity)
  if arrays is None:
    with cache.locked(path):
      # Perhaps made by the process that was waited for.
      arrays = cache.read(path, identity)
      if arrays is None:
        notices.note(f"decoding {name} into {path}: this happens once")
        arrays = decode(name, copy)
        cache.write(path, identity, arrays)
  images, labels, test_images, test_labels = arrays
  cut = LAYOUTS[name].num_train
  return Dataset(
    name=name,
    num_classes=LAYOUTS[name].num_classes,
    source=f"tfds {name}:{copy.version}",
    train=Split(images[:cut], labels[:cut]),
    validation=Split(images[cut:], labels[cut:]),
    test=Split(test_images, test_labels),
  )


def decode(name: str, copy: copies.Copy) -> list[np.ndarray]:
  """Decode images and labels of TFDS's training split, then of its test."""
  tfds = copies.import_tfds()
  arrays = []
  # A damaged file shows as one of many exceptions, from Riegeli's RuntimeError
  # to whatever the image library raises.
  try:
    builder = tfds.builder_from_directory(copy.path, file_format="array_record")
    for split in ("train", "test"):
      arrays.extend(_decode_split(builder.as_data_source(split=split)))
  except ImportError as error:
    raise DatasetError(
      f"Reading {name} needs a package that is missing"
      f" ({copies.first_line(error)}): {install('experiments')}."
    ) from error
  except Exception as error:
    raise DatasetError(
      f"Cannot read {name} from {copy.path} ({copies.first_line(error)}): if"
      " its files are damaged, delete that folder and prepare it again, or"
      " point --data_dir or TFDS_DATA_DIR at a sound copy."
    ) from error
  _check(name, copy, arrays)
  return arrays


def _decode_split(source: Any) -> tuple[np.ndarray, np.ndarray]:
  """Stack all images and labels of one TFDS data source."""
  images, labels = [], []
  for start in range(0, len(source), _CHUNK):
    # Reading by chunks is several times faster than record by record.
    stop = min(start + _CHUNK, len(source))
    examples = source.__getitems__(range(start, stop))
    images.append(np.stack([example["image"] for example in examples]))
    labels.extend(int(example["label"]) for example in examples)
  return np.concatenate(images), np.array(labels, dtype=np.int32)


def _check(name: str, copy: copies.Copy, arrays: list[np.ndarray]) -> None:
  """Refuse arrays of another size than the dataset has."""
  layout = LAYOUTS[name]
  cure = (
    f"point --data_dir or TFDS_DATA_DIR at the {name} of TensorFlow Datasets."
  )
  nums = (layout.num_train + layout.num_validation, layout.num_test)
  for num, images, labels in zip(nums, arrays[::2], arrays[1::2], strict=True):
    expected = (num, *layout.image_shape)
    if images.shape != expected or images.dtype != np.uint8:
      raise DatasetError(
        f"Expected {name} images of uint8 {expected}, got {images.dtype}"
        f" {images.shape} in {copy.path}: {cure}"
      )
    if labels.min() < 0 or labels.max() >= layout.num_classes:
      raise DatasetError(
        f"Expected {name} labels from 0 to {layout.num_classes - 1}, got"
        f" {labels.min()} to {labels.max()} in {copy.path}: {cure}"
      )
