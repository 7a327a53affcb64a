"""Full disks, folders that cannot be written, files in the way, clocks."""

import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time

import pytest

from experiments import few_shot
from experiments.population import store as stores
from experiments.records import checkpoints, results
from tests.experiments import in_process
from tests.faults import here

pytestmark = pytest.mark.usefixtures("tiny_networks")
# One script is quick.
NAMES = (
  "few_shot",
  pytest.param("table1", marks=pytest.mark.slow),
  pytest.param("full_data", marks=pytest.mark.slow),
)
# The cell that a run with these has not, with that of `SMALL` that it has.
MORE = {
  "few_shot": "--methods=vanilla,bean2",
  "table1": "--methods=vanilla,dropout",
  "full_data": "--methods=vanilla,bean2",
}


def assert_one_line(status, out, err):
  assert status == 2
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  # What is printed before an error is of cells that are done.
  assert all("cell" in line or "test" in line for line in out.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_disk_full(name, copy):
  """A limit for the size of files is what a process can set for itself."""
  folder = copy(name)
  before = in_process.contents(folder)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    status, out, err = here.run(name, folder, MORE[name])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert_one_line(status, out, err)
  assert "could not be written (File too large); make room" in err
  # Nothing is lost, and no half file is left.
  assert in_process.contents(folder) == before
  here.done(name, folder, MORE[name])
  after = in_process.contents(folder)
  assert len(after) > len(before)
  for place in before:
    if place.endswith((".json", ".npz")):
      assert after[place] == before[place]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
  "name,place",
  (
    ("few_shot", "digits-1shot-bean1-alpha1.json"),
    ("few_shot", "table.md"),
    pytest.param("table1", "evaluation/digits-1shot-vanilla.json", marks=SLOW),
    pytest.param("full_data", "digits-lenet5-vanilla.json", marks=SLOW),
    ("full_data", "checkpoints/digits-lenet5-vanilla-seed1.npz"),
  ),
)
def test_folder_in_the_place_of_a_file(name, place, tmp_path):
  (tmp_path / place).mkdir(parents=True)
  status, out, err = here.run(name, tmp_path)
  assert_one_line(status, out, err)
  assert str(tmp_path / place) in err
  # A table is written after all records.
  assert in_process.contents(tmp_path).keys() == (
    {"digits-1shot-vanilla.json", "digits-1shot-bean1-alpha1.json"}
    if place == "table.md"
    else set()
  )


