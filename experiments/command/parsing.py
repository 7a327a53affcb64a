"""Numbers out of the text of flags; a `ConfigError` names the flag."""

from collections.abc import Sequence
import itertools
import math
import re


class ConfigError(Exception):
  """A flag has a value that cannot be used; the text says which would do."""


def number(
  name: str, value: float, *, low: float, below: float = math.inf
) -> float:
  """Checks a number; an integer is something to count, at most a million."""
  # Numbers are used in float32, of which 1e38 is the largest power of ten. With
  # more epochs than a million, steps could not be counted in int32.
  most, name_of_most = (1e6, "1e6") if type(value) is int else (1e38, "1e38")
  if not low <= value <= most or value >= below:
    high = name_of_most if below > most else f"below {below:g}"
    raise ConfigError(
      f"--{name}: expected a number from {low} to {high}, got {value}"
    )
  return value


def numbers(
  name: str,
  words: Sequence[str],
  kind: type,
  *,
  low: float,
  distinct: bool = True,
) -> list:
  """Reads the numbers of a list, of type int or float."""
  try:
    values = [kind(word) for word in words]
  except ValueError:
    values = []
  if not values or (distinct and len(set(values)) < len(values)):
    different = "different " if distinct else ""
    raise ConfigError(
      f"--{name}: expected {different}numbers of type {kind.__name__}, "
      f"comma-separated, got {','.join(words)!r}"
    )
  return [number(name, value, low=low) for value in values]


def names(name: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
  """Checks a list of names."""
  if not words or len(set(words)) < len(words) or set(words) - set(known):
    raise ConfigError(
      f"--{name}: expected different ones of {', '.join(known)}, "
      f"got {','.join(words)!r}"
    )
  return list(words)


def by_method(
  name: str, text: str, known: Sequence[str]
) -> dict[str, list[float]]:
  """Reads numbers by method, known ones; "" has those for all others.

  Example:
    >>> by_method("alphas", "bean1:1,10 0.5", ["vanilla", "bean1"])
    {'bean1': [1.0, 10.0], '': [0.5]}
  """
  found: dict[str, list[float]] = {}
  for part in re.sub(r"\s*([,:])\s*", r"\1", text).split():
    method, _, words = part.rpartition(":")
    if method in found or method not in ("", *known):
      raise ConfigError(
        f"--{name}: expected numbers for all methods, as 1,10, or for some of "
        f"{', '.join(known)}, as {known[-1]}:1,10, got {text!r}"
      )
    found[method] = numbers(name, words.split(","), float, low=0)
  if not found:
    raise ConfigError(f"--{name}: expected numbers, got {text!r}")
  return found


def seeds(name: str, text: str) -> tuple[int, ...]:
  """Reads a number of seeds, or which ones, in ascending order.

  Example:
    >>> seeds("seeds", "3"), seeds("seeds", "5-6"), seeds("seeds", "7,0")
    ((0, 1, 2), (5, 6), (0, 7))
  """
  parts = [
    re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
    for part in text.split(",")
  ]
  if None in parts:
    raise ConfigError(
      f"--{name}: expected a number like 20, a range like 5-9 or a list like "
      f"0,5,9, got {text!r}"
    )
  ranges = [
    range(int(first), int(last or first) + 1)
    for first, last in (part.groups() for part in parts)
  ]
  if len(parts) == 1 and parts[0][2] is None:
    ranges = [range(int(parts[0][1]))]
  count = sum(map(len, ranges))
  if not all(ranges) or count > 10_000:
    raise ConfigError(
      f"--{name}: expected 1 to 10000 of them, got {text!r}, which are {count}"
    )
  chosen = sorted(itertools.chain(*ranges))
  if len(set(chosen)) < count:
    raise ConfigError(f"--{name}: expected different ones, got {text!r}")
  return tuple(chosen)
