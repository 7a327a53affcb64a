"""Few-shot draws: a few training images of every class."""

import numbers

import numpy as np
from numpy.typing import ArrayLike

from experiments.datasets.structure import DatasetError


def random_order(size: int, *, seed: int, stream: int) -> np.ndarray:
  """Return a uniformly random permutation that depends on nothing else.

  Raw Philox bits are sorted, rather than `Generator.permutation` called: NumPy
  promises the bits of a bit generator for all versions and platforms, the
  methods of `Generator` it may change.

  Args:
    size: number of elements to permute.
    seed: first half of the Philox key, 0 to 2**64 - 1.
    stream: second half of the key; orders of unequal streams are independent.

  Returns:
    [size], the numbers 0 to size - 1 in random order.
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
    DatasetError: a class has fewer examples than `num_shots`, `num_shots` is
      not a positive integer, `seed` not an integer in its range, or `labels`
      not a vector of class numbers from 0 upwards without a gap.

  Example:
    >>> labels = np.array([0, 1, 1, 0, 1, 0])
    >>> indices = draw_shots(labels, num_shots=2, seed=7)
    >>> labels[indices]
    array([0, 0, 1, 1])
  """
  try:
    labels = np.asarray(labels)
  except ValueError as error:
    raise DatasetError(
      "Labels must be a vector of integers, got lists of unequal lengths."
    ) from error
  _check(labels, num_shots, seed)
  drawn = []
  for label in range(int(labels.max()) + 1):
    members = np.flatnonzero(labels == label)
    if not members.size:
      raise DatasetError(
        f"Labels must be class numbers from 0 upwards without a gap, got none"
        f" of class {label} below the greatest, {labels.max()}: number the"
        " classes anew, as by np.unique(labels, return_inverse=True)."
      )
    if members.size < num_shots:
      raise DatasetError(
        f"Cannot draw {num_shots} shots of class {label}, which has"
        f" {members.size} images: ask for fewer shots."
      )
    order = random_order(members.size, seed=seed, stream=label)
    drawn.append(members[order[:num_shots]])
  return np.concatenate(drawn).astype(np.int32)


def _check(labels: np.ndarray, num_shots: int, seed: int) -> None:
  """Refuse arguments that no draw can be made from."""
  if not _is_integer(num_shots) or num_shots < 1:
    raise DatasetError(
      "The number of shots must be an integer of at least 1, got"
      f" {num_shots!r}."
    )
  if not _is_integer(seed) or not 0 <= seed < 2**64:
    raise DatasetError(
      f"The seed must be an integer from 0 to 2**64 - 1, got {seed!r}."
    )
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise DatasetError(
      "Labels must be a vector of integers, got"
      f" {labels.dtype} of shape {labels.shape}."
    )
  if labels.size == 0 or labels.min() < 0:
    raise DatasetError(
      "Labels must be class numbers from 0 upwards, at least one, got"
      f" {labels.size} with minimum {labels.min(initial=0)}."
    )


def _is_integer(value: object) -> bool:
  """Tell whether a value is an integer; True and False are not."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)
