"""How much faster two processes are than one, each on a core of its own.

Each process runs `experiments.few_shot` as a user would, with its flags for
several processes. What is timed are its chunks after the first one, which
compiles: the seconds that a simulation takes, of all processes together.
"""

from collections.abc import Sequence
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import cases, timing
from experiments import few_shot
from experiments.population import chunks

_PROGRAM = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
from benchmarks import processes
processes.train(sys.argv[2:])
"""


def run(options: cases.Settings) -> cases.Case:
  """Times simulations by one process and by two."""
  cores = sorted(os.sched_getaffinity(0))[:2]
  if len(cores) < 2:
    raise RuntimeError(f"expected two cores, got {cores}: nothing to compare")
  args = (
    "--methods=bean1",
    "--shots=1",
    "--seeds=20",
    # Eight chunks, two devices of five simulations each.
    "--alphas=0.1,1,10,100",
    "--members_per_chunk=5",
    f"--epochs={2 if options.quick else 100}",
  )
  seconds: dict[int, list[float]] = {1: [], 2: []}
  for _ in range(1 if options.quick else options.repeats):
    for number, measured in seconds.items():
      measured.append(_simulation_seconds(cores[:number], args))
  rows = [
    timing.summary("one process on one core", seconds[1]),
    timing.summary("two processes on a core each", seconds[2]),
  ]
  rows[1]["faster_than_one_process"] = rows[0]["median"] / rows[1]["median"]
  return cases.Case("A few-shot simulation of LeNet-5, BEAN-1", "s", rows)


def train(argv: Sequence[str]) -> None:
  """Runs the script; prints (begin, end, simulations) of chunks as JSON."""
  train_chunk, spans = chunks.train, []

  def timed(chunk: list, *args: Any, **options: Any) -> dict:
    started = time.monotonic()
    trained = train_chunk(chunk, *args, **options)
    spans.append((started, time.monotonic(), len(chunk)))
    return trained

  chunks.train = timed
  flags.FLAGS.mark_as_parsed()
  status = few_shot.main(few_shot.FLAGS(["few_shot", *argv]))
  if status:
    sys.exit(status)
  print("\n" + json.dumps(spans))


def _simulation_seconds(cores: Sequence[int], args: Sequence[str]) -> float:
  """Returns the seconds a simulation takes, with a process on each core."""
  with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
    free.close()
    processes = []
    for number, core in enumerate(cores):
      others = (
        f"--coordinator_address={address}",
        f"--num_processes={len(cores)}",
        f"--process_id={number}",
      )
      processes.append(
        subprocess.Popen(
          [
            *(sys.executable, "-c", _PROGRAM, str(core)),
            *args,
            f"--output_dir={folder}",
            *(others if len(cores) > 1 else ()),
          ],
          cwd=pathlib.Path(__file__).resolve().parent.parent,
          stdout=subprocess.PIPE,
          text=True,
        )
      )
    return 1 / sum([_rate(process) for process in processes])


def _rate(process: subprocess.Popen) -> float:
  """Waits for a process; its simulations a second after the first chunk."""
  out, _ = process.communicate()
  if process.returncode:
    raise RuntimeError(f"{process.args}: exit status {process.returncode}")
  _, *spans = json.loads(out.splitlines()[-1])
  return sum(size for *_, size in spans) / (spans[-1][1] - spans[0][0])
