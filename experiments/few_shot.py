"""Few-shot learning from scratch with and without BEAN (Section 3.2).

Trains LeNet-5 on a few images of each class, for many seeds at once, and
compares methods on the test images, as in Table 1 of the paper. The protocol
is the authors': Adam, batches of one, the epoch of best accuracy on validation
images is tested; the last epoch is reported beside it.

    python -m experiments.few_shot

trains 20 simulations of 1-shot and 5-shot digits, which need no download, in
about 4 minutes on 2 CPU cores. The paper's setting, from a prepared TensorFlow
Datasets folder or a download:

    python -m experiments.few_shot --dataset=mnist --shots=1,10 --epochs=200,100

Expected for vanilla, BEAN-1 and BEAN-2, alpha chosen on validation images: test
accuracies of 45.9, 49.7 and 49.8 percent at 1-shot, 83.0, 88.3 and 88.7 percent
at 10-shot.

Finished cells are kept in --output_dir, one JSON each; the same command goes
on where it was stopped.
"""

from collections.abc import Sequence
import dataclasses
import logging
import pathlib
import re
import sys

from absl import app, flags
import jax

from experiments import (
  datasets,
  methods,
  models,
  progress,
  results,
  simulations,
  summary,
)

_DATASET = flags.DEFINE_enum(
  "dataset", "digits", datasets.NAMES, "images to learn from"
)
_MODEL = flags.DEFINE_enum(
  "model", "lenet5", sorted(models.MODELS), "network to train"
)
_SHOTS = flags.DEFINE_list(
  "shots", ["1", "5"], "training images of each class, comma-separated"
)
_METHODS = flags.DEFINE_list(
  "methods",
  list(methods.METHODS),
  f"methods to compare, comma-separated, of: {', '.join(methods.METHODS)}",
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
)
_ALPHA_UNITS = flags.DEFINE_enum(
  "alpha_units",
  "code",
  ["code", "paper"],
  "units of alpha: code, as in the authors' code, whose neuron correlation "
  "lacks the factors 1/M (BEAN-1) and 1/M^2 (BEAN-2) of the paper, M the "
  "neurons of the next layer; or paper",
)
_GAMMA = flags.DEFINE_float("gamma", 1.0, "slope in BEAN's neuron correlation")
_DISTANCE = flags.DEFINE_enum(
  "distance", "squared", ["squared", "absolute"], "BEAN's distance"
)
_SEEDS = flags.DEFINE_string(
  "seeds", "20", "simulations: a number n (seeds 0 to n-1) or a range like 5-9"
)
_EPOCHS = flags.DEFINE_list(
  "epochs", ["50"], "epochs: one number, or one for each of --shots"
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 1, "images in a step; 0 takes all at once"
)
_LEARNING_RATE = flags.DEFINE_float(
  "learning_rate", 5e-4, "Adam's learning rate"
)
_MEMBERS_PER_CHUNK = flags.DEFINE_integer(
  "members_per_chunk", 20, "simulations trained at once; memory grows with it"
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "TensorFlow Datasets folder; by default TFDS_DATA_DIR of the environment, "
  "else ~/tensorflow_datasets",
)
_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir", "outputs/few_shot", "folder of the results"
)
_RESUME = flags.DEFINE_bool(
  "resume",
  True,
  "skip the cells that --output_dir already holds; --noresume trains them "
  "again and replaces their records",
)


class ConfigError(Exception):
  """A flag has a value that cannot be used; the text says which would do."""


@dataclasses.dataclass(frozen=True)
class Config:
  """One run of this script.

  Attributes:
    dataset: Name of the dataset.
    data_dir: Folder of TensorFlow Datasets, or None for the default.
    output_dir: Folder of the results.
    resume: Whether cells that are there already are skipped.
    protocol: How every cell is trained.
    cells: What is trained, the cheapest shots first.
  """

  dataset: str
  data_dir: str | None
  output_dir: pathlib.Path
  resume: bool
  protocol: simulations.Protocol
  cells: tuple[simulations.Cell, ...]


