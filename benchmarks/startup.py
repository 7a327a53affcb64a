"""What is paid before the first step: importing and compiling.

Each number is taken in a fresh process, where nothing is compiled yet.
"""

import collections
import json
import pathlib
import subprocess
import sys

from benchmarks import cases, timing

_IMPORT = """
import json, time
started = time.perf_counter()
import jax
middle = time.perf_counter()
import bean_jax
print(json.dumps([middle - started, time.perf_counter() - middle]))
"""
# What trains a cell of Table 1, whose images come one by one.
_COMPILE = """
import json
from benchmarks import problems, timing, trainers
problem = problems.draw({members}, {images})
run = trainers.population({members})(problem, {method!r}, 1, 5 * {images})
rows = timing.alternate([timing.Contender("it", run)], None, repeats=1)
print(json.dumps([rows[0]["compile_seconds"]]))
"""


def run(options: cases.Settings) -> cases.Case:
  """Times imports, and the compilation of the few-shot program."""
  members, images = (2, 2) if options.quick else (20, 10)
  programs = {("import jax", "import bean_jax, after jax"): _IMPORT}
  for method in ("bean1", "bean2"):
    name = f"compile the few-shot program, {method}"
    programs[(name,)] = _COMPILE.format(
      method=method, members=members, images=images
    )
  seconds: dict[str, list[float]] = collections.defaultdict(list)
  for _ in range(1 if options.quick else options.repeats):
    for names, program in programs.items():
      for name, measured in zip(names, _run(program), strict=True):
        seconds[name].append(measured)
  rows = [timing.summary(name, times) for name, times in seconds.items()]
  return cases.Case("Before the first step, fresh processes", "s", rows)


def _run(program: str) -> list[float]:
  """Returns the seconds that a program prints in a process of its own."""
  result = subprocess.run(
    [sys.executable, "-c", program],
    cwd=pathlib.Path(__file__).resolve().parent.parent,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(result.stdout)
