"""Files that are whole: the old content or the new, never a part."""

import os
import pathlib
import secrets


def replace(path: pathlib.Path, content: bytes) -> None:
  """Write a file at once, whoever reads or writes it at the same time.

  Args:
    path: the file, in a folder that exists.
    content: all that it will hold.

  Raises:
    OSError: if the file system refuses; the old file is untouched then.

  Example:
    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "numbers"
    >>> replace(path, b"1 2 3")
    >>> path.read_bytes()
    b'1 2 3'
  """
  # In the same folder, since a file is only renamed within a file system.
  temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
  try:
    with open(temporary, "xb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
