"""What every script does around its work: settings, errors, exit status."""

from collections.abc import Callable, Sequence
import logging
import sys

from absl import app, flags
import jax

from experiments import datasets, devices, parsing, results

_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}
ERRORS = (parsing.ConfigError, datasets.DatasetError, results.ResultError)


def start(
  main: Callable[[Sequence[str]], int | None], values: flags.FlagValues
) -> None:
  """Parses a script's flags, runs it and ends the process.

  `--help` prints its docstring and its flags. A flag that cannot be parsed is
  named in one line, with exit status 2.

  Args:
    main: Takes what is left of the command line, returns the exit status.
    values: The script's flags.
  """

  def parse(argv: Sequence[str]) -> list[str]:
    if set(argv[1:]) & _HELP:
      print(sys.modules["__main__"].__doc__)
      print(values.get_help())
      sys.exit(0)
    # No other flags are of use here; absl wants them to have been parsed.
    flags.FLAGS.mark_as_parsed()
    try:
      return values(list(argv))
    except flags.Error as error:
      print(f"error: {error}; see --help", file=sys.stderr)
      sys.exit(2)

  app.run(main, flags_parser=parse)


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
