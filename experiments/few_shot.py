"""Few-shot learning from scratch with and without BEAN (Section 3.2).

Trains LeNet-5 on a few images of each class, for many seeds at once, and
compares methods on the test images, as in Table 1 of the paper. The protocol
is the authors': Adam, batches of one, the epoch of best accuracy on validation
images is tested; the last epoch is reported beside it.

    python -m experiments.few_shot

trains 20 simulations of 1-shot and 5-shot digits, which need no download, in
about 5 minutes on 2 CPU cores. The paper's setting, from a prepared TensorFlow
Datasets folder or a download:

    python -m experiments.few_shot --dataset=mnist --shots=1,10 --epochs=200,100

Expected for vanilla, BEAN-1 and BEAN-2, alpha chosen on validation images: test
accuracies of 45.9, 49.7 and 49.8 percent at 1-shot, 83.0, 88.3 and 88.7 percent
at 10-shot.

Finished cells are kept in --output_dir, one JSON each; the same command goes
on where it was stopped.
"""

from collections.abc import Sequence
import pathlib

from absl import flags

from experiments import datasets
from experiments.architectures import models
from experiments.command import (
  distributed,
  flag_groups,
  parsing,
  progress,
  scripts,
)
from experiments.learning import methods
from experiments.records import results
from experiments.runs import cells, simulations
from experiments.tables import markdown, summary

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset", "digits", datasets.NAMES, "images to learn from", flag_values=FLAGS
)
_MODEL = flags.DEFINE_enum(
  "model",
  "lenet5",
  sorted(models.MODELS),
  "network to train",
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_list(
  "shots",
  ["1", "5"],
  "training images of each class, comma-separated",
  flag_values=FLAGS,
)
flag_groups.define_methods(
  FLAGS, known=list(methods.METHODS), default=["vanilla", "bean1", "bean2"]
)
flag_groups.define_alphas(FLAGS, known=list(methods.METHODS))
flag_groups.define_bean(FLAGS)
flag_groups.define_few_shot(FLAGS)
flag_groups.define_imitation(FLAGS)
_INITIALIZER = flags.DEFINE_enum(
  "initializer",
  models.INITIALIZERS[0],
  models.INITIALIZERS,
  "initial parameters",
  flag_values=FLAGS,
)
flag_groups.define_seeds(FLAGS, default="20")
_EPOCHS = flags.DEFINE_list(
  "epochs",
  ["50"],
  "epochs: one number, or one for each of --shots",
  flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 1, "images in a step; 0 takes all at once", flag_values=FLAGS
)
_LEARNING_RATE = flags.DEFINE_float(
  "learning_rate", 5e-4, "Adam's learning rate", flag_values=FLAGS
)
_VALIDATE_EVERY = flags.DEFINE_integer(
  "validate_every",
  1,
  "epochs from one validation to the next, a divisor of --epochs; 0 validates "
  "after the last epoch alone",
  flag_values=FLAGS,
)
flag_groups.define_run(FLAGS, output_dir="outputs/few_shot")
distributed.define_flags(FLAGS)
_CHECKPOINT_DIR = flag_groups.define_path(
  FLAGS,
  "checkpoint_dir",
  None,
  "folder where the trained networks are kept; by default none are",
)
_RESUME = flags.DEFINE_bool(
  "resume",
  True,
  "skip the cells that --output_dir already holds; --noresume trains them "
  "again and replaces their records",
  flag_values=FLAGS,
)


def run(config: cells.Config) -> None:
  """Trains the missing cells and writes records, table and figures.

  Args:
    config: The run.

  Raises:
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If the folder holds a record of another configuration
      or cannot be written. Nothing has been trained then.
  """
  missing = cells.missing(config)
  with progress.bar(
    total=cells.work(missing) if missing.cells else 0,
    skipped=len(config.cells) - len(missing.cells),
  ) as bar:
    records = cells.train(config, bar)
  if not distributed.is_first():
    return
  results.tell_versions(records)
  summary.write(records, config.output_dir)
  # Before the figures, which are worth less than the numbers.
  markdown.show(summary.table(records))
  summary.draw(records, config.output_dir)
  print(f"* chosen on validation images; files in {config.output_dir}")


def parse_config() -> cells.Config:
  """Builds the configuration from flags.

  Returns:
    The run.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  shots = parsing.numbers("shots", _SHOTS.value, int, low=1)
  epochs = parsing.numbers("epochs", _EPOCHS.value, int, low=1, distinct=False)
  if len(epochs) == 1:
    epochs *= len(shots)
  if len(epochs) != len(shots):
    raise parsing.ConfigError(
      f"--epochs: expected one number or {len(shots)}, one for each of "
      f"--shots, got {len(epochs)}"
    )
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  protocol = simulations.Protocol(
    model=_MODEL.value,
    options=flag_groups.options(FLAGS, models.MODELS[_MODEL.value]),
    seeds=parsing.seeds("seeds", FLAGS.seeds),
    batch_size=parsing.number("batch_size", _BATCH_SIZE.value, low=0),
    # With less, float32 parameters would stay what they are.
    learning_rate=parsing.number(
      "learning_rate", _LEARNING_RATE.value, low=1e-30
    ),
    members_per_chunk=parsing.number(
      "members_per_chunk", FLAGS.members_per_chunk, low=0
    ),
    validate_every=parsing.number(
      "validate_every", _VALIDATE_EVERY.value, low=0
    ),
    initializer=_INITIALIZER.value,
  )
  for number in epochs:
    if protocol.validate_every and number % protocol.validate_every:
      raise parsing.ConfigError(
        f"--validate_every: expected a divisor of all --epochs, got "
        f"{protocol.validate_every} for {number}"
      )
  if _DATASET.value == "cifar10":
    raise parsing.ConfigError(
      f"--dataset=cifar10: {_MODEL.value} takes gray images of 28 x 28; "
      "choose digits, mnist or fashion_mnist"
    )
  return cells.Config(
    experiment="few_shot",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir),
    resume=_RESUME.value,
    protocol=protocol,
    checkpoint_dir=(
      pathlib.Path(_CHECKPOINT_DIR.value) if _CHECKPOINT_DIR.value else None
    ),
    cells=tuple(
      simulations.Cell(
        num_shots,
        name,
        strength,
        methods.num_epochs(name, num_epochs, protocol.options),
      )
      for num_shots, num_epochs in sorted(zip(shots, epochs, strict=True))
      for name in names
      for strength in flag_groups.strengths(FLAGS, name)
    ),
  )


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()), FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
