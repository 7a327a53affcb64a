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

The last needs a GPU; --model=resnet18_16 has 16 filters instead of 64 and
learns on a CPU too. Images of CIFAR-10 are mirrored at random, as in the
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
from experiments.learning import methods
from experiments.learning.streams import Augmentation, Whole
from experiments.machine import processes
from experiments.population import cells, runs
from experiments.tables import markdown, summary, versions

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset", "digits", datasets.NAMES, "images to learn from", flag_values=FLAGS
)
_MODEL = flags.DEFINE_enum(
  "model", "lenet5", networks.NAMES, "network to train", flag_values=FLAGS
)
flag_groups.define_methods(
  FLAGS, known=methods.OF_ANY_SIZE, default=["vanilla", "bean1", "bean2"]
)
flag_groups.define_alphas(FLAGS, known=methods.OF_ANY_SIZE)
flag_groups.define_bean(FLAGS)
flag_groups.define_competing(FLAGS)
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
flag_groups.define(FLAGS, seeds="5", batch_size=100, learning_rate="5e-4")
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
flag_groups.define_checkpoints(FLAGS, default="checkpoints in --output_dir")


def run(config: cells.Config) -> None:
  """Trains what is missing and writes checkpoints, records and a table.

  The table has all cells of the folder that were trained in the same way.
  """
  runs.train_all([config])
  if not processes.is_first():
    return
  records = runs.comparable_records(config)
  versions.tell(records)
  made = [record["config"] for record in records]
  models = ", ".join(dict.fromkeys(fields["model"] for fields in made))
  epochs = max(fields["epochs"] for fields in made)
  title = f"## {config.dataset}, {models}, at most {epochs} epochs"
  # Before the figures, which are worth less than the numbers.
  markdown.show(summary.write(records, config.output_dir, title=title))
  summary.draw(records, config.output_dir)
  print(
    f"* chosen on validation images; files in {config.output_dir}, networks in "
    f"{config.checkpoint_dir}"
  )


def parse_config() -> cells.Config:
  """Builds the configuration from flags."""
  network = networks.NETWORKS[_MODEL.value]
  if network.gray and _DATASET.value not in datasets.GRAY:
    raise parsing.ConfigError(
      f"--dataset={_DATASET.value}: {_MODEL.value} takes gray images of "
      "28 x 28; choose --model=resnet18, or resnet18_16 on a CPU"
    )
  if _BFLOAT16.value and not network.bfloat16:
    able = [n for n, entry in networks.NETWORKS.items() if entry.bfloat16]
    raise parsing.ConfigError(
      f"--bfloat16: only {', '.join(able)} computes in it, got "
      f"--model={_MODEL.value}"
    )
  output_dir = pathlib.Path(FLAGS.output_dir)
  folder = FLAGS.checkpoint_dir
  names = _parse_names()
  stream = Whole(
    Augmentation(flip=_DATASET.value in datasets.FLIPPABLE, crop=_CROP.value),
    jax.local_device_count() if _DATA_PARALLEL.value else 1,
    parsing.number("patience", _PATIENCE.value, low=0),
    parsing.number("tolerance", _TOLERANCE.value, low=0, below=1),
  )
  epochs = parsing.number("epochs", _EPOCHS.value, low=1)
  tried = flag_groups.strengths(FLAGS, names)
  rates = flag_groups.learning_rates(FLAGS, names)
  return cells.Config(
    experiment="full_data",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=output_dir,
    resume=FLAGS.resume,
    protocol=cells.Protocol(
      networks.Spec(_MODEL.value, bfloat16=_BFLOAT16.value),
      parsing.seeds("seeds", FLAGS.seeds),
      flag_groups.options(FLAGS),
      parsing.number("batch_size", FLAGS.batch_size, low=0),
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    checkpoint_dir=pathlib.Path(folder or output_dir / "checkpoints"),
    needs_networks=folder is not None,
    checkpoint_seconds=parsing.number(
      "checkpoint_seconds", FLAGS.checkpoint_seconds, low=0
    ),
    cells=tuple(
      cells.Cell(stream, name, strength, epochs, rates[name])
      for name in names
      for strength in tried[name]
    ),
  )


def _parse_names() -> list[str]:
  """Reads the methods, which must suit the model and the devices."""
  names = parsing.names("methods", FLAGS.methods, methods.OF_ANY_SIZE)
  for name in names:
    method = methods.METHODS[name]
    model = method.network or _MODEL.value
    if method.nonnegative and networks.NETWORKS[model].standardized:
      raise parsing.ConfigError(
        f"--model={model}: {name} needs pixels of 0 or above, and this network "
        "standardizes them; choose another model or method"
      )
    if _DATA_PARALLEL.value and method.whole_batch:
      raise parsing.ConfigError(
        f"--data_parallel: {name} needs a whole batch, which no device has; "
        "leave one of them out"
      )
  return names


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()), FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
