"""Files that are whole: the old content or the new, never a part."""

from collections.abc import Iterator
import contextlib
import itertools
import os
import pathlib
import secrets
import time

try:
  import fcntl
except ImportError:  # Windows has no flock.
  fcntl = None

_SUFFIX = ".tmp"


def expand(path: str | os.PathLike[str]) -> str:
  """Returns a path with the home folder, or a ValueError, in place of a ~."""
  expanded = os.path.expanduser(os.fspath(path))
  if expanded.startswith("~"):
    raise ValueError(
      f"no home folder for {expanded!r}; give a whole path, or set HOME"
    )
  return expanded


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file at once, whoever reads or writes it at the same time.

  The old file is untouched where the file system refuses.
  """
  # In the same folder, since a file is only renamed within a file system.
  temporary = path.with_name(f".{secrets.token_hex(8)}{_SUFFIX}")
  try:
    with open(temporary, "xb") as file:
      # Says to `remove_abandoned` that somebody still writes it.
      _try_lock(file.fileno())
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def remove_abandoned(directory: pathlib.Path) -> None:
  """Removes what processes that were killed in `replace` left behind.

  The kernel gives up the lock of a process that ends, however it ends. Where
  files cannot be locked, or not be removed, they are left alone.
  """
  if fcntl is None:
    return
  for path in directory.glob(f".{'[0-9a-f]' * 16}{_SUFFIX}"):
    with contextlib.suppress(OSError), open(path, "rb") as file:
      if _try_lock(file.fileno()) and _is_old(file.fileno()):
        path.unlink()


def set_aside(path: pathlib.Path) -> pathlib.Path:
  """Renames a file to NAME.damaged, or NAME.damaged.2, ...; returns to what."""
  for number in itertools.count(1):
    end = ".damaged" if number == 1 else f".damaged.{number}"
    target = path.with_name(path.name + end)
    # A name that is taken is not taken again, even at the same moment.
    with contextlib.suppress(FileExistsError):
      target.touch(exist_ok=False)
      break
  try:
    os.replace(path, target)
  except OSError:
    target.unlink()
    raise
  return target


@contextlib.contextmanager
def locked(path: pathlib.Path, *, patience: float) -> Iterator[bool]:
  """Holds a lock that one process has at a time, while the block runs.

  It is `flock`'s: the kernel takes it from a process that ends, however it
  ends, so that a crash blocks nobody. The file is removed with the lock.

  Yields:
    Whether the lock is held. It is not where the file system has no locks or
    the other process took more than `patience` seconds: then what is done must
    bear company.
  """
  descriptor = _acquire(path, patience)
  try:
    yield descriptor is not None
  finally:
    if descriptor is not None:
      # First, so that who waits sees that this file is nobody's lock any more.
      with contextlib.suppress(OSError):
        path.unlink()
      os.close(descriptor)


def _acquire(path: pathlib.Path, patience: float) -> int | None:
  """Returns the descriptor of a lock, or None where it cannot be had."""
  deadline = time.monotonic() + patience
  while fcntl is not None:
    try:
      descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError:
      return None
    held = _try_lock(descriptor)
    if held and _is_at(path, descriptor):
      return descriptor
    os.close(descriptor)
    if held is None or time.monotonic() > deadline:
      return None
    time.sleep(0.05)
  return None


def _try_lock(descriptor: int) -> bool | None:
  """Locks a file; False if somebody else has, None where there are no locks."""
  if fcntl is None:
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
  """Tells whether a path still leads to an open file."""
  try:
    return os.path.samestat(os.stat(path), os.fstat(descriptor))
  except FileNotFoundError:
    return False


def _is_old(descriptor: int) -> bool:
  """Tells whether a file is a minute old.

  A file is locked a moment after it was made; by then this one was.
  """
  return abs(time.time() - os.fstat(descriptor).st_mtime) > 60
