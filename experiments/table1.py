"""Table 1 of the paper: few-shot learning from scratch, every method.

Trains each method with each value of its hyper-parameter on MNIST and
Fashion-MNIST, for 1, 5, 10 and 20 images of each class and 20 seeds, and
reports two protocols side by side:

  paper   Hyper-parameter and epoch are chosen on 10,000 validation images, for
          each number of shots, as the authors did. The hyper-parameter is
          chosen from runs that are validated every fifth epoch; that value is
          then run with a validation after every epoch.
  strict  No labels but those of the shots: the last epoch, and one value of the
          hyper-parameter for all shots, chosen with other seeds.

    python -m experiments.table1

goes on where it was stopped; finished cells are kept in --output_dir, one JSON
each. --notrain writes the tables of the cells that are there.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import NamedTuple

from absl import flags

from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.learning.streams import Shots
from experiments.machine import processes, progress
from experiments.population import cells, runs
from experiments.records import results
from experiments.tables import comparison, markdown, stages

DATASETS = ("mnist", "fashion_mnist")
# Passes over the training images: the authors advise 200 for 1-shot and show
# 100 for 10-shot; their default is 50.
EPOCHS = {1: 200, 5: 100, 10: 100, 20: 50}

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASETS = flags.DEFINE_list(
  "datasets",
  list(DATASETS),
  "images to learn from, comma-separated, of: digits, " + ", ".join(DATASETS),
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_list(
  "shots",
  [str(shots) for shots in EPOCHS],
  "training images of each class, comma-separated",
  flag_values=FLAGS,
)
flag_groups.define_methods(
  FLAGS, known=list(methods.METHODS), default=methods.TABLE1
)
flag_groups.define_imitation(FLAGS)
flag_groups.define_seeds(FLAGS, default="20")
flag_groups.define_selection_seeds(FLAGS, default="100-119")
_VALIDATE_EVERY = flags.DEFINE_integer(
  "validate_every",
  5,
  "epochs from one validation to the next, a divisor of all epochs "
  f"({', '.join(map(str, EPOCHS.values()))})",
  flag_values=FLAGS,
)
_EPOCHS = flags.DEFINE_integer(
  "epochs",
  None,
  "epochs for any number of shots, instead of the paper's",
  flag_values=FLAGS,
)
flag_groups.define_run(FLAGS, output_dir="outputs/table1")
distributed.define_flags(FLAGS)
_ORDER = flags.DEFINE_enum(
  "order",
  "table",
  ["table", "cost"],
  "which cells of a dataset and a number of shots are trained first: those of "
  "the first row of the table, or the cheapest",
  flag_values=FLAGS,
)
_TRAIN = flags.DEFINE_bool(
  "train",
  True,
  "train the missing cells; --notrain reports those there are",
  flag_values=FLAGS,
)


class Stage(NamedTuple):
  """All runs of one dataset at one number of shots.

  Attributes:
    selection: Every cell, with the seeds that choose for the strict protocol.
    evaluation: Every cell, with the seeds that are reported.
    chosen: For each method a cell like that which the evaluation chooses, and
      validated after every epoch; without methods of a pace of their own, which
      the evaluation validates as often as they ever are.
  """

  selection: cells.Config
  evaluation: cells.Config
  chosen: cells.Config


def make_stages() -> list[Stage]:
  """Builds the runs from flags, the cheapest numbers of shots first.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  shots = sorted(parsing.numbers("shots", _SHOTS.value, int, low=1))
  unknown = [number for number in shots if number not in EPOCHS]
  if unknown and _EPOCHS.value is None:
    raise parsing.ConfigError(
      f"--shots: the paper has {', '.join(map(str, EPOCHS))}, got "
      f"{unknown[0]}; give --epochs with others"
    )
  if _EPOCHS.value is not None:
    parsing.number("epochs", _EPOCHS.value, low=1)
  parsing.number("validate_every", _VALIDATE_EVERY.value, low=1)
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  data = parsing.names("datasets", _DATASETS.value, ["digits", *DATASETS])
  seeds, selection_seeds = flag_groups.both_seeds(FLAGS)
  return [
    _make_stage(number, dataset, names, seeds, selection_seeds)
    for number in shots
    for dataset in data
  ]


