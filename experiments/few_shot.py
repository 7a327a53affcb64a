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

from experiments import (
  cells,
  datasets,
  methods,
  models,
  parsing,
  progress,
  scripts,
  simulations,
  summary,
)

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
_METHODS = flags.DEFINE_list(
  "methods",
  ["vanilla", "bean1", "bean2"],
  f"methods to compare, comma-separated, of: {', '.join(methods.METHODS)}",
  flag_values=FLAGS,
)
_ALPHAS = flags.DEFINE_list(
  "alphas",
  None,
  "strengths to try for every method that has one, comma-separated; by default "
  + "; ".join(
    f"{name}: {', '.join(f'{value:g}' for value in method.grid)}"
    for name, method in methods.METHODS.items()
    if method.hparam
  ),
  flag_values=FLAGS,
)
_ALPHA_UNITS = flags.DEFINE_enum(
  "alpha_units",
  "code",
  ["code", "paper"],
  "units of alpha: code, as in the authors' code, whose neuron correlation "
  "lacks the factors 1/M (BEAN-1) and 1/M^2 (BEAN-2) of the paper, M the "
  "neurons of the next layer; or paper",
  flag_values=FLAGS,
)
_GAMMA = flags.DEFINE_float(
  "gamma", 1.0, "slope in BEAN's neuron correlation", flag_values=FLAGS
)
_DISTANCE = flags.DEFINE_enum(
  "distance",
  "squared",
  ["squared", "absolute"],
  "BEAN's distance",
  flag_values=FLAGS,
)
_LAYERS = flags.DEFINE_list(
  "layers",
  [],
  "dense layers where BEAN applies, comma-separated; by default all whose "
  "inputs are neurons",
  flag_values=FLAGS,
)
_DECOUPLED_DECAY = flags.DEFINE_bool(
  "decoupled_decay",
  False,
  "weight decay as in AdamW, not in the gradient",
  flag_values=FLAGS,
)
_DROPOUT_AT_EVAL = flags.DEFINE_bool(
  "dropout_at_eval",
  False,
  "leave dropout on at validation and test, as the authors' code does",
  flag_values=FLAGS,
)
_INITIALIZER = flags.DEFINE_enum(
  "initializer",
  models.INITIALIZERS[0],
  models.INITIALIZERS,
  "initial parameters",
  flag_values=FLAGS,
)
_SEEDS = flags.DEFINE_string(
  "seeds",
  "20",
  "simulations: a number n (seeds 0 to n-1) or a range like 5-9",
  flag_values=FLAGS,
)
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
_MEMBERS_PER_CHUNK = flags.DEFINE_integer(
  "members_per_chunk",
  0,
  "simulations that a device (GPU or CPU core) trains at once; memory grows "
  "with it, and 0 takes as many as are fast",
  flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "TensorFlow Datasets folder; by default TFDS_DATA_DIR of the environment, "
  "else ~/tensorflow_datasets",
  flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir", "outputs/few_shot", "folder of the results", flag_values=FLAGS
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
  summary.write(records, config.output_dir)
  print(summary.table(records))
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
  names = parsing.names("methods", _METHODS.value, list(methods.METHODS))
  model = models.MODELS[_MODEL.value]
  layers = ()
  if _LAYERS.value:
    layers = tuple(parsing.names("layers", _LAYERS.value, model.layers))
  protocol = simulations.Protocol(
    model=_MODEL.value,
    options=methods.Options(
      gamma=parsing.number("gamma", _GAMMA.value, low=0),
      distance=_DISTANCE.value,
      alpha_units=_ALPHA_UNITS.value,
      layers=layers,
      decoupled_decay=_DECOUPLED_DECAY.value,
      dropout_at_eval=_DROPOUT_AT_EVAL.value,
    ),
    seeds=parsing.seeds("seeds", _SEEDS.value),
    batch_size=parsing.number("batch_size", _BATCH_SIZE.value, low=0),
    # With less, float32 parameters would stay what they are.
    learning_rate=parsing.number(
      "learning_rate", _LEARNING_RATE.value, low=1e-30
    ),
    members_per_chunk=parsing.number(
      "members_per_chunk", _MEMBERS_PER_CHUNK.value, low=0
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
    data_dir=_DATA_DIR.value,
    output_dir=pathlib.Path(_OUTPUT_DIR.value),
    resume=_RESUME.value,
    protocol=protocol,
    cells=tuple(
      simulations.Cell(
        num_shots, name, strength, num_epochs * methods.METHODS[name].batch
      )
      for num_shots, num_epochs in sorted(zip(shots, epochs, strict=True))
      for name in names
      for strength in _strengths(name)
    ),
  )


def _strengths(name: str) -> Sequence[float]:
  """Returns the values of a method's hyper-parameter that are tried."""
  method = methods.METHODS[name]
  if _ALPHAS.value is None or method.hparam is None:
    return method.grid
  values = parsing.numbers("alphas", _ALPHAS.value, float, low=0)
  return [
    parsing.number("alphas", value, low=0, below=method.limit)
    for value in values
  ]


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, lambda: run(parse_config()))


if __name__ == "__main__":
  scripts.start(main, FLAGS)
