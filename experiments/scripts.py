"""What every script does around its work: settings, errors, exit status."""

from collections.abc import Callable, Sequence
import logging
import sys

import jax

from experiments import datasets, devices, parsing, results

ERRORS = (parsing.ConfigError, datasets.DatasetError, results.ResultError)


def run(argv: Sequence[str], work: Callable[[], None]) -> int:
  """Runs a script's work.

  Args:
    argv: What absl left of the command line, the script's name first.
    work: Parses the flags and does everything else.

  Returns:
    The exit status: 0, 2 for an error that was printed in a line, or 130 where
    the user interrupted.
  """
  # Which backends there are not is no news to who runs this.
  logging.getLogger("jax").setLevel(logging.WARNING)
  # TensorFloat-32, a GPU's default, is too coarse for these small products.
  jax.config.update("jax_default_matmul_precision", "highest")
  devices.use_all_cores()
  try:
    if len(argv) > 1:
      raise parsing.ConfigError(
        f"unexpected argument {argv[1]!r}; options begin with --, see --help"
      )
    work()
  except ERRORS as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(
      "\nstopped; finished cells are kept, the same command goes on from there",
      file=sys.stderr,
    )
    return 130
  return 0
