"""One optimizer step of LeNet-5 for a population: ours beside the peers'."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from benchmarks import agreement, cases, floors, problems, timing, trainers
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


def ours(name: str, num_steps: int, width: int) -> Route:
  """Returns the route of `trainers.population`."""
  trainer = trainers.population(width)
  return Route(name, ALL, trainer, trainers.loss_and_gradients, num_steps)


def run(batch_size: int, options: cases.Settings) -> cases.Case:
  """Times a step of all members by every route and method."""
  # As many at once as fit, and narrower chunks, which stay in cache.
  num_members, names = 20, ALL
  num_steps, widths = (200, (10, 5)) if batch_size == 1 else (5, (10, 2, 1))
  if options.quick:
    num_members, num_steps, widths, names = 2, 2, (2,), ALL[:2]
    batch_size = min(batch_size, 4)
  problem = problems.draw(num_members, num_steps * batch_size)
  routes = [ours(f"bean_jax, {w} at once", num_steps, w) for w in widths]
  routes += peers(batch_size, options)
  case = cases.measure(
    options,
    checked_contenders(routes, names, problem, batch_size),
    title=f"One optimizer step of {num_members} LeNet-5, batch {batch_size}",
    unit="s per step of all members",
  )
  add = functools.partial(timing.add_ratios, case.rows)
  add(
    "faster_than_penalized_peer",
    lambda row: name_of(row["method"], PENALIZED_PEER),
    faster=True,
  )
  plain_peer = name_of("vanilla", PLAIN_PEER)
  add("faster_than_plain_peer", lambda row: plain_peer, faster=True)
  add("times_own_plain_step", lambda row: name_of("vanilla", row["route"]))
  return case


def peers(batch_size: int, options: cases.Settings) -> list[Route]:
  """Lists what one would do without bean_jax's training of populations.

  PyTorch's closed forms are bean_jax's; only the tensor [N, N, S] is as the
  authors published it.
  """
  few, fewer = (20, 5) if batch_size == 1 else (2, 1)
  if options.quick:
    few = fewer = 2
  linen = functools.partial(trainers.loss_and_gradients, network=trainers.LINEN)
  routes = [Route("JAX, one by one", ALL, trainers.one_by_one, linen, few)]
  if not options.torch:
    return routes
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_networks, torch_trainers

  pairwise, closed_form = torch_networks.pairwise, torch_networks.closed_form
  for name, names, penalty, num_steps in (
    (PLAIN_PEER, ("vanilla",), None, few),
    (PENALIZED_PEER, PENALIZED, pairwise, fewer),
    ("PyTorch, one by one, closed form", PENALIZED, closed_form, few),
  ):
    routes.append(
      Route(
        name,
        names,
        torch_trainers.one_by_one(penalty),
        torch_trainers.loss_and_gradients(penalty),
        num_steps,
        torch=True,
        probe=1,
      )
    )
  return [
    *routes,
    Route(
      "PyTorch, torch.func.vmap",
      ALL,
      torch_trainers.vectorized,
      torch_trainers.vectorized_loss_and_gradients,
      fewer,
      torch=True,
    ),
  ]


def checked_contenders(
  routes: Sequence[Route],
  names: Sequence[str],
  problem: problems.Problem,
  batch_size: int,
) -> list[timing.Contender]:
  """Makes contenders of routes that are seen to compute the same."""
  made = []
  for method in names:
    for route in routes:
      if method in route.methods:
        check(route, method, problem.members(0, 4), batch_size)
        made.append(contender(route, method, problem, batch_size))
  return made


def contender(
  route: Route, method: str, problem: problems.Problem, batch_size: int
) -> timing.Contender:
  """Makes a contender of a route and a method."""

  def step(part: problems.Problem) -> Callable[[], np.ndarray]:
    return route.trainer(part, method, batch_size, route.num_steps)

  num_members, order = len(problem.labels), problems.ORDERS[method]
  made = timing.Contender(
    name_of(method, route.name),
    step(problem),
    route.num_steps,
    floors.training_step(num_members, batch_size, order),
    {"method": method, "route": route.name},
  )
  if not route.torch:
    return made
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_trainers

  probe = made.run
  if route.probe is not None:
    probe = step(problem.members(0, route.probe))
  return torch_trainers.with_best_threads(made, probe)


def name_of(method: str, route: str) -> str:
  """Returns the name of a contender."""
  return f"{methods.METHODS[method].title}: {route}"


def check(
  route: Route, method: str, problem: problems.Problem, batch_size: int
) -> None:
  """Checks loss, gradients and three steps of Adam on the first batch.

  Raises:
    agreement.DisagreementError: If they differ from ours (gradients) or from
      those of JAX, one by one (steps).
  """
  problem = problem.first_images(batch_size)
  name = name_of(method, route.name)
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
