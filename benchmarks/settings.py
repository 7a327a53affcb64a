"""What every benchmark needs to know of a run."""

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