def cell_config(config: Config, cell: simulations.Cell) -> dict:
  """Lists everything that the numbers of a cell depend on.

  Args:
    config: The run.
    cell: One of its cells.

  Returns:
    Fields for `results.write`; those of `methods.Options` only where the
    method depends on them.
  """
  method = methods.METHODS[cell.method]
  options = config.protocol.options._asdict()
  return {
    "dataset": config.dataset,
    "model": config.protocol.model,
    "shots": cell.shots,
    "method": cell.method,
    **({method.hparam: cell.strength} if method.hparam else {}),
    **{name: options[name] for name in method.options},
    "epochs": cell.epochs,
    "batch_size": config.protocol.batch_size,
    "optimizer": "adam",
    "learning_rate": config.protocol.learning_rate,
    "seeds": list(config.protocol.seeds),
  }


def cell_path(config: Config, cell: simulations.Cell) -> pathlib.Path:
  """Returns the file of a cell's record."""
  hparam = methods.METHODS[cell.method].hparam
  strength = {hparam: cell.strength} if hparam else {}
  name = results.cell_name(config.dataset, cell.shots, cell.method, **strength)
  return config.output_dir / name


def run(config: Config) -> None:
  """Trains the missing cells and writes records, table and figures.

  Args:
    config: The run.

  Raises:
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If the folder holds a record of another configuration
      or cannot be written. Nothing has been trained then.
  """
  done = _finished(config) if config.resume else {}
  missing = [cell for cell in config.cells if cell not in done]
  dataset = datasets.load(config.dataset, data_dir=config.data_dir)
  for cell in missing:
    datasets.draw_shots(dataset.train.labels, num_shots=cell.shots, seed=0)
  results.prepare_directory(config.output_dir)
  # Once: the checkout may change while this code runs on.
  environment = results.environment()
  num_seeds = len(config.protocol.seeds)
  with progress.bar(
    total=sum(num_seeds * simulations.cost(cell, dataset) for cell in missing),
    skipped=len(done),
  ) as bar:
    for cell, outcome in simulations.run(
      config.cells,
      dataset,
      config.protocol,
      tick=bar.tick,
      done=frozenset(done),
    ):
      record = {
        "experiment": "few_shot",
        "config": cell_config(config, cell),
        "source": dataset.source,
        "members_per_chunk": config.protocol.members_per_chunk,
        **environment,
        "seconds": round(outcome.seconds, 1),
        "seeds": list(config.protocol.seeds),
        "metrics": outcome.metrics,
      }
      results.write(cell_path(config, cell), record)
      done[cell] = results.read(cell_path(config, cell))
      bar.cell_done(cell, outcome, config.protocol.seeds)
  records = [done[cell] for cell in config.cells]
  summary.write(records, config.output_dir)
  print(summary.table(records))
  print(f"* chosen on validation images; files in {config.output_dir}")


def _finished(config: Config) -> dict[simulations.Cell, dict]:
  """Reads the records of the cells that were trained before."""
  done = {}
  for cell in config.cells:
    path = cell_path(config, cell)
    try:
      record = results.find(path, cell_config(config, cell))
    except OSError as error:
      raise results.ResultError(
        f"{path}: cannot be read ({error.strerror}); choose another folder"
      ) from error
    if record is not None:
      done[cell] = record
  return done


