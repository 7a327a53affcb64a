"""Times bean_jax beside what one would do instead.

    pip install ".[experiments,bench]"
    python -m benchmarks.run --suite=cpu

Every round runs each contender once, so that ratios hold on a machine whose
speed drifts; contenders are first seen to compute the same loss and gradients.
The results are one JSON a suite, to which each case is added as soon as it is
done, and a figure a case. The whole suite for CPUs takes about half an hour on
2 cores; --quick checks in a minute that everything runs.
"""

from collections.abc import Sequence
import importlib.util
import pathlib
import sys
from typing import NamedTuple

from absl import flags
import jax

from benchmarks import agreement, cases, plots, records, settings, suites
from experiments.command import flag_groups, parsing, scripts
from experiments.records import results
from experiments.tables import canvas

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_SUITE = flags.DEFINE_enum(
  "suite",
  "cpu",
  sorted(suites.SUITES),
  "which cases to time",
  flag_values=FLAGS,
)
_ONLY = flags.DEFINE_list(
  "only",
  None,
  "names of cases, comma-separated; by default all of the suite: "
  + "; ".join(
    f"{suite}: {', '.join(names)}" for suite, names in suites.SUITES.items()
  ),
  flag_values=FLAGS,
)
_REPEATS = flags.DEFINE_integer(
  "repeats",
  7,
  "warm runs of each contender, at least 5 unless --quick",
  flag_values=FLAGS,
)
_QUICK = flags.DEFINE_bool(
  "quick",
  False,
  "make everything tiny: checks the code, measures nothing",
  flag_values=FLAGS,
)
_TORCH = flags.DEFINE_bool(
  "torch",
  True,
  "time PyTorch too; --notorch where it is not installed",
  flag_values=FLAGS,
)
_ABSOLUTE = flags.DEFINE_bool(
  "absolute",
  False,
  "time penalties of the absolute distance too: minutes",
  flag_values=FLAGS,
)
_MANY_MEMBERS = flags.DEFINE_bool(
  "many_members",
  False,
  "let growth_members go up to 320 members",
  flag_values=FLAGS,
)
_OUTPUT_DIR = flag_groups.define_path(
  FLAGS,
  "output_dir",
  "results/benchmarks",
  "folder of the results",
)


class Config(NamedTuple):
  """One run of this script.

  Attributes:
    suite: Name of the suite.
    names: Of the cases to time.
    options: How.
    output_dir: Folder of the results.
  """

  suite: str
  names: tuple[str, ...]
  options: settings.Settings
  output_dir: pathlib.Path


def run(config: Config) -> None:
  """Times the cases and writes results and figures.

  Args:
    config: The run.

  Raises:
    agreement.DisagreementError: If contenders compute different things.
    results.ResultError: If the folder holds foreign files or cannot be
      written.
  """
  results.prepare_directory(config.output_dir)
  # What is quick must never stand among what was measured.
  stem = f"{config.suite}-quick" if config.options.quick else config.suite
  path = config.output_dir / f"{stem}.json"
  if path.exists():
    records.read(path)
  for name in config.names:
    load_average = records.load_average()
    case = suites.SUITES[config.suite][name](config.options)
    record = records.describe(case, config.options, load_average)
    records.merge(path, config.suite, name, record)
    print(f"[{name}] {cases.table(case)}\n", flush=True)
    figure = config.output_dir / f"{stem}-{name}.png"
    with canvas.attempt(figure):
      plots.draw(figure, case)
  print(f"results and figures in {config.output_dir}")


def parse_config() -> Config:
  """Builds the configuration from flags.

  Returns:
    The run.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  known = suites.SUITES[_SUITE.value]
  names = tuple(known) if _ONLY.value is None else tuple(_ONLY.value)
  if not names or len(set(names)) < len(names) or set(names) - set(known):
    raise parsing.ConfigError(
      f"--only: expected different ones of {', '.join(known)}, got "
      f"{','.join(names)!r}"
    )
  least = 1 if _QUICK.value else 5
  if _REPEATS.value < least:
    raise parsing.ConfigError(
      f"--repeats: expected at least {least}, got {_REPEATS.value}"
    )
  if _TORCH.value and importlib.util.find_spec("torch") is None:
    raise parsing.ConfigError(
      "PyTorch is not installed; pip install '.[bench]', or add --notorch to "
      "time bean_jax alone"
    )
  backend = jax.default_backend()
  if _SUITE.value == "gpu" and backend != "gpu" and not _QUICK.value:
    raise parsing.ConfigError(
      f"--suite=gpu: JAX has no GPU here, only {backend!r}; pip install "
      "'.[cuda]' on a machine with one, or add --quick to check the code"
    )
  return Config(
    suite=_SUITE.value,
    names=names,
    options=settings.Settings(
      quick=_QUICK.value,
      repeats=_REPEATS.value,
      torch=_TORCH.value,
      absolute=_ABSOLUTE.value,
      many_members=_MANY_MEMBERS.value,
    ),
    output_dir=pathlib.Path(_OUTPUT_DIR.value),
  )


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  try:
    return scripts.run(
      argv, lambda: run(parse_config()), kept="finished cases are kept"
    )
  except agreement.DisagreementError as error:
    print(f"error: {error}; nothing was timed", file=sys.stderr)
    return 1


if __name__ == "__main__":
  scripts.start(main, FLAGS)
