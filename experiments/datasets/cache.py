"""A checksummed cache of arrays, a file for each dataset.

The file is an archive of NumPy's, without pickle, and after it the SHA-256 of
that; one of the arrays says what the others are. A file that does not fit is
reported, never used and never deleted.

Of processes that need the same arrays at once, one makes them while the others
wait (`locked`). Also without locks there would be one good cache in the end:
all write it whole.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import io
import json
import os
import pathlib
import zipfile

import numpy as np

from experiments.datasets.structure import DatasetError
from experiments.machine import notices
from experiments.records import files

_DIGEST = 64  # Bytes of a SHA-256, written in hexadecimal.


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
  """Read cached arrays after checking every byte, None where there is no file.

  Raises:
    DatasetError: the file cannot be read, was altered, or has other data than
      those of this identity.
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
  archive, digest = content[:-_DIGEST], content[-_DIGEST:]
  if digest != _digest(archive):
    raise _altered(path, "it does not match its checksum")
  try:
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
      found, *rest = arrays.values()
  except (ValueError, OSError, zipfile.BadZipFile) as error:
    raise _altered(path, "it does not hold arrays") from error
  if str(found) != json.dumps(identity):
    raise _altered(path, "it has other data")
  return rest


def write(
  path: pathlib.Path,
  identity: Mapping[str, str],
  arrays: Sequence[np.ndarray],
) -> None:
  """Write arrays, and what they are, atomically.

  A folder that cannot be written costs the next run some time, but not this run
  its result: a line says so.
  """
  buffer = io.BytesIO()
  named = {f"array{place}": array for place, array in enumerate(arrays)}
  np.savez(buffer, identity=json.dumps(identity), **named)
  archive = buffer.getvalue()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, archive + _digest(archive))
  except OSError as error:
    notices.warn(
      f"{path}: cannot be written ({error.strerror or error}): the data will "
      "be decoded again next time; set BEAN_JAX_CACHE to a folder with free "
      "space that can be written"
    )


def _altered(path: pathlib.Path, reason: str) -> DatasetError:
  """Return the error for a cache which must not be used."""
  return DatasetError(
    f"The cached data {path} was truncated or altered ({reason}): delete it"
    " and run again."
  )


def _digest(content: bytes) -> bytes:
  return hashlib.sha256(content).hexdigest().encode()
