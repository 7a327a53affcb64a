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
import pathlib
from typing import NamedTuple

from absl import flags

from experiments import datasets
from experiments.architectures import networks
from experiments.command import flag_groups, parsing, scripts
from experiments.compaction import (
  drawing,
  heads,
  needed,
  records,
  schemes,
  tables,
)
from experiments.learning import methods
from experiments.machine import interruption
from experiments.records import results
from experiments.tables import canvas, markdown

_WEIGHT_PERCENTS = (30, 50, 60, 70, 75, 80, 85, 90, 93, 95, 97, 98, 99)

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_CHECKPOINT_DIR = flag_groups.define_path(
  FLAGS,
  "checkpoint_dir",
  "outputs/full_data/checkpoints",
  "folder of the trained networks",
)
_MODEL = flags.DEFINE_enum(
  "model",
  None,
  networks.NAMES,
  "network that all checkpoints must be of; by default any",
  flag_values=FLAGS,
)
_METHODS = flags.DEFINE_list(
  "methods",
  None,
  "methods to take, comma-separated, vanilla among them; by default all that "
  "there are checkpoints of",
  flag_values=FLAGS,
)
_SCHEMES = flags.DEFINE_list(
  "schemes",
  ["weights", "units", "merge"],
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
_RESUME = flags.DEFINE_bool(
  "resume",
  True,
  "use the results that are there; --noresume makes all again and replaces "
  "their files",
  flag_values=FLAGS,
)


class Config(NamedTuple):
  """One run.

  Attributes:
    checkpoint_dir: Folder of the checkpoints.
    model: Network that they must be of, or None.
    methods: Methods that are taken; empty for all.
    settings: How networks are made smaller.
    points: Of accuracy that may be lost, in percent.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of the records.
    resume: Whether records that are there are used.
  """

  checkpoint_dir: pathlib.Path
  model: str | None
  methods: tuple[str, ...]
  settings: records.Settings
  points: float
  data_dir: str | None
  output_dir: pathlib.Path
  resume: bool


def run(config: Config) -> None:
  """Makes the records that are missing, then tables and figures of all.

  Args:
    config: The run.

  Raises:
    datasets.DatasetError: If the data cannot be had.
    results.ResultError: If there are no checkpoints, one cannot be used, or the
      folder holds a file of another configuration or cannot be written.
    interruption.Stopped: If a stop was requested before all was done.
  """
  paths = find_checkpoints(config)
  results.prepare_directory(config.output_dir)
  made = []
  for path in paths:
    if interruption.stop_requested():
      raise interruption.Stopped
    if (record := _record(config, path)) is not None:
      made.append(record)
  if not made:
    raise results.ResultError(
      f"{config.checkpoint_dir}: every training failed; choose another folder"
    )
  groups = needed.make_groups(made)
  results.tell_versions(made)
  text = tables.report(groups, points=config.points)
  if note := results.mixed_versions(made):
    text += f"\n\n{note}"
  results.write_bytes(config.output_dir / "table.md", f"{text}\n".encode())
  for group in groups:
    markdown.show(tables.summary(group, points=config.points))
  for group in groups:
    name = group.title.replace(", ", "-")
    for choice in needed.choices(group, points=config.points):
      for function, kind in (
        (drawing.curves, "lost"),
        (drawing.needs, "needed"),
      ):
        stem = f"{name}-{kind}-{choice}"
        with canvas.attempt(config.output_dir / stem):
          function(config.output_dir, stem, group, choice, points=config.points)
  print(f"all tables and figures in {config.output_dir}")


def find_checkpoints(config: Config) -> list[pathlib.Path]:
  """Lists the checkpoints of a run, after reading each.

  Args:
    config: The run.

  Returns:
    Their paths, in the order of the names.

  Raises:
    results.ResultError: If there are none, or one cannot be used.
  """
  paths = sorted(config.checkpoint_dir.glob("*.npz"))
  if not paths:
    raise results.ResultError(
      f"{config.checkpoint_dir}: no checkpoints there; train networks with "
      "experiments.full_data and name their folder by --checkpoint_dir"
    )
  found = {
    path: heads.read(path, model=config.model).config["method"]
    for path in paths
  }
  kept = [p for p in paths if not config.methods or found[p] in config.methods]
  if missing := set(config.methods) - set(found.values()):
    raise results.ResultError(
      f"{config.checkpoint_dir}: no checkpoints of {', '.join(sorted(missing))}"
      f"; there are {', '.join(sorted(set(found.values())))}"
    )
  return kept


def _record(config: Config, path: pathlib.Path) -> records.Record | None:
  """Returns the record of a checkpoint, or None if its training failed."""
  checkpoint = heads.read(path, model=config.model)
  if checkpoint.metrics.get("failed_step", -1) >= 0:
    print(f"{path.name}: training failed, left out")
    return None
  record_path = records.path_of(config.output_dir, path)
  expected = records.make_config(checkpoint, config.settings)
  if config.resume:
    record = results.find(record_path, expected)
    if record is not None:
      return record
  dataset = datasets.load(
    checkpoint.config["dataset"], data_dir=config.data_dir
  )
  record = records.make(path, checkpoint, dataset, config.settings)
  results.write(record_path, record)
  print(f"{path.stem}: {record['seconds']:.0f} s", flush=True)
  return results.read(record_path)


def parse_config() -> Config:
  """Builds the configuration from flags.

  Returns:
    The run.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  names: list[str] = []
  if _METHODS.value is not None:
    names = parsing.names("methods", _METHODS.value, list(methods.METHODS))
    if "vanilla" not in names:
      raise parsing.ConfigError(
        "--methods: expected vanilla among them, which all others are compared "
        f"with, got {','.join(names)!r}"
      )
  return Config(
    checkpoint_dir=pathlib.Path(_CHECKPOINT_DIR.value),
    model=_MODEL.value,
    methods=tuple(names),
    settings=records.Settings(
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
    ),
    points=parsing.number("points", _POINTS.value, low=0, below=100),
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir),
    resume=_RESUME.value,
  )


def _fractions(name: str, words: Sequence[str]) -> tuple[float, ...]:
  """Returns different fractions below 1, in ascending order."""
  values = parsing.numbers(name, words, float, low=0)
  return tuple(sorted(parsing.number(name, v, low=0, below=1) for v in values))


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()), FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
