"""The handwritten digits that come with scikit-learn, at the size of MNIST."""

import numpy as np

from experiments.datasets.shots import random_order
from experiments.datasets.structure import Dataset, DatasetError, Split, install

_NUM_CLASSES = 10
_HELD_OUT = 50  # images of each class, in validation and again in test
_SPLIT_SEED = 0


def load() -> Dataset:
  """Load scikit-learn's digits, 797 / 500 / 500 images of [28, 28, 1].

  1,797 images of 8 x 8 pixels with 17 levels, by 13 writers. Of every class 50
  images are for validation and 50 for test, drawn with a fixed seed; the other
  74 to 83 are for training. All writers occur in all three splits.

  References:
    Alpaydin, Kaynak, 1998, Optical Recognition of Handwritten Digits,
    https://doi.org/10.24432/C50P49 (the test part, as scikit-learn has it).
  """
  try:
    from sklearn import datasets as sklearn_datasets
  except ImportError as error:
    raise DatasetError(
      f"The dataset digits needs scikit-learn: {install('experiments')}."
    ) from error
  bunch = sklearn_datasets.load_digits()
  images = enlarge(bunch.images)
  labels = bunch.target.astype(np.int32)
  splits = [
    Split(images[indices], labels[indices]) for indices in _split(labels)
  ]
  return Dataset("digits", _NUM_CLASSES, "scikit-learn load_digits", *splits)


def enlarge(images: np.ndarray) -> np.ndarray:
  """Enlarge 8 x 8 images to 20 x 20 and centre them in 28 x 28.

  MNIST is made the same way: the digit fills 20 x 20 pixels, with 4 pixels of
  background on every side. Cubic interpolation between pixel centres.
  From [n, 8, 8], 0 to 16, to uint8 [n, 28, 28, 1], 0 to 255.
  """
  from scipy import ndimage

  large = ndimage.zoom(
    images, (1, 2.5, 2.5), order=3, mode="grid-constant", grid_mode=True
  )
  levels = np.clip(np.rint(large * (255 / 16)), 0, 255).astype(np.uint8)
  return np.pad(levels, ((0, 0), (4, 4), (4, 4)))[..., None]


def _split(labels: np.ndarray) -> list[np.ndarray]:
  """Return the indices of train, validation and test, each ascending."""
  train, validation, test = [], [], []
  for label in range(_NUM_CLASSES):
    members = np.flatnonzero(labels == label)
    order = random_order(members.size, seed=_SPLIT_SEED, stream=label)
    validation.append(members[order[:_HELD_OUT]])
    test.append(members[order[_HELD_OUT : 2 * _HELD_OUT]])
    train.append(members[order[2 * _HELD_OUT :]])
  return [np.sort(np.concatenate(part)) for part in (train, validation, test)]
