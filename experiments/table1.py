"""Table 1 of the paper: few-shot learning from scratch, every method.

Trains each method with each value of its hyper-parameter on MNIST and
Fashion-MNIST, for 1, 5, 10 and 20 images of each class and 20 seeds, and
reports two protocols side by side:

  paper   Hyper-parameter and epoch are chosen on 10,000 validation images, for
          each number of shots, as the authors did.
  strict  No labels but those of the shots: the last epoch, and one value of the
          hyper-parameter for all shots, chosen with other seeds.

    python -m experiments.table1

goes on where it was stopped; finished cells are kept in --output_dir, one JSON
each. --notrain writes the tables of the cells that are there.
"""

from collections.abc import Sequence
import itertools
import pathlib

from absl import app, flags

from experiments import (
  cells,
  methods,
  parsing,
  scripts,
  simulations,
)

DATASETS = ("mnist", "fashion_mnist")
# Passes over the training images: the authors advise 200 for 1-shot and show
# 100 for 10-shot; their default is 50.
EPOCHS = {1: 200, 5: 100, 10: 100, 20: 50}

_DATASETS = flags.DEFINE_list(
  "datasets",
  list(DATASETS),
  "images to learn from, comma-separated, of: digits, " + ", ".join(DATASETS),
)
_SHOTS = flags.DEFINE_list(
  "shots",
  [str(shots) for shots in EPOCHS],
  "training images of each class, comma-separated",
)
_METHODS = flags.DEFINE_list(
  "methods",
  list(methods.METHODS),
  f"rows, comma-separated, of: {', '.join(methods.METHODS)}",
)
_SEEDS = flags.DEFINE_string(
  "seeds", "20", "simulations: a number n (seeds 0 to n-1) or a range like 5-9"
)
_SELECTION_SEEDS = flags.DEFINE_string(
  "selection_seeds",
  "100-119",
  "seeds that choose the hyper-parameters of the strict protocol",
)
_VALIDATE_EVERY = flags.DEFINE_integer(
  "validate_every",
  5,
  "epochs from one validation to the next, a divisor of all epochs "
  f"({', '.join(map(str, EPOCHS.values()))})",
)
_EPOCHS = flags.DEFINE_integer(
  "epochs", None, "epochs for any number of shots, instead of the paper's"
)
_MEMBERS_PER_CHUNK = flags.DEFINE_integer(
  "members_per_chunk",
  0,
  "simulations that a device (GPU or CPU core) trains at once; 0 takes as many "
  "as are fast",
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "TensorFlow Datasets folder; by default TFDS_DATA_DIR of the environment, "
  "else ~/tensorflow_datasets",
)
_OUTPUT_DIR = flags.DEFINE_string(
  "output_dir", "outputs/table1", "folder of the results"
)
_TRAIN = flags.DEFINE_bool(
  "train", True, "train the missing cells; --notrain reports those there are"
)


def make_configs() -> list[cells.Config]:
  """Builds the runs from flags, the cheapest numbers of shots first.

  Returns:
    For each number of shots and dataset the cells of the selection seeds, then
    those of the seeds that are reported, in folders of their own.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  shots = sorted(parsing.numbers("shots", _SHOTS.value, int, low=1))
  unknown = [number for number in shots if number not in EPOCHS]
  if unknown and _EPOCHS.value is None:
    raise parsing.ConfigError(
      f"--shots: the paper has {', '.join(map(str, EPOCHS))}, got "
      f"{unknown[0]}; give --epochs with others"
    )
  names = parsing.names("methods", _METHODS.value, list(methods.METHODS))
  data = parsing.names("datasets", _DATASETS.value, ["digits", *DATASETS])
  seeds = parsing.seeds("seeds", _SEEDS.value)
  selection_seeds = parsing.seeds("selection_seeds", _SELECTION_SEEDS.value)
  if set(seeds) & set(selection_seeds):
    raise parsing.ConfigError(
      "--selection_seeds: expected none of --seeds, got "
      f"{min(set(seeds) & set(selection_seeds))} in both"
    )
  return [
    _make_config(number, dataset, names, folder, chosen, validate_every)
    for number, dataset, (folder, chosen, validate_every) in itertools.product(
      shots,
      data,
      (
        # A validation after the last epoch is all that the choice needs.
        ("selection", selection_seeds, 0),
        ("evaluation", seeds, _VALIDATE_EVERY.value),
      ),
    )
  ]


def _make_config(
  shots: int,
  dataset: str,
  names: Sequence[str],
  folder: str,
  seeds: tuple[int, ...],
  validate_every: int,
) -> cells.Config:
  epochs = _EPOCHS.value or EPOCHS[shots]
  parsing.number("epochs", epochs, low=1)
  parsing.number("validate_every", validate_every, low=0)
  if validate_every and epochs % validate_every:
    raise parsing.ConfigError(
      f"--validate_every: expected a divisor of {epochs} epochs, got "
      f"{validate_every}"
    )
  return cells.Config(
    experiment="table1",
    dataset=dataset,
    data_dir=_DATA_DIR.value,
    output_dir=pathlib.Path(_OUTPUT_DIR.value) / folder,
    resume=True,
    protocol=simulations.Protocol(
      model="lenet5",
      options=methods.Options(),
      seeds=seeds,
      members_per_chunk=parsing.number(
        "members_per_chunk", _MEMBERS_PER_CHUNK.value, low=0
      ),
      validate_every=validate_every,
    ),
    cells=tuple(
      simulations.Cell(
        shots, name, strength, epochs * methods.METHODS[name].batch
      )
      for name in names
      for strength in methods.METHODS[name].grid
    ),
  )


def run() -> None:
  """Trains what is missing, unless it must not, and writes the tables."""
  configs = make_configs()
  if _TRAIN.value:
    cells.train(configs)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run)


if __name__ == "__main__":
  app.run(main)
