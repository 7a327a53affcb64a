"""Flags that several scripts have in common, defined and read in one place.

Every script has flags of its own (`absl.flags.FlagValues`), so that scripts can
be imported together; these functions add to them. Values that cannot be used
are a `parsing.ConfigError`.
"""

from collections.abc import Collection, Sequence
import functools
from typing import Any

from absl import flags

from experiments.architectures import networks
from experiments.command import parsing
from experiments.learning import methods
from experiments.learning.options import COMPETING_OPTIONS, IMITATION_OPTIONS
from experiments.records import files

# What --help says of flags that several scripts have.
_TEXTS = {
  "learning_rate": (
    "the optimizer's learning rate: for every method, as 5e-4, or method by "
    "method, as 'bean1:1e-3 5e-4', where the last is for all others"
  ),
  "members_per_chunk": (
    "simulations that a device (GPU or CPU core) trains at once; memory grows "
    "with it, and 0 takes as many as are fast"
  ),
  "checkpoint_seconds": "least time between checkpoints of a simulation",
  "resume": (
    "use the results and checkpoints that are there; --noresume trains all "
    "cells again and replaces their files"
  ),
  "train": "train the missing cells; --notrain reports those there are",
  "batch_size": "images in a step; 0 takes all at once",
  "seeds": (
    "simulations: a number n (seeds 0 to n-1), a range like 5-9 or a list like "
    "0,5,9"
  ),
  "selection_seeds": (
    "seeds that choose the hyper-parameters of the strict protocol"
  ),
  "selection_shots": (
    "numbers of shots with which every strength is tried, comma-separated; "
    "with the others only what a protocol then chooses; by default all of "
    "--shots"
  ),
  "shots": "training images of each class, comma-separated",
  "epochs": "epochs: one number, or one for each of --shots",
  "validate_every": (
    "epochs from one validation to the next, a divisor of all --epochs; 0 "
    "validates after the last epoch alone"
  ),
  "alpha_units": (
    "units of alpha: code, as in the authors' code, whose neuron correlation "
    "lacks the factors 1/M (BEAN-1) and 1/M^2 (BEAN-2) of the paper, M the "
    "neurons of the next layer; or paper"
  ),
  "gamma": "slope in BEAN's neuron correlation",
  "distance": "BEAN's distance",
  "layers": (
    "dense layers where BEAN applies, comma-separated; by default all whose "
    "inputs are neurons"
  ),
  "decoupled_decay": "weight decay as in AdamW, not in the gradient",
  "dropout_at_eval": (
    "leave dropout on at validation and test, as the authors' code does"
  ),
  "first_pseudo": "imitation networks: pseudo examples in the first period",
  "last_pseudo": "imitation networks: pseudo examples in the last period",
  "pseudo_periods": (
    "imitation networks: periods, in each of which the pseudo examples grow"
  ),
  "pseudo_epochs": (
    "imitation networks: passes over the pseudo examples in a period"
  ),
  "competing_epochs": "competing hidden units: epochs without labels",
  "readout_epochs": (
    "competing hidden units: epochs of the read-out after them"
  ),
}
_CHOICES = {
  "alpha_units": ["code", "paper"],
  "distance": ["squared", "absolute"],
}
_DEFINE = {
  bool: flags.DEFINE_bool,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  list: flags.DEFINE_list,
  tuple: flags.DEFINE_list,
}


def define(values: flags.FlagValues, **defaults: Any) -> None:
  """Defines flags that several scripts have, each of its default's type."""
  for name, default in defaults.items():
    define = _DEFINE[type(default)]
    if name in _CHOICES:
      define = functools.partial(flags.DEFINE_enum, enum_values=_CHOICES[name])
    define(name, default, help=_TEXTS[name], flag_values=values)


def _define_options(values: flags.FlagValues, *, names: Sequence[str]) -> None:
  """Defines flags of the names and defaults of fields of `methods.Options`."""
  usual = methods.Options()._asdict()
  define(values, **{name: usual[name] for name in names})


class _PathParser(flags.ArgumentParser):
  """Takes a path, in which a leading ~ is the home folder."""

  def parse(self, argument: str) -> str:
    return files.expand(argument)


def define_path(
  values: flags.FlagValues, name: str, default: str | None, text: str
) -> flags.FlagHolder:
  """Defines a flag that is a path."""
  return flags.DEFINE(
    _PathParser(),
    name,
    default,
    text,
    flag_values=values,
    serializer=flags.ArgumentSerializer(),
  )


def define_methods(
  values: flags.FlagValues, *, known: Sequence[str], default: Sequence[str]
) -> None:
  """Defines --methods, some of the known in `methods.METHODS`."""
  flags.DEFINE_list(
    "methods",
    list(default),
    f"methods to compare, comma-separated, of: {', '.join(known)}",
    flag_values=values,
  )


def define_alphas(values: flags.FlagValues, *, known: Sequence[str]) -> None:
  """Defines --alphas, the strengths of the known methods."""
  grids = "; ".join(
    f"{name}: {', '.join(f'{value:g}' for value in methods.METHODS[name].grid)}"
    for name in known
    if methods.METHODS[name].hparam
  )
  flags.DEFINE_string(
    "alphas",
    None,
    "strengths to try, comma-separated: for every method that has one, as 1,10,"
    " or method by method, as 'bean1:1,10 dropout:0.5'; by default "
    f"{grids}",
    flag_values=values,
  )


