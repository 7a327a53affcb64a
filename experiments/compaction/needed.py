"""How many parameters an accuracy needs, and which strengths are compared.

Everything is chosen on validation images and paired by seed with the vanilla
network as it is: a version of a network will do if it classifies at most so
many points fewer of them correctly than that. Of the versions that will do, the
one with the fewest parameters counts. Where none will do, all parameters of the
network as it is are counted, and the simulation as one that has not reached the
accuracy.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.records import results

Record = dict[str, Any]

# Accuracies are quotients of whole numbers.
_ROUNDING = 1e-9

CHOICES = {
  "strongest": "the strongest that loses at most {points:g} points of "
  "validation accuracy against vanilla, as trained (matched accuracy)",
  "best": "the one of best validation accuracy, as trained",
  "smallest": "the one that needs the fewest parameters on validation images",
}


class Cell(NamedTuple):
  """All seeds of a method at one strength.

  Attributes:
    method: Name in `methods.METHODS`.
    strength: Its hyper-parameter; None where it has none.
    records: One a seed, in their order.
  """

  method: str
  strength: float | None
  records: tuple[Record, ...]


class Group(NamedTuple):
  """Cells of one dataset and network that can be compared.

  Attributes:
    title: Such as "mnist, lenet5".
    cells: By method, then by strength; vanilla first, of the same seeds as all.
    schemes: What all records have.
    retrained: Whether heads were trained again.
  """

  title: str
  cells: tuple[Cell, ...]
  schemes: tuple[str, ...]
  retrained: bool


class Need(NamedTuple):
  """What a cell needs to be as accurate as vanilla is, but for some points.

  Attributes:
    parameters: Of the head [seeds].
    reached: Whether there is a version that will do [seeds].
    lost: Test accuracy that it has lost against vanilla as it is [seeds].
    sizes: Other metrics of it [seeds], by name.
  """

  parameters: np.ndarray
  reached: np.ndarray
  lost: np.ndarray
  sizes: dict[str, np.ndarray]


def make_groups(records: Sequence[Record]) -> list[Group]:
  """Sorts records into what can be compared.

  Args:
    records: As `records.make` makes them.

  Returns:
    Groups of equal dataset, network and shots, each with the seeds that all of
    its cells have.

  Raises:
    results.ResultError: If a group has no vanilla networks, or no seed that all
      cells have.
  """
  groups: dict[tuple, list[Record]] = {}
  for record in records:
    config = record["config"]["checkpoint"]
    key = config["dataset"], config["model"], config.get("shots", 0)
    groups.setdefault(key, []).append(record)
  return [_make_group(key, groups[key]) for key in sorted(groups)]


def _make_group(key: tuple, records: list[Record]) -> Group:
  dataset, model, shots = key
  title = f"{dataset}, {model}" + (f", {shots}-shot" if shots else "")
  found: dict[tuple, dict[int, Record]] = {}
  for record in records:
    config = record["config"]["checkpoint"]
    hparam = methods.METHODS[config["method"]].hparam
    strength = config[hparam] if hparam else None
    cell = found.setdefault((config["method"], strength), {})
    if config["seed"] in cell:
      raise results.ResultError(
        f"{title}: two checkpoints of {config['method']} {strength} with seed "
        f"{config['seed']}, which differ in other settings; keep them in "
        "folders of their own"
      )
    cell[config["seed"]] = record
  if ("vanilla", None) not in found:
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
  keys = sorted(found, key=lambda k: (order.index(k[0]), k[1] or 0))
  keys.sort(key=lambda k: k[0] != "vanilla")
  metrics = [set(record["metrics"]) for record in records]
  names = set.intersection(*metrics)
  return Group(
    title,
    tuple(Cell(*k, tuple(found[k][seed] for seed in seeds)) for k in keys),
    tuple(
      name.removesuffix("/parameters")
      for name in records[0]["metrics"]
      if name.endswith("/parameters") and name in names
    ),
    any(name.endswith("_retrained") for name in names),
  )


def curve(cell: Cell, scheme: str, name: str) -> np.ndarray:
  """Returns a metric [seeds, versions] of a cell."""
  return np.stack(
    [results.metric(r, f"{scheme}/{name}")[0] for r in cell.records]
  )


def lost(
  group: Group, cell: Cell, scheme: str, *, split: str, retrained: bool
) -> np.ndarray:
  """Compares accuracies with that of vanilla as it is, seed by seed.

  Args:
    group: What the cell is of.
    cell: The cell.
    scheme: Name in `schemes.SCHEMES`.
    split: "validation" or "test".
    retrained: Whether the smaller heads were trained again.

  Returns:
    How much lower they are [seeds, versions], as fractions of 1.
  """
  name = f"{split}_accuracy"
  reference = curve(group.cells[0], scheme, name)[:, :1]
  return reference - curve(cell, scheme, name + "_retrained" * retrained)


def need(
  group: Group, cell: Cell, scheme: str, *, points: float, retrained: bool
) -> Need:
  """Finds the smallest version of each seed that will do.

  Args:
    group: What the cell is of.
    cell: The cell.
    scheme: Name in `schemes.SCHEMES`.
    points: Of validation accuracy that may be lost, in percent.
    retrained: Whether the smaller heads were trained again.

  Returns:
    What it needs.
  """
  missing = lost(group, cell, scheme, split="validation", retrained=retrained)
  fits = missing <= points / 100 + _ROUNDING
  counts = curve(cell, scheme, "parameters")
  reached = fits.any(axis=1)
  # Without any, the first: the head as it is.
  best = np.where(fits, counts, np.inf).argmin(axis=1)
  rows = np.arange(len(best))
  tested = lost(group, cell, scheme, split="test", retrained=retrained)
  if retrained and not reached.all():
    as_is = lost(group, cell, scheme, split="test", retrained=False)
    tested = np.where(reached[:, None], tested, as_is)
  prefix = f"{scheme}/"
  sizes = {
    name.removeprefix(prefix): curve(cell, scheme, name.removeprefix(prefix))[
      rows, best
    ]
    for name in cell.records[0]["metrics"]
    if name.startswith(prefix) and "accuracy" not in name
  }
  return Need(counts[rows, best], reached, tested[rows, best], sizes)


def ways(group: Group) -> list[tuple[str, bool]]:
  """Returns how heads were made smaller: schemes, and whether retrained."""
  return [
    (scheme, retrained)
    for scheme in group.schemes
    for retrained in (False, True)[: 1 + group.retrained]
  ]


def choices(group: Group, *, points: float) -> dict[str, str]:
  """Returns the ways to choose strengths that choose differently here.

  Args:
    group: What is compared.
    points: Of validation accuracy that may be lost, in percent.

  Returns:
    {name: meaning}, those of `CHOICES`; of some that choose the same strengths
    the first, with the meanings of all.
  """
  same: dict[tuple, list[str]] = {}
  for choice in CHOICES:
    chosen = tuple(
      (cell.method, cell.strength)
      for scheme, retrained in ways(group)
      for cell in choose(
        group, choice, scheme, points=points, retrained=retrained
      )
    )
    same.setdefault(chosen, []).append(choice)
  return {
    names[0]: "; here also ".join(
      CHOICES[n].format(points=points) for n in names
    )
    for names in same.values()
  }


def choose(
  group: Group, choice: str, scheme: str, *, points: float, retrained: bool
) -> list[Cell]:
  """Chooses the strength of each method, on validation images.

  Args:
    group: What is compared.
    choice: Name in `CHOICES`.
    scheme: Name in `schemes.SCHEMES`, on which "smallest" depends.
    points: Of validation accuracy that may be lost, in percent.
    retrained: As for `need`, for "smallest".

  Returns:
    One cell a method, in their order; no cell for a method of which none loses
    so little, where the choice is "strongest".
  """
  chosen = []
  for method in dict.fromkeys(cell.method for cell in group.cells):
    cells = [cell for cell in group.cells if cell.method == method]
    losses = [
      lost(group, cell, scheme, split="validation", retrained=False)[:, 0]
      for cell in cells
    ]
    means = [float(np.mean(loss)) for loss in losses]
    if choice == "best":
      chosen.append(cells[int(np.argmin(means))])
    elif choice == "strongest":
      matched = [
        cell
        for cell, mean in zip(cells, means, strict=True)
        if mean <= points / 100 + _ROUNDING
      ]
      chosen += matched[-1:]
    else:
      counts = [
        need(
          group, cell, scheme, points=points, retrained=retrained
        ).parameters.mean()
        for cell in cells
      ]
      chosen.append(cells[int(np.argmin(counts))])
  return chosen
