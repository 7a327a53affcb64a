"""The file of a suite: every case with what it was measured on."""

import datetime
import importlib.metadata
import json
import pathlib
from typing import Any

from benchmarks import cases
from experiments.machine import devices
from experiments.records import results

SCHEMA = 1


def describe(
  case: cases.Case, options: cases.Settings, load_average: float
) -> dict[str, Any]:
  """Turns a case into what JSON can hold, with what it was measured on."""
  environment = results.environment()
  if options.torch:
    environment["versions"]["torch"] = importlib.metadata.version("torch")
  return {
    **case._asdict(),
    "rates": None if case.rates is None else case.rates._asdict(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "repeats": options.repeats,
    "quick": options.quick,
    "cores": devices.num_cores(),
    "load_average_before": load_average,
    **environment,
  }


def merge(
  path: pathlib.Path, suite: str, name: str, record: dict[str, Any]
) -> None:
  """Puts a case into the file of its suite; other cases stay as they were."""
  stored = {"schema": SCHEMA, "suite": suite, "cases": {}}
  if path.exists():
    stored = read(path)
  stored["cases"][name] = record
  text = json.dumps(stored, indent=1, allow_nan=False)
  results.write_bytes(path, (text + "\n").encode())


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads the file of a suite."""
  try:
    stored = json.loads(path.read_bytes())
    fits = stored["schema"] == SCHEMA and isinstance(stored["cases"], dict)
  except (OSError, ValueError, TypeError, KeyError):
    fits = False
  if not fits:
    raise results.ResultError(
      f"{path}: expected results of benchmarks of schema {SCHEMA}; move this "
      "file away or choose another folder"
    )
  return stored
