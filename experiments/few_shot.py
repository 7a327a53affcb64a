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
from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.learning.streams import Shots
from experiments.machine import processes
from experiments.population import cells, runs
from experiments.tables import markdown, summary, versions

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset", "digits", datasets.GRAY, "images to learn from", flag_values=FLAGS
)
_MODEL = flags.DEFINE_enum(
  "model", "lenet5", networks.GRAY, "network to train", flag_values=FLAGS
)
flag_groups.define(FLAGS, shots=["1", "5"], epochs=["50"], validate_every=1)
flag_groups.define_methods(
  FLAGS, known=list(methods.METHODS), default=["vanilla", "bean1", "bean2"]
)
flag_groups.define_alphas(FLAGS, known=list(methods.METHODS))
flag_groups.define_bean(FLAGS)
flag_groups.define_few_shot(FLAGS)
flag_groups.define_imitation(FLAGS)
flag_groups.define_competing(FLAGS)
_INITIALIZER = flags.DEFINE_enum(
  "initializer",
  networks.Spec().initializer,
  list(networks.INITIALIZERS),
  "initial parameters",
  flag_values=FLAGS,
)
flag_groups.define(FLAGS, seeds="20", batch_size=1, learning_rate="5e-4")
flag_groups.define_run(FLAGS, output_dir="outputs/few_shot")
distributed.define_flags(FLAGS)
flag_groups.define_checkpoints(FLAGS, default="none are")


def run(config: cells.Config) -> None:
  """Trains the missing cells and writes records, table and figures."""
  (records,) = runs.train_all([config])
  if not processes.is_first():
    return
  versions.tell(records)
  # Before the figures, which are worth less than the numbers.
  markdown.show(summary.write(records, config.output_dir))
  summary.draw(records, config.output_dir)
  print(f"* chosen on validation images; files in {config.output_dir}")


def parse_config() -> cells.Config:
  """Builds the configuration from flags."""
  schedule = flag_groups.schedule(FLAGS)
  names = parsing.names("methods", FLAGS.methods, list(methods.METHODS))
  tried = flag_groups.strengths(FLAGS, names)
  rates = flag_groups.learning_rates(FLAGS, names)
  spec = networks.Spec(_MODEL.value, _INITIALIZER.value)
  folder = FLAGS.checkpoint_dir
  return cells.Config(
    experiment="few_shot",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir),
    resume=FLAGS.resume,
    protocol=cells.Protocol(
      spec,
      parsing.seeds("seeds", FLAGS.seeds),
      flag_groups.options(FLAGS, networks.make(spec)),
      parsing.number("batch_size", FLAGS.batch_size, low=0),
      FLAGS.validate_every,
      flag_groups.members_per_chunk(FLAGS),
    ),
    checkpoint_dir=pathlib.Path(folder) if folder else None,
    checkpoint_seconds=parsing.number(
      "checkpoint_seconds", FLAGS.checkpoint_seconds, low=0
    ),
    cells=tuple(
      cells.Cell(Shots(num_shots), name, strength, num_epochs, rates[name])
      for num_shots, num_epochs in schedule
      for name in names
      for strength in tried[name]
    ),
  )


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()), FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
