r"""Learning rules side by side: few shots, attacks, weights.

Trains backpropagation, with BEAN and without, with non-negative weights, and
rules that are no backpropagation, on a few images of each class, as Table 1
does, and chooses their hyper-parameters by its two protocols:

  paper   Hyper-parameter and epoch are chosen on validation images, for each
          number of shots.
  strict  The last epoch, and one value of the hyper-parameter for all shots,
          chosen with other seeds.

The networks so chosen are kept, attacked (FGSM and PGD, also from random
starts, with the share of images without a gradient beside it, since a network
that hides its gradient is not robust), and their weights looked at: which
distribution they have, how sparse they are, whether neurons obey Dale's law.

    python -m experiments.learning_rules

does so with 4 seeds of 5-shot digits, which need no download. For MNIST:

    python -m experiments.learning_rules --dataset=mnist --seeds=20 \
      --shots=1,2,5,10,20,50,100 --epochs=200,200,100,100,50,50,50 --attacked=0

Networks that another script has trained, of whole datasets too, are looked at
by --checkpoint_dir, and nothing is trained then:

    python -m experiments.full_data
    python -m experiments.learning_rules \
      --checkpoint_dir=outputs/full_data/checkpoints

Finished cells and measured networks are kept in --output_dir, one JSON each;
the same command goes on where it was stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import NamedTuple

from absl import flags
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.assemblies import sources
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.learning.streams import Shots
from experiments.machine import interruption, processes, progress
from experiments.population import cells, runs
from experiments.records import checkpoints, results
from experiments.rules import drawing, records, tables
from experiments.rules.records import Networks, Record
from experiments.tables import canvas, comparison, markdown, paper, stages
from experiments.weights import kernels

# As many as a figure tells apart.
RULES = (
  *("vanilla", "bean1", "bean2", "nonnegative", "pc_strict"),
  *("nonnegative_competing100", "hebbian"),
)
# Parameters of a checkpoint that a protocol reports.
EPOCHS = {"paper": "best", "strict": "last"}

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "digits",
  ["digits", "mnist", "fashion_mnist"],
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
flag_groups.define_schedule(FLAGS, shots=("5",), epochs="10", validate_every=5)
flag_groups.define_methods(FLAGS, known=list(methods.METHODS), default=RULES)
flag_groups.define_competing(FLAGS)
flag_groups.define_seeds(FLAGS, default="4")
flag_groups.define_selection_seeds(FLAGS, default="100-103")
_EVALUATED_SHOTS = flags.DEFINE_list(
  "evaluated_shots",
  None,
  "numbers of shots whose networks are kept, attacked and looked at, "
  "comma-separated; by default the greatest of --shots",
  flag_values=FLAGS,
)
_PROTOCOLS = flags.DEFINE_list(
  "protocols",
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
distributed.define_flags(FLAGS)


class Stage(NamedTuple):
  """All runs of one number of shots.

  Attributes:
    selection: Every cell, with the seeds that choose for the strict protocol.
    evaluation: Every cell, with the seeds that are reported; their networks
      are kept where they may be looked at.
  """

  selection: cells.Config
  evaluation: cells.Config

  @property
  def num_shots(self) -> int:
    """Training images of each class."""
    return self.evaluation.cells[0].stream.num_shots


class Part(NamedTuple):
  """What is reported together: networks that may be compared.

  Attributes:
    title: For people.
    suffix: Of the names of figures.
    chosen: Networks by method.
    accuracies: Of all numbers of shots, where the table has them.
  """

  title: str
  suffix: str
  chosen: dict[str, Networks]
  accuracies: comparison.Entries


class Job(NamedTuple):
  """A run of the script.

  Attributes:
    names: Methods, in the order of the tables.
    stages: What is trained; nothing where networks are there.
    evaluated: Numbers of shots whose networks are looked at.
    protocols: Whose networks are looked at.
    settings: How.
  """

  names: list[str]
  stages: list[Stage]
  evaluated: list[int]
  protocols: list[str]
  settings: records.Settings


def parse_job() -> Job:
  """Builds the job from flags.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  epsilons = parsing.numbers("epsilons", _EPSILONS.value, float, low=0)
  if (largest := max(epsilons)) > 1:
    raise parsing.ConfigError(
      f"--epsilons: expected numbers from 0 to 1, got {largest:g}"
    )
  settings = records.Settings(
    tuple(sorted(epsilons)),
    parsing.number("attacked", _ATTACKED.value, low=0),
  )
  if _CHECKPOINT_DIR.value is not None:
    return Job(names, [], [], [], settings)
  schedule = dict(flag_groups.schedule(FLAGS, least_every=1))
  evaluated = [max(schedule)]
  if _EVALUATED_SHOTS.value is not None:
    evaluated = parsing.numbers(
      "evaluated_shots", _EVALUATED_SHOTS.value, int, low=1
    )
    if others := set(evaluated) - set(schedule):
      raise parsing.ConfigError(
        f"--evaluated_shots: expected some of --shots, got {min(others)}"
      )
  return Job(
    names,
    [
      _make_stage(names, shots, epochs, keep=shots in evaluated)
      for shots, epochs in schedule.items()
    ],
    sorted(evaluated),
    parsing.names("protocols", _PROTOCOLS.value, list(EPOCHS)),
    settings,
  )


