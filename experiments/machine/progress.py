"""A progress bar with the time left, and a line for every finished cell."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses

import numpy as np
from rich import console as rich_console, progress as rich_progress

from experiments.machine import processes


@dataclasses.dataclass
class Bar:
  """The bar on the terminal, which has one task."""

  display: rich_progress.Progress
  task: rich_progress.TaskID

  def tick(self, cell: str, work: float, accuracy: float | None = None) -> None:
    """Moves the bar on and shows the validation accuracy now, if any."""
    text = "" if accuracy is None else f"validation {100 * accuracy:.1f} %"
    self.display.update(
      self.task, advance=work, description=cell, accuracy=text
    )

  def cell_done(
    self,
    cell: str,
    metrics: Mapping[str, np.ndarray],
    seconds: float,
    seeds: Sequence[int],
  ) -> None:
    """Prints a line about a finished cell, and one for each failed member."""
    accuracy, failed_step = metrics["test_accuracy"], metrics["failed_step"]
    kept = 100 * accuracy[failed_step < 0]
    mean = f"{kept.mean():.2f} %" if kept.size else "none"
    self.print(
      f"{cell}: test {mean}, {kept.size} of {accuracy.size} simulations, "
      f"{metrics['epochs'].mean():.0f} epochs, {seconds:.0f} s"
    )
    for seed, step in zip(seeds, failed_step, strict=True):
      if step >= 0:
        self.print(
          f"  seed {seed} met a non-finite loss in step {step}: left out"
        )

  def print(self, line: str) -> None:
    """Prints a line above the bar."""
    self.display.console.print(line, highlight=False)


@contextlib.contextmanager
def bar(*, total: int, skipped: int) -> Iterator[Bar]:
  """Shows a progress bar while its block runs.

  Away from a terminal it prints the lines of finished cells only, and of
  several processes only the first has one.

  Args:
    total: Work to do, in the units of `cells.cost`.
    skipped: Cells that were done before.
  """
  console = rich_console.Console(soft_wrap=True)
  columns = (
    rich_progress.TextColumn("{task.description}"),
    rich_progress.BarColumn(),
    rich_progress.TaskProgressColumn(),
    rich_progress.TextColumn("left"),
    rich_progress.TimeRemainingColumn(),
    rich_progress.TextColumn("{task.fields[accuracy]}"),
  )
  first = processes.is_first()
  if skipped and first:
    console.print(f"cells done already: {skipped}", highlight=False)
  with rich_progress.Progress(
    *columns,
    console=console,
    disable=not console.is_terminal or not total or not first,
  ) as display:
    task = display.add_task("compiling", total=total, accuracy="")
    yield Bar(display, task)
