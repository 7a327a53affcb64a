r"""Learning rules side by side: few shots, attacks, weights.

Trains backpropagation, with BEAN and without, with non-negative weights, and
rules that are no backpropagation, on a few images of each class, as Table 1
does, and chooses their hyper-parameters by its two protocols: on validation
images (paper), or with other seeds and for the last epoch (strict).

The networks so chosen are kept, attacked (FGSM and PGD, also from random
starts, with the share of images without a gradient beside it, since a network
that hides its gradient is not robust), and their weights looked at: which
distribution they have, how sparse they are, whether neurons obey Dale's law.

    python -m experiments.learning_rules

does so with 4 seeds of 5-shot digits, which need no download. For MNIST:

    python -m experiments.learning_rules --dataset=mnist --seeds=20 \
      --shots=1,2,5,10,20,50,100 --epochs=200,200,100,100,50,50,50 --attacked=0

With --selection_shots=1,5 all strengths are tried at these numbers of shots
alone, and at the others the one that is best in their mean, by each protocol.

Networks that another script has trained, of whole datasets too, are looked at
by --checkpoint_dir, and nothing is trained then:

    python -m experiments.full_data
    python -m experiments.learning_rules \
      --checkpoint_dir=outputs/full_data/checkpoints

Finished cells and measured networks are kept in --output_dir, one JSON each;
the same command goes on where it was stopped, and --notrain tabulates those.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

from absl import flags
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.assemblies import sources
from experiments.assemblies.sources import Source
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.machine import interruption, processes, progress
from experiments.population import cells, runs
from experiments.records import checkpoints, results
from experiments.records.results import Record
from experiments.rules import drawing, records, tables
from experiments.rules.evaluations import Settings
from experiments.rules.records import Networks
from experiments.tables import (
  canvas,
  comparison,
  markdown,
  paper,
  protocols,
  stages,
  versions,
)
from experiments.tables.protocols import Entries
from experiments.tables.stages import Stage
from experiments.weights import kernels

# As many as a figure tells apart.
RULES = (
  *("vanilla", "bean1", "bean2", "nonnegative", "pc_strict"),
  *("nonnegative_competing100", "hebbian"),
)
# Parameters of a checkpoint that a protocol reports.
EPOCHS = {"paper": "best", "strict": "last"}
# Folder of the records of networks.
MEASURED = "networks_measured"
# A number of shots, a method and its strength.
Place = tuple[int, str, float]

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "digits",
  datasets.GRAY,
  "images to learn from",
  flag_values=FLAGS,
)
_MODEL = flags.DEFINE_enum(
  "model",
  "lenet5",
  networks.GRAY,
  "network to train, but for rules that have one of their own",
  flag_values=FLAGS,
)
flag_groups.define(FLAGS, shots=["5"], epochs=["10"], validate_every=10)
flag_groups.define_methods(FLAGS, known=list(methods.METHODS), default=RULES)
flag_groups.define_competing(FLAGS)
flag_groups.define(
  FLAGS, seeds="4", selection_seeds="100-103", selection_shots=[]
)
flags.DEFINE_list(
  "evaluated_shots",
  [],
  "numbers of shots whose networks are kept, attacked and looked at, "
  "comma-separated; by default the greatest of --shots",
  flag_values=FLAGS,
)
_EVALUATED_PROTOCOLS = flags.DEFINE_list(
  "evaluated_protocols",
  ["strict"],
  "whose networks are kept, attacked and looked at: paper, strict or both; "
  "accuracies by shots are reported of both",
  flag_values=FLAGS,
)
_EPSILONS = flags.DEFINE_list(
  "epsilons",
  ["0", "0.05", "0.1", "0.2", "0.3"],
  "largest changes of a pixel, comma-separated, from 0 to 1",
  flag_values=FLAGS,
)
_ATTACKED = flags.DEFINE_integer(
  "attacked",
  100,
  "test images that are attacked, the first of them; 0 for all",
  flag_values=FLAGS,
)
_CHECKPOINT_DIR = flag_groups.define_path(
  FLAGS,
  "checkpoint_dir",
  None,
  "folder of networks that another script has trained, to be looked at "
  "instead, with the strength of best validation accuracy of each method",
)
flag_groups.define_run(FLAGS, output_dir="outputs/learning_rules")
flag_groups.define(FLAGS, train=True)
distributed.define_flags(FLAGS)


class Part(NamedTuple):
  """What is reported together: networks that may be compared."""

  title: str  # For people.
  suffix: str  # Of the names of figures.
  chosen: dict[str, Networks]  # Networks by method.
  accuracies: Entries  # Of all numbers of shots, where the table has them.
  found: dict[str, Record]  # By method, once networks have been measured.


class Job(NamedTuple):
  """A run of the script."""

  names: list[str]  # Methods, in the order of the tables.
  stages: list[Stage]  # What is trained; nothing where networks are there.
  selection: list[int]  # Numbers of shots whose whole grid is trained.
  evaluated: list[int]  # Numbers of shots whose networks are looked at.
  protocols: list[str]  # Whose networks are looked at.
  settings: Settings  # How.

  def of_whole_grids(self) -> list[Stage]:
    """Returns those in which all strengths are tried."""
    return [stage for stage in self.stages if stage.num_shots in self.selection]


def parse_job() -> Job:
  """Builds the job from flags."""
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  epsilons = parsing.numbers("epsilons", _EPSILONS.value, float, low=0)
  if (largest := max(epsilons)) > 1:
    raise parsing.ConfigError(
      f"--epsilons: expected numbers from 0 to 1, got {largest:g}"
    )
  attacked = parsing.number("attacked", _ATTACKED.value, low=0)
  settings = Settings(tuple(sorted(epsilons)), attacked)
  if _CHECKPOINT_DIR.value is not None:
    return Job(names, [], [], [], [], settings)
  schedule = dict(flag_groups.schedule(FLAGS, least_every=1))
  evaluated = flag_groups.some_shots(FLAGS, "evaluated_shots", schedule)
  evaluated = evaluated or [max(schedule)]
  selection = flag_groups.some_shots(FLAGS, "selection_shots", schedule)
  return Job(
    names,
    [
      _make_stage(names, shots, epochs, keep=shots in evaluated)
      for shots, epochs in schedule.items()
    ],
    selection or list(schedule),
    evaluated,
    parsing.names(
      "evaluated_protocols", _EVALUATED_PROTOCOLS.value, list(EPOCHS)
    ),
    settings,
  )


def _make_stage(
  names: Sequence[str], shots: int, epochs: int, *, keep: bool
) -> Stage:
  """Returns the runs of a number of shots, whose networks may be kept."""
  seeds, selection_seeds = flag_groups.both_seeds(FLAGS)
  directory = pathlib.Path(FLAGS.output_dir)
  grids = {name: methods.METHODS[name].grid for name in names}
  base = cells.Config(
    experiment="learning_rules",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=directory,
    protocol=cells.Protocol(
      networks.Spec(_MODEL.value),
      seeds,
      flag_groups.options(FLAGS),
      validate_every=FLAGS.validate_every,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=stages.grid(grids, shots, epochs),
  )
  selection, evaluation = stages.make(base, selection_seeds)
  folder = directory / "networks" if keep else None
  # Networks that are not chosen may be removed.
  return Stage(
    selection,
    dataclasses.replace(
      evaluation, checkpoint_dir=folder, needs_networks=False
    ),
  )


def _reported(job: Job) -> tuple[dict[str, Entries], list[Record]]:
  """Returns the entries of protocols that there are, and all records."""
  whole = job.of_whole_grids()

  def chosen(stage: Stage) -> list[Record]:
    if stage in whole:
      return stages.best_of_grid(stage.evaluation)
    return list(
      runs.finished(stages.chosen_run("paper", stage, whole)).values()
    )

  found = stages.records(job.stages, chosen)
  accuracies = {name: protocols.entries(name, found) for name in EPOCHS}
  return accuracies, [*found.selection, *found.evaluation]


def _train(job: Job) -> None:
  """Trains what is missing."""
  whole = job.of_whole_grids()
  planned = [run for stage in whole for run in stage]
  while planned:
    runs.train_all(planned)
    accuracies, _ = _reported(job)
    planned = [
      _chosen_run(stage, whole) for stage in job.stages if stage not in whole
    ]
    planned += [
      stages.with_strengths(
        stage.evaluation,
        {
          name: entry.strength
          for (name, shots), entry in accuracies[protocol].items()
          if shots == stage.num_shots
        },
        needs_networks=True,
      )
      for stage in job.stages
      if stage.num_shots in job.evaluated
      for protocol in job.protocols
    ]
    # Networks may be missing though their records are there. Trained again, by
    # another version, they have other numbers in the last digits.
    planned = [config for config in planned if runs.missing(config).cells]


def _chosen_run(stage: Stage, tried: Sequence[Stage]) -> cells.Config:
  """Returns the run of what stages of whole grids choose, by each protocol."""
  chosen = dict.fromkeys(
    cell
    for protocol in EPOCHS
    for cell in stages.chosen_run(protocol, stage, tried).cells
  )
  return dataclasses.replace(stage.evaluation, cells=tuple(chosen))


def _place(config: Mapping[str, Any]) -> Place:
  return config["shots"], config["method"], methods.strength(config)


def _chosen_parts(
  job: Job, accuracies: Mapping[str, Entries]
) -> Iterator[Part]:
  """Yields the networks of each protocol at each number of shots.

  Where nothing is trained these are records of networks alone.
  """
  directory = pathlib.Path(FLAGS.output_dir)
  there: dict[Place, tuple[Source, ...]] = {}
  measured: dict[tuple[Place, str], Record] = {}
  if FLAGS.train:
    found = sources.find(directory / "networks", job.names)
    there = {_place(group[0].config): group for group in records.cells(found)}
  elif (directory / MEASURED).is_dir():
    for record in results.load_all(directory / MEASURED).values():
      config = record["config"]
      measured[_place(config["cell"]), config["epoch"]] = record
  dataset = paper.title(_DATASET.value)
  for protocol, entries in accuracies.items():
    if protocol not in job.protocols:
      yield Part(f"{dataset}, protocol {protocol}", "", {}, entries, {})
      continue
    epoch = EPOCHS[protocol]
    for shots in reversed(job.evaluated):
      places = {
        name: (shots, name, entries[name, shots].strength)
        for name in job.names
        if (name, shots) in entries
      }
      yield Part(
        f"{dataset}, {shots}-shot, protocol {protocol}",
        f"{shots}shot_{protocol}",
        {n: Networks(there[p], epoch) for n, p in places.items() if p in there},
        entries if shots == max(job.evaluated) else {},
        {
          name: measured[place, epoch]
          for name, place in places.items()
          if (place, epoch) in measured
        },
      )


def _found_parts(names: Sequence[str]) -> Iterator[Part]:
  """Yields the best networks of a folder, of all that may be compared."""
  best: dict[str, dict[str, tuple[float, Networks]]] = {}
  directory = pathlib.Path(_CHECKPOINT_DIR.value)
  for group in records.cells(sources.find(directory, names)):
    config = group[0].config
    accuracy = sum(s.validation_accuracy for s in group) / len(group)
    by_method = best.setdefault(sources.setting(config), {})
    if accuracy > by_method.get(config["method"], (-1.0,))[0]:
      by_method[config["method"]] = accuracy, Networks(group, "best")
  for setting, by_method in best.items():
    chosen = {n: by_method[n][1] for n in names if n in by_method}
    yield Part(setting, setting, chosen, {}, {})


def _measure(parts: Sequence[Part], settings: Settings) -> None:
  """Measures the networks of all parts."""
  directory = pathlib.Path(FLAGS.output_dir) / MEASURED
  results.prepare_directory(directory)
  total = sum(len(part.chosen) for part in parts)
  with progress.bar(total=total, skipped=0) as bar:
    for part in parts:
      for name, chosen in part.chosen.items():
        if interruption.stop_requested():
          raise interruption.Stopped
        dataset = datasets.load(
          chosen.config["dataset"], data_dir=FLAGS.data_dir
        )
        record, is_new = records.evaluate(chosen, dataset, settings, directory)
        part.found[name] = record
        bar.tick(chosen.title, 1)
        if is_new:
          bar.print(
            f"{chosen.title}: {tables.summary_line(record)}, "
            f"{record['seconds']:.0f} s"
          )


def run() -> None:
  """Trains and measures what is missing, and writes tables and figures."""
  job = parse_job()
  if FLAGS.train:
    _train(job)
  accuracies, used = _reported(job) if job.stages else ({}, [])
  if not processes.is_first():
    return
  parts = list(
    _chosen_parts(job, accuracies) if job.stages else _found_parts(job.names)
  )
  _measure(parts, job.settings)
  used += [record for part in parts for record in part.found.values()]
  directory = pathlib.Path(FLAGS.output_dir)
  if not used:
    raise results.ResultError(f"{directory}: expected records, found none")
  versions.tell(used)
  text = tables.text(
    [(part.title, part.accuracies, part.found) for part in parts],
    job.names,
    [stage.num_shots for stage in job.stages],
    used,
  )
  results.write_bytes(directory / "table.md", f"{text}\n".encode())
  # Before the figures, which are worth less than the numbers.
  markdown.show(text)
  for protocol, entries in accuracies.items():
    stem = f"accuracy_against_shots_{protocol}"
    for path, names in drawing.paths(directory, stem, job.names):
      comparison.draw_shots(path, entries, names, _DATASET.value, protocol)
  for part in filter(lambda part: part.found, parts):
    _draw(directory, part)
  print(f"files in {directory}")


def _draw(directory: pathlib.Path, part: Part) -> None:
  """Draws the networks of a part."""
  found = part.found
  fields = {name: _fields(chosen) for name, chosen in part.chosen.items()}
  for stem, draw, values in (
    ("accuracy_against_epsilon", drawing.accuracy_against_epsilon, found),
    ("weights", drawing.weight_histograms, found),
    ("receptive_fields", drawing.receptive_fields, fields),
  ):
    if not values:
      # Networks whose records alone are there have no pictures of weights.
      continue
    stem = f"{stem}_{part.suffix}"
    for path, names in drawing.paths(directory, stem, list(values)):
      with canvas.attempt(path):
        draw(path, {name: values[name] for name in names}, title=part.title)


def _fields(chosen: Networks) -> np.ndarray:
  """Returns the receptive fields of the first seed's network."""
  checkpoint = checkpoints.load(chosen.members[0].path)
  params = getattr(checkpoint, chosen.epoch).params
  return kernels.receptive_fields(params, (28, 28, 1))


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
