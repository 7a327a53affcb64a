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
each. --notrain writes the tables of the cells that are there. One protocol
alone is cheaper: --protocols=paper trains no other seeds; --protocols=strict
with --selection_shots=1,5 trains all values at these numbers of shots, with the
other seeds, and for the table the values that were chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import pathlib

from absl import flags

from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.machine import processes, progress
from experiments.population import cells, runs
from experiments.records import results
from experiments.tables import (
  comparison,
  markdown,
  protocols,
  stages,
  summary,
  versions,
)
from experiments.tables.stages import Stage

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
flag_groups.define(FLAGS, shots=[str(shots) for shots in EPOCHS])
flag_groups.define_methods(
  FLAGS, known=list(methods.METHODS), default=methods.TABLE1
)
flag_groups.define_imitation(FLAGS)
flag_groups.define(
  FLAGS, seeds="20", selection_seeds="100-119", selection_shots=[]
)
flags.DEFINE_list(
  "protocols",
  list(protocols.PROTOCOLS),
  "for which cells are trained: paper, strict or both; tables have what there "
  "is of both",
  flag_values=FLAGS,
)
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
flag_groups.define(FLAGS, train=True)


def make_stages() -> list[Stage]:
  """Builds the runs from flags, the cheapest numbers of shots first."""
  shots = sorted(parsing.numbers("shots", FLAGS.shots, int, low=1))
  parsing.number("validate_every", _VALIDATE_EVERY.value, low=1)
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  data = parsing.names("datasets", _DATASETS.value, ["digits", *DATASETS])
  seeds, selection_seeds = flag_groups.both_seeds(FLAGS)
  return [
    stages.make(_make_run(number, dataset, names, seeds), selection_seeds)
    for number in shots
    for dataset in data
  ]


def num_epochs(shots: int, instead: int | None) -> int:
  """Returns the paper's epochs, or those of --epochs instead."""
  if instead is not None:
    return parsing.number("epochs", instead, low=1)
  if shots not in EPOCHS:
    raise parsing.ConfigError(
      f"--shots: the paper has {', '.join(map(str, EPOCHS))}, got {shots}; "
      "give --epochs with others"
    )
  return EPOCHS[shots]


def _make_run(
  shots: int, dataset: str, names: Sequence[str], seeds: tuple[int, ...]
) -> cells.Config:
  epochs, every = num_epochs(shots, _EPOCHS.value), _VALIDATE_EVERY.value
  if epochs % every:
    raise parsing.ConfigError(
      f"--validate_every: expected a divisor of {epochs} epochs, got {every}"
    )
  grids = {name: methods.METHODS[name].grid for name in names}
  return cells.Config(
    experiment="table1",
    dataset=dataset,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir),
    protocol=cells.Protocol(
      networks.Spec(),
      seeds,
      flag_groups.options(FLAGS),
      validate_every=every,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=stages.grid(grids, shots, epochs),
  )


def _chosen(stage: Stage, unknown: Mapping[str, float] = {}) -> cells.Config:
  """Returns the run that validates after every epoch with chosen strengths.

  Where there is no choice yet, the strength may be one of `unknown`. Methods of
  a pace of their own are left out: the evaluation validates them as often as
  they ever are.
  """
  strengths = unknown | {
    record["config"]["method"]: methods.strength(record["config"])
    for record in stages.best_of_grid(stage.evaluation)
  }
  any_size = {k: v for k, v in strengths.items() if k in methods.OF_ANY_SIZE}
  return stages.with_strengths(
    stage.evaluation,
    any_size,
    output_dir=stage.evaluation.output_dir.with_name("chosen"),
    protocol=stage.evaluation.protocol._replace(validate_every=1),
  )


def _chosen_records(stage: Stage) -> list[summary.Record]:
  records = list(runs.finished(_chosen(stage)).values())
  best = stages.best_of_grid(stage.evaluation)
  any_size = methods.OF_ANY_SIZE
  return records + [r for r in best if r["config"]["method"] not in any_size]


def _to_train(
  planned: Sequence[Stage],
  tried: Sequence[Stage],
  unknown: Mapping[str, float] = {},
) -> Iterator[cells.Config]:
  """Yields whole grids of some stages, and what is chosen by what they left."""
  for stage in tried:
    if "strict" in FLAGS.protocols:
      yield stage.selection
    if "paper" in FLAGS.protocols:
      yield stage.evaluation
      yield _chosen(stage, unknown)
  if "strict" in FLAGS.protocols:
    for stage in planned:
      if "paper" not in FLAGS.protocols or stage not in tried:
        yield stages.chosen_run("strict", stage, tried, unknown)


def _train(planned: Sequence[Stage], tried: Sequence[Stage]) -> None:
  # What will be chosen costs the same whatever it is.
  firsts = {name: methods.METHODS[name].grid[0] for name in FLAGS.methods}
  expected = list(_to_train(planned, tried, firsts))
  missing = [runs.missing(run) for run in expected]
  done = sum(len(run.cells) for run in expected)
  done -= sum(len(run.cells) for run in missing)
  with progress.bar(total=sum(map(runs.work, missing)), skipped=done) as bar:
    for run in _to_train(planned, tried):
      runs.train(run, bar, cheapest_first=_ORDER.value == "cost")


def run() -> None:
  """Trains what is missing, unless it must not, and writes the tables."""
  planned = make_stages()
  shots = sorted({stage.num_shots for stage in planned})
  parsing.names("protocols", FLAGS.protocols, list(protocols.PROTOCOLS))
  selection = flag_groups.some_shots(FLAGS, "selection_shots", shots)
  if selection and "strict" not in FLAGS.protocols:
    raise parsing.ConfigError(
      "--selection_shots: expected with the protocol strict, which takes its "
      f"choice at others, got --protocols={','.join(FLAGS.protocols)}"
    )
  if FLAGS.train:
    selection = selection or shots
    _train(planned, [s for s in planned if s.num_shots in selection])
  if not processes.is_first():
    return
  directory = pathlib.Path(FLAGS.output_dir)
  by_dataset: dict[str, list[Stage]] = {}
  for stage in planned:
    by_dataset.setdefault(stage.evaluation.dataset, []).append(stage)
  found = {n: stages.records(s, _chosen_records) for n, s in by_dataset.items()}
  everything = [*itertools.chain(*itertools.chain(*found.values()))]
  if not everything:
    raise results.ResultError(f"{directory}: expected records, found none")
  versions.tell(everything)
  markdown.show(comparison.write(found, FLAGS.methods, shots, directory))
  comparison.draw(found, FLAGS.methods, directory)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
