"""What every script does around its work: settings, errors, exit status."""

import ast
from collections.abc import Callable, Sequence
import contextlib
import errno
import importlib.metadata
import inspect
import logging
import os
import sys
from typing import NoReturn

from absl import app, flags

from bean_jax import check
from experiments import datasets
from experiments.command import distributed, parsing
from experiments.machine import devices, interruption, jax_options, notices
from experiments.records import results

_GO_ON = "finished cells are kept, the same command goes on from there"
_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_BROKEN_PIPE = 141  # As of a program that SIGPIPE ends.
_LOG_LEVELS = {"jax": logging.WARNING, "absl": logging.ERROR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class InstallationError(Exception):
  """This jaxlib computes wrong numbers; the text says what to do."""


ERRORS = (
  parsing.ConfigError,
  datasets.DatasetError,
  devices.MissingDeviceError,
  results.ResultError,
  InstallationError,
)


def start(
  main: Callable[[Sequence[str]], int | None], values: flags.FlagValues
) -> None:
  """Parses a script's flags, runs it and ends the process.

  `--help` prints its docstring and its flags. A flag that cannot be parsed is
  named in one line, with exit status 2. Every script has `--deterministic`.
  What is left of the command line is for `main`, which returns the status.
  """
  flags.DEFINE_bool(
    "deterministic",
    False,
    "compute the same bits every time on a GPU too, slower (XLA's "
    f"{_DETERMINISTIC}); a CPU always does",
    flag_values=values,
  )

  def parse(argv: Sequence[str]) -> list[str]:
    if set(argv[1:]) & _HELP:
      # From the source, since python -OO takes docstrings away.
      source = inspect.getsource(sys.modules[main.__module__])
      print(ast.get_docstring(ast.parse(source), clean=False))
      print(values.get_help())
      sys.exit(0)
    # No other flags are of use here; absl wants them to have been parsed.
    flags.FLAGS.mark_as_parsed()
    try:
      rest = parse_flags(argv, values)
    except parsing.ConfigError as error:
      print(f"error: {one_line(error)}", file=sys.stderr)
      sys.exit(2)
    if values["deterministic"].value:
      # XLA reads it when the first device is asked for.
      given = os.environ.get("XLA_FLAGS", "")
      os.environ["XLA_FLAGS"] = f"{given} {_DETERMINISTIC}".strip()
    return rest

  # A path may hold bytes that are no text.
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
  try:
    try:
      app.run(main, flags_parser=parse)
    finally:
      if sys.stdout is not None:  # As it is where the shell has closed it.
        sys.stdout.flush()
  except OSError as error:
    _end_without_output(error)


def _end_without_output(error: OSError) -> NoReturn:
  """Ends the process where nothing can be printed any more."""
  is_pipe = isinstance(error, BrokenPipeError)
  # Files have errors of their own, so that only the output can be full.
  if not is_pipe and error.errno not in _FULL:
    raise error
  # At its end Python writes once more what could not be written.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  if is_pipe:  # Who read the output has seen enough.
    sys.exit(_BROKEN_PIPE)
  print(
    f"error: the output could not be written ({results.reason(error)});"
    f" {_GO_ON}",
    file=sys.stderr,
  )
  sys.exit(2)


def parse_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Parses a script's flags.

  Raises:
    parsing.ConfigError: If a flag is unknown or has a value of a wrong type.
  """
  try:
    return values(list(argv))
  except UnicodeDecodeError as error:
    raise parsing.ConfigError(
      f"--flagfile: expected a text in UTF-8 ({error})"
    ) from error
  # A ValueError where a flag like --noresume is given a value.
  except (flags.Error, ValueError) as error:
    raise parsing.ConfigError(f"{error}; see --help") from error
  except RecursionError as error:  # From a search for flags of similar names.
    raise parsing.ConfigError(
      "unknown flag with a name of thousands of letters; see --help"
    ) from error


def one_line(error: Exception) -> str:
  r"""Returns the text of an error without breaks and control characters.

  Example:
    >>> one_line(ValueError("one\ntwo"))
    'one\\ntwo'
  """
  return "".join(
    char if char.isprintable() else char.encode("unicode_escape").decode()
    for char in str(error)
  )


def run(
  argv: Sequence[str],
  work: Callable[[], None],
  values: flags.FlagValues | None = None,
  *,
  kept: str = _GO_ON,
) -> int:
  """Runs a script's work.

  Args:
    argv: What absl left of the command line, the script's name first.
    work: Parses the flags and does everything else.
    values: The script's flags, if its work asks `interruption.stop_requested`;
      with those of `distributed.define_flags` it may be one of several
      processes.
    kept: What is said of results where the user interrupts.

  Returns:
    The exit status: 0, also where SIGTERM ended the work early and in good
    order; 2 for an error that was printed in a line; 130 for Ctrl-C.
  """
  # Which backends there are not, and how TensorFlow Datasets reads, is no news
  # to who runs this.
  for name, level in _LOG_LEVELS.items():
    logging.getLogger(name).setLevel(level)
  if overruled := jax_options.pin():
    notices.warn(
      f"{', '.join(overruled)} of the environment: not used, so that a seed "
      "gives the same numbers everywhere"
    )
  devices.use_all_cores()
  # Who does not ask is ended by SIGTERM, as ever.
  asks = values is not None
  with interruption.handled() if asks else contextlib.nullcontext():
    try:
      if len(argv) > 1:
        raise parsing.ConfigError(
          f"unexpected argument {argv[1]!r}; options begin with --, see --help"
        )
      with distributed.joined(values):
        devices.refuse_missing()
        _refuse_wrong_release()
        work()
    except ERRORS as error:
      print(f"error: {one_line(error)}", file=sys.stderr)
      return 2
    except interruption.Stopped:
      print(f"stopped as asked; {_GO_ON}", file=sys.stderr)
    except KeyboardInterrupt:
      print(f"\nstopped; {kept}", file=sys.stderr)
      return 130
  return 0


def _refuse_wrong_release() -> None:
  version = importlib.metadata.version("jaxlib")
  # Only these wait for the device here, before the flags have been checked.
  if any(version in wrong.versions for wrong in check.WRONG_RELEASES):
    line = check.release()
    if not line.passed:
      raise InstallationError(line.text)
