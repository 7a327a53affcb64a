"""Scripts run in the process of the tests, as their command lines would."""

from collections.abc import Iterator
import contextlib
import io
import types

from absl.testing import flagsaver
import jax

from experiments.command import parsing, scripts


@contextlib.contextmanager
def parsed(script: types.ModuleType, *args: object) -> Iterator[list[str]]:
  """Sets a script's flags; yields what is left of the command line."""
  saved = flagsaver.save_flag_values(script.FLAGS)
  try:
    yield script.FLAGS([script.__name__, *map(str, args)])
  finally:
    flagsaver.restore_flag_values(saved, script.FLAGS)


def run(script: types.ModuleType, *args: object) -> tuple[int | None, str, str]:
  """Runs a script; its exit status, standard output and error."""
  out, err = io.StringIO(), io.StringIO()
  saved = flagsaver.save_flag_values(script.FLAGS)
  # A script sets it for its whole process.
  precision = jax.config.jax_default_matmul_precision
  argv = [script.__name__, *map(str, args)]
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      try:
        rest = scripts.parse_flags(argv, script.FLAGS)
      except parsing.ConfigError as error:
        # As `scripts.start` says it.
        err.write(f"error: {scripts.one_line(error)}\n")
        status = 2
      else:
        status = script.main(rest)
  finally:
    flagsaver.restore_flag_values(saved, script.FLAGS)
    jax.config.update("jax_default_matmul_precision", precision)
  return status, out.getvalue(), err.getvalue()


def refused(script: types.ModuleType, *args: object) -> str:
  """Runs a script with what it refuses; the line that says why."""
  status, out, err = run(script, *args)
  assert (status, out) == (2, "")
  assert err.startswith("error: ")
  assert err.endswith("\n")
  assert err.count("\n") == 1
  return err