def parse_config() -> Config:
  """Builds the configuration from flags.

  Returns:
    The run.

  Raises:
    ConfigError: If a flag has a value that cannot be used.
  """
  shots = _numbers("shots", _SHOTS.value, int, low=1)
  epochs = _numbers("epochs", _EPOCHS.value, int, low=1, distinct=False)
  if len(epochs) == 1:
    epochs *= len(shots)
  if len(epochs) != len(shots):
    raise ConfigError(
      f"--epochs: expected one number or {len(shots)}, one for each of "
      f"--shots, got {len(epochs)}"
    )
  names = _METHODS.value
  if (
    not names
    or len(set(names)) < len(names)
    or set(names) - set(methods.METHODS)
  ):
    raise ConfigError(
      f"--methods: expected different ones of {', '.join(methods.METHODS)}, "
      f"got {','.join(names)!r}"
    )
  alphas = None
  if _ALPHAS.value is not None:
    alphas = _numbers("alphas", _ALPHAS.value, float, low=0)
  protocol = simulations.Protocol(
    model=_MODEL.value,
    options=methods.Options(
      gamma=_number("gamma", _GAMMA.value, low=0),
      distance=_DISTANCE.value,
      alpha_units=_ALPHA_UNITS.value,
    ),
    seeds=_parse_seeds(_SEEDS.value),
    batch_size=_number("batch_size", _BATCH_SIZE.value, low=0),
    # With less, float32 parameters would stay what they are.
    learning_rate=_number("learning_rate", _LEARNING_RATE.value, low=1e-30),
    members_per_chunk=_number(
      "members_per_chunk", _MEMBERS_PER_CHUNK.value, low=1
    ),
  )
  cells = tuple(
    simulations.Cell(num_shots, name, strength, num_epochs)
    for num_shots, num_epochs in sorted(zip(shots, epochs, strict=True))
    for name in names
    for strength in _strengths(methods.METHODS[name], alphas)
  )
  if _DATASET.value == "cifar10":
    raise ConfigError(
      f"--dataset=cifar10: {_MODEL.value} takes gray images of 28 x 28; "
      "choose digits, mnist or fashion_mnist"
    )
  return Config(
    dataset=_DATASET.value,
    data_dir=_DATA_DIR.value,
    output_dir=pathlib.Path(_OUTPUT_DIR.value),
    resume=_RESUME.value,
    protocol=protocol,
    cells=cells,
  )


def _strengths(
  method: methods.Method, alphas: list[float] | None
) -> Sequence[float]:
  return alphas if alphas is not None and method.hparam else method.grid


def _number(name: str, value: float, *, low: float) -> float:
  # Numbers are used in float32, of which this is the largest power of ten.
  if not low <= value <= 1e38:
    raise ConfigError(
      f"--{name}: expected a number from {low} to 1e38, got {value}"
    )
  return value


def _numbers(
  name: str, words: list[str], kind: type, *, low: float, distinct: bool = True
) -> list:
  try:
    values = [kind(word) for word in words]
  except ValueError:
    values = []
  if not values or (distinct and len(set(values)) < len(values)):
    different = "different " if distinct else ""
    raise ConfigError(
      f"--{name}: expected {different}numbers of type {kind.__name__}, "
      f"comma-separated, got {','.join(words)!r}"
    )
  return [_number(name, value, low=low) for value in values]


def _parse_seeds(text: str) -> tuple[int, ...]:
  match = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})", text.strip())
  if match is None:
    raise ConfigError(
      f"--seeds: expected a number like 20 or a range like 5-9, got {text!r}"
    )
  first, last = match.groups()
  seeds = range(int(first), int(last) + 1) if first else range(int(last))
  if not 1 <= len(seeds) <= 10_000:
    raise ConfigError(
      f"--seeds: expected 1 to 10000 of them, got {text!r}, which are "
      f"{len(seeds)}"
    )
  return tuple(seeds)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  # Which backends there are not is no news to who runs this.
  logging.getLogger("jax").setLevel(logging.WARNING)
  # TensorFloat-32, a GPU's default, is too coarse for these small products.
  jax.config.update("jax_default_matmul_precision", "highest")
  try:
    if len(argv) > 1:
      raise ConfigError(
        f"unexpected argument {argv[1]!r}; options begin with --, see --help"
      )
    run(parse_config())
  except (ConfigError, datasets.DatasetError, results.ResultError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(
      "\nstopped; finished cells are kept, the same command goes on from there",
      file=sys.stderr,
    )
    return 130
  return 0


if __name__ == "__main__":
  app.run(main)
