"""How many parameters an accuracy needs, and which strengths are compared.

Everything is chosen on validation images and paired by seed with the vanilla
network as it is: a version of a network will do if it classifies at most so
many points fewer of them correctly than that. Of the versions that will do, the
one with the fewest parameters counts. Where none will do, all parameters of the
network as it is are counted, and the simulation as one that has not reached the
accuracy.

A `Way` is a scheme of `schemes.SCHEMES`, and whether smaller heads were trained
again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.assemblies import sources
from experiments.assemblies.summary import Cell
from experiments.compaction import schemes
from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record

Way = tuple[str, bool]

# Accuracies are quotients of whole numbers.
_ROUNDING = 1e-9

CHOICES = {
  "strongest": "the strongest that loses at most {points:g} points of "
  "validation accuracy against vanilla, as trained (matched accuracy)",
  "best": "the one of best validation accuracy, as trained",
  "smallest": "the one that needs the fewest parameters on validation images",
}


class Group(NamedTuple):
  """Cells of one dataset and network that can be compared."""

  title: str  # Such as "mnist, lenet5".
  # By method, then by strength; vanilla first, of the same seeds as all.
  cells: tuple[Cell, ...]
  ways: tuple[Way, ...]  # How all heads were made smaller.
  points: float  # Of accuracy that may be lost, in percent.

  @property
  def methods(self) -> list[str]:
    """Names of the methods, in their order."""
    return list(dict.fromkeys(cell.method for cell in self.cells))


class Need(NamedTuple):
  """What a cell needs to be as accurate as vanilla is, but for some points."""

  parameters: np.ndarray  # Of the head [seeds].
  reached: np.ndarray  # Whether there is a version that will do [seeds].
  lost: np.ndarray  # Test accuracy lost against vanilla as it is [seeds].
  sizes: dict[str, np.ndarray]  # Other metrics of it [seeds], by name.


def make_groups(records: Sequence[Record], *, points: float) -> list[Group]:
  """Groups efficiency records of equal dataset, network and shots.

  Each group has the seeds that all of its cells have.
  """
  groups: dict[tuple, list[Record]] = {}
  for record in records:
    config = record["config"]["checkpoint"]
    key = config["dataset"], sources.model_of(config), config.get("shots", 0)
    groups.setdefault(key, []).append(record)
  return [_make_group(*key, groups[key], points) for key in sorted(groups)]


def _make_group(
  dataset: str, model: str, shots: int, records: list[Record], points: float
) -> Group:
  title = f"{dataset}, {model}" + (f", {shots}-shot" if shots else "")
  found: dict[tuple[str, float], dict[int, Record]] = {}
  for record in records:
    config = record["config"]["checkpoint"]
    cell = config["method"], methods.strength(config)
    found.setdefault(cell, {})[config["seed"]] = record
  if ("vanilla", 0.0) not in found:
    raise results.ResultError(
      f"{title}: no checkpoints of vanilla, which all others are compared "
      "with; train it too"
    )
  seeds = sorted(set.intersection(*(set(cell) for cell in found.values())))
  if not seeds:
    raise results.ResultError(
      f"{title}: no seed that all methods and strengths have; train them with "
      "the same seeds"
    )
  order = list(methods.METHODS)
  names = set.intersection(*(set(record["metrics"]) for record in records))
  retrained = any(name.endswith("_retrained") for name in names)
  return Group(
    title,
    tuple(
      Cell(*key, tuple(found[key][seed] for seed in seeds))
      for key in sorted(found, key=lambda key: (order.index(key[0]), key[1]))
    ),
    tuple(
      (scheme, again)
      for scheme in schemes.TITLES
      if f"{scheme}/parameters" in names
      for again in (False, True)[: 1 + retrained]
    ),
    points,
  )


def title(way: Way, separator: str = ", ") -> str:
  """Names a way to make heads smaller for people."""
  scheme, retrained = way
  return schemes.TITLES[scheme] + f"{separator}retrained" * retrained


def lost(group: Group, cell: Cell, way: Way, split: str) -> np.ndarray:
  """Returns how much lower accuracies [seeds, versions] are than vanilla's.

  They are of "validation" or "test" images, and vanilla as it is.
  """
  scheme, retrained = way
  name = f"{scheme}/{split}_accuracy"
  reference = group.cells[0].values(name)[:, :1]
  return reference - cell.values(name + "_retrained" * retrained)


def need(group: Group, cell: Cell, way: Way) -> Need:
  """Finds the smallest version of each seed that will do."""
  scheme, _ = way
  fits = _will_do(group, lost(group, cell, way, "validation"))
  counts = cell.values(f"{scheme}/parameters")
  reached = fits.any(axis=1)
  # Without any, the first: the head as it is.
  best = np.where(fits, counts, np.inf).argmin(axis=1)
  rows = np.arange(len(best))
  tested = np.where(
    reached[:, None],
    lost(group, cell, way, "test"),
    lost(group, cell, (scheme, False), "test"),
  )
  sizes = {
    name.removeprefix(f"{scheme}/"): cell.values(name)[rows, best]
    for name in cell.records[0]["metrics"]
    if name.startswith(f"{scheme}/") and "accuracy" not in name
  }
  return Need(counts[rows, best], reached, tested[rows, best], sizes)


def _will_do(group: Group, losses: np.ndarray) -> np.ndarray:
  return losses <= group.points / 100 + _ROUNDING


def choices(group: Group) -> dict[str, str]:
  """Returns those of `CHOICES` that choose differently here, with meanings.

  Of some that choose the same strengths the first, with the meanings of all.
  """
  same: dict[tuple, list[str]] = {}
  for choice in CHOICES:
    chosen = tuple(
      cell[:2] for way in group.ways for cell in choose(group, choice, way)
    )
    same.setdefault(chosen, []).append(choice)
  return {
    names[0]: "; here also ".join(
      CHOICES[n].format(points=group.points) for n in names
    )
    for names in same.values()
  }


def choose(group: Group, choice: str, way: Way) -> list[Cell]:
  """Chooses a cell of each method, in their order, as `CHOICES` says.

  No cell of a method of which none loses so little is the "strongest".
  """
  as_trained = group.ways[0][0], False
  chosen = []
  for method in group.methods:
    cells = [cell for cell in group.cells if cell.method == method]
    losses = [
      lost(group, cell, as_trained, "validation")[:, 0].mean() for cell in cells
    ]
    if choice == "best":
      chosen.append(cells[int(np.argmin(losses))])
    elif choice == "strongest":
      matched = np.flatnonzero(_will_do(group, np.array(losses)))
      chosen += [cells[i] for i in matched[-1:]]
    else:
      counts = [need(group, cell, way).parameters.mean() for cell in cells]
      chosen.append(cells[int(np.argmin(counts))])
  return chosen
