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
import os
import pathlib
import sys

from absl import flags
import jax

from benchmarks import agreement, cases, plots, records, suites
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
_QUICK, _TORCH = (
  flags.DEFINE_bool(name, default, text, flag_values=FLAGS)
  for name, default, text in (
    ("quick", False, "make everything tiny: checks the code, measures nothing"),
    ("torch", True, "time PyTorch too; --notorch where it is not installed"),
  )
)
_OUTPUT_DIR = flag_groups.define_path(
  FLAGS,
  "output_dir",
  "results/benchmarks",
  "folder of the results",
)


def run() -> None:
  """Times the cases and writes results and figures."""
  names, options = _parse()
  folder = pathlib.Path(_OUTPUT_DIR.value)
  results.prepare_directory(folder)
  # What is quick must never stand among what was measured.
  stem = f"{_SUITE.value}-quick" if options.quick else _SUITE.value
  path = folder / f"{stem}.json"
  if path.exists():
    records.read(path)
  for name in names:
    load_average = os.getloadavg()[0]
    case = suites.SUITES[_SUITE.value][name](options)
    record = records.describe(case, options, load_average)
    records.merge(path, _SUITE.value, name, record)
    print(f"[{name}] {cases.table(case)}\n", flush=True)
    figure = folder / f"{stem}-{name}.png"
    with canvas.attempt(figure):
      plots.draw(figure, case)
  print(f"results and figures in {folder}")


def _parse() -> tuple[list[str], cases.Settings]:
  """Returns the names of the cases, and how they are run."""
  known = list(suites.SUITES[_SUITE.value])
  names = known
  if _ONLY.value is not None:
    names = parsing.names("only", _ONLY.value, known)
  parsing.number("repeats", _REPEATS.value, low=1 if _QUICK.value else 5)
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
  return names, cases.Settings(_QUICK.value, _REPEATS.value, _TORCH.value)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  try:
    return scripts.run(argv, run, kept="finished cases are kept")
  except agreement.DisagreementError as error:
    print(f"error: {error}; nothing was timed", file=sys.stderr)
    return 1


if __name__ == "__main__":
  scripts.start(main, FLAGS)
