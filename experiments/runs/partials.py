"""Members of cells that are not whole yet, kept as files.

A cell that takes several chunks, or several processes, is kept chunk by chunk
in a folder of its own, `partial/CELL-DIGEST` beside the cell's record, which is
removed once the record is written. Its files are records of some of the seeds.
The digest stands for everything that the last bits depend on: members of
another version, device or width of chunks are in another folder, and are never
mixed with these.
"""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import numpy as np

from experiments.records import results

Metrics = dict[str, np.ndarray]

FOLDER = "partial"
# Of `results.environment`: what the numbers of a record are made with.
_MADE_WITH = ("versions", "device", "git", "settings")


def folder(
  path: pathlib.Path, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> pathlib.Path:
  """Names the folder of a cell's members.

  Args:
    path: File of the cell's record.
    config: Everything that the members depend on but for their seeds.
    environment: What they are made with, as `results.environment` gives it.

  Returns:
    The folder, which need not exist.
  """
  made_with = {name: environment[name] for name in _MADE_WITH}
  # Members are the same on any number of devices.
  made_with["device"] = {**made_with["device"], "count": None}
  digest = results.config_digest({"config": config, **made_with})
  return path.parent / FOLDER / f"{path.stem}-{digest[:16]}"


def keep(
  directory: pathlib.Path,
  members: Mapping[int, Metrics],
  *,
  config: Mapping[str, Any],
  environment: Mapping[str, Any],
) -> None:
  """Writes members of a cell, in one file.

  Args:
    directory: What `folder` named.
    members: Metrics by seed, `seconds` among them.
    config: As given to `folder`.
    environment: As given to `folder`.

  Raises:
    results.ResultError: If the file system refuses.
  """
  results.prepare_directory(directory)
  names = next(iter(members.values()))
  record = {
    "experiment": "partial",
    "config": dict(config),
    **environment,
    "seconds": float(sum(member["seconds"] for member in members.values())),
    "seeds": list(members),
    "metrics": {
      name: np.stack([member[name] for member in members.values()])
      for name in names
    },
  }
  # No seed is trained twice, so that its file is nobody else's.
  results.write(directory / f"seed{min(members)}.json", record)


def make_reader(
  directory: pathlib.Path, config: Mapping[str, Any]
) -> Callable[[], dict[int, Metrics]]:
  """Makes a function that reads members, each file once.

  Args:
    directory: What `folder` named.
    config: As given to `folder`.

  Returns:
    A function that returns the metrics of all members there are now, by seed.
    It raises `results.ResultError` if a file cannot be used.
  """
  members: dict[int, Metrics] = {}
  known: set[str] = set()

  def read() -> dict[int, Metrics]:
    for path in sorted(directory.glob("seed*.json")):
      if path.name in known:
        continue
      # A damaged file is renamed, and its members are trained again.
      record = results.find(path, config)
      known.add(path.name)
      if record is not None:
        for place, seed in enumerate(record["seeds"]):
          members[seed] = {
            name: _array(values[place])
            for name, values in record["metrics"].items()
          }
    return dict(members)

  return read


def others(directory: pathlib.Path, path: pathlib.Path) -> list[pathlib.Path]:
  """Lists folders of the same cell whose members were made otherwise.

  Args:
    directory: What `folder` named.
    path: File of the cell's record.
  """
  digest = "[0-9a-f]" * 16
  found = directory.parent.glob(f"{path.stem}-{digest}")
  return sorted(other for other in found if other != directory)


def discard(directory: pathlib.Path) -> None:
  """Removes the members of a cell whose record is written.

  Args:
    directory: What `folder` named; it need not exist. What cannot be removed
      is left, and so is what was damaged and renamed.
  """
  try:
    for path in directory.iterdir():
      if ".damaged" not in path.name:
        path.unlink()
    directory.rmdir()
    directory.parent.rmdir()
  except OSError:
    # Other cells have members there, or there was none.
    return


def _array(value: Any) -> np.ndarray:
  """Returns a metric as it was before it was written; null was not finite."""
  numbers = np.array(value, dtype=object)
  if all(type(number) is int for number in numbers.flat):
    return numbers.astype(np.int64)
  return np.array(value, dtype=np.float64)
