"""Result files: one JSON a cell, written whole or not at all.

A cell is one configuration trained for many seeds. Its record, schema 1:

    schema       1, the version of this layout
    experiment   what made it, such as "few_shot"
    config       {field: value}, everything that the numbers depend on
    versions     {python, jax, jaxlib, flax, optax, numpy, bean_jax}
    device       {platform, kind, count}
    git          {commit, dirty} of the checkout, or null outside of one
    settings     {option of JAX or environment variable: value} that numbers
                 depend on; absent from records made before it was kept, by the
                 usual ones
    seconds      wall-clock time
    seeds        [num_seeds] integers
    metrics      {name: [num_seeds] numbers, or lists of numbers (curves)}
    checksum     SHA-256 of the canonical JSON of all other fields

An experiment may add further fields. JSON has no NaN and no infinity: in
metrics a number that is not finite becomes null, everywhere else it is
refused. `metric` turns null into NaN again.

A file that is cut off, altered or foreign is never used and never deleted:
reading it raises `DamagedError`, and `find` renames it to NAME.damaged, as if
there were none. One of another schema or configuration was made by somebody
who may still want it: reading it raises `ResultError`, which names the file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
from experiments.machine import jax_options, notices
from experiments.records import files

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
_WORD = re.compile(r"[a-z0-9][a-z0-9_]*")
_LONGEST_NAME = 200  # File systems allow 255 bytes.


class ResultError(Exception):
  """A result file cannot be used or written; the text says what to do."""


class DamagedError(ResultError):
  """A file is cut off, altered or foreign.

  Attributes:
    why: what is wrong with it, without its name.
  """

  def __init__(self, path: str | os.PathLike[str], why: str):
    """Say what is wrong with a file, and what to do."""
    super().__init__(_advice(path, why))
    self.why = why


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
    probe.unlink(missing_ok=True)
  except (OSError, ValueError) as error:  # ValueError: a path with a zero byte.
    raise ResultError(
      f"{directory}: cannot be written to ({reason(error)}); choose another"
      " folder"
    ) from error
  files.remove_abandoned(directory)


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
  except (OSError, ValueError) as error:
    raise ResultError(
      f"{path}: could not be written ({reason(error)}); make room there or"
      " choose another folder, what was finished before is kept"
    ) from error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Read a record that `write` wrote.

  Args:
    path: the file.

  Returns:
    All fields, `schema` and `checksum` among them.

  Raises:
    DamagedError: if the file is cut off, altered or foreign.
    ResultError: if it is of another schema.
    OSError: if it cannot be read, FileNotFoundError if there is none.
  """
  data = pathlib.Path(path).read_bytes()
  try:
    record = json.loads(data)
    digest = _digest({k: v for k, v in record.items() if k != "checksum"})
  except (ValueError, AttributeError, RecursionError) as error:
    raise DamagedError(
      path, "expected a JSON object, cut off or foreign"
    ) from (error)
  if "checksum" not in record:
    raise DamagedError(path, "expected a checksum, got none: not a result file")
  if record["checksum"] != digest:
    raise DamagedError(path, "its checksum does not fit: it was altered")
  if record.get("schema") != SCHEMA:
    raise _unusable(
      path, f"expected schema {SCHEMA}, got {record.get('schema')!r}"
    )
  if problem := _problem(record):
    raise DamagedError(path, problem)
  return record


