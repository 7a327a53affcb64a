"""Archives of arrays: .npz files that end with a digest of themselves.

NumPy alone reads them anywhere, without pickle. The SHA-256 of all bytes before
is the comment of the zip archive that an .npz is.
"""

from collections.abc import Mapping
import hashlib
import io
import zipfile

import numpy as np

_DIGEST_SIZE = 64  # SHA-256 in hexadecimal.


def sign(content: bytes) -> bytes:
  """Returns bytes with their digest behind them."""
  return content + hashlib.sha256(content).hexdigest().encode()


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Returns the archive of arrays of numbers, equal ones for equal arrays."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, array in arrays.items():
      if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers, got {array.dtype}")
      # Its date is constant.
      entry = zipfile.ZipInfo(f"{name}.npy")
      with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
    archive.comment = b"0" * _DIGEST_SIZE
  return sign(buffer.getvalue()[:-_DIGEST_SIZE])


def unpack(data: bytes) -> dict[str, np.ndarray]:
  """Returns the arrays of an archive, after checking every byte.

  Raises:
    ValueError: If it is cut off or altered, or holds no arrays.
  """
  if sign(data[:-_DIGEST_SIZE]) != data:
    raise ValueError("does not end with its SHA-256: cut off or altered")
  # A foreign archive shows as one of many exceptions, from zipfile's to zlib's.
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
      return dict(archive)
  except Exception as error:
    raise ValueError("holds no arrays") from error
