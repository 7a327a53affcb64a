"""Several processes at one file: the cache of decoded data, and locks."""

import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from experiments.datasets import cache
from experiments.records import files
from tests.experiments import in_process

IDENTITY = {"dataset": "mnist", "version": "1.0.0", "fingerprint": "f" * 64}

# Loads MNIST through the cache in the folder argv[1]. Decoding takes argv[2]
# seconds and leaves a line in the file "decoded".
LOAD = """
import os, pathlib, sys, time
import numpy as np
from experiments import datasets
from experiments.datasets import copies, prepared
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
def decode(name, copy):
  with open(folder / "decoded", "a") as file:
    file.write(f"{os.getpid()}\\n")
  time.sleep(seconds)
  return [np.arange(8 * 784, dtype=np.uint8).reshape(8, 28, 28, 1),
          np.arange(8, dtype=np.int32)] * 2
prepared.decode = decode
copies.find_or_prepare = lambda *_: copies.Copy(folder, "1.0.0")
copies.fingerprint = lambda _: "f" * 64
print("ready", flush=True)
sys.stdin.readline()
os.environ["BEAN_JAX_CACHE"] = str(folder / "cache")
dataset = datasets.load("mnist")
print(int(dataset.test.images.sum()))
"""


@pytest.fixture
def start():
  """Starts a program with arguments, which waits until it has said "ready"."""
  started = []

  def start(program, *args):
    process = subprocess.Popen(
      [sys.executable, "-c", program, *map(str, args)],
      cwd=in_process.ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == "ready\n"
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def go(*processes):
  for process in processes:
    process.stdin.write("\n")
    process.stdin.flush()


def num_decoded(tmp_path):
  """How often the data was decoded, into a cache of one whole file."""
  (path,) = (tmp_path / "cache").iterdir()
  assert path.suffix == ".npz"
  return len((tmp_path / "decoded").read_text().splitlines())


def test_two_writers_decode_once(start, tmp_path):
  processes = [start(LOAD, tmp_path, 0.5) for _ in range(3)]
  go(*processes)
  outputs = [process.communicate(timeout=60) for process in processes]
  assert len({out for out, _ in outputs}) == 1
  # One says that it decodes, the others say nothing.
  *silent, line = sorted(err for _, err in outputs)
  assert silent == ["", ""]
  assert line.startswith("decoding mnist into ")
  assert line.count("\n") == 1
  # The cache is good: a last one decodes nothing.
  last = start(LOAD, tmp_path, 0)
  go(last)
  assert last.communicate(timeout=60) == (outputs[0][0], "")
  assert num_decoded(tmp_path) == 1


def test_a_writer_that_was_killed_blocks_nobody(start, tmp_path):
  first, second = (start(LOAD, tmp_path, seconds) for seconds in (1000, 0))
  go(first)
  deadline = time.monotonic() + 60
  while not (tmp_path / "decoded").exists():
    assert time.monotonic() < deadline
    time.sleep(0.01)
  go(second)
  time.sleep(0.3)
  # It waits.
  assert second.poll() is None
  first.send_signal(signal.SIGKILL)
  out, err = second.communicate(timeout=60)
  assert second.returncode == 0
  assert err.startswith("decoding mnist into ")
  assert err.count("\n") == 1
  assert int(out) > 0
  assert num_decoded(tmp_path) == 2


def test_a_lock_that_was_left_behind_blocks_nobody(tmp_path):
  path = tmp_path / "lock"
  path.touch()
  with files.locked(path, patience=0) as first:
    with files.locked(path, patience=0.2) as second:
      assert (first, second) == (True, False)
    # The second has not taken the first one's lock away.
    with files.locked(path, patience=0) as third:
      assert not third
  assert not path.exists()


def test_folder_without_a_lock(tmp_path):
  with files.locked(tmp_path / "none" / "lock", patience=60) as held:
    assert not held
  (tmp_path / "file").touch()
  with cache.locked(tmp_path / "file" / "x.npz"):
    pass


def refuse(*_):
  raise OSError(37, "No locks available")


# A file system without locks, and a system without fcntl.
@pytest.mark.parametrize(
  "fcntl", (types.SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4), None)
)
def test_where_there_are_no_locks(fcntl, tmp_path, monkeypatch):
  monkeypatch.setattr(files, "fcntl", fcntl)
  with files.locked(tmp_path / "lock", patience=60) as held:
    assert not held
  files.replace(tmp_path / "x", b"1")
  files.remove_abandoned(tmp_path)
  cache.write(tmp_path / "x.npz", IDENTITY, [np.arange(3)])
  assert cache.read(tmp_path / "x.npz", IDENTITY)


# Temporary files of processes that were killed while they wrote.

WRITE = """
import os, pathlib, sys, time
from experiments.records import files
os.fsync = lambda _: (print("ready", flush=True), time.sleep(1000))
files.replace(pathlib.Path(sys.argv[1]), b"12345")
"""


def age(*paths):
  """Makes temporary files two minutes old."""
  for path in paths:
    then = time.time() - 120
    os.utime(path, (then, then))


def test_what_a_killed_writer_left_is_removed(start, tmp_path):
  path = tmp_path / "record.json"
  path.write_bytes(b"old")
  process = start(WRITE, path)
  (temporary,) = tmp_path.glob(".*.tmp")
  age(temporary)
  # It is still being written.
  files.remove_abandoned(tmp_path)
  assert temporary.exists()
  process.kill()
  process.communicate()
  files.remove_abandoned(tmp_path)
  assert os.listdir(tmp_path) == ["record.json"]
  assert path.read_bytes() == b"old"


def test_other_files_are_not_removed(tmp_path):
  names = ("x.tmp", ".x.tmp", ".0123456789abcdef.txt", "0123456789abcdef.tmp")
  for name in names:
    (tmp_path / name).touch()
  fresh = tmp_path / ".0123456789abcdef.tmp"
  fresh.touch()
  old = tmp_path / ".1123456789abcdef.tmp"
  old.touch()
  age(old, tmp_path / ".x.tmp")
  files.remove_abandoned(tmp_path)
  assert sorted(os.listdir(tmp_path)) == sorted([*names, fresh.name])
