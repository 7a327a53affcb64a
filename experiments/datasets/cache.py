"""A checksummed cache of arrays: one file of arrays and one JSON beside it.

The file holds the arrays one after another in NumPy's own format, without
pickle, so equal arrays make equal bytes. The JSON of the same name holds the
SHA-256 of the file, the shapes, and what the arrays are. A file that does not
fit its JSON is reported, never used and never deleted.

Of processes that need the same arrays at once, one makes them while the others
wait (`locked`). Also without locks there would be one good cache in the end:
both write the same bytes, each whole.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import io
import json
import os
import pathlib

import numpy as np

from experiments.datasets.structure import DatasetError
from experiments.machine import notices
from experiments.records import files


def folder(cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """Return the cache folder, which need not exist.

  It is the argument, else `BEAN_JAX_CACHE` of the environment, else `bean_jax`
  in `XDG_CACHE_HOME`, else `~/.cache/bean_jax`.

  Raises:
    DatasetError: there is no home folder.
  """
  chosen = cache_dir or os.environ.get("BEAN_JAX_CACHE")
  if not chosen:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.path.join(home, "bean_jax")
  try:
    return pathlib.Path(files.expand(chosen))
  except ValueError as error:
    raise DatasetError(
      f"The decoded data cannot be kept ({error}): set BEAN_JAX_CACHE to a "
      "folder."
    ) from error


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Let one process at a time run the block.

  The lock ends with its process, however that ends. Where there can be no
  lock, or who has it takes more than ten minutes, the block runs all the same.
  """
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
  with files.locked(path.with_name(f".{path.name}.lock"), patience=600):
    yield


def read(
  path: pathlib.Path, identity: Mapping[str, str]
) -> list[np.ndarray] | None:
  """Read cached arrays after checking every byte.

  Returns:
    The arrays in the order they were written, or None where there is no file.

  Raises:
    DatasetError: the file cannot be read, or does not fit its JSON.
  """
  try:
    content = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError) as error:
    raise DatasetError(
      f"The cached data {str(path)!r} cannot be read ({error}): make it"
      " readable, or set BEAN_JAX_CACHE to another folder."
    ) from error
  record = _read_record(path)
  if {name: record.get(name) for name in identity} != dict(identity):
    raise _altered(path, "its JSON belongs to other data")
  if record.get("sha256") != hashlib.sha256(content).hexdigest():
    raise _altered(path, "it does not match its checksum")
  try:
    arrays = _decode(content)
  except ValueError as error:
    raise _altered(path, "it does not hold arrays") from error
  if record.get("shapes") != [list(array.shape) for array in arrays]:
    raise _altered(path, "its arrays have other shapes than its JSON says")
  return arrays


def write(
  path: pathlib.Path,
  identity: Mapping[str, str],
  arrays: Sequence[np.ndarray],
) -> None:
  """Write arrays and their JSON, each atomically.

  A folder that cannot be written costs the next run some time, but not this run
  its result: a line says so.
  """
  content = _encode(arrays)
  record = {
    **identity,
    "shapes": [list(array.shape) for array in arrays],
    "sha256": hashlib.sha256(content).hexdigest(),
  }
  sidecar = json.dumps(record, indent=2, sort_keys=True) + "\n"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The JSON goes first. Killed in between, it stands alone, which `read`
    # takes for an empty cache; a file without JSON would be an error.
    files.replace(path.with_suffix(".json"), sidecar.encode())
    files.replace(path, content)
  except OSError as error:
    notices.warn(
      f"{path}: cannot be written ({error.strerror or error}): the data will "
      "be decoded again next time; set BEAN_JAX_CACHE to a folder with free "
      "space that can be written"
    )


def _read_record(path: pathlib.Path) -> dict[str, object]:
  sidecar = path.with_suffix(".json")
  try:
    record = json.loads(sidecar.read_bytes())
  except FileNotFoundError as error:
    raise _altered(path, f"{sidecar.name} beside it is missing") from error
  except (OSError, ValueError, RecursionError) as error:
    raise _altered(path, f"{sidecar.name} cannot be read") from error
  if not isinstance(record, dict):
    raise _altered(path, f"{sidecar.name} is not a JSON object")
  return record


def _altered(path: pathlib.Path, reason: str) -> DatasetError:
  """Return the error for a cache which must not be used."""
  return DatasetError(
    f"The cached data {path} was truncated or altered ({reason}): delete it"
    " and run again."
  )


def _encode(arrays: Sequence[np.ndarray]) -> bytes:
  buffer = io.BytesIO()
  for array in arrays:
    np.lib.format.write_array(buffer, array, allow_pickle=False)
  return buffer.getvalue()


def _decode(content: bytes) -> list[np.ndarray]:
  buffer = io.BytesIO(content)
  arrays = []
  while buffer.tell() < len(content):
    arrays.append(np.lib.format.read_array(buffer, allow_pickle=False))
  return arrays
