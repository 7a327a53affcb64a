"""Starts scripts with small networks in processes of their own."""

import os
import socket
import subprocess
import sys
import time

from tests.experiments import in_process

_PROGRAM = """
import sys, time
from experiments import datasets
from experiments.architectures import networks
from experiments.command import scripts
from experiments.machine import devices, progress
from tests.experiments import tiny
name, num_cores, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sys.argv[1:4] = []
whole = name == "full_data"
networks.make = lambda *_, **__: tiny.NORMED if whole else tiny.NETWORK
digits = tiny.load_few_digits() if whole else tiny.load_digits(50)
datasets.load = lambda *args, **kwargs: digits
devices.num_cores = lambda: num_cores
update = progress.rich_progress.Progress.update
def slow(*args, **kwargs):
  update(*args, **kwargs)
  time.sleep(pause)
progress.rich_progress.Progress.update = slow
module = __import__("experiments." + name, fromlist=["main"])
scripts.start(module.main, module.FLAGS)
"""


def start(name, *args, num_cores=2, pause=0.0):
  """Starts a script as if on so many cores, with a pause after every tick."""
  command = [sys.executable, "-W", "error", "-c", _PROGRAM]
  environment = {
    key: value
    for key, value in os.environ.items()
    if not key.startswith(("SLURM_", "XLA_FLAGS", "FORCE_COLOR"))
  }
  return subprocess.Popen(
    [*command, name, str(num_cores), str(pause), *map(str, args)],
    cwd=in_process.ROOT,
    env={**environment, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_all(name, *args, num_processes, last=(), **options):
  """Starts the processes of a run, the last with further arguments."""
  if num_processes == 1:
    return [start(name, *args, *last, **options)]
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  return [
    start(
      name,
      *args,
      f"--coordinator_address=localhost:{port}",
      f"--num_processes={num_processes}",
      f"--process_id={process}",
      *(last if process == num_processes - 1 else ()),
      **options,
    )
    for process in range(num_processes)
  ]


def finish(processes, *, seconds=300):
  """Waits for processes; (exit status, output, errors) of each."""
  ends = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=seconds)
      ends.append((process.returncode, out, err))
  finally:
    for process in processes:
      process.kill()
      process.wait()
  return ends


def wait_for(folder, pattern, processes, *, number=1, seconds=300):
  """Waits until so many files are there, while processes run."""
  deadline = time.monotonic() + seconds
  while len(list(folder.glob(pattern))) < number:
    assert time.monotonic() < deadline, pattern
    for process in processes:
      assert process.poll() is None, process.communicate()
    time.sleep(0.01)
