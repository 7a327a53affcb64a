"""Flags that several scripts have in common, defined and read in one place.

Every script has flags of its own (`absl.flags.FlagValues`), so that scripts can
be imported together; these functions add to them.
"""

from collections.abc import Sequence

from absl import flags

from experiments.architectures import networks
from experiments.command import parsing
from experiments.learning import methods
from experiments.learning.options import COMPETING_OPTIONS, IMITATION_OPTIONS
from experiments.records import files

_OPTIONS = methods.Options()


class _PathParser(flags.ArgumentParser):
  """Takes a path, in which a leading ~ is the home folder."""

  def parse(self, argument: str) -> str:
    return files.expand(argument)


def define_path(
  values: flags.FlagValues, name: str, default: str | None, text: str
) -> flags.FlagHolder:
  """Defines a flag that is a path.

  Args:
    values: The script's flags.
    name: Of the flag.
    default: Where there is none on the command line.
    text: Its help.
  """
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
  """Defines --methods.

  Args:
    values: The script's flags.
    known: Names in `methods.METHODS` that the script can train.
    default: Those that it trains unless told otherwise.
  """
  flags.DEFINE_list(
    "methods",
    list(default),
    f"methods to compare, comma-separated, of: {', '.join(known)}",
    flag_values=values,
  )


def define_alphas(values: flags.FlagValues, *, known: Sequence[str]) -> None:
  """Defines --alphas.

  Args:
    values: The script's flags.
    known: Names in `methods.METHODS` that the script can train.
  """
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
  """Returns the values of each method's hyper-parameter that are tried.

  Args:
    values: The script's flags, of `define_alphas`.
    names: The methods.

  Raises:
    parsing.ConfigError: If --alphas has a value that cannot be used.
  """
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


def define_learning_rate(values: flags.FlagValues) -> None:
  """Defines --learning_rate.

  Args:
    values: The script's flags.
  """
  flags.DEFINE_string(
    "learning_rate",
    "5e-4",
    "the optimizer's learning rate: for every method, as 5e-4, or method by "
    "method, as 'bean1:1e-3 5e-4', where the last is for all others",
    flag_values=values,
  )


def learning_rates(
  values: flags.FlagValues, names: Sequence[str]
) -> dict[str, float]:
  """Returns the learning rate of each method.

  Args:
    values: The script's flags, of `define_learning_rate`.
    names: The methods.

  Raises:
    parsing.ConfigError: If --learning_rate has a value that cannot be used, or
      none for a method.
  """
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


def define_bean(values: flags.FlagValues) -> None:
  """Defines --alpha_units, --gamma and --distance.

  Args:
    values: The script's flags.
  """
  flags.DEFINE_enum(
    "alpha_units",
    _OPTIONS.alpha_units,
    ["code", "paper"],
    "units of alpha: code, as in the authors' code, whose neuron correlation "
    "lacks the factors 1/M (BEAN-1) and 1/M^2 (BEAN-2) of the paper, M the "
    "neurons of the next layer; or paper",
    flag_values=values,
  )
  flags.DEFINE_float(
    "gamma",
    _OPTIONS.gamma,
    "slope in BEAN's neuron correlation",
    flag_values=values,
  )
  flags.DEFINE_enum(
    "distance",
    _OPTIONS.distance,
    ["squared", "absolute"],
    "BEAN's distance",
    flag_values=values,
  )


def define_few_shot(values: flags.FlagValues) -> None:
  """Defines --layers, --decoupled_decay and --dropout_at_eval.

  Args:
    values: The script's flags.
  """
  flags.DEFINE_list(
    "layers",
    [],
    "dense layers where BEAN applies, comma-separated; by default all whose "
    "inputs are neurons",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "decoupled_decay",
    _OPTIONS.decoupled_decay,
    "weight decay as in AdamW, not in the gradient",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "dropout_at_eval",
    _OPTIONS.dropout_at_eval,
    "leave dropout on at validation and test, as the authors' code does",
    flag_values=values,
  )


def define_imitation(values: flags.FlagValues) -> None:
  """Defines the sizes of imitation networks.

  Args:
    values: The script's flags.
  """
  for name, text in (
    ("first_pseudo", "pseudo examples in the first period"),
    ("last_pseudo", "pseudo examples in the last period"),
    ("pseudo_periods", "periods, in each of which the pseudo examples grow"),
    ("pseudo_epochs", "passes over the pseudo examples in a period"),
  ):
    flags.DEFINE_integer(
      name,
      getattr(_OPTIONS, name),
      f"imitation networks: {text}",
      flag_values=values,
    )