def find(
  path: str | os.PathLike[str], config: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Read the record of a configuration, if it has been written.

  Args:
    path: the file.
    config: the configuration that the record must have been made with.

  Returns:
    The record, or None where there is no file, or a damaged one, which is
    renamed.

  Raises:
    ResultError: if the file was made with another configuration, schema,
      release of bean_jax or setting of JAX, or cannot be read or renamed.
  """
  try:
    record = read(path)
  except FileNotFoundError:
    return None
  except DamagedError as error:
    set_aside(path, error)
    return None
  except (OSError, ValueError) as error:
    raise ResultError(
      f"{os.fspath(path)}: cannot be read ({reason(error)}); choose another"
      " folder"
    ) from error
  if config_digest(record["config"]) == config_digest(config):
    if difference := other_numbers(record):
      raise _unusable(path, difference)
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


def set_aside(path: str | os.PathLike[str], error: DamagedError) -> None:
  """Rename a damaged file and say so.

  Args:
    path: the file, which may have been renamed by another process meanwhile.
    error: what reading it raised.

  Raises:
    ResultError: if the file system refuses.
  """
  try:
    target = files.set_aside(pathlib.Path(path))
  except FileNotFoundError:
    return
  except OSError as refusal:
    raise ResultError(
      f"{error} (it could not be renamed: {reason(refusal)})"
    ) from refusal
  notices.warn(
    f"{os.fspath(path)}: {error.why}; renamed to {target.name}, not used"
  )


def reason(error: OSError | ValueError) -> str:
  """Say why the file system refuses, without the path.

  Args:
    error: what was raised.

  Returns:
    Such as "No space left on device".
  """
  return getattr(error, "strerror", None) or str(error)


def load_all(directory: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
  """Read every record of a folder.

  Args:
    directory: the folder; files that do not end in .json are passed over.

  Returns:
    The records by file name, in the order of the names.

  Raises:
    ResultError: if one of the files cannot be used, DamagedError if it is
      damaged.
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
  dataset: str, place: str, method: str, **hparams: float | str
) -> str:
  """Name the file of a cell, safely on every file system.

  Args:
    dataset: a word of lower-case letters, digits and underscores.
    place: a word, such as how many shots there are, or the network.
    method: a word.
    **hparams: numbers or words; their order does not matter.

  Returns:
    The file name.

  Raises:
    ValueError: if a part is not such a word, or a number is not finite, or the
      name is too long.

  Example:
    >>> cell_name("mnist", "1shot", "bean1", gamma=0.5, alpha=10.0)
    'mnist-1shot-bean1-alpha10-gamma0.5.json'
  """
  named = {"dataset": dataset, "place": place, "method": method}
  parts = [word(name, value) for name, value in named.items()]
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
    The fields `versions`, `device`, `git` and `settings` of a record.
  """
  device = jax.devices()[0]
  versions, git = _code()
  return {
    "versions": versions,
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
    },
    "git": git,
    "settings": jax_options.in_use(),
  }


def other_numbers(environment: Mapping[str, Any]) -> str | None:
  """Say whether something was made in a way that may give other numbers.

  Releases of this package may compute other numbers, and so does JAX by other
  keys or in another precision. Between releases the commit tells checkouts
  apart: of those one may have changed no more than a text.

  Args:
    environment: a record, or what `environment` returns.

  Returns:
    What was expected and what came, or None where they are the same.

  Example:
    >>> other_numbers({"versions": {"bean_jax": "0.0.1"}}).split(",")[0]
    'made by bean_jax 0.0.1'
  """
  # Checkpoints of foreign making may have anything there.
  made_by = _mapping(environment, "versions").get("bean_jax")
  if made_by != bean_jax.__version__:
    return f"made by bean_jax {made_by}, this is {bean_jax.__version__}"
  made_with, now = _mapping(environment, "settings"), jax_options.in_use()
  for name in jax_options.PINNED.keys() & now.keys() & made_with.keys():
    if made_with[name] != now[name]:
      return f"made with {name}={made_with[name]}, this is {now[name]}"
  return None


def mixed_versions(records: Sequence[Mapping[str, Any]]) -> str:
  """Say which versions records were made by, if not all by the same.

  Args:
    records: as `read` returns them.

  Returns:
    A sentence such as "Made by different versions: commit 1a2b3c4 (9 cells),
    5d6e7f8 (2)."; "" if there is nothing to say.

  Example:
    >>> records = [
    ...   {"versions": {"jax": version}, "git": None}
    ...   for version in ("0.10.1", "0.10.1", "0.11.2")
    ... ]
    >>> mixed_versions(records)
    'Made by different versions: jax 0.10.1 (2 cells), 0.11.2 (1).'
    >>> mixed_versions(records[:2])
    ''
  """
  found = _found_versions(records)
  parts = [
    f"{name} {_listed(counts)}"
    for name, counts in found.items()
    if len(counts) > 1
  ]
  if not parts:
    return ""
  return f"Made by different versions: {'; '.join(parts)}."


def tell_versions(records: Sequence[Mapping[str, Any]]) -> None:
  """Tell the user which records were made by other versions than these.

  Args:
    records: all that a run uses, as `read` returns them.
  """
  versions, git = _code()
  now = _versions_of(
    {"versions": versions, "git": git, "settings": jax_options.in_use()}
  )
  others = [record for record in records if _versions_of(record) != now]
  if not others:
    return
  none = {name: Counter(none=len(others)) for name in now}
  parts = [
    f"{name} {_listed(counts)}, now {now.get(name, 'none')}"
    for name, counts in (none | _found_versions(others)).items()
    if set(counts) != {now.get(name, "none")}
  ]
  if parts:
    notices.warn(
      f"{len(others)} of {len(records)} cells were made by other versions and"
      f" are used: {'; '.join(parts)}"
    )


def _found_versions(
  records: Sequence[Mapping[str, Any]],
) -> dict[str, Counter[str]]:
  """Count the records of every version, by the name of what has it."""
  made_by = [_versions_of(record) for record in records]
  names = dict.fromkeys(name for versions in made_by for name in versions)
  return {
    name: Counter(versions.get(name, "none") for versions in made_by)
    for name in names
  }


def _versions_of(record: Mapping[str, Any]) -> dict[str, str]:
  """Return all versions that a record names, that of the code first."""
  git = record.get("git") or {}
  commit = str(git.get("commit", "unknown"))[:7]
  changed = " with changes" if git.get("dirty") else ""
  versions = {k: str(v) for k, v in record.get("versions", {}).items()}
  # Of the settings only these may differ in records that are used together.
  variables = {
    name: text
    for name, text in record.get("settings", {}).items()
    if name in jax_options.VARIABLES
  }
  return {"commit": commit + changed, **versions, **variables}


def _mapping(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  value = fields.get(name)
  return value if isinstance(value, Mapping) else {}


def _listed(counts: Counter[str]) -> str:
  """Return versions with their numbers of cells, the most frequent first."""
  parts = [f"{name} ({count})" for name, count in counts.most_common(3)]
  first = counts.most_common(1)[0][1]
  parts[0] = f"{parts[0][:-1]} cell{'s' * (first > 1)})"
  if len(counts) > len(parts):
    parts.append(f"{len(counts) - len(parts)} more")
  return ", ".join(parts)


def _code() -> tuple[dict[str, str], dict[str, Any] | None]:
  """Return the versions of the packages and of the checkout."""
  versions = {"python": platform.python_version()}
  for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
    versions[package] = importlib.metadata.version(package)
  # Run from a clone, bean_jax need not be installed.
  versions["bean_jax"] = bean_jax.__version__
  return versions, _git(pathlib.Path(__file__).resolve().parents[2])


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
  return ResultError(_advice(path, why))


def _advice(path: str | os.PathLike[str], why: str) -> str:
  return (
    f"{os.fspath(path)}: {why}; move this file away or choose another folder"
  )


def _shown(config: Mapping[str, Any], name: str) -> str:
  return json.dumps(config[name]) if name in config else "nothing"


def word(name: str, value: Any) -> str:
  """Check a part of a file name: it cannot lead to another folder.

  Args:
    name: what the part is, for the error.
    value: the part.

  Returns:
    The part.

  Raises:
    ValueError: if it is no word of lower-case letters, digits and underscores.
  """
  if not isinstance(value, str) or not _WORD.fullmatch(value):
    raise ValueError(
      f"{name}: expected a word of lower-case letters, digits and underscores,"
      f" got {value!r}"
    )
  return value


def _hparam(name: str, value: Any) -> str:
  name = word("hparams", name)
  if isinstance(value, str):
    return f"{name}_{word(name, value)}"
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
