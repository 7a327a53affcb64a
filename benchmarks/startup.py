"""What is paid before the first step: importing and compiling.

Each number is taken in a fresh process, where nothing is compiled yet.
"""

import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cases, problems, settings, timing
from experiments.learning.learner import Samples, Schedule
from experiments.population import program

_IMPORT = """
import json, time
started = time.perf_counter()
import jax
middle = time.perf_counter()
import bean_jax
print(json.dumps([middle - started, time.perf_counter() - middle]))
"""
_COMPILE = """
import json
from benchmarks import startup
print(json.dumps(startup.compile_seconds({method!r}, **{sizes!r})))
"""


def run(options: settings.Settings) -> cases.Case:
  """Times imports, and the compilation of the few-shot program.

  Args:
    options: Of the run.
  """
  repeats = 1 if options.quick else options.repeats
  sizes = (
    {"num_members": 2, "num_images": 2, "num_validation": 10, "num_epochs": 1}
    if options.quick
    else {}
  )
  imports: list[tuple[float, float]] = []
  compilations: dict[str, list[float]] = {"bean1": [], "bean2": []}
  for _ in range(repeats):
    imports.append(tuple(_in_fresh_process(_IMPORT)))
    for method, seconds in compilations.items():
      code = _COMPILE.format(method=method, sizes=sizes)
      seconds.append(_in_fresh_process(code))
  by_jax, by_bean_jax = zip(*imports, strict=True)
  rows = [
    _row("import jax", by_jax),
    _row("import bean_jax, after jax", by_bean_jax),
    *(
      _row(f"compile the few-shot program, {method}", seconds)
      for method, seconds in compilations.items()
    ),
  ]
  return cases.Case("Before the first step, fresh processes", "s", rows)


def compile_seconds(
  method: str,
  *,
  num_members: int = 20,
  num_images: int = 10,
  num_validation: int = 10_000,
  num_epochs: int = 5,
) -> float:
  """Times the tracing and compilation of what trains a cell of Table 1.

  Args:
    method: Name in `methods.METHODS`.
    num_members: Members trained at once.
    num_images: Images of each, in batches of one.
    num_validation: Images they are validated on.
    num_epochs: Epochs in a call.
  """
  learner = problems.learner(problems.LENET5, method, Schedule(num_epochs))
  images = jax.ShapeDtypeStruct((num_members, num_images, 28, 28, 1), jnp.uint8)
  labels = jax.ShapeDtypeStruct((num_members, num_images), jnp.int32)
  data = Samples(images, labels)
  keys = jax.eval_shape(lambda: problems.keys_of(num_members))
  hparams = jax.eval_shape(lambda: problems.hparams(num_members, 1.0))
  arguments = (
    jax.eval_shape(
      program.make_init(learner, problems.OWN), keys, hparams, data
    ),
    jax.ShapeDtypeStruct((), jnp.int32),
    keys,
    hparams,
    jax.ShapeDtypeStruct((num_members,), bool),
    jax.eval_shape(jax.vmap(learner.prepare), data),
    Samples(
      jax.ShapeDtypeStruct((num_validation, 28, 28, 1), jnp.uint8),
      jax.ShapeDtypeStruct((num_validation,), jnp.int32),
    ),
  )
  run = program.make(learner, problems.OWN, num_epochs).run
  started = time.perf_counter()
  run.lower(*arguments).compile()
  return time.perf_counter() - started


def _in_fresh_process(code: str) -> Any:
  root = pathlib.Path(__file__).resolve().parent.parent
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(result.stdout)


def _row(name: str, seconds: Any) -> dict[str, Any]:
  contender = timing.Contender(name, lambda: None)
  row = timing.row(contender, timing.Timing(tuple(seconds), 0.0), None)
  del row["compile_seconds"]
  return row
