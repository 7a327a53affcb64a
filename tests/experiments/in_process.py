"""Scripts run as their command lines would, and what they leave in a folder."""

from collections.abc import Iterator, Mapping
import contextlib
import io
import logging
import os
import pathlib
import subprocess
import sys
import types

from absl.testing import flagsaver
import jax
import numpy as np

from experiments.command import parsing, scripts
from experiments.records import checkpoints, results

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def parsed(script: types.ModuleType, *args: object) -> Iterator[list[str]]:
  """Sets a script's flags; yields what is left of the command line."""
  saved = flagsaver.save_flag_values(script.FLAGS)
  try:
    yield script.FLAGS([script.__name__, *map(str, args)])
  finally:
    flagsaver.restore_flag_values(saved, script.FLAGS)


@contextlib.contextmanager
def kept_settings() -> Iterator[None]:
  """Puts back what a script sets for its whole process."""
  options = dict(jax.config.values)
  levels = {name: logging.getLogger(name).level for name in ("jax", "absl")}
  try:
    yield
  finally:
    for name, level in levels.items():
      logging.getLogger(name).setLevel(level)
    for name, value in jax.config.values.items():
      if value != options[name]:
        jax.config.update(name, options[name])


def run(script: types.ModuleType, *args: object) -> tuple[int | None, str, str]:
  """Runs a script; its exit status, standard output and error."""
  out, err = io.StringIO(), io.StringIO()
  saved = flagsaver.save_flag_values(script.FLAGS)
  argv = [script.__name__, *map(str, args)]
  try:
    with (
      kept_settings(),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
    ):
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
  return status, out.getvalue(), err.getvalue()


def done(script: types.ModuleType, *args: object) -> str:
  """Runs a script that has nothing to complain of; its standard output."""
  status, out, err = run(script, *args)
  assert (status, err) == (0, "")
  return out


def refused(script: types.ModuleType, *args: object) -> str:
  """Runs a script with what it refuses; the line that says why."""
  status, out, err = run(script, *args)
  assert (status, out) == (2, "")
  assert err.startswith("error: ")
  assert err.endswith("\n")
  assert len(err.splitlines()) == 1
  return err


def as_user(
  script: types.ModuleType,
  *args: object,
  python: tuple[str, ...] = (),
  environment: Mapping[str, str] = types.MappingProxyType({}),
  stdout: int | io.IOBase = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
  """Runs a script in a process of its own, with its real networks."""
  return subprocess.run(
    [sys.executable, *python, "-m", script.__name__, *map(str, args)],
    cwd=ROOT,
    env={**os.environ, **environment},
    stdout=stdout,
    stderr=subprocess.PIPE,
    text=True,
    timeout=1200,
    check=False,
  )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """The bytes of all files in a folder and below."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def numbers_of(path: pathlib.Path) -> tuple[object, ...]:
  """What a record or a checkpoint says, but for what differs by run."""
  if path.suffix == ".json":
    record = results.read(path)
    return record["config"], record["seeds"], record["metrics"]
  with np.load(path, allow_pickle=False) as archive:
    arrays = {
      name: archive[name].tobytes()
      for name in archive.files
      if name not in ("header", "metrics/seconds")
    }
  return checkpoints.load(path).config, arrays


def numbers(folder: pathlib.Path) -> dict[str, tuple[object, ...]]:
  """What all records and checkpoints in a folder and below say."""
  return {
    str(path.relative_to(folder)): numbers_of(path)
    for path in sorted(folder.rglob("*"))
    if path.suffix in (".json", ".npz")
  }