def _make_stage(
  names: Sequence[str], shots: int, epochs: int, *, keep: bool
) -> Stage:
  seeds, selection_seeds = flag_groups.both_seeds(FLAGS)
  directory = pathlib.Path(FLAGS.output_dir)
  base = cells.Config(
    experiment="learning_rules",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=directory,
    resume=True,
    protocol=cells.Protocol(
      networks.Spec(_MODEL.value),
      seeds,
      flag_groups.options(FLAGS),
      validate_every=FLAGS.validate_every,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=(),
  )
  grids = {name: methods.METHODS[name].grid for name in names}
  make = functools.partial(stages.make, base)
  place = Shots(shots), epochs
  return Stage(
    # A validation after the last epoch is all that the choice needs.
    make("selection", grids, *place, seeds=selection_seeds, validate_every=0),
    dataclasses.replace(
      make("evaluation", grids, *place),
      checkpoint_dir=directory / "networks" if keep else None,
      # Those that are not chosen may be removed.
      needs_networks=False,
    ),
  )


def choose(
  stage: Stage, accuracies: Sequence[comparison.Entries]
) -> cells.Config:
  """Returns the run of those cells that protocols report, networks and all.

  Args:
    stage: The runs of a number of shots.
    accuracies: What `comparison.entries` returned for each protocol.
  """

  def is_chosen(cell: cells.Cell) -> bool:
    entries = (
      found.get((cell.method, stage.num_shots)) for found in accuracies
    )
    return any(e and (e.strength or 0.0) == cell.strength for e in entries)

  return dataclasses.replace(
    stage.evaluation,
    needs_networks=True,
    cells=tuple(filter(is_chosen, stage.evaluation.cells)),
  )


def _train(planned: Sequence[cells.Config]) -> None:
  missing = [runs.missing(config) for config in planned]
  done = sum(len(config.cells) for config in planned)
  done -= sum(len(config.cells) for config in missing)
  with progress.bar(
    total=sum(runs.work(config) for config in missing), skipped=done
  ) as bar:
    for config in planned:
      runs.train(config, bar)


def _accuracies(
  planned: Sequence[Stage],
) -> tuple[dict[str, comparison.Entries], list[Record]]:
  """Returns the entries of each protocol, and all records."""
  found = None
  for stage in planned:
    selection, evaluation = (
      list(runs.finished(config).values())
      for config in (stage.selection, stage.evaluation)
    )
    chosen = stages.best_of_grid(stage.evaluation)
    own = comparison.Records(selection, evaluation, chosen)
    found = comparison.joined(found, own)
  entries = {
    protocol: comparison.entries(protocol, found) for protocol in EPOCHS
  }
  return entries, [*found.selection, *found.evaluation]


def _chosen_parts(
  job: Job, accuracies: Mapping[str, comparison.Entries]
) -> Iterator[Part]:
  """Yields the networks of each protocol at each number of shots."""
  directory = pathlib.Path(FLAGS.output_dir) / "networks"
  found = sources.find(directory, job.names)
  by_place = {
    (
      group[0].config["shots"],
      group[0].config["method"],
      sources.strength(group[0].config),
    ): group
    for group in records.cells(found)
  }
  for protocol, entries in accuracies.items():
    if protocol not in job.protocols:
      yield Part(
        f"{paper.title(_DATASET.value)}, protocol {protocol}", "", {}, entries
      )
      continue
    for shots in reversed(job.evaluated):
      chosen: dict[str, Networks] = {}
      for name in job.names:
        entry = entries.get((name, shots))
        place = (shots, name, (entry.strength or 0.0) if entry else None)
        if place in by_place:
          chosen[name] = Networks(by_place[place], EPOCHS[protocol])
      yield Part(
        f"{paper.title(_DATASET.value)}, {shots}-shot, protocol {protocol}",
        f"{shots}shot_{protocol}",
        chosen,
        entries if shots == max(job.evaluated) else {},
      )


def _found_parts(names: Sequence[str]) -> Iterator[Part]:
  """Yields the best networks of a folder, of all that may be compared."""
  found = sources.find(pathlib.Path(_CHECKPOINT_DIR.value), names)
  settings: dict[str, dict[str, Networks]] = {}
  best: dict[tuple[str, str], float] = {}
  for group in records.cells(found):
    name = group[0].config["method"]
    setting = sources.setting(group[0].config)
    accuracy = sum(s.validation_accuracy for s in group) / len(group)
    if accuracy > best.get((setting, name), -1.0):
      best[setting, name] = accuracy
      settings.setdefault(setting, {})[name] = Networks(group, "best")
  for setting, chosen in settings.items():
    ordered = {name: chosen[name] for name in names if name in chosen}
    yield Part(setting, setting, ordered, {})


def _evaluate(
  parts: Sequence[Part], settings: records.Settings
) -> list[dict[str, Record]]:
  """Measures all networks; records by method, of each part."""
  directory = pathlib.Path(FLAGS.output_dir) / "networks_measured"
  results.prepare_directory(directory)
  environment = results.environment()
  load = functools.cache(
    functools.partial(datasets.load, data_dir=FLAGS.data_dir)
  )
  total = sum(len(part.chosen) for part in parts)
  evaluations = []
  with progress.bar(total=total, skipped=0) as bar:
    for part in parts:
      evaluations.append({})
      for name, chosen in part.chosen.items():
        if interruption.stop_requested():
          raise interruption.Stopped
        dataset = load(chosen.config["dataset"])
        record, is_new = records.evaluate(
          chosen, dataset, settings, directory, environment
        )
        evaluations[-1][name] = record
        bar.display.update(
          bar.task, advance=1, description=chosen.title, accuracy=""
        )
        if is_new:
          bar.display.console.print(
            f"{chosen.title}: {tables.summary_line(record)}, "
            f"{record['seconds']:.0f} s",
            highlight=False,
          )
  return evaluations


def run() -> None:
  """Trains and measures what is missing, and writes tables and figures.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If a file is of another configuration, or cannot be
      used or written.
  """
  job = parse_job()
  accuracies: dict[str, comparison.Entries] = {}
  used: list[Record] = []
  if job.stages:
    _train([run for stage in job.stages for run in stage])
    accuracies, used = _accuracies(job.stages)
    entries = [accuracies[protocol] for protocol in job.protocols]
    chosen = [
      choose(stage, entries)
      for stage in job.stages
      if stage.num_shots in job.evaluated
    ]
    # Networks may be missing though their records are there.
    _train([config for config in chosen if runs.missing(config).cells])
  if not processes.is_first():
    return
  parts = list(
    _chosen_parts(job, accuracies) if job.stages else _found_parts(job.names)
  )
  evaluations = _evaluate(parts, job.settings)
  used += [record for found in evaluations for record in found.values()]
  results.tell_versions(used)
  directory = pathlib.Path(FLAGS.output_dir)
  text = tables.text(
    [
      (part.title, part.accuracies, found)
      for part, found in zip(parts, evaluations, strict=True)
    ],
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
      with canvas.attempt(path):
        comparison.draw_shots(path, entries, names, _DATASET.value, protocol)
  for part, found in zip(parts, evaluations, strict=True):
    if found:
      _draw(directory, part, found)
  print(f"files in {directory}")


def _draw(
  directory: pathlib.Path, part: Part, found: Mapping[str, Record]
) -> None:
  """Draws the networks of a part."""
  fields = {name: _fields(part.chosen[name]) for name in found}
  for stem, what, draw, values in (
    (
      "accuracy_against_epsilon",
      "accuracy under attack",
      drawing.accuracy_against_epsilon,
      found,
    ),
    (
      "weights",
      "strengths of synapses, first seed",
      drawing.weight_histograms,
      found,
    ),
    (
      "receptive_fields",
      "incoming weights of first units, first seed",
      drawing.receptive_fields,
      fields,
    ),
  ):
    for path, names in drawing.paths(
      directory, f"{stem}_{part.suffix}", list(found)
    ):
      with canvas.attempt(path):
        draw(
          path,
          {name: values[name] for name in names},
          title=f"{part.title}: {what}",
        )


def _fields(chosen: Networks) -> np.ndarray:
  """Returns the receptive fields of the first seed's network."""
  source = chosen.members[0]
  checkpoint = checkpoints.load(source.path)
  params = getattr(checkpoint, chosen.epoch).params
  return kernels.receptive_fields(params, (28, 28, 1))


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
