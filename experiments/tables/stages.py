"""Runs of whole grids, and the hyper-parameters that are chosen of them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from experiments.learning.streams import Shots
from experiments.population import cells, runs
from experiments.tables import protocols, summary


class Stage(NamedTuple):
  """All grids of a dataset and a number of shots, for two groups of seeds."""

  # Run with the seeds that choose for the strict protocol.
  selection: cells.Config
  evaluation: cells.Config  # Run with the seeds that are reported.

  @property
  def num_shots(self) -> int:
    """Training images of each class."""
    return self.evaluation.cells[0].stream.num_shots


def grid(
  grids: Mapping[str, Sequence[float]],
  num_shots: int,
  epochs: int,
  learning_rate: float = 5e-4,
) -> tuple[cells.Cell, ...]:
  """Returns a cell for each method and strength."""
  return tuple(
    cells.Cell(Shots(num_shots), name, strength, epochs, learning_rate)
    for name, strengths in grids.items()
    for strength in strengths
  )


def make(base: cells.Config, selection_seeds: tuple[int, ...]) -> Stage:
  """Makes the runs of a stage, in folders below that of the base."""
  # A validation after the last epoch is all that the choice needs.
  choosing = base.protocol._replace(seeds=selection_seeds, validate_every=0)
  return Stage(
    dataclasses.replace(
      base, output_dir=base.output_dir / "selection", protocol=choosing
    ),
    dataclasses.replace(base, output_dir=base.output_dir / "evaluation"),
  )


def with_strengths(
  run: cells.Config, strengths: Mapping[str, float], **changes: Any
) -> cells.Config:
  """Returns the run of methods with one strength each, and other changes."""
  chosen = [
    cell for cell in run.cells if strengths.get(cell.method) == cell.strength
  ]
  return dataclasses.replace(run, cells=tuple(chosen), **changes)


def chosen_run(
  protocol: str,
  stage: Stage,
  tried: Sequence[Stage],
  unknown: Mapping[str, float] = {},
) -> cells.Config:
  """Returns the run of what stages of whole grids choose, by a protocol.

  Where there is no choice yet, the strength may be one of `unknown`.
  """
  records = [
    record
    for other in tried
    if other.evaluation.dataset == stage.evaluation.dataset
    for record in runs.finished(
      other.selection if protocol == "strict" else other.evaluation
    ).values()
  ]
  strengths = unknown | protocols.best_strengths(protocol, records)
  return with_strengths(stage.evaluation, strengths)


def best_of_grid(config: cells.Config) -> list[summary.Record]:
  """Chooses on validation images among the strengths of each whole grid."""
  records = list(runs.finished(config).values())
  return summary.chosen(protocols.with_whole_grid(records))


def records(
  planned: Sequence[Stage], chosen: Callable[[Stage], list[summary.Record]]
) -> protocols.Records:
  """Reads what there is of stages of a dataset; `chosen` as the paper does."""
  found = protocols.Records([], [], [])
  for stage in planned:
    found.selection.extend(runs.finished(stage.selection).values())
    found.evaluation.extend(runs.finished(stage.evaluation).values())
    found.chosen.extend(chosen(stage))
  return found
