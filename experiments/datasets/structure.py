"""What a dataset is: three splits of images and labels."""

from typing import NamedTuple

import numpy as np


class DatasetError(Exception):
  """A dataset cannot be had; the message says in one line what to do."""


class Split(NamedTuple):
  """Images with their labels.

  Attributes:
    images: uint8 [n, height, width, channels], 0 to 255.
    labels: int32 [n], 0 to num_classes - 1.
  """

  images: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """A dataset in three disjoint splits.

  Attributes:
    name: the name it was loaded by.
    num_classes: how many classes its labels have.
    source: where it comes from, with the version: "tfds mnist:3.0.1".
    train: the images that few-shot draws are made from.
    validation: the images that hyper-parameters and epochs are chosen on.
    test: the images that results are reported on.
  """

  name: str
  num_classes: int
  source: str
  train: Split
  validation: Split
  test: Split


def install(extra: str) -> str:
  """Return the command that installs an extra; experiments run from a clone."""
  return f'pip install ".[{extra}]" in the folder of this project'
