"""Where the time of a training step goes, operation by operation.

    python -m benchmarks.profile_step --method=bean1 --batch_size=1

trains LeNet-5 on one device under JAX's profiler and prints the compiled
program's operations by the time that they take in a step. For a clear picture
keep it on one core (`taskset -c 0` on Linux).
"""

import collections
from collections.abc import Callable, Sequence
import glob
import gzip
import json
import os
import tempfile

from absl import flags
import jax

from benchmarks import problems, timing, trainers
from experiments.command import parsing, scripts

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_METHOD = flags.DEFINE_enum(
  "method",
  "bean1",
  sorted(problems.ORDERS),
  "what is trained",
  flag_values=FLAGS,
)
_BATCH_SIZE, _MEMBERS, _STEPS, _TOP = (
  flags.DEFINE_integer(name, default, text, flag_values=FLAGS)
  for name, default, text in (
    ("batch_size", 1, "images in a step"),
    ("members", 5, "networks trained at once"),
    ("steps", 200, "steps in a run"),
    ("top", 40, "operations to print"),
  )
)


def operations(run: Callable[[], object]) -> dict[str, float]:
  """Sums up the time of every operation of a compiled program that `run` runs.

  Returns:
    {operation: microseconds}, the greatest first; what contains others, like
    the program itself, is among them.
  """
  totals: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory, create_perfetto_trace=True):
      run()
    pattern = os.path.join(directory, "**", "perfetto_trace.json.gz")
    (path,) = glob.glob(pattern, recursive=True)
    with gzip.open(path) as file:
      events = json.load(file)["traceEvents"]
  for event in events:
    # Python's own calls begin with a dollar.
    if event.get("ph") == "X" and not event["name"].startswith("$"):
      totals[event["name"]] += event["dur"]
  return dict(totals.most_common())


def profile() -> None:
  """Trains for some steps and prints what they took."""
  for flag in (_BATCH_SIZE, _MEMBERS, _STEPS, _TOP):
    parsing.number(flag.name, flag.value, low=1)
  num_members, num_steps = _MEMBERS.value, _STEPS.value
  problem = problems.draw(num_members, num_steps * _BATCH_SIZE.value)
  run = trainers.population(num_members)(
    problem, _METHOD.value, _BATCH_SIZE.value, num_steps
  )
  it = timing.Contender("it", run, num_steps)
  (row,) = timing.alternate([it], None, repeats=7)
  print(f"{1e6 * row['median']:10.1f} us a step of {num_members} members")
  for name, total in list(operations(run).items())[: _TOP.value]:
    print(f"{total / num_steps:10.1f} us  {name}")


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, profile)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
