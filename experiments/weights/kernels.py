"""Which weights of a network are looked at, and as which pictures."""

import math
from typing import Any

from flax import traverse_util
import numpy as np

PyTree = Any


def _kernels(params: PyTree) -> dict[str, np.ndarray]:
  """Returns all kernels of a network by their paths."""
  leaves = traverse_util.flatten_dict(params, sep="/")
  return {
    name.removesuffix("/kernel"): np.asarray(leaf)
    for name, leaf in sorted(leaves.items())
    if name.endswith("/kernel")
  }


def largest_dense(params: PyTree) -> tuple[str, np.ndarray]:
  """Picks the dense layer that has most weights, the first of several."""
  dense = [item for item in _kernels(params).items() if item[1].ndim == 2]
  return max(dense, key=lambda item: item[1].size)


def receptive_fields(
  params: PyTree, image_shape: tuple[int, int, int]
) -> np.ndarray:
  """Returns incoming weights of units as pictures [units, height, width].

  They are means over the channels. Those of a dense layer that sees all pixels
  are as large as the images; of other networks the kernels of the first
  convolution are taken.

  Raises:
    ValueError: If no layer sees pixels.
  """
  kernels = list(_kernels(params).values())
  for kernel in kernels:
    if kernel.ndim == 2 and len(kernel) == math.prod(image_shape):
      return kernel.T.reshape(-1, *image_shape).mean(axis=-1)
  for kernel in kernels:
    if kernel.ndim == 4 and kernel.shape[2] == image_shape[2]:
      return np.moveaxis(kernel, 3, 0).mean(axis=-1)
  raise ValueError(f"params: expected a layer that sees images {image_shape}")
