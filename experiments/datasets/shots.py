"""Few-shot draws: a few training images of every class."""

import numpy as np
from numpy.typing import ArrayLike

from experiments.datasets.structure import DatasetError


def random_order(size: int, *, seed: int, stream: int) -> np.ndarray:
  """Return a uniformly random permutation that depends on nothing else.

  Raw Philox bits are sorted, rather than `Generator.permutation` called: NumPy
  promises the bits of a bit generator for all versions and platforms, the
  methods of `Generator` it may change.

  The key is [seed, stream]; orders of unequal streams are independent.
  """
  key = np.array([seed, stream], dtype=np.uint64)
  bits = np.random.Philox(key=key).random_raw(size)
  return np.argsort(bits, kind="stable")


def draw_shots(labels: ArrayLike, *, num_shots: int, seed: int) -> np.ndarray:
  """Draw the same number of examples of every class, without replacement.

  The draw is a function of its arguments alone. With one seed it is nested: a
  class's first shot is the same in a 1-shot and in a 10-shot draw. Classes are
  drawn independently of each other.

  Args:
    labels: [n], integers from 0 to num_classes - 1.
    num_shots: how many examples of each class to draw.
    seed: 0 to 2**64 - 1; unequal seeds give independent draws.

  Returns:
    int32 [num_classes * num_shots], indices into `labels`, class by class:
    those of class c are at c * num_shots to (c + 1) * num_shots - 1.

  Raises:
    DatasetError: a class has fewer examples than `num_shots`, or `labels` are
      no class numbers from 0 upwards without a gap.

  Example:
    >>> labels = np.array([0, 1, 1, 0, 1, 0])
    >>> indices = draw_shots(labels, num_shots=2, seed=7)
    >>> labels[indices]
    array([0, 0, 1, 1])
  """
  labels = np.asarray(labels)
  classes, counts = np.unique(labels, return_counts=True)
  if classes.tolist() != list(range(max(1, classes.size))):
    raise DatasetError(
      "Labels must be class numbers from 0 upwards without a gap, got"
      f" {classes.tolist()}: number the classes anew, as by"
      " np.unique(labels, return_inverse=True)."
    )
  drawn = []
  for label, count in enumerate(counts):
    if not 1 <= num_shots <= count:
      raise DatasetError(
        f"Cannot draw {num_shots} shots of class {label}, which has {count}"
        f" images: ask for 1 to {count} shots."
      )
    order = random_order(count, seed=seed, stream=label)
    drawn.append(np.flatnonzero(labels == label)[order[:num_shots]])
  return np.concatenate(drawn).astype(np.int32)
