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

from collections.abc import Callable, Collection, Mapping
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import secrets
import subprocess
import time
from typing import Any

import jax
import numpy as np

import bean_jax
from experiments.machine import jax_options, notices
from experiments.records import files

Path = str | os.PathLike[str]
Record = dict[str, Any]  # As `read` returns it.

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


class ResultError(Exception):
  """A result file cannot be used or written; the text says what to do."""


class DamagedError(ResultError):
  """A file is cut off, altered or foreign; `why` says it without its name."""

  def __init__(self, path: Path, why: str):
    """Says what is wrong with a file, and what to do."""
    super().__init__(advice(path, why))
    self.why = why


def advice(path: Path, why: str) -> str:
  """Says why a file cannot be used, and what to do."""
  return (
    f"{os.fspath(path)}: {why}; move this file away or choose another folder"
  )


def reason(error: OSError | ValueError) -> str:
  """Says why the file system refuses, as "No space left on device"."""
  return getattr(error, "strerror", None) or str(error)


def write(path: Path, record: Mapping[str, Any]) -> None:
  """Writes a record, so that the file is the old one or the new one, whole.

  Arrays become lists; `schema` and `checksum` are added here. A `ValueError`
  says that a field is missing or is not what the schema says.
  """
  fields = {
    name: _plain(value, with_nan=name == "metrics")
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


def prepare_directory(directory: Path) -> None:
  """Creates a folder and its parents, and sees that it can be written to."""
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


def write_bytes(path: Path, data: bytes) -> None:
  """Writes a file, so that it is the old one or the new one, whole."""
  path = pathlib.Path(path)
  try:
    files.replace(path, data)
  except (OSError, ValueError) as error:
    raise ResultError(
      f"{path}: could not be written ({reason(error)}); make room there or"
      " choose another folder, what was finished before is kept"
    ) from error


def read(path: Path) -> Record:
  """Reads a record, `schema` and `checksum` among its fields.

  Raises:
    DamagedError: If the file is cut off, altered or foreign.
    ResultError: If it is of another schema.
    OSError: If it cannot be read, FileNotFoundError if there is none.
  """
  data = pathlib.Path(path).read_bytes()
  try:
    record = json.loads(data)
    digest = _digest({k: v for k, v in record.items() if k != "checksum"})
  except (ValueError, AttributeError, RecursionError) as error:
    raise DamagedError(
      path, "expected a JSON object, cut off or foreign"
    ) from error
  if "checksum" not in record:
    raise DamagedError(path, "expected a checksum, got none: not a result file")
  if record["checksum"] != digest:
    raise DamagedError(path, "its checksum does not fit: it was altered")
  if (schema := record.get("schema")) != SCHEMA:
    why = f"expected schema {SCHEMA}, got {schema!r}"
    raise ResultError(advice(path, why))
  if problem := _problem(record):
    raise DamagedError(path, problem)
  return record


def find(path: Path, config: Mapping[str, Any]) -> Record | None:
  """Reads the record of a configuration; None where there is none.

  A damaged one is renamed.

  Raises:
    ResultError: If the file was made with another configuration, schema,
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
  if why := other_config(record["config"], config) or other_numbers(record):
    raise ResultError(advice(path, why))
  return record


def made(
  path: Path,
  fields: Mapping[str, Any],
  measure: Callable[[], Mapping[str, Any]],
  *,
  resume: bool = True,
  metrics: Collection[str] = (),
) -> tuple[Record, bool]:
  """Finds a record, or measures what it needs, takes the time and writes it.

  A record that lacks one of the metrics is measured anew.

  What `measure` returns, `metrics` among it, is added to the fields, with the
  environment and the seconds. Also returns whether it was measured just now.
  """
  record = find(path, fields["config"]) if resume else None
  if record is not None and record["metrics"].keys() >= set(metrics):
    return record, False
  started = time.monotonic()
  measured = measure()
  seconds = round(time.monotonic() - started, 1)
  write(path, {**fields, **environment(), "seconds": seconds, **measured})
  return read(path), True


def set_aside(path: Path, error: DamagedError) -> None:
  """Renames a damaged file and says so, unless another process just has."""
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


def load_all(directory: Path) -> dict[str, Record]:
  """Reads every .json of a folder, by file name, in the order of the names."""
  paths = sorted(pathlib.Path(directory).iterdir())
  return {path.name: read(path) for path in paths if path.suffix == ".json"}


def metric(record: Mapping[str, Any], name: str) -> np.ndarray:
  """Returns a metric of a record [num_seeds, ...], NaN where it was null."""
  if name not in record["metrics"]:
    raise ValueError(
      f"metric: expected one of {sorted(record['metrics'])}, got {name!r}"
    )
  return np.array(record["metrics"][name], np.float64)


def config_digest(config: Mapping[str, Any]) -> str:
  """Digests a configuration: equal for equal fields, whatever their order."""
  return _digest(_plain(config))


def cell_name(dataset: str, place: str, method: str, **hparams: float) -> str:
  """Names the file of a cell; the place is its shots, or its network.

  A part that is no word, and could lead to another folder, is refused.

  Example:
    >>> cell_name("mnist", "1shot", "bean1", gamma=0.5, alpha=10.0)
    'mnist-1shot-bean1-alpha10-gamma0.5.json'
  """
  for word in (dataset, place, method, *hparams):
    if not _WORD.fullmatch(word):
      raise ValueError(
        "name of a cell: expected a word of lower-case letters, digits and"
        f" underscores, got {word!r}"
      )
  parts = [dataset, place, method]
  for name, value in sorted(hparams.items()):
    # l1 of 0.5 is not to be read as l of 10.5.
    separator = "_" if name[-1].isdigit() else ""
    # Whole numbers read alike as integers and as floats, and -0.0 as 0.
    parts.append(name + separator + str(value + 0).removesuffix(".0"))
  return "-".join(parts) + ".json"


def other_config(
  got: Mapping[str, Any], expected: Mapping[str, Any]
) -> str | None:
  """Says how configurations differ; None where they are the same."""
  ours, theirs = (
    {name: json.dumps(_plain(v), sort_keys=True) for name, v in fields.items()}
    for fields in (expected, got)
  )
  differences = [
    f"{name}: expected {ours.get(name, 'nothing')}, got "
    f"{theirs.get(name, 'nothing')}"
    for name in sorted(ours.keys() | theirs.keys())
    if ours.get(name) != theirs.get(name)
  ]
  text = f"made with another configuration ({'; '.join(differences)})"
  return text if differences else None


def other_numbers(environment: Mapping[str, Any]) -> str | None:
  """Says whether a record, or an environment, may give other numbers.

  Releases of this package may compute other numbers, and so does JAX by other
  keys or in another precision. Between releases the commit tells checkouts
  apart: of those one may have changed no more than a text.
  """
  # Checkpoints of foreign making may have anything there.
  versions, settings = (
    value if isinstance(value := environment.get(name), Mapping) else {}
    for name in ("versions", "settings")
  )
  made_by = versions.get("bean_jax")
  if made_by != bean_jax.__version__:
    return f"made by bean_jax {made_by}, this is {bean_jax.__version__}"
  now = jax_options.in_use()
  for name in jax_options.PINNED.keys() & now.keys() & settings.keys():
    if settings[name] != now[name]:
      return f"made with {name}={settings[name]}, this is {now[name]}"
  return None


def environment() -> dict[str, Any]:
  """Describes what a record is made with: versions, device, git, settings."""
  device = jax.devices()[0]
  versions = {"python": platform.python_version()}
  for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
    versions[package] = importlib.metadata.version(package)
  # Run from a clone, bean_jax need not be installed.
  versions["bean_jax"] = bean_jax.__version__
  return {
    "versions": versions,
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
    },
    "git": _git(pathlib.Path(__file__).resolve().parents[2]),
    "settings": jax_options.in_use(),
  }


def _git(root: pathlib.Path) -> dict[str, Any] | None:
  if not (root / ".git").exists():  # Perhaps inside another's checkout.
    return None
  git = ["git", "-C", str(root), "--no-optional-locks"]
  try:
    commit, changes = (
      subprocess.run(
        [*git, *arguments],
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


def _plain(value: Any, *, with_nan: bool = False) -> Any:
  """Returns a value as JSON gives it back, a NaN as None or refused."""

  def to_list(array: Any) -> Any:
    if isinstance(array, np.ndarray | np.generic | jax.Array):
      return np.asarray(array).tolist()
    raise TypeError(f"expected what JSON has or an array, got {array!r}")

  text = json.dumps(value, allow_nan=with_nan, default=to_list)
  return json.loads(text, parse_constant=lambda _: None)


def _digest(fields: Mapping[str, Any]) -> str:
  canonical = json.dumps(
    fields, sort_keys=True, separators=(",", ":"), allow_nan=False
  )
  return hashlib.sha256(canonical.encode()).hexdigest()


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


def _is_numeric(values: Any) -> bool:
  if isinstance(values, list):
    return all(map(_is_numeric, values))
  return values is None or isinstance(values, int | float)
