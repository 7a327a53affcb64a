"""One optimizer step of LeNet-5 for a population: ours beside the peers'."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import (
  agreement,
  cases,
  floors,
  problems,
  settings,
  timing,
  trainers,
)
from experiments.learning import methods

PyTree = Any

PLAIN_PEER = "PyTorch, one by one"
PENALIZED_PEER = "PyTorch, one by one, [N, N, S] penalty"
ALL = tuple(problems.ORDERS)
PENALIZED = ("bean1", "bean2")


class Route(NamedTuple):
  """A way to train.

  Attributes:
    name: Its name.
    methods: Methods that it is timed with.
    trainer: As in `trainers`.
    loss_and_gradients: Maps (problem, method, strength) to losses [members] on
      all images and their gradients.
    num_steps: Steps that are timed in one go.
    torch: Whether it is PyTorch's, of which the number of threads is chosen.
    probe: Members on which they are chosen; None for all.
  """

  name: str
  methods: tuple[str, ...]
  trainer: trainers.Trainer
  loss_and_gradients: Callable[
    [problems.Problem, str, float], tuple[np.ndarray, PyTree]
  ]
  num_steps: int
  torch: bool = False
  probe: int | None = None


def run(batch_size: int, options: settings.Settings) -> cases.Case:
  """Times a step of all members by every route and method.

  Args:
    batch_size: Images of each member in a step.
    options: Of the run.

  Raises:
    agreement.DisagreementError: If a route computes something else.
  """
  if options.quick:
    num_members, num_steps, batch_size = 2, 2, min(batch_size, 4)
  else:
    num_members, num_steps = 20, {1: 200}.get(batch_size, 5)
  # As many as fit, and narrower chunks, which stay in cache.
  widths = (num_members,)
  if not options.quick:
    widths = {1: (10, 5)}.get(batch_size, (10, 2, 1))
  names = ALL[:2] if options.quick else ALL
  problem = problems.draw(num_members, num_steps * batch_size)
  routes = [
    Route(
      f"bean_jax, {width} at once",
      ALL,
      trainers.population(width),
      trainers.loss_and_gradients,
      num_steps,
    )
    for width in widths
  ]
  routes += peers(batch_size, options)
  contenders = list(
    checked_contenders(routes, names, problem, batch_size=batch_size)
  )
  rates = floors.measure(quick=options.quick)
  timings = timing.alternate(contenders, repeats=options.repeats)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  for row in rows:
    row |= dict(_ratios(row, timings))
  return cases.Case(
    title=f"One optimizer step of {num_members} LeNet-5, batch {batch_size}",
    unit="s per step of all members",
    rates=rates,
    rows=rows,
  )


def peers(batch_size: int, options: settings.Settings) -> list[Route]:
  """Lists what one would do without bean_jax's training of populations.

  PyTorch's closed forms are bean_jax's; only the tensor [N, N, S] is as the
  authors published it.
  """
  few, fewer = (2, 2) if options.quick else {1: (20, 5)}.get(batch_size, (2, 1))
  routes = [
    Route(
      "JAX, one by one",
      ALL,
      trainers.one_by_one,
      trainers.linen_loss_and_gradients,
      few,
    )
  ]
  if not options.torch:
    return routes
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_lenet5, torch_trainers

  closed_form = torch_lenet5.closed_form
  return [
    *routes,
    _torch_route(PLAIN_PEER, ("vanilla",), None, few),
    _torch_route(PENALIZED_PEER, PENALIZED, torch_lenet5.pairwise, fewer),
    _torch_route(
      "PyTorch, one by one, closed form", PENALIZED, closed_form, few
    ),
    Route(
      "PyTorch, torch.func.vmap",
      ALL,
      torch_trainers.vectorized,
      torch_trainers.vectorized_loss_and_gradients,
      fewer,
      torch=True,
    ),
  ]


def _torch_route(
  name: str, names: tuple[str, ...], penalty: Any, num_steps: int
) -> Route:
  """Returns the route of PyTorch, seed after seed, with such a penalty."""
  from benchmarks import torch_trainers

  return Route(
    name,
    names,
    torch_trainers.one_by_one(penalty),
    lambda problem, method, strength: torch_trainers.loss_and_gradients(
      problem, method, strength, penalty
    ),
    num_steps,
    torch=True,
    probe=1,
  )


def checked_contenders(
  routes: Sequence[Route],
  names: Sequence[str],
  problem: problems.Problem,
  *,
  batch_size: int,
) -> Iterator[timing.Contender]:
  """Makes contenders of routes that are seen to compute the same.

  Args:
    routes: The routes.
    names: Of methods, in `methods.METHODS`.
    problem: What is trained.
    batch_size: Images in a step.

  Raises:
    agreement.DisagreementError: If one does not.
  """
  for method in names:
    for route in routes:
      if method in route.methods:
        check(route, method, problem.members(0, 4), batch_size)
        yield contender(route, method, problem, batch_size)


def contender(
  route: Route, method: str, problem: problems.Problem, batch_size: int
) -> timing.Contender:
  """Makes a contender of a route.

  Args:
    route: The route.
    method: Name in `methods.METHODS`.
    problem: What is trained.
    batch_size: Images in a step.
  """
  step = route.trainer(problem, method, batch_size, route.num_steps)
  fields = {"method": method, "route": route.name}
  if route.torch:
    # Only here, as PyTorch need not be installed.
    from benchmarks import torch_trainers

    probe = step
    if route.probe is not None:
      part = problem.members(0, route.probe)
      probe = route.trainer(part, method, batch_size, route.num_steps)
    threads = torch_trainers.best_num_threads(probe)
    step = torch_trainers.with_threads(step, threads)
    fields["threads"] = threads
  work = floors.training_step(
    problem.labels.shape[0], batch_size, problems.ORDERS[method]
  )
  name = name_of(route, method)
  return timing.Contender(name, step, route.num_steps, work, fields)


def name_of(route: Route, method: str) -> str:
  """Returns the name of a contender."""
  return f"{methods.METHODS[method].title}: {route.name}"


def check(
  route: Route, method: str, problem: problems.Problem, batch_size: int
) -> None:
  """Checks loss, gradients and three steps of Adam of a route.

  Args:
    route: The route.
    method: Name in `methods.METHODS`.
    problem: Networks and images, of which the first batch is taken.
    batch_size: Images in a step.

  Raises:
    agreement.DisagreementError: If they differ from ours (gradients) or from
      those of JAX, one by one (steps).
  """
  problem = problem._replace(
    images=problem.images[:, :batch_size], labels=problem.labels[:, :batch_size]
  )
  name = name_of(route, method)
  strength = problems.GREAT_STRENGTHS[method]
  agreement.check(
    f"{name}: loss and gradients",
    route.loss_and_gradients(problem, method, strength),
    trainers.loss_and_gradients(problem, method, strength),
  )
  # The same batch three times, since routes may take images in other orders.
  agreement.check(
    f"{name}: losses of three steps",
    route.trainer(problem, method, batch_size, 3)(),
    trainers.one_by_one(problem, method, batch_size, 3)(),
  )


def _ratios(
  row: dict[str, Any], timings: dict[str, timing.Timing]
) -> Iterator[tuple[str, float]]:
  """Yields how many times faster it is than peers, and slower than plain."""
  plain = f"{methods.METHODS['vanilla'].title}: "
  mine = timings[row["name"]]
  penalized = f"{methods.METHODS[row['method']].title}: {PENALIZED_PEER}"
  if penalized in timings:
    yield (
      "faster_than_penalized_peer",
      timing.ratio(timings[penalized], mine),
    )
  if plain + PLAIN_PEER in timings:
    yield (
      "faster_than_plain_peer",
      timing.ratio(timings[plain + PLAIN_PEER], mine),
    )
  own_plain = timings.get(plain + row["route"])
  if own_plain is not None:
    yield "times_own_plain_step", timing.ratio(mine, own_plain)
