"""Kills a sweep at random moments, again and again, and counts what is lost.

    python -m tests.faults.kill_sweep --kills=100 --script=few_shot
    python -m tests.faults.kill_sweep --kills=100 --script=full_data

A run without a kill shows what is expected and how long it takes. Then the same
command is started in another folder and killed with SIGKILL at a uniformly
random moment of that time, until it gets to its end; then in a third folder,
and so on, until there were enough kills. After every kill all files that were
whole must still be there, with the same bytes; at every end the numbers must be
equal, to the bit, to those of the run without a kill.

Prints a line a sweep and exits with status 0 if nothing was lost, else 1.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from experiments.population import store
from experiments.records import checkpoints, results
from tests.experiments import in_process

SMALL = {
  "few_shot": (
    *("--model=mlp500", "--methods=vanilla,bean1", "--alphas=1,10,100"),
    *("--shots=1", "--seeds=2", "--epochs=4", "--members_per_chunk=1"),
    "--checkpoint_seconds=0",
  ),
  "full_data": (
    *("--model=mlp500", "--methods=vanilla,bean1", "--alphas=1,10"),
    *("--seeds=2", "--epochs=4", "--checkpoint_seconds=0"),
  ),
}


@dataclasses.dataclass
class Counts:
  """What became of a number of kills, some before the table, which is last."""

  kills: int = 0
  in_training: int = 0
  sweeps: int = 0
  problems: list[str] = dataclasses.field(default_factory=list)


def start(script: str, folder: pathlib.Path) -> subprocess.Popen:
  """Starts a script as a user does."""
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      f"experiments.{script}",
      *SMALL[script],
      f"--output_dir={folder}",
    ],
    cwd=in_process.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    # The whole group is killed, whatever it has started.
    start_new_session=True,
  )


def finish(process: subprocess.Popen) -> None:
  """Waits for a script's end, which must be a good one."""
  _, err = process.communicate(timeout=600)
  if process.returncode or "renamed to" in err:
    raise RuntimeError(f"exit status {process.returncode}: {err}")


def wait(process: subprocess.Popen, seconds: float) -> bool:
  """Kills a script after some time; tells whether it was still at work."""
  try:
    process.wait(seconds)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True
  finish(process)
  return False


def whole(folder: pathlib.Path) -> dict[str, bytes]:
  """Reads files that must never change again: records, and final networks."""
  found = {}
  for path in sorted(folder.rglob("*")):
    if path.suffix == ".json":
      results.read(path)
    elif path.suffix != ".npz" or checkpoints.load(path).memory:
      continue
    found[str(path.relative_to(folder))] = path.read_bytes()
  return found


def lost(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
  """Compares what `whole` read before and after a kill.

  Members of a cell may go once its record is there.
  """
  problems = []
  for name, content in before.items():
    if name in after:
      if after[name] != content:
        problems.append(f"{name} was written again")
    else:
      first, _, rest = name.partition("/")
      cell = rest.partition("/")[0].rpartition("-")[0]
      if first != store.PARTIAL or f"{cell}.json" not in after:
        problems.append(f"{name} is lost")
  return problems


def sweep(
  script: str, kills: int, *, seed: int, directory: pathlib.Path
) -> Counts:
  """Kills a script so many times, at moments of a seed, in an empty folder."""
  moments = random.Random(seed)
  started = time.monotonic()
  finish(start(script, directory / "whole"))
  duration = time.monotonic() - started
  expected = in_process.numbers(directory / "whole")
  counts = Counts()
  while counts.kills < kills:
    folder = directory / f"sweep{counts.sweeps}"
    before: dict[str, bytes] = {}
    while True:
      process = start(script, folder)
      if counts.kills >= kills:
        finish(process)
        break
      if not wait(process, moments.uniform(0, duration)):
        break
      counts.kills += 1
      after = whole(folder)
      counts.in_training += bool(after) and not (folder / "table.md").exists()
      counts.problems += [
        f"{folder.name}, kill {counts.kills}: {line}"
        for line in lost(before, after)
      ]
      before = after
    got = in_process.numbers(folder)
    counts.problems += [
      f"{folder.name}: {name} differs"
      for name in expected.keys() | got.keys()
      if expected.get(name) != got.get(name)
    ]
    counts.sweeps += 1
    print(
      f"{script}: {counts.kills} kills, {counts.in_training} of them between "
      f"the first file and the table, {counts.sweeps} sweeps, "
      f"{len(counts.problems)} problems",
      flush=True,
    )
  return counts


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--script", choices=sorted(SMALL), default="few_shot")
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    counts = sweep(
      arguments.script,
      arguments.kills,
      seed=arguments.seed,
      directory=pathlib.Path(folder),
    )
  for problem in counts.problems:
    print(problem)
  return 1 if counts.problems else 0


if __name__ == "__main__":
  sys.exit(main())
