r"""Are networks trained with BEAN sparser and cheaper, as the abstract says?

Takes checkpoints of `experiments.full_data`, makes their dense layers smaller
and measures what is lost: weights of least magnitude pruned; the least
important units removed; the units of each assembly merged into one. Each
without retraining and after an epoch of it, with parameters, FLOPs, bytes and
the time of inference beside the network as it was trained.

    python -m experiments.full_data --model=mlp300_100 \
      --methods=vanilla,bean1,bean2,l1,weight_decay,group_lasso
    python -m experiments.efficiency \
      --checkpoint_dir=outputs/full_data/checkpoints

says how many parameters each method needs to lose at most half a point of
accuracy against the vanilla network of the same seed. Which version of a
network will do is decided on validation images, and the test images tell what
it really loses. The strength of each method is chosen on validation images too,
in three ways: the best as trained; the strongest that loses at most half a
point as trained, which is the comparison at matched accuracy; and the one that
then needs the fewest parameters.

Finished checkpoints are kept in --output_dir, one JSON each; the same command
goes on where it was stopped.
"""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from absl import flags

from experiments import datasets
from experiments.assemblies import sources
from experiments.command import flag_groups, parsing, scripts
from experiments.compaction import drawing, measures, needed, schemes, tables
from experiments.machine import interruption
from experiments.records import checkpoints, results
from experiments.tables import canvas, markdown, versions

_WEIGHT_PERCENTS = (30, 50, 60, 70, 75, 80, 85, 90, 93, 95, 97, 98, 99)

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

sources.define_flags(FLAGS)
_SCHEMES = flags.DEFINE_list(
  "schemes",
  list(schemes.SCHEMES),
  f"how networks are made smaller, of: {', '.join(schemes.SCHEMES)}",
  flag_values=FLAGS,
)
_WEIGHT_FRACTIONS = flags.DEFINE_list(
  "weight_fractions",
  [str(percent / 100) for percent in _WEIGHT_PERCENTS],
  "parts of the weights to prune, comma-separated",
  flag_values=FLAGS,
)
_UNIT_FRACTIONS = flags.DEFINE_list(
  "unit_fractions",
  [str(percent / 100) for percent in range(10, 100, 10)],
  "parts of the units to remove or merge, comma-separated",
  flag_values=FLAGS,
)
_RETRAIN_EPOCHS = flags.DEFINE_integer(
  "retrain_epochs",
  1,
  "passes over the training images afterwards, with the batches and the "
  "learning rate of the training, and without regularizer; 0 for none",
  flag_values=FLAGS,
)
_POINTS = flags.DEFINE_float(
  "points", 0.5, "accuracy that may be lost, in percent", flag_values=FLAGS
)
_TIMING_BATCHES = flags.DEFINE_list(
  "timing_batches",
  ["1", "100"],
  "images at once whose inference is timed",
  flag_values=FLAGS,
)
_TIMING_REPEATS = flags.DEFINE_integer(
  "timing_repeats", 7, "rounds of timing; 0 for none", flag_values=FLAGS
)
flag_groups.define_folders(FLAGS, output_dir="outputs/efficiency")


def run() -> None:
  """Makes the records that are missing, then tables and figures of all."""
  settings = parse_settings()
  points = parsing.number("points", _POINTS.value, low=0, below=100)
  found = _find()
  directory = pathlib.Path(FLAGS.output_dir)
  results.prepare_directory(directory)
  made = []
  for source in found:
    if interruption.stop_requested():
      raise interruption.Stopped
    checkpoint = checkpoints.load(source.path, config=source.config)
    record, is_new = results.made(
      directory / f"{source.path.stem}.json",
      {
        "experiment": "efficiency",
        "config": {
          "checkpoint": source.config,
          "checkpoint_sha256": measures.digest(checkpoint.best),
          **settings._asdict(),
        },
        "seeds": [source.config["seed"]],
      },
      functools.partial(_measure, source, settings),
      resume=FLAGS.resume,
    )
    made.append(record)
    if is_new:
      print(f"{source.path.stem}: {record['seconds']:.0f} s", flush=True)
  groups = needed.make_groups(made, points=points)
  versions.tell(made)
  text = tables.report(groups)
  if note := versions.mixed(made):
    text += f"\n\n{note}"
  results.write_bytes(directory / "table.md", f"{text}\n".encode())
  for group in groups:
    markdown.show(tables.summary(group))
  for group in groups:
    name = group.title.replace(", ", "-")
    for choice in needed.choices(group):
      for kind, draw in drawing.FIGURES.items():
        path = directory / f"{name}-{kind}-{choice}.png"
        with canvas.attempt(path):
          draw(path, group, choice)
  print(f"all tables and figures in {directory}")


def _measure(
  source: sources.Source, settings: measures.Settings
) -> dict[str, Any]:
  """Returns the fields of a record that are measured."""
  dataset = datasets.load(source.config["dataset"], data_dir=FLAGS.data_dir)
  network, variables = sources.load(source, dataset)
  metrics = measures.measure(
    network, variables, dataset, source.config, settings
  )
  return {
    "source": dataset.source,
    "metrics": {name: [value] for name, value in metrics.items()},
  }


def _find() -> list[sources.Source]:
  """Returns the checkpoints of all methods that were asked for."""
  names = FLAGS.methods
  if names is not None and "vanilla" not in names:
    raise parsing.ConfigError(
      "--methods: expected vanilla among them, which all others are compared "
      f"with, got {','.join(names)!r}"
    )
  found = sources.find(pathlib.Path(FLAGS.checkpoint_dir), names)
  there = {source.config["method"] for source in found}
  if missing := set(names or ()) - there:
    raise parsing.ConfigError(
      "--methods: expected methods of which there are checkpoints, such as "
      f"{', '.join(sorted(there))}, got {', '.join(sorted(missing))}"
    )
  return found


def parse_settings() -> measures.Settings:
  """Returns how networks are made smaller, from flags."""
  return measures.Settings(
    schemes=tuple(
      parsing.names("schemes", _SCHEMES.value, list(schemes.SCHEMES))
    ),
    weight_fractions=_fractions("weight_fractions", _WEIGHT_FRACTIONS.value),
    unit_fractions=_fractions("unit_fractions", _UNIT_FRACTIONS.value),
    retrain_epochs=parsing.number(
      "retrain_epochs", _RETRAIN_EPOCHS.value, low=0
    ),
    timing_batches=tuple(
      parsing.numbers("timing_batches", _TIMING_BATCHES.value, int, low=1)
    ),
    timing_repeats=parsing.number(
      "timing_repeats", _TIMING_REPEATS.value, low=0
    ),
  )


def _fractions(name: str, words: Sequence[str]) -> tuple[float, ...]:
  """Returns different fractions below 1, in ascending order."""
  values = parsing.numbers(name, words, float, low=0)
  return tuple(sorted(parsing.number(name, v, low=0, below=1) for v in values))


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
