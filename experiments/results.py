"""Result files: one JSON a cell, written whole or not at all.

A cell is one configuration trained for many seeds. Its record, schema 1:

    schema       1, the version of this layout
    experiment   what made it, such as "few_shot"
    config       {field: value}, everything that the numbers depend on
    versions     {python, jax, jaxlib, flax, optax, numpy, bean_jax}
    device       {platform, kind, count}
    git          {commit, dirty} of the checkout, or null outside of one
    seconds      wall-clock time
    seeds        [num_seeds] integers
    metrics      {name: [num_seeds] numbers, or lists of numbers (curves)}
    checksum     SHA-256 of the canonical JSON of all other fields

An experiment may add further fields. JSON has no NaN and no infinity: in
metrics a number that is not finite becomes null, everywhere else it is
refused. `metric` turns null into NaN again.

A file that is cut off, altered, foreign or of another schema is never used
and never deleted: reading it raises `ResultError`, which names the file.
"""

from collections.abc import Mapping
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import secrets
import subprocess
from typing import Any

import jax
import numpy as np

import bean_jax
from experiments import files

SCHEMA = 1

_FIELDS = {
  "experiment": str,
  "config": dict,
  "versions": dict,
  "device": dict,
  "git": dict | None,
  "seconds": int | float,
  "seeds": list,
  "metrics": dict,
}
_WORD = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST_NAME = 200  # File systems allow 255 bytes.


class ResultError(Exception):
  """A result file cannot be used or written; the text says what to do."""


def write(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
  """Write a record, so that the file is the old one or the new one, whole.

  Args:
    path: the file, in a folder that exists.
    record: the fields of the schema, but for `schema` and `checksum`, which
      are added here. Arrays become lists.

  Raises:
    ResultError: if the file system refuses.
    ValueError: if a field is missing, has another type or holds a number that
      JSON cannot hold, or a metric has not one entry a seed.
    TypeError: if a value is of a type that JSON does not have.
  """
  fields = {
    name: _plain(value, name, nonfinite_as_null=name == "metrics")
    for name, value in record.items()
    if name not in ("schema", "checksum")
  }
  if problem := _problem(fields):
    raise ValueError(f"record for {path}: {problem}")
  fields = {"schema": SCHEMA, **fields}
  fields["checksum"] = _digest(fields)
  lines = ",\n".join(
    f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}"
    for name, value in fields.items()
  )
  write_bytes(path, f"{{\n{lines}\n}}\n".encode())


def prepare_directory(directory: str | os.PathLike[str]) -> None:
  """Create a folder and see that files can be written there.

  Args:
    directory: the folder; its parents are created too.

  Raises:
    ResultError: if the file system refuses.
  """
  directory = pathlib.Path(directory)
  probe = directory / f".{secrets.token_hex(8)}.tmp"
  try:
    directory.mkdir(parents=True, exist_ok=True)
    probe.touch(exist_ok=False)
    probe.unlink()
  except OSError as error:
    raise ResultError(
      f"{directory}: cannot be written to ({error.strerror or error}); choose"
      " another folder"
    ) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Write a file, so that it is the old one or the new one, whole.

  Args:
    path: the file, in a folder that exists.
    data: all that it will hold.

  Raises:
    ResultError: if the file system refuses (disk full, no such folder, ...).
  """
  path = pathlib.Path(path)
  try:
    files.replace(path, data)
  except OSError as error:
    raise ResultError(
      f"{path}: could not be written ({error.strerror or error}); make room"
      " there or choose another folder, what was finished before is kept"
    ) from error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Read a record that `write` wrote.

  Args:
    path: the file.

  Returns:
    All fields, `schema` and `checksum` among them.

  Raises:
    ResultError: if the file is cut off, altered, foreign or of another schema.
    OSError: if it cannot be read, FileNotFoundError if there is none.
  """
  data = pathlib.Path(path).read_bytes()
  try:
    record = json.loads(data)
    digest = _digest({k: v for k, v in record.items() if k != "checksum"})
  except (ValueError, AttributeError, RecursionError) as error:
    raise _unusable(path, "expected a JSON object, cut off or foreign") from (
      error
    )
  if "checksum" not in record:
    raise _unusable(path, "expected a checksum, got none: not a result file")
  if record["checksum"] != digest:
    raise _unusable(path, "its checksum does not fit: it was altered")
  if record.get("schema") != SCHEMA:
    raise _unusable(
      path, f"expected schema {SCHEMA}, got {record.get('schema')!r}"
    )
  if problem := _problem(record):
    raise _unusable(path, problem)
  return record


