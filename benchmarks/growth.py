"""Time against size: members of a population, widths, and batches."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import (
  cases,
  floors,
  penalties,
  problems,
  settings,
  steps,
  timing,
  trainers,
)
from experiments.learning import methods

# Beyond it, order 2 takes minutes: its work grows with the cube of the width.
WIDEST_ORDER_2 = 4096


def members(
  options: settings.Settings, counts: Sequence[int] | None = None
) -> cases.Case:
  """Times a BEAN-1 step of more and more members that are trained at once.

  Args:
    options: Of the run.
    counts: Numbers of members, if not those of the suite for CPUs.
  """
  if counts is None:
    counts = (1, 5, 20, 80, 320) if options.many_members else (1, 5, 20, 80)
  if options.quick:
    counts = (1, 2)
  num_steps = 2 if options.quick else 50
  contenders = []
  for method in ("vanilla", "bean1"):
    for count in counts:
      contenders.append(
        _step(method, count, 1, num_steps, x=count, members=count)
      )
  case = measure(
    options,
    contenders,
    title="Step time against members trained at once, LeNet-5, batch 1",
    unit="s per step of all members",
    x_label="members",
  )
  for row in case.rows:
    row["members_times_steps_per_second"] = row["members"] / row["median"]
  return case


def widths(options: settings.Settings) -> cases.Case:
  """Times the penalty of wider and wider layers, N = M, of 64 samples."""
  sizes = (8, 16) if options.quick else (64, 256, 1024, 2048, 4096, 8192)
  num_samples = 4 if options.quick else 64
  contenders = []
  for width in sizes:
    layer = num_samples, width, width
    contenders += _layer(layer, width, second=width <= WIDEST_ORDER_2)
  return measure(
    options,
    contenders,
    title=f"Penalty: value and gradient against width N = M, S = {num_samples}",
    unit="s",
    x_label="width",
  )


def batches(options: settings.Settings) -> cases.Case:
  """Times the penalty of a layer, N = M = 1024, for more and more samples."""
  width = 16 if options.quick else 1024
  contenders = []
  for num_samples in _batch_sizes(options):
    contenders += _layer((num_samples, width, width), num_samples, second=True)
  return measure(
    options,
    contenders,
    title=f"Penalty: value and gradient against samples, N = M = {width}",
    unit="s",
    x_label="samples",
  )


def step_batches(options: settings.Settings) -> cases.Case:
  """Times a step of one member with larger and larger batches."""
  num_members = 1
  contenders = []
  for method in ("vanilla", "bean1", "bean2"):
    for batch_size in _batch_sizes(options):
      num_steps = 2 if options.quick else max(2, 128 // batch_size)
      contenders.append(
        _step(method, num_members, batch_size, num_steps, x=batch_size)
      )
  return measure(
    options,
    contenders,
    title="Step time against batch, one LeNet-5",
    unit="s per step",
    x_label="images in a batch",
  )


def measure(
  options: settings.Settings,
  contenders: Sequence[timing.Contender],
  *,
  title: str,
  unit: str,
  x_label: str,
) -> cases.Case:
  """Times contenders that are points of lines, having "series" and "x".

  Args:
    options: Of the run.
    contenders: What to time.
    title: Of the case.
    unit: Of the case.
    x_label: Of the case.
  """
  rates = floors.measure(quick=options.quick)
  timings = timing.alternate(contenders, repeats=options.repeats)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  return cases.Case(title, unit, rows, rates, x_label)


def _batch_sizes(options: settings.Settings) -> Sequence[int]:
  return (1, 4) if options.quick else (1, 4, 16, 64, 256, 1024)


def _step(
  method: str,
  num_members: int,
  batch_size: int,
  num_steps: int,
  **fields: Any,
) -> timing.Contender:
  problem = problems.draw(num_members, num_steps * batch_size)
  route = steps.Route(
    f"{num_members} LeNet-5, batch {batch_size}",
    (method,),
    trainers.population(num_members),
    trainers.loss_and_gradients,
    num_steps,
  )
  made = steps.contender(route, method, problem, batch_size)
  title = methods.METHODS[method].title
  return made._replace(fields={**made.fields, "series": title, **fields})


def _layer(
  layer: tuple[int, int, int], x: int, *, second: bool
) -> list[timing.Contender]:
  arguments = penalties.draw(*layer)
  programs: list[tuple[str, Callable[..., Any], floors.Work]] = [
    (penalties.DENSE, penalties.dense, floors.dense(*layer))
  ]
  for order in (1, 2) if second else (1,):
    programs.append(
      (
        penalties.name_of(order, "squared"),
        penalties.value_and_gradients(order, "squared"),
        floors.penalty(*layer, order),
      )
    )
  return [
    penalties.contender(
      f"{name}, {x}", function, arguments, work, series=name, x=x
    )
    for name, function, work in programs
  ]