def define_competing(values: flags.FlagValues) -> None:
  """Defines how long competing hidden units learn.

  Args:
    values: The script's flags.
  """
  for name, text in (
    ("competing_epochs", "epochs without labels"),
    ("readout_epochs", "epochs of the read-out after them"),
  ):
    flags.DEFINE_integer(
      name,
      getattr(_OPTIONS, name),
      f"competing hidden units: {text}",
      flag_values=values,
    )


def options(
  values: flags.FlagValues, network: networks.Network | None = None
) -> methods.Options:
  """Reads the choices that methods depend on.

  Args:
    values: The script's flags; choices that it does not have are the usual
      ones.
    network: The network whose layers --layers may name.

  Returns:
    The choices; layers in the order of the network.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
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
  if chosen.get("layers") and network is not None:
    named = parsing.names("layers", chosen["layers"], network.layers)
    chosen["layers"] = tuple(name for name in network.layers if name in named)
  elif "layers" in chosen:
    chosen["layers"] = ()
  found = methods.Options(**chosen)
  if found.last_pseudo < found.first_pseudo:
    raise parsing.ConfigError(
      f"--last_pseudo: expected at least --first_pseudo="
      f"{found.first_pseudo}, got {found.last_pseudo}"
    )
  return found


def define_run(values: flags.FlagValues, *, output_dir: str) -> None:
  """Defines --members_per_chunk, --data_dir, --output_dir.

  Args:
    values: The script's flags.
    output_dir: Where results go unless told otherwise.
  """
  flags.DEFINE_integer(
    "members_per_chunk",
    0,
    "simulations that a device (GPU or CPU core) trains at once; memory grows "
    "with it, and 0 takes as many as are fast",
    flag_values=values,
  )
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
  flags.DEFINE_float(
    "checkpoint_seconds",
    30.0,
    "least time between checkpoints of a simulation",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "resume",
    True,
    "use the results and checkpoints that are there; --noresume trains all "
    "cells again and replaces their files",
    flag_values=values,
  )


def define_folders(values: flags.FlagValues, *, output_dir: str) -> None:
  """Defines --data_dir and --output_dir.

  Args:
    values: The script's flags.
    output_dir: Where results go unless told otherwise.
  """
  define_path(
    values,
    "data_dir",
    None,
    "TensorFlow Datasets folder; by default TFDS_DATA_DIR of the environment, "
    "else ~/tensorflow_datasets",
  )
  define_path(values, "output_dir", output_dir, "folder of the results")


def define_seeds(values: flags.FlagValues, *, default: str) -> None:
  """Defines --seeds, for `parsing.seeds`.

  Args:
    values: The script's flags.
    default: Such as "20".
  """
  flags.DEFINE_string(
    "seeds",
    default,
    "simulations: a number n (seeds 0 to n-1), a range like 5-9 or a list like "
    "0,5,9",
    flag_values=values,
  )


def define_selection_seeds(values: flags.FlagValues, *, default: str) -> None:
  """Defines --selection_seeds, for `both_seeds`.

  Args:
    values: The script's flags.
    default: Such as "100-119".
  """
  flags.DEFINE_string(
    "selection_seeds",
    default,
    "seeds that choose the hyper-parameters of the strict protocol",
    flag_values=values,
  )


def both_seeds(
  values: flags.FlagValues,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the seeds that are reported, and those that choose.

  Args:
    values: The script's flags.

  Raises:
    parsing.ConfigError: If they make no sense, or a seed is in both.
  """
  seeds = parsing.seeds("seeds", values.seeds)
  choosing = parsing.seeds("selection_seeds", values.selection_seeds)
  if both := set(seeds) & set(choosing):
    raise parsing.ConfigError(
      f"--selection_seeds: expected none of --seeds, got {min(both)} in both"
    )
  return seeds, choosing


def define_schedule(
  values: flags.FlagValues,
  *,
  shots: Sequence[str],
  epochs: str,
  validate_every: int,
) -> None:
  """Defines how many shots are learned from, and how long.

  Args:
    values: The script's flags.
    shots: Of --shots, by default.
    epochs: Of --epochs, by default.
    validate_every: Of --validate_every, by default.
  """
  flags.DEFINE_list(
    "shots",
    list(shots),
    "training images of each class, comma-separated",
    flag_values=values,
  )
  flags.DEFINE_list(
    "epochs",
    [epochs],
    "epochs: one number, or one for each of --shots",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "validate_every",
    validate_every,
    "epochs from one validation to the next, a divisor of all --epochs; 0 "
    "validates after the last epoch alone",
    flag_values=values,
  )


def schedule(
  values: flags.FlagValues, *, least_every: int = 0
) -> list[tuple[int, int]]:
  """Returns numbers of shots in ascending order, each with its epochs.

  Args:
    values: The script's flags.
    least_every: The least --validate_every that makes sense.

  Raises:
    parsing.ConfigError: If they do not fit each other, or --validate_every.
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
