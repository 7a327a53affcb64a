"""Runs of whole grids, and the hyper-parameters that are chosen of them."""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.learning.streams import Stream
from experiments.population import cells, runs
from experiments.tables import comparison, summary


def make(
  base: cells.Config,
  folder: str,
  grids: Mapping[str, Sequence[float]],
  stream: Stream,
  epochs: int,
  **protocol: int | tuple[int, ...],
) -> cells.Config:
  """Makes a run of whole grids, with a folder of its own.

  Args:
    base: The run without cells, in the folder of all.
    folder: Name of its own.
    grids: Strengths by method.
    stream: What members see.
    epochs: Passes over the training images.
    **protocol: Fields of `cells.Protocol` that differ from the base.

  Returns:
    The run.
  """
  return dataclasses.replace(
    base,
    output_dir=base.output_dir / folder,
    protocol=base.protocol._replace(**protocol),
    cells=tuple(
      cells.Cell(stream, name, strength, epochs)
      for name, grid in grids.items()
      for strength in grid
    ),
  )


def best_of_grid(config: cells.Config) -> list[summary.Record]:
  """Chooses the strength of each method on validation images.

  Args:
    config: A run of whole grids.

  Returns:
    A record of each method whose whole grid has been trained.
  """
  records = list(runs.finished(config).values())
  return summary.chosen(comparison.with_whole_grid(records))


def strengths(records: Sequence[summary.Record]) -> dict[str, float]:
  """Returns the strength of each record by method, 0 where there is none."""
  return {
    record["config"]["method"]: summary.strength(record) or 0.0
    for record in records
  }
