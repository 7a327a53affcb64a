"""Training on whole datasets with and without BEAN (Section 3.1).

Trains a multilayer perceptron, LeNet-5 or ResNet-18 on all training images and
keeps the networks for `experiments.interpret`. The protocol is the authors':
Adam, batches of 100, at most 50 epochs. A simulation ends before them when what
it descends has converged: when its mean over an epoch has not reached a new
low, by 0.1 % at least, for 5 epochs.

    python -m experiments.full_data

trains 5 seeds of LeNet-5 on digits, which need no download, with each of 11
settings, in about 3 minutes of one CPU core. Expected for vanilla, BEAN-1 and
BEAN-2, alpha chosen on validation images: test accuracies of 97.0, 99.0 and
98.1 percent. The paper's settings, from prepared TensorFlow Datasets folders or
a download:

    python -m experiments.full_data --dataset=mnist --model=mlp500
    python -m experiments.full_data --dataset=mnist --model=lenet5
    python -m experiments.full_data --dataset=cifar10 --model=resnet18

The last needs a GPU. Images of CIFAR-10 are mirrored at random, as in the
authors' code. The epoch of best accuracy on validation images is tested, and
the last one too; both networks of a simulation are kept in --checkpoint_dir:

    from experiments.records import checkpoints
    checkpoint = checkpoints.load(path)  # checkpoint.best.params, ...

Finished cells are kept in --output_dir, one JSON each; the same command goes
on where it was stopped, from the last checkpoint. table.md has all cells there
that were trained in the same way, so that several commands can make one table,
each with --alphas of its own.
"""

from collections.abc import Sequence
import pathlib

from absl import flags
import jax

from experiments import datasets
from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import full_training, methods
from experiments.records import results
from experiments.runs import full_cells, full_simulations
from experiments.tables import full_summary, markdown

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset", "digits", datasets.NAMES, "images to learn from", flag_values=FLAGS
)
_MODEL = flags.DEFINE_enum(
  "model", "lenet5", networks.NAMES, "network to train", flag_values=FLAGS
)
flag_groups.define_methods(
  FLAGS, known=methods.DESCENDED, default=["vanilla", "bean1", "bean2"]
)
flag_groups.define_alphas(FLAGS, known=methods.DESCENDED)
flag_groups.define_bean(FLAGS)
flag_groups.define_seeds(FLAGS, default="5")
_EPOCHS = flags.DEFINE_integer(
  "epochs", 50, "passes over the training images, at most", flag_values=FLAGS
)
_PATIENCE = flags.DEFINE_integer(
  "patience",
  5,
  "epochs without a new low of what is descended after which training has "
  "converged; 0 trains for all --epochs",
  flag_values=FLAGS,
)
_TOLERANCE = flags.DEFINE_float(
  "tolerance",
  1e-3,
  "least relative decrease of what is descended that counts as a new low",
  flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 100, "images in a step; 0 takes all at once", flag_values=FLAGS
)
_LEARNING_RATE = flags.DEFINE_float(
  "learning_rate", 5e-4, "Adam's learning rate", flag_values=FLAGS
)
_BFLOAT16 = flags.DEFINE_bool(
  "bfloat16",
  False,
  "compute the convolutions of resnet18 in bfloat16",
  flag_values=FLAGS,
)
_CROP = flags.DEFINE_bool(
  "crop",
  False,
  "shift training images by up to 4 pixels at random",
  flag_values=FLAGS,
)
_DATA_PARALLEL = flags.DEFINE_bool(
  "data_parallel",
  False,
  "share each batch among the devices, with the statistics of BatchNorm over "
  "all of it, instead of giving every device simulations of its own: for "
  "networks that take long",
  flag_values=FLAGS,
)
flag_groups.define_run(FLAGS, output_dir="outputs/full_data")
distributed.define_flags(FLAGS)
_CHECKPOINT_DIR = flag_groups.define_path(
  FLAGS,
  "checkpoint_dir",
  None,
  "folder of the trained networks; by default checkpoints in --output_dir",
)
_CHECKPOINT_SECONDS = flags.DEFINE_float(
  "checkpoint_seconds",
  30.0,
  "least time between checkpoints of a simulation",
  flag_values=FLAGS,
)
_RESUME = flags.DEFINE_bool(
  "resume",
  True,
  "use the results and checkpoints that are there; --noresume trains all cells "
  "again and replaces their files",
  flag_values=FLAGS,
)


