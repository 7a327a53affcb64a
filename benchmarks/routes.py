"""Ways to compute LeNet-5's convolutions for a population, and its loop."""

import functools

from benchmarks import (
  cases,
  floors,
  problems,
  settings,
  steps,
  timing,
  trainers,
)


def run(batch_size: int, options: settings.Settings) -> cases.Case:
  """Times a BEAN-1 step of all members by each way.

  Args:
    batch_size: Images of each member in a step.
    options: Of the run.

  Raises:
    agreement.DisagreementError: If a way computes something else.
  """
  num_members, num_steps = 20, {1: 50}.get(batch_size, 5)
  if options.quick:
    num_members, num_steps, batch_size = 2, 2, min(batch_size, 4)
  problem = problems.draw(num_members, num_steps * batch_size)
  ours = functools.partial(trainers.population, num_members)
  ways = {
    "unfolded, all at once": ours(),
    "unfolded, 4 steps a turn": ours(unroll=4),
    "unfolded, one member after the other": trainers.population(1),
    "grouped convolution, all at once": ours(trainers.LINEN),
    "convolution, one member after the other": trainers.population(
      1, trainers.LINEN
    ),
  }
  routes = [
    steps.Route(
      name, ("bean1",), trainer, trainers.loss_and_gradients, num_steps
    )
    for name, trainer in ways.items()
  ]
  contenders = list(
    steps.checked_contenders(routes, ["bean1"], problem, batch_size=batch_size)
  )
  rates = floors.measure(quick=options.quick)
  timings = timing.alternate(contenders, repeats=options.repeats)
  return cases.Case(
    title=f"BEAN-1 step of {num_members} LeNet-5 by ways, batch {batch_size}",
    unit="s per step of all members",
    rates=rates,
    rows=[timing.row(c, timings[c.name], rates) for c in contenders],
  )