def _make_stage(
  shots: int,
  dataset: str,
  names: Sequence[str],
  seeds: tuple[int, ...],
  selection_seeds: tuple[int, ...],
) -> Stage:
  epochs, every = _EPOCHS.value or EPOCHS[shots], _VALIDATE_EVERY.value
  if epochs % every:
    raise parsing.ConfigError(
      f"--validate_every: expected a divisor of {epochs} epochs, got {every}"
    )
  base = cells.Config(
    experiment="table1",
    dataset=dataset,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir),
    resume=True,
    protocol=cells.Protocol(
      networks.Spec(),
      seeds,
      flag_groups.options(FLAGS),
      validate_every=every,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=(),
  )
  grids = {name: methods.METHODS[name].grid for name in names}
  firsts = {n: grids[n][:1] for n in names if n in methods.OF_ANY_SIZE}
  make = functools.partial(stages.make, base)
  place = Shots(shots), epochs
  return Stage(
    # A validation after the last epoch is all that the choice needs.
    make("selection", grids, *place, seeds=selection_seeds, validate_every=0),
    make("evaluation", grids, *place),
    make("chosen", firsts, *place, validate_every=1),
  )


def choose(stage: Stage) -> cells.Config:
  """Puts the chosen hyper-parameters into the last run of a stage.

  Args:
    stage: The runs.

  Returns:
    The run of those methods whose whole grid has been evaluated.
  """
  strengths = stages.strengths(stages.best_of_grid(stage.evaluation))
  return dataclasses.replace(
    stage.chosen,
    cells=tuple(
      cell._replace(strength=strengths[cell.method])
      for cell in stage.chosen.cells
      if cell.method in strengths
    ),
  )


def _records(stage: Stage) -> comparison.Records:
  """Reads the records of a stage that are there."""
  selection, evaluation, chosen = (
    list(runs.finished(config).values())
    for config in (stage.selection, stage.evaluation, choose(stage))
  )
  chosen += [
    record
    for record in stages.best_of_grid(stage.evaluation)
    if record["config"]["method"] not in methods.OF_ANY_SIZE
  ]
  return comparison.Records(selection, evaluation, chosen)


def _train(planned: Sequence[Stage]) -> None:
  grids = [run for stage in planned for run in stage[:2]]
  missing = [runs.missing(run) for run in grids]
  # What will be chosen costs the same whatever it is.
  ahead = [*missing, *(_unchosen(stage) for stage in planned)]
  num_missing = sum(len(run.cells) for run in missing)
  cheapest_first = _ORDER.value == "cost"
  with progress.bar(
    total=sum(runs.work(run) for run in ahead),
    skipped=sum(len(run.cells) for run in grids) - num_missing,
  ) as bar:
    for stage in planned:
      runs.train(stage.selection, bar, cheapest_first=cheapest_first)
      runs.train(stage.evaluation, bar, cheapest_first=cheapest_first)
      runs.train(choose(stage), bar, cheapest_first=cheapest_first)


def _unchosen(stage: Stage) -> cells.Config:
  """Returns the last run without the methods that it has been done for."""
  chosen = choose(stage)
  missing = {cell.method for cell in runs.missing(chosen).cells}
  done = {cell.method for cell in chosen.cells} - missing
  return dataclasses.replace(
    chosen,
    cells=tuple(c for c in stage.chosen.cells if c.method not in done),
  )


def run() -> None:
  """Trains what is missing, unless it must not, and writes the tables."""
  planned = make_stages()
  if _TRAIN.value:
    _train(planned)
  if not processes.is_first():
    return
  directory = pathlib.Path(FLAGS.output_dir)
  found: dict[str, comparison.Records] = {}
  for stage in planned:
    records = _records(stage)
    name = stage.evaluation.dataset
    found[name] = comparison.joined(found.get(name), records)
  everything = [*itertools.chain(*itertools.chain(*found.values()))]
  if not everything:
    raise results.ResultError(f"{directory}: expected records, found none")
  results.tell_versions(everything)
  streams = [stage.evaluation.cells[0].stream for stage in planned]
  shots = sorted({stream.num_shots for stream in streams})
  markdown.show(comparison.write(found, FLAGS.methods, shots, directory))
  comparison.draw(found, FLAGS.methods, directory)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