def run(config: full_cells.Config) -> None:
  """Trains what is missing and writes checkpoints, records and a table.

  The table has all cells of the folder that were trained in the same way.

  Args:
    config: The run.

  Raises:
    datasets.DatasetError: If the data cannot be had.
    results.ResultError: If a folder holds a file of another configuration or
      cannot be written. Nothing has been trained then.
  """
  full_cells.train(config)
  if not distributed.is_first():
    return
  records = full_cells.comparable_records(config)
  results.tell_versions(records)
  text = full_summary.table(records)
  if note := results.mixed_versions(records):
    text += f"\n\n{note}"
  title = (
    f"## {config.dataset}, {config.protocol.model}, at most "
    f"{config.protocol.epochs} epochs"
  )
  whole = f"{title}\n\n{text}\n"
  results.write_bytes(config.output_dir / "table.md", whole.encode())
  markdown.show(text)
  print(
    f"* chosen on validation images; files in {config.output_dir}, networks in "
    f"{config.checkpoint_dir}"
  )


def parse_config() -> full_cells.Config:
  """Builds the configuration from flags.

  Returns:
    The run.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  if _MODEL.value != "resnet18" and _DATASET.value == "cifar10":
    raise parsing.ConfigError(
      f"--dataset=cifar10: {_MODEL.value} takes gray images of 28 x 28; "
      "choose --model=resnet18"
    )
  if _MODEL.value != "resnet18" and _BFLOAT16.value:
    raise parsing.ConfigError(
      f"--bfloat16: only resnet18 computes in it, got --model={_MODEL.value}"
    )
  output_dir = pathlib.Path(FLAGS.output_dir)
  names = parsing.names("methods", FLAGS.methods, methods.DESCENDED)
  protocol = _parse_protocol()
  for name in names:
    least = methods.METHODS[name].batch
    if 0 < protocol.batch_size < least:
      raise parsing.ConfigError(
        f"--batch_size: expected 0 or at least {least}, which {name} needs, "
        f"got {protocol.batch_size}"
      )
  if protocol.data_parallel:
    _check_data_parallel(names, protocol.batch_size)
  return full_cells.Config(
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=output_dir,
    checkpoint_dir=pathlib.Path(
      _CHECKPOINT_DIR.value or output_dir / "checkpoints"
    ),
    checkpoint_seconds=parsing.number(
      "checkpoint_seconds", _CHECKPOINT_SECONDS.value, low=0
    ),
    resume=_RESUME.value,
    protocol=protocol,
    cells=tuple(
      full_simulations.Cell(name, strength)
      for name in names
      for strength in flag_groups.strengths(FLAGS, name)
    ),
  )


def _parse_protocol() -> full_simulations.Protocol:
  return full_simulations.Protocol(
    model=_MODEL.value,
    seeds=parsing.seeds("seeds", FLAGS.seeds),
    options=flag_groups.options(FLAGS),
    epochs=parsing.number("epochs", _EPOCHS.value, low=1),
    patience=parsing.number("patience", _PATIENCE.value, low=0),
    tolerance=parsing.number("tolerance", _TOLERANCE.value, low=0, below=1),
    batch_size=parsing.number("batch_size", _BATCH_SIZE.value, low=0),
    # With less, float32 parameters would stay what they are.
    learning_rate=parsing.number(
      "learning_rate", _LEARNING_RATE.value, low=1e-30
    ),
    bfloat16=_BFLOAT16.value,
    augmentation=full_training.Augmentation(
      # A mirrored digit is no digit.
      flip=_DATASET.value == "cifar10",
      crop=_CROP.value,
    ),
    members_per_chunk=parsing.number(
      "members_per_chunk", FLAGS.members_per_chunk, low=0
    ),
    data_parallel=_DATA_PARALLEL.value,
  )


def _check_data_parallel(names: Sequence[str], batch_size: int) -> None:
  number = jax.local_device_count()
  if batch_size == 0 or batch_size % number:
    raise parsing.ConfigError(
      f"--batch_size: expected a multiple of the {number} devices that share "
      f"a batch by --data_parallel, got {batch_size}"
    )
  if "decov" in names:
    raise parsing.ConfigError(
      "--data_parallel: decov takes covariances over a whole batch, which no "
      "device has; leave one of them out"
    )


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()), FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
