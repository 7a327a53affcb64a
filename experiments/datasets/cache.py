"""A checksummed cache of arrays, a file for each dataset.

One of the arrays says what the others are. A file that does not fit is
reported, never used and never deleted.

Of processes that need the same arrays at once, one makes them while the others
wait (`locked`). Also without locks there would be one good cache in the end:
all write it whole.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib

import numpy as np

from experiments.datasets.structure import DatasetError
from experiments.machine import notices
from experiments.records import archives, files


def folder() -> pathlib.Path:
  """Return the cache folder, which need not exist.

  It is `BEAN_JAX_CACHE` of the environment, else `bean_jax` in
  `XDG_CACHE_HOME`, else `~/.cache/bean_jax`.
  """
  chosen = os.environ.get("BEAN_JAX_CACHE")
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
  """Read cached arrays after checking every byte, None without a file."""
  try:
    content = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (OSError, ValueError) as error:
    raise DatasetError(
      f"The cached data {str(path)!r} cannot be read ({error}): make it"
      " readable, or set BEAN_JAX_CACHE to another folder."
    ) from error
  try:
    arrays = archives.unpack(content)
    if bytes(arrays.pop("identity", b"")) != _header(identity):
      raise ValueError("has other data")
  except ValueError as error:
    raise DatasetError(
      f"The cached data {path} cannot be used (it {error}): delete it and run"
      " again."
    ) from error
  return list(arrays.values())


def write(
  path: pathlib.Path,
  identity: Mapping[str, str],
  arrays: Sequence[np.ndarray],
) -> None:
  """Write arrays, and what they are, atomically.

  A folder that cannot be written costs the next run some time, but not this run
  its result: a line says so.
  """
  named = {f"array{place}": array for place, array in enumerate(arrays)}
  named["identity"] = np.frombuffer(_header(identity), np.uint8)
  packed = archives.pack(named)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, packed)
  except OSError as error:
    notices.warn(
      f"{path}: cannot be written ({error.strerror or error}): the data will "
      "be decoded again next time; set BEAN_JAX_CACHE to a folder with free "
      "space that can be written"
    )


def _header(identity: Mapping[str, str]) -> bytes:
  return json.dumps(identity).encode()