def find(
  path: str | os.PathLike[str], config: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Read the record of a configuration, if it has been written.

  Args:
    path: the file.
    config: the configuration that the record must have been made with.

  Returns:
    The record, or None where there is no file.

  Raises:
    ResultError: if the file was made with another configuration, or is one
      that `read` refuses.
  """
  try:
    record = read(path)
  except FileNotFoundError:
    return None
  if config_digest(record["config"]) == config_digest(config):
    return record
  got, expected = record["config"], _plain(config, "config")
  differences = [
    f"{name}: expected {_shown(expected, name)}, got {_shown(got, name)}"
    for name in sorted(got.keys() | expected.keys())
    if _shown(expected, name) != _shown(got, name)
  ]
  raise _unusable(
    path, f"made with another configuration ({'; '.join(differences)})"
  )


def load_all(directory: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
  """Read every record of a folder.

  Args:
    directory: the folder; files that do not end in .json are passed over.

  Returns:
    The records by file name, in the order of the names.

  Raises:
    ResultError: if one of the files cannot be used.
    OSError: if the folder cannot be read.
  """
  paths = sorted(pathlib.Path(directory).iterdir())
  return {path.name: read(path) for path in paths if path.suffix == ".json"}


def metric(record: Mapping[str, Any], name: str) -> np.ndarray:
  """Take a metric of a record as an array.

  Args:
    record: a record that was read.
    name: of the metric.

  Returns:
    [num_seeds] or [num_seeds, ...] float64, NaN where the number was not
    finite.

  Raises:
    ValueError: if the record has no such metric.
  """
  if name not in record["metrics"]:
    raise ValueError(
      f"metric: expected one of {sorted(record['metrics'])}, got {name!r}"
    )
  return np.array(record["metrics"][name], np.float64)


def config_digest(config: Mapping[str, Any]) -> str:
  """Digest a configuration: equal for equal fields, whatever their order.

  Args:
    config: fields that JSON can hold.

  Returns:
    The SHA-256 of its canonical JSON, in hexadecimal.

  Raises:
    ValueError: if a number is not finite.
    TypeError: if a value is of a type that JSON does not have.

  Example:
    >>> config_digest({"alpha": 1.0})[:8]
    'aa2c2c4f'
  """
  return _digest(_plain(config, "config"))


def cell_name(
  dataset: str, shots: int, method: str, **hparams: float | str
) -> str:
  """Name the file of a cell, safely on every file system.

  Args:
    dataset: a word of lower-case letters, digits and underscores.
    shots: number of training images a class.
    method: a word.
    **hparams: numbers or words; their order does not matter.

  Returns:
    The file name.

  Raises:
    ValueError: if a part is not such a word, or a number is not finite, or the
      name is too long.

  Example:
    >>> cell_name("mnist", 1, "bean1", gamma=0.5, alpha=10.0)
    'mnist-1shot-bean1-alpha10-gamma0.5.json'
  """
  if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
    raise ValueError(f"shots: expected a positive integer, got {shots!r}")
  parts = [_word("dataset", dataset), f"{shots}shot", _word("method", method)]
  parts += [_hparam(*item) for item in sorted(hparams.items())]
  result = "-".join(parts) + ".json"
  if len(result) > _LONGEST_NAME:
    raise ValueError(
      f"cell name: expected at most {_LONGEST_NAME} characters, got"
      f" {len(result)}; use shorter names"
    )
  return result


def environment() -> dict[str, Any]:
  """Describe what a record is made with.

  Returns:
    The fields `versions`, `device` and `git` of a record.
  """
  versions = {"python": platform.python_version()}
  for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
    versions[package] = importlib.metadata.version(package)
  # Run from a clone, bean_jax need not be installed.
  versions["bean_jax"] = bean_jax.__version__
  device = jax.devices()[0]
  return {
    "versions": versions,
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
    },
    "git": _git(pathlib.Path(__file__).resolve().parent.parent),
  }


def _git(root: pathlib.Path) -> dict[str, Any] | None:
  if not (root / ".git").exists():  # Perhaps inside another's checkout.
    return None
  command = ["git", "-C", str(root), "--no-optional-locks"]
  try:
    commit, changes = (
      subprocess.run(
        [*command, *arguments],
        capture_output=True,
        check=True,
        text=True,
        timeout=10,
      ).stdout.strip()
      for arguments in (
        ("rev-parse", "--verify", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
      )
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return {"commit": commit, "dirty": bool(changes)}


def _plain(value: Any, name: str, nonfinite_as_null: bool = False) -> Any:
  if isinstance(value, np.ndarray | np.generic | jax.Array):
    value = np.asarray(value).tolist()
  if isinstance(value, Mapping):
    if bad := [key for key in value if not isinstance(key, str)]:
      raise TypeError(f"{name}: expected names as strings, got {bad[0]!r}")
    return {
      key: _plain(item, f"{name}.{key}", nonfinite_as_null)
      for key, item in value.items()
    }
  if isinstance(value, list | tuple):
    return [_plain(item, name, nonfinite_as_null) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    if nonfinite_as_null:
      return None
    raise ValueError(f"{name}: expected a finite number, got {value}")
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(
    f"{name}: expected numbers, strings, lists, mappings or None, got"
    f" {type(value).__name__}"
  )


def _problem(record: Mapping[str, Any]) -> str | None:
  for name, kind in _FIELDS.items():
    if name not in record:
      return f"expected the field {name!r}, which is missing"
    if not isinstance(record[name], kind):
      expected = getattr(kind, "__name__", kind)
      return f"{name}: expected {expected}, got {type(record[name]).__name__}"
  seeds = record["seeds"]
  if not all(type(s) is int for s in seeds) or len(set(seeds)) != len(seeds):
    return f"seeds: expected different integers, got {seeds}"
  for name, values in record["metrics"].items():
    if not isinstance(values, list) or len(values) != len(seeds):
      return f"metrics.{name}: expected {len(seeds)} entries, one a seed"
    if not _is_numeric(values):
      return f"metrics.{name}: expected numbers or lists of numbers"
  return None


def _is_numeric(values: list[Any]) -> bool:
  return all(
    _is_numeric(value)
    if isinstance(value, list)
    else value is None or isinstance(value, int | float)
    for value in values
  )


def _digest(fields: Mapping[str, Any]) -> str:
  canonical = json.dumps(
    fields, sort_keys=True, separators=(",", ":"), allow_nan=False
  )
  return hashlib.sha256(canonical.encode()).hexdigest()


def _unusable(path: str | os.PathLike[str], why: str) -> ResultError:
  return ResultError(
    f"{os.fspath(path)}: {why}; move this file away or choose another folder"
  )


def _shown(config: Mapping[str, Any], name: str) -> str:
  return json.dumps(config[name]) if name in config else "nothing"


def _word(name: str, value: Any) -> str:
  if not isinstance(value, str) or not _WORD.fullmatch(value):
    raise ValueError(
      f"{name}: expected a word of lower-case letters, digits and underscores,"
      f" got {value!r}"
    )
  return value


def _hparam(name: str, value: Any) -> str:
  name = _word("hparams", name)
  if isinstance(value, str):
    return f"{name}_{_word(name, value)}"
  # l1 of 0.5 is not to be read as l of 10.5.
  separator = "_" if name[-1].isdigit() else ""
  return name + separator + _number(name, value)


def _number(name: str, value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(f"{name}: expected a number or a word, got {value!r}")
  if not math.isfinite(value):
    raise ValueError(f"{name}: expected a finite number, got {value!r}")
  # Whole numbers read alike as integers and as floats, and -0.0 as 0.
  return str(value + 0).removesuffix(".0")
