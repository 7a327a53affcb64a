"""What every benchmark needs to know of a run."""

import os
from typing import NamedTuple


class Settings(NamedTuple):
  """How a suite is run.

  Attributes:
    quick: Whether all is so small that only the code is tested.
    repeats: Warm runs of each contender.
    torch: Whether PyTorch's contenders take part.
    absolute: Whether penalties with the absolute distance, which are slow,
      are timed too.
    many_members: Whether growth goes up to the greatest populations.
  """

  quick: bool
  repeats: int
  torch: bool
  absolute: bool = False
  many_members: bool = False


def num_cores() -> int:
  """Returns how many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Not on macOS, not on Windows.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
