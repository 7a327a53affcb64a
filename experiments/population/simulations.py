"""Simulations: the members of cells dealt out to chunks and to processes.

Cells that differ in hyper-parameters alone share a compiled program, which
trains their members chunk by chunk, each chunk spread over all devices; which
members are trained together changes nothing but the last bits.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
import functools
import itertools
from typing import NamedTuple

import numpy as np

from experiments import datasets
from experiments.machine import processes
from experiments.population import chunks, groups, store as stores
from experiments.population.cells import Cell, Member
from experiments.population.groups import Group
from experiments.population.store import Metrics, Store


class Outcome(NamedTuple):
  """What became of a cell: arrays by seed, and what it took.

  Attributes:
    metrics: Arrays [seeds] or [seeds, laps] by name. Accuracies are fractions,
      NaN for members that failed: `test_accuracy` after the lap of best
      validation accuracy, `test_accuracy_last` after the last lap,
      `validation_accuracy` the best, `validation_accuracy_last` the last,
      `best_epoch`, `epochs` trained, `converged` (0 or 1), `failed_step` (-1:
      none); curves of what the learner reports and of `validation_accuracy`,
      NaN after a member's last lap; `test_accuracy_NAME` of rivals.
    seconds: Wall-clock time of its members' share of their chunks, compilation
      included.
    members_per_chunk: Members that a device trained at once.
  """

  metrics: Metrics
  seconds: float
  members_per_chunk: int


# Called with (member, work done since the last call in units of `cells.cost`,
# validation accuracy).
Tick = Callable[[Member, float, float], None]


def run(
  planned: Sequence[Cell],
  dataset: datasets.Dataset,
  store: Store,
  *,
  done: Collection[Cell] = (),
  tick: Tick,
  share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Cell, Outcome]]:
  """Trains cells and yields each as soon as all its members are done.

  Args:
    planned: What to train; those that are equal but for their hyper-parameters
      and follow each other are trained together.
    dataset: Images to train, validate and test on.
    store: Where members are kept, of the run that says how to train.
    done: Those among the cells that are skipped. The others give the same bits
      as if all were trained, since chunks keep their width.
    tick: Told of progress.
    share: Number of this process and of all. The first yields all cells, in
      their order unless members were in the store, and waits for the others'
      members there; the others yield none.
  """
  pool = _Pool(store, tick, *share, {}, {}, stores.make_look(store))
  turn = 0
  for _, similar in itertools.groupby(
    planned, lambda cell: cell._replace(strength=0.0, learning_rate=0.0)
  ):
    group = groups.make(list(similar), dataset, store.config.protocol, share[1])
    blocks = _blocks(pool.members(group.cells), group.width)
    yield from _train(pool, group, done, list(enumerate(blocks, turn)))
    turn += len(blocks)
  if pool.process:
    return
  for _ in processes.waiting("members of the other processes"):
    _look_again(pool)
    yield from _whole(pool)
    if not pool.left:
      break


class _Pool(NamedTuple):
  """What the groups of a run have in common.

  Attributes:
    store: Where members are kept.
    tick: As in `run`.
    process: Number of this process; the first, 0, yields cells.
    num_processes: How many there are.
    finished: What the members gave that are done.
    left: Cells that are not whole yet, with their groups.
    look: Finds members that other processes have done meanwhile.
  """

  store: Store
  tick: Tick
  process: int
  num_processes: int
  finished: dict[Member, Metrics]
  left: dict[Cell, Group]
  look: Callable[[Member, int], Metrics | None]

  def members(self, chosen: Iterable[Cell]) -> list[Member]:
    """Returns the members of some cells, in their order."""
    seeds = self.store.config.protocol.seeds
    return [Member(cell, seed) for cell in chosen for seed in seeds]


def _blocks(population: list[Member], width: int) -> list[list[Member]]:
  return [population[i : i + width] for i in range(0, len(population), width)]


def _train(
  pool: _Pool,
  group: Group,
  done: Collection[Cell],
  planned: list[tuple[int, list[Member]]],
) -> Iterator[tuple[Cell, Outcome]]:
  """Trains this process's share of a group, whose chunks have numbers.

  The share goes by place in the plan, not by what is missing, which may change
  while the processes look; and on where the last group ended, so that each gets
  as many.
  """
  missing = [cell for cell in group.cells if cell not in done]
  pool.left.update(dict.fromkeys(missing, group))
  found = _look_first(pool, missing)
  yield from _whole(pool)
  waiting = [
    member
    for number, block in planned
    if number % pool.num_processes == pool.process
    for member in block
    if member.cell in missing and member not in pool.finished
  ]
  for chunk in _blocks(waiting, group.width):
    trained = chunks.train(
      chunk,
      group,
      pool.store,
      found=found,
      kept=_kept(pool, chunk),
      tick=functools.partial(_tick, pool),
    )
    pool.finished.update(trained)
    _look_again(pool)
    yield from _whole(pool)


def _kept(pool: _Pool, chunk: list[Member]) -> set[Member]:
  """Returns the members of a chunk that must be kept when they are done.

  A cell that is then whole is written at once, and needs no members.
  """
  if pool.store.config.checkpoint_dir is not None or pool.process:
    return set(chunk)
  known = {*pool.finished, *chunk}
  return {m for m in chunk if not known.issuperset(pool.members([m.cell]))}


def _look_first(pool: _Pool, missing: Sequence[Cell]) -> dict[Member, Metrics]:
  """Takes over what the store has; returns who of it is still in training."""
  found = {}
  for cell in missing:
    width = pool.left[cell].width_per_device
    if not pool.process:
      stores.prepare(pool.store, cell, width)
    if not pool.store.config.resume:
      continue
    for member in pool.members([cell]):
      metrics = stores.find(pool.store, member, width)
      if stores.is_done(metrics):
        _finish(pool, member, metrics)
      elif metrics is not None:
        found[member] = metrics
        _tick(pool, member, len(metrics["objective_curve"]), metrics)
  return found


def _look_again(pool: _Pool) -> None:
  """Takes over the members that other processes have done meanwhile."""
  if pool.process or pool.num_processes == 1:
    return
  for cell, group in pool.left.items():
    for member in pool.members([cell]):
      if member in pool.finished:
        continue
      metrics = pool.look(member, group.width_per_device)
      if stores.is_done(metrics):
        _finish(pool, member, metrics)


def _finish(pool: _Pool, member: Member, metrics: Metrics) -> None:
  pool.finished[member] = metrics
  _tick(pool, member, pool.left[member.cell].learner.num_laps, metrics)


def _tick(pool: _Pool, member: Member, num_laps: int, metrics: Metrics) -> None:
  group = pool.left[member.cell]
  work = group.cost * num_laps / group.learner.num_laps
  pool.tick(member, work, float(metrics["validation_accuracy_curve"][-1]))


def _whole(pool: _Pool) -> Iterator[tuple[Cell, Outcome]]:
  """Yields the cells all of whose members are done, and forgets them."""
  if pool.process:
    return
  for cell, group in list(pool.left.items()):
    metrics = [pool.finished.get(member) for member in pool.members([cell])]
    if all(metrics):
      del pool.left[cell]
      yield cell, _outcome(metrics, group)


def _outcome(metrics: list[Metrics], group: Group) -> Outcome:
  """Stacks what the members of a cell gave."""

  def whole(curve: np.ndarray) -> np.ndarray:
    # Curves are for figures: six digits keep the records small.
    more = group.learner.num_laps - len(curve)
    return np.pad(curve.round(6), (0, more), constant_values=np.nan)

  stacked = {}
  for name in metrics[0]:
    values = [member[name] for member in metrics]
    is_curve = name.endswith("_curve")
    stacked[name] = np.stack([*map(whole, values)] if is_curve else values)
  seconds = float(stacked.pop("seconds").sum())
  return Outcome(stacked, seconds, group.width_per_device)
