"""Prepared copies of datasets of TensorFlow Datasets (TFDS) on disk.

A copy in TFDS's array_record format is read without TensorFlow. Only preparing
one, which downloads the data, needs TensorFlow.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

from experiments.datasets.structure import DatasetError, install
from experiments.machine import notices
from experiments.records import files

# To be raised when decoding changes, so that older caches are not used.
_CACHE_FORMAT = 3
_RECORDS = ".array_record"  # In the names of files of records.


class Copy(NamedTuple):
  """A prepared dataset: the folder of one version."""

  path: pathlib.Path
  version: str


def find_or_prepare(name: str, data_dir: str | os.PathLike[str] | None) -> Copy:
  """Return the prepared copy, which is prepared now where there is none."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
  try:
    root = pathlib.Path(files.expand(chosen or "~/tensorflow_datasets"))
  except ValueError as error:
    raise DatasetError(
      f"The data folder cannot be found ({error}): point --data_dir or"
      " TFDS_DATA_DIR at it. The dataset digits needs none."
    ) from error
  # TFDS makes its default folder; a name that the user gave may be mistyped.
  present = _names(root, missing_ok=not chosen)
  copy = _find(name, root)
  if copy is None:
    _prepare_or_explain(name, root, present)
    copy = _find(name, root)
  if copy is None:
    raise DatasetError(
      f"TensorFlow Datasets left no array_record copy of {name} in {root}:"
      " point --data_dir or TFDS_DATA_DIR at a prepared copy."
    )
  return copy


def _prepare_or_explain(
  name: str, root: pathlib.Path, present: list[str]
) -> None:
  """Prepare a dataset, or say why not and what else can be done."""
  if not _has_tensorflow():
    found = f" (it has {', '.join(present[:8])})" if present else ""
    raise DatasetError(
      f"{root} has no prepared {name}{found}, and preparing it needs"
      f" TensorFlow: {install('download')}. Or point --data_dir or"
      " TFDS_DATA_DIR at a prepared copy. The dataset digits needs neither."
    )
  tfds = import_tfds()
  notices.note(
    f"downloading and preparing {name} in {root}; without a network this gives "
    "up after some minutes"
  )
  # A failing network, a full disk and a broken TensorFlow have no exception
  # type in common.
  try:
    # A format that is read without TensorFlow.
    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    builder.download_and_prepare()
  except ImportError as error:
    raise DatasetError(
      f"Preparing {name} needs a package that is missing"
      f" ({first_line(error)}): {install('download')}."
    ) from error
  except Exception as error:
    raise DatasetError(
      f"Cannot download and prepare {name} in {root} ({first_line(error)}):"
      " check the network and the free space and run again, or point --data_dir"
      " or TFDS_DATA_DIR at a prepared copy. The dataset digits needs neither."
    ) from error


def _find(name: str, root: pathlib.Path) -> Copy | None:
  """Return the newest version of a dataset that can be read, if any."""
  versions = [
    version
    for version in _names(root / name, missing_ok=True)
    if re.fullmatch(r"\d+\.\d+\.\d+", version)
    and "dataset_info.json" in _names(root / name / version)
  ]
  versions.sort(key=lambda version: [int(part) for part in version.split(".")])
  for version in reversed(versions):
    copy = Copy(root / name / version, version)
    if any(_RECORDS in name for name in _names(copy.path)):
      return copy
  if versions:
    raise DatasetError(
      f"{root / name / versions[-1]} has no array_record files, and other"
      " formats need TensorFlow to be read: point --data_dir or TFDS_DATA_DIR"
      f" at a folder with {name} in array_record format, or at an empty one to"
      f" prepare it anew ({install('download')})."
    )
  return None


def _names(path: pathlib.Path, *, missing_ok: bool = False) -> list[str]:
  """Return the names in a folder, sorted."""
  try:
    return sorted(os.listdir(path))
  except (OSError, ValueError) as error:
    if missing_ok and isinstance(error, FileNotFoundError):
      return []
    reason = getattr(error, "strerror", None) or error
    raise DatasetError(
      f"The data folder {str(path)!r} cannot be read ({reason}): correct"
      " --data_dir or TFDS_DATA_DIR, or make the folder."
    ) from error


def fingerprint(copy: Copy) -> str:
  """Return a SHA-256 of all that decoding a copy depends on.

  Names and contents of its descriptions and record files: sizes would not do,
  as record files are padded to whole blocks.
  """
  names = [
    name
    for name in _names(copy.path)
    if name in ("dataset_info.json", "features.json") or _RECORDS in name
  ]
  try:
    contents = {}
    for name in names:
      with (copy.path / name).open("rb") as file:
        contents[name] = hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise DatasetError(
      f"The data folder {copy.path} cannot be read ({error}): make it readable,"
      " or point --data_dir or TFDS_DATA_DIR at another copy."
    ) from error
  whole = json.dumps([_CACHE_FORMAT, contents])
  return hashlib.sha256(whole.encode()).hexdigest()


def _has_tensorflow() -> bool:
  """Tell whether TensorFlow is installed, without importing it."""
  return importlib.util.find_spec("tensorflow") is not None


def import_tfds() -> Any:
  """Import TFDS when it is needed: it is slow to import, and optional."""
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise DatasetError(
      "This dataset needs tensorflow-datasets:"
      f" {install('experiments')}. The dataset digits does not."
    ) from error
  return tensorflow_datasets


def first_line(error: Exception) -> str:
  """Return the kind of an error and the first line of its message."""
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)