@pytest.mark.parametrize("name", (NAMES[0], NAMES[2]))
def test_record_that_vanishes_while_it_is_read(name, copy, monkeypatch):
  folder = copy(name)
  before = in_process.contents(folder)
  read_bytes = pathlib.Path.read_bytes
  vanished = []

  def vanishing(path):
    if path.suffix == ".json" and not vanished:
      vanished.append(path)
      path.unlink()
    return read_bytes(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", vanishing)
  here.done(name, folder)
  assert len(vanished) == 1
  assert in_process.contents(folder).keys() == before.keys()


@pytest.mark.slow
def test_checkpoint_that_vanishes_after_it_was_read(copy, monkeypatch):
  folder = copy("full_data")
  (folder / "digits-lenet5-vanilla.json").unlink()
  path = folder / "checkpoints" / "digits-lenet5-vanilla-seed0.npz"
  checkpoint = checkpoints.load(path)
  metrics = {
    name: value
    for name, value in checkpoint.metrics.items()
    if name != "test_accuracy"
  }
  checkpoints.save(path, checkpoint._replace(metrics=metrics))
  find = stores.find

  def vanishing(*args):
    found = find(*args)
    path.unlink(missing_ok=True)
    return found

  with monkeypatch.context() as patch:
    patch.setattr(stores, "find", vanishing)
    before = in_process.contents(folder)
    status, out, err = here.run("full_data", folder)
  assert_one_line(status, out, err)
  assert f"{path}: cannot be read (No such file" in err
  after = in_process.contents(folder)
  for place in after:
    assert after[place] == before[place]
  here.done("full_data", folder)


# Clocks.


_MOMENTS = random.Random(0)


def jumping():
  """A wall clock that goes back and ahead by years at random."""
  return 1e9 + _MOMENTS.uniform(-1e9, 1e9)


@pytest.mark.parametrize("name", (NAMES[0], NAMES[2]))
def test_wall_clock_that_jumps(name, finished, tmp_path, monkeypatch):
  monkeypatch.setattr(time, "time", jumping)
  # So that the time left is shown, too.
  monkeypatch.setenv("TTY_COMPATIBLE", "1")
  monkeypatch.setenv("TERM", "xterm")
  started = time.monotonic()
  here.done(name, tmp_path)
  elapsed = time.monotonic() - started
  for path in tmp_path.glob("*.json"):
    record = results.read(path)
    expected = results.read(finished(name) / path.name)
    assert record["metrics"] == expected["metrics"]
    assert 0 <= record["seconds"] <= elapsed + 0.1
  for path in tmp_path.rglob("*.npz"):
    assert 0 <= checkpoints.load(path).metrics["seconds"] <= elapsed
  # Temporary files of any age are safe while they are written.
  (tmp_path / ".0123456789abcdef.tmp").touch()
  here.done(name, tmp_path)


# The scripts as a user starts them, on file systems of their own.

USER = (
  "--model=mlp500",
  "--methods=vanilla,bean1",
  "--alphas=0.1,1,10,100",
  "--shots=1",
  "--seeds=1",
  "--epochs=1",
)


def start_on(mount, tmp_path, *args):
  """Runs few_shot where a file system of its own is mounted."""
  folder = tmp_path / "mounted"
  folder.mkdir()
  command = f"""
    mount -t tmpfs {mount} tmpfs {folder} || exit 77
    {sys.executable} -m experiments.few_shot "$@" --output_dir={folder}/out
    status=$?
    cp -a {folder}/. {tmp_path}/copy
    exit $status
  """
  if shutil.which("unshare") is None:
    pytest.skip("needs unshare")
  process = subprocess.run(
    ["unshare", "--mount", "--map-root-user", "sh", "-c", command, "sh", *args],
    cwd=in_process.ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  if process.returncode == 77 or "unshare" in process.stderr:
    pytest.skip("needs the right to mount a file system")
  return process


@pytest.mark.slow
class TestMounted:
  def test_disk_that_gets_full(self, tmp_path):
    process = start_on("-o size=16k", tmp_path, *USER)
    assert_one_line(process.returncode, process.stdout, process.stderr)
    assert "No space left on device" in process.stderr
    out = tmp_path / "copy" / "out"
    records = results.load_all(out)
    # Some cells, not all, and nothing else.
    assert 0 < len(records) < 5
    assert len(os.listdir(out)) == len(records)
    assert process.stdout.count(": test ") == len(records)

  def test_read_only(self, tmp_path):
    process = start_on("-o ro", tmp_path, *USER)
    assert_one_line(process.returncode, process.stdout, process.stderr)
    assert "Read-only file system" in process.stderr
    assert "choose another folder" in process.stderr
    assert process.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(
  not pathlib.Path("/dev/full").exists(), reason="needs /dev/full"
)
def test_standard_output_on_a_full_disk(tmp_path):
  with open("/dev/full", "w") as full:
    process = in_process.as_user(
      few_shot, *USER, f"--output_dir={tmp_path}", stdout=full
    )
  assert process.returncode == 2
  assert process.stderr.count("\n") == 1
  assert "output could not be written (No space left" in process.stderr
  assert results.load_all(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag,status,lines", (("--help", 141, 0), ("--no_such_flag", 2, 1))
)
def test_output_that_nobody_reads(flag, status, lines):
  """As of `--help | head`, where head has ended already."""
  reader, writer = os.pipe()
  os.close(reader)
  process = in_process.as_user(few_shot, flag, stdout=writer)
  os.close(writer)
  assert (process.returncode, process.stderr.count("\n")) == (status, lines)