def strengths(
  values: flags.FlagValues, names: Sequence[str]
) -> dict[str, Sequence[float]]:
  """Returns the values of each method's hyper-parameter that are tried."""
  given = {}
  if values.alphas is not None:
    given = parsing.by_method("alphas", values.alphas, names)
  for name in set(given) - {""}:
    if methods.METHODS[name].hparam is None:
      raise parsing.ConfigError(f"--alphas: {name} has no strength")
  tried = {}
  for name in names:
    method = methods.METHODS[name]
    chosen = given.get(name, given.get("")) if method.hparam else None
    tried[name] = method.grid if chosen is None else chosen
    for value in tried[name]:
      parsing.number("alphas", value, low=0, below=method.limit)
  return tried


def learning_rates(
  values: flags.FlagValues, names: Sequence[str]
) -> dict[str, float]:
  """Returns the learning rate of each method."""
  given = parsing.by_method("learning_rate", values.learning_rate, names)
  rates = {}
  for name in names:
    chosen = given.get(name, given.get("", ()))
    if len(chosen) != 1:
      raise parsing.ConfigError(
        f"--learning_rate: expected one number for {name}, got "
        f"{values.learning_rate!r}"
      )
    # With less, float32 parameters would stay what they are.
    rates[name] = parsing.number("learning_rate", chosen[0], low=1e-30)
  return rates


define_bean = functools.partial(
  _define_options, names=("alpha_units", "gamma", "distance")
)
define_few_shot = functools.partial(
  _define_options, names=("layers", "decoupled_decay", "dropout_at_eval")
)
define_imitation = functools.partial(_define_options, names=IMITATION_OPTIONS)
define_competing = functools.partial(_define_options, names=COMPETING_OPTIONS)


def options(
  values: flags.FlagValues, network: networks.Network | None = None
) -> methods.Options:
  """Reads the choices that methods depend on; those without a flag are usual.

  Args:
    values: The script's flags.
    network: The network whose layers --layers may name, where there is that
      flag.
  """
  chosen = {
    name: values[name].value
    for name in methods.Options._fields
    if name in values
  }
  if "gamma" in chosen:
    parsing.number("gamma", chosen["gamma"], low=0)
  for name in (*IMITATION_OPTIONS, *COMPETING_OPTIONS):
    if name in chosen:
      parsing.number(name, chosen[name], low=1)
  if "layers" in chosen:
    if named := chosen["layers"]:
      parsing.names("layers", named, network.layers)
    chosen["layers"] = tuple(n for n in network.layers if n in named)
  found = methods.Options(**chosen)
  if found.last_pseudo < found.first_pseudo:
    raise parsing.ConfigError(
      f"--last_pseudo: expected at least --first_pseudo="
      f"{found.first_pseudo}, got {found.last_pseudo}"
    )
  return found


def define_run(values: flags.FlagValues, *, output_dir: str) -> None:
  """Defines --members_per_chunk, --data_dir, --output_dir."""
  define(values, members_per_chunk=0)
  define_folders(values, output_dir=output_dir)


def members_per_chunk(values: flags.FlagValues) -> int:
  """Reads --members_per_chunk, of `define_run`."""
  number = values.members_per_chunk
  return parsing.number("members_per_chunk", number, low=0)


def define_checkpoints(values: flags.FlagValues, *, default: str) -> None:
  """Defines --checkpoint_dir, --checkpoint_seconds and --resume.

  Args:
    values: The script's flags.
    default: What is said of networks where no folder is named.
  """
  define_path(
    values,
    "checkpoint_dir",
    None,
    f"folder where the trained networks are kept; by default {default}",
  )
  define(values, checkpoint_seconds=30.0, resume=True)


def define_data_dir(values: flags.FlagValues) -> None:
  """Defines --data_dir."""
  define_path(
    values,
    "data_dir",
    None,
    "TensorFlow Datasets folder; by default TFDS_DATA_DIR of the environment, "
    "else ~/tensorflow_datasets",
  )


def define_folders(values: flags.FlagValues, *, output_dir: str) -> None:
  """Defines --data_dir and --output_dir."""
  define_data_dir(values)
  define_path(values, "output_dir", output_dir, "folder of the results")


def both_seeds(
  values: flags.FlagValues,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the seeds that are reported, and those that choose."""
  seeds = parsing.seeds("seeds", values.seeds)
  choosing = parsing.seeds("selection_seeds", values.selection_seeds)
  if both := set(seeds) & set(choosing):
    raise parsing.ConfigError(
      f"--selection_seeds: expected none of --seeds, got {min(both)} in both"
    )
  return seeds, choosing


def some_shots(
  values: flags.FlagValues, name: str, shots: Collection[int]
) -> list[int]:
  """Returns the numbers of shots that a flag names; none by default."""
  if not values[name].value:
    return []
  named = parsing.numbers(name, values[name].value, int, low=1)
  if others := set(named) - set(shots):
    raise parsing.ConfigError(
      f"--{name}: expected some of --shots, got {min(others)}"
    )
  return sorted(named)


def schedule(
  values: flags.FlagValues, *, least_every: int = 0
) -> list[tuple[int, int]]:
  """Returns numbers of shots in ascending order, each with its epochs.

  Args:
    values: The script's flags.
    least_every: The least --validate_every that makes sense.
  """
  shots = parsing.numbers("shots", values.shots, int, low=1)
  epochs = parsing.numbers("epochs", values.epochs, int, low=1, distinct=False)
  if len(epochs) == 1:
    epochs *= len(shots)
  if len(epochs) != len(shots):
    raise parsing.ConfigError(
      f"--epochs: expected one number or {len(shots)}, one for each of "
      f"--shots, got {len(epochs)}"
    )
  every = parsing.number(
    "validate_every", values.validate_every, low=least_every
  )
  for number in epochs:
    if every and number % every:
      raise parsing.ConfigError(
        f"--validate_every: expected a divisor of all --epochs, got {every} "
        f"for {number}"
      )
  return sorted(zip(shots, epochs, strict=True))
