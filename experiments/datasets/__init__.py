"""Image classification datasets as arrays, and few-shot draws from them.

Images are uint8 [n, height, width, channels] from 0 to 255 and labels int32
[n] from 0 to num_classes - 1. `digits` comes with scikit-learn and needs
neither a network nor TensorFlow Datasets; the others are read from a prepared
TensorFlow Datasets folder, decoded once and kept in a checksummed cache.
"""

import difflib
import functools
import os

from experiments.datasets import digits, prepared
from experiments.datasets.shots import draw_shots
from experiments.datasets.structure import Dataset, DatasetError, Split

__all__ = (
  "FLIPPABLE",
  "GRAY",
  "NAMES",
  "Dataset",
  "DatasetError",
  "Split",
  "draw_shots",
  "load",
)

NAMES = ("digits", *prepared.LAYOUTS)
# Images of 28 x 28 pixels with one channel.
GRAY = (
  "digits",
  *(n for n, x in prepared.LAYOUTS.items() if x.image_shape == (28, 28, 1)),
)
# Images whose mirror images are others of their class.
FLIPPABLE = tuple(n for n, x in prepared.LAYOUTS.items() if x.flippable)


@functools.cache
def load(
  name: str, *, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
  """Load a dataset by name, once for equal arguments.

  The splits are functions of the stored data alone: no seed, no shuffle.
  `digits` has 797 / 500 / 500 images in train / validation / test, `mnist` and
  `fashion_mnist` 50,000 / 10,000 / 10,000, `cifar10` 40,000 / 10,000 / 10,000.

  Args:
    name: one of `NAMES`.
    data_dir: folder of TensorFlow Datasets; by default `TFDS_DATA_DIR` of the
      environment, else `~/tensorflow_datasets`. Not used by `digits`.

  Returns:
    The dataset with its three splits, whose arrays cannot be changed.

  Raises:
    DatasetError: the name is unknown, or the data cannot be found, prepared or
      read; or its cache was altered. The message says what to do.

  Example:
    >>> dataset = load("digits")
    >>> dataset.train.images.shape, dataset.num_classes
    ((797, 28, 28, 1), 10)
  """
  if name not in NAMES:
    close = difflib.get_close_matches(str(name).lower(), NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise DatasetError(
      f"Unknown dataset {name!r}: choose one of {', '.join(NAMES)}.{hint}"
    )
  dataset = digits.load() if name == "digits" else prepared.load(name, data_dir)
  for split in (dataset.train, dataset.validation, dataset.test):
    for array in split:
      array.flags.writeable = False
  return dataset
