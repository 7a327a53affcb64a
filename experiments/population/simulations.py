"""Simulations: the members of cells trained to their end, chunk by chunk.

Cells that differ in hyper-parameters alone share a compiled program, which
trains their members chunk by chunk, each chunk spread over all devices; which
members are trained together changes nothing but the last bits. A member is
trained for all its laps, or until it has failed or converged, and then stands
still until the others of its chunk are done.
"""

from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
import itertools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.command import interruption
from experiments.learning import methods
from experiments.learning.learner import Hparams, Learner, Samples
from experiments.learning.streams import Stream
from experiments.population import cells, devices, program, store as stores
from experiments.population.cells import Cell, Member, Protocol
from experiments.population.store import Metrics, Store

PyTree = Any

# Between two looks for the members of other processes.
POLL_SECONDS = 0.5


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


class Group(NamedTuple):
  """Cells that are trained by the same programs, and all that these need.

  Attributes:
    cells: Equal but for their hyper-parameters.
    learner: How a member is trained.
    stream: What it sees.
    programs: What trains members.
    laps_per_call: Laps that a call of `Program.run` trains.
    width: Members of a chunk, over all devices of this process.
    dataset: Images.
    validation: Validation samples on the devices, and perhaps some that fill
      them up.
    test: Test samples there, likewise.
    cost: Work of a member.
  """

  cells: tuple[Cell, ...]
  learner: Learner
  stream: Stream
  programs: program.Program
  laps_per_call: int
  width: int
  dataset: datasets.Dataset
  validation: Samples
  test: Samples
  cost: int

  @property
  def width_per_device(self) -> int:
    """Members that a device trains at once."""
    return self.width // _num_devices(self.stream)

  def place(self, tree: PyTree) -> PyTree:
    """Moves arrays of members to the devices."""
    spec, axis = self.stream.members_spec, self.stream.axis
    return devices.place(tree, spec, axis=axis)


def make_group(
  planned: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  *,
  num_processes: int = 1,
) -> Group:
  """Makes what trains some cells.

  Args:
    planned: Cells that are equal but for their hyper-parameters.
    dataset: Images to train, validate and test on.
    protocol: How to train.
    num_processes: Processes that share the members.
  """
  cell, stream = planned[0], planned[0].stream
  schedule = cells.schedule(cell, protocol)
  network = networks.make(
    protocol.network,
    dataset.train.images.shape[1:],
    axis_name=None if stream.axis == "members" else stream.axis,
  )
  learner = methods.learner(
    cell.method, network, stream, schedule, protocol.options
  )
  laps_per_call = _largest_divisor(learner.num_laps, stream.most_laps)
  num_samples = stream.num_samples(dataset)
  num_devices = _num_devices(stream)
  num_members = len(planned) * len(protocol.seeds)
  width = -(-num_members // (num_devices * num_processes))
  if protocol.members_per_chunk:
    width = min(width, protocol.members_per_chunk)
  else:
    alone = network.alone or stream.axis != "members"
    fast = 1 if alone else fast_width(schedule.batch_size or num_samples)
    width = program.fitting_width(
      learner,
      stream,
      image_shape=dataset.train.images.shape[1:],
      num_samples=num_samples,
      num_validation=len(dataset.validation.labels),
      wanted=min(width, fast),
    )
  return Group(
    cells=tuple(planned),
    learner=learner,
    stream=stream,
    programs=program.make(learner, stream, laps_per_call),
    laps_per_call=laps_per_call,
    width=num_devices * width,
    dataset=dataset,
    validation=_place_held_out(dataset.validation, stream),
    test=_place_held_out(dataset.test, stream),
    cost=cells.cost(cell, dataset, protocol),
  )


def fast_width(batch_size: int) -> int:
  """Returns how many members a device trains fastest, by the batch size.

  A GPU takes all that fit. On a CPU a step's parameters and activations
  should stay in the cache, while a step should not be too small a task.
  """
  if devices.mesh().devices.flat[0].platform != "cpu":
    return 1000
  return max(1, min(5, 100 // batch_size))


def run(
  planned: Sequence[Cell],
  dataset: datasets.Dataset,
  store: Store,
  *,
  done: Collection[Cell] = (),
  tick: Tick,
  share: tuple[int, int] = (0, 1),
  stop_requested: Callable[[], bool] = lambda: False,
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
    share: Number of this process and of all, which deal the members out among
      themselves. The first yields all cells, and waits for the others' members
      in the store; the others yield none.
    stop_requested: Asked before every call of a program whether to stop, after
      keeping what there is.

  Yields:
    (cell, Outcome), in the order of the cells unless members were in the store.

  Raises:
    datasets.DatasetError: If a class has fewer images than shots.
    interruption.Stopped: If a stop is requested before all is done.
    results.ResultError: If the store cannot be read or written.
  """
  protocol = store.config.protocol
  look = stores.make_look(store)
  pool = _Pool(store, tick, {}, {}, share[0] == 0, share[1] > 1, look)
  turn = 0
  for _, similar in itertools.groupby(
    planned, lambda cell: cell._replace(strength=0.0, learning_rate=0.0)
  ):
    group = make_group(list(similar), dataset, protocol, num_processes=share[1])
    # By place in the plan, not by what is missing, which may change while the
    # processes look; and going on where the last group ended, so that each
    # gets as many.
    blocks = _blocks(_members(group.cells, protocol), group.width)
    mine = [
      member
      for index, block in enumerate(blocks, turn)
      if index % share[1] == share[0]
      for member in block
    ]
    turn += len(blocks)
    missing = [cell for cell in group.cells if cell not in done]
    pool.left.update(dict.fromkeys(missing, group))
    found = _look_first(pool, missing)
    yield from _whole(pool)
    waiting = [m for m in mine if m.cell in missing and m not in pool.finished]
    for chunk in _blocks(waiting, group.width):
      _run_chunk(chunk, group, pool, found, stop_requested)
      _look_again(pool)
      yield from _whole(pool)
  while pool.is_first and pool.left:
    if stop_requested():
      raise interruption.Stopped
    time.sleep(POLL_SECONDS)
    _look_again(pool)
    yield from _whole(pool)


class _Pool(NamedTuple):
  """What the groups of a run have in common.

  Attributes:
    store: Where members are kept.
    tick: As in `run`.
    finished: What the members gave that are done.
    left: Cells that are not whole yet, with their groups.
    is_first: Whether this process yields cells.
    has_others: Whether there are other processes.
    look: Finds members that other processes have done meanwhile.
  """

  store: Store
  tick: Tick
  finished: dict[Member, Metrics]
  left: dict[Cell, Group]
  is_first: bool
  has_others: bool
  look: Callable[[Member, int], Metrics | None]


def _members(chosen: Iterable[Cell], protocol: Protocol) -> list[Member]:
  return [Member(cell, seed) for cell in chosen for seed in protocol.seeds]


def _blocks(population: list[Member], width: int) -> list[list[Member]]:
  return [population[i : i + width] for i in range(0, len(population), width)]


def _num_devices(stream: Stream) -> int:
  """Returns how many devices have members of their own."""
  return devices.mesh().size if stream.axis == "members" else 1


def _largest_divisor(number: int, limit: int) -> int:
  return next(n for n in range(limit, 0, -1) if number % n == 0)


def _place_held_out(split: datasets.Split, stream: Stream) -> Samples:
  """Moves samples to the devices that evaluate them.

  Where these have a part each, they are filled up with labels that are no
  class.
  """
  samples = Samples(*split)
  if stream.axis != "members":
    fill = -len(split.labels) % devices.mesh().size
    images = np.pad(split.images, ((0, fill), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(split.labels, (0, fill), constant_values=-1)
    samples = Samples(images, labels)
  return devices.place(samples, stream.held_out_spec, axis=stream.axis)


def _look_first(pool: _Pool, missing: Sequence[Cell]) -> dict[Member, Metrics]:
  """Takes over what the store has; returns who of it is still in training."""
  found = {}
  for cell in missing:
    width = pool.left[cell].width_per_device
    if pool.is_first:
      stores.prepare(pool.store, cell, width)
    if not pool.store.config.resume:
      continue
    for member in _members([cell], pool.store.config.protocol):
      metrics = stores.find(pool.store, member, width)
      if metrics is None:
        continue
      num_laps = len(metrics["validation_accuracy_curve"])
      if stores.is_done(metrics):
        pool.finished[member] = metrics
        num_laps = pool.left[cell].learner.num_laps
      else:
        found[member] = metrics
      _tick(pool, member, num_laps, metrics)
  return found


def _look_again(pool: _Pool) -> None:
  """Takes over the members that other processes have done meanwhile."""
  if not (pool.is_first and pool.has_others):
    return
  for cell, group in pool.left.items():
    for member in _members([cell], pool.store.config.protocol):
      if member in pool.finished:
        continue
      metrics = pool.look(member, group.width_per_device)
      if stores.is_done(metrics):
        pool.finished[member] = metrics
        _tick(pool, member, group.learner.num_laps, metrics)


def _tick(pool: _Pool, member: Member, num_laps: int, metrics: Metrics) -> None:
  group = pool.left[member.cell]
  work = group.cost * num_laps / group.learner.num_laps
  pool.tick(member, work, float(metrics["validation_accuracy_curve"][-1]))


def _whole(pool: _Pool) -> Iterator[tuple[Cell, Outcome]]:
  """Yields the cells all of whose members are done, and forgets them."""
  if not pool.is_first:
    return
  for cell, group in list(pool.left.items()):
    population = _members([cell], pool.store.config.protocol)
    metrics = [pool.finished.get(member) for member in population]
    if all(metrics):
      del pool.left[cell]
      yield cell, _outcome(metrics, group)


def _outcome(metrics: list[Metrics], group: Group) -> Outcome:
  """Stacks what the members of a cell gave."""
  stacked = {}
  for name in metrics[0]:
    values = [member[name] for member in metrics]
    if name.endswith("_curve"):
      values = [
        np.pad(
          # Curves are for figures: six digits keep the records small.
          curve.round(6),
          (0, group.learner.num_laps - len(curve)),
          constant_values=np.nan,
        )
        for curve in values
      ]
    stacked[name] = np.stack(values)
  seconds = float(stacked.pop("seconds").sum())
  return Outcome(stacked, seconds, group.width_per_device)


def _laps_left(group: Group, metrics: Metrics) -> int:
  """Returns for how many laps a member may still be trained."""
  objectives = metrics["objective_curve"]
  if metrics["failed_step"] >= 0 or group.stream.has_converged(objectives):
    return 0
  return group.learner.num_laps - len(objectives)


def _run_chunk(
  chunk: list[Member],
  group: Group,
  pool: _Pool,
  found: Mapping[Member, Metrics],
  stop_requested: Callable[[], bool],
) -> None:
  """Trains members to their end, keeps them and takes over what they gave."""
  keys, hparams, raw = _arguments(chunk, group)
  data = group.programs.prepare(raw)
  carry, progress = _begin(chunk, group, pool.store, found, keys, hparams, raw)
  saved, changed = time.monotonic(), set()
  while any(left := [_laps_left(group, metrics) for metrics in progress]):
    if stop_requested():
      _save(changed, chunk, group, pool.store, carry, progress)
      raise interruption.Stopped
    started = time.monotonic()
    laps = [len(metrics["objective_curve"]) for metrics in progress]
    # Who is ahead, as after another run, waits for the others.
    first = min(lap for lap, more in zip(laps, left, strict=True) if more)
    active = np.array(left) * (np.array(laps) == first) > 0
    carry, curves = group.programs.run(
      carry,
      np.int32(first),
      keys,
      hparams,
      np.pad(active, (0, group.width - len(chunk))),
      data,
      group.validation,
    )
    numbers = _numbers(carry, curves, group)
    seconds = (time.monotonic() - started) / np.count_nonzero(active)
    for place in np.flatnonzero(active):
      progress[place] = _extended(progress[place], numbers, place, seconds)
      more = _laps_left(group, progress[place])
      _tick(pool, chunk[place], left[place] - more, progress[place])
      changed.add(int(place))
    if time.monotonic() - saved >= pool.store.config.checkpoint_seconds:
      _save(changed, chunk, group, pool.store, carry, progress)
      saved, changed = time.monotonic(), set()
  progress = _tested(group, carry, progress, keys, hparams, raw)
  pool.finished.update(zip(chunk, progress, strict=True))
  _save(_wanted(chunk, pool), chunk, group, pool.store, carry, progress)


def _wanted(chunk: list[Member], pool: _Pool) -> list[int]:
  """Returns the places of members that must be kept when they are done.

  A cell that is whole is written at once, and needs no members.
  """
  config = pool.store.config
  if config.checkpoint_dir is not None or not pool.is_first:
    return list(range(len(chunk)))
  whole = {
    cell
    for cell in {member.cell for member in chunk}
    if all(m in pool.finished for m in _members([cell], config.protocol))
  }
  return [i for i, member in enumerate(chunk) if member.cell not in whole]


def _arguments(
  chunk: list[Member], group: Group
) -> tuple[jax.Array, Hparams, Samples]:
  """Returns keys, hyper-parameters and data of a chunk, on the devices.

  The last member is repeated to the width of a chunk, so that all chunks run
  the same program: results do not depend on how members were dealt out.
  """
  filled = chunk + chunk[-1:] * (group.width - len(chunk))
  seeds = [member.seed for member in filled]
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = Hparams(
    *(
      jnp.array([getattr(m.cell, name) for m in filled], jnp.float32)
      for name in Hparams._fields
    )
  )
  data = devices.place(
    group.stream.load(group.dataset, seeds),
    group.stream.data_spec,
    axis=group.stream.axis,
  )
  return *group.place((keys, hparams)), data


def _begin(
  chunk: list[Member],
  group: Group,
  store: Store,
  found: Mapping[Member, Metrics],
  keys: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> tuple[program.Carry, list[Metrics]]:
  """Returns what a chunk carries, where its members had stopped."""
  carry = group.programs.init(keys, hparams, data)
  nothing = {
    "objective_curve": np.zeros(0),
    "best_correct": np.int32(-1),
    "best_epoch": np.int32(0),
    "failed_step": np.int32(-1),
    "seconds": np.float64(0),
  }
  progress = [nothing] * len(chunk)
  places = [place for place, member in enumerate(chunk) if member in found]
  if not places:
    return carry, progress
  host = jax.tree.map(np.array, jax.device_get(carry))
  for place in places:
    restored, progress[place] = stores.restore(
      store, chunk[place], group.width_per_device, stores.take(host, place)
    )
    jax.tree.map(
      lambda leaf, value, i=place: leaf.__setitem__(i, value), host, restored
    )
  return group.place(host), progress


def _numbers(
  carry: program.Carry, curves: Mapping[str, jax.Array], group: Group
) -> dict[str, np.ndarray]:
  """Returns what the host has to know of a call, [members] or [members, laps].

  Curves have `_curve` at the end of their names.
  """
  failed_step, best_correct, best_epoch, curves = jax.device_get(
    (carry.failed_step, carry.best_correct, carry.best_epoch, curves)
  )
  correct = curves.pop("correct")
  num_validation = len(group.dataset.validation.labels)
  curves["validation_accuracy"] = np.where(
    correct < 0, np.nan, correct / num_validation
  )
  return {
    **{f"{k}_curve": v.T.astype(np.float64) for k, v in curves.items()},
    "best_correct": best_correct,
    "best_epoch": best_epoch,
    "failed_step": failed_step,
  }


def _extended(
  metrics: Metrics, numbers: Metrics, place: int, seconds: float
) -> Metrics:
  """Returns the metrics of a member after some more laps."""
  own = {
    name: np.append(metrics.get(name, []), values[place])
    if name.endswith("_curve")
    else values[place]
    for name, values in numbers.items()
  }
  return {**own, "seconds": metrics["seconds"] + seconds}


def _tested(
  group: Group,
  carry: program.Carry,
  progress: list[Metrics],
  keys: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> list[Metrics]:
  """Adds what is known of members at their end, the test above all."""
  num_test = len(group.dataset.test.labels)
  num_validation = len(group.dataset.validation.labels)
  counts = {
    name: group.programs.count(
      variables, group.test, keys, hparams, np.int32(0)
    )
    for name, variables in (
      ("test_accuracy", carry.best),
      ("test_accuracy_last", carry.state.variables),
    )
  }
  rivals = {}
  if group.learner.rivals:
    rivals = group.programs.count_rivals(data, group.test)
  counts, rivals = jax.device_get((counts, rivals))
  tested = []
  for place, metrics in enumerate(progress):
    accuracies = {name: c[place] / num_test for name, c in counts.items()}
    accuracies["validation_accuracy"] = metrics["best_correct"] / num_validation
    accuracies["validation_accuracy_last"] = metrics[
      "validation_accuracy_curve"
    ][-1]
    has_failed = metrics["failed_step"] >= 0
    objectives = metrics["objective_curve"]
    tested.append(
      metrics
      | {
        name: np.float64(np.nan if has_failed else value)
        for name, value in accuracies.items()
      }
      | {
        f"test_accuracy_{name}": np.float64(count[place] / num_test)
        for name, count in rivals.items()
      }
      | {
        "epochs": np.int32(len(objectives) * group.learner.epochs),
        "converged": np.int32(group.stream.has_converged(objectives)),
      }
    )
  return tested


def _save(
  places: Iterable[int],
  chunk: list[Member],
  group: Group,
  store: Store,
  carry: program.Carry,
  progress: list[Metrics],
) -> None:
  """Writes the checkpoints of some members of a chunk."""
  places = list(places)
  if not places:
    return
  host = jax.device_get(carry)
  for place in places:
    stores.save(
      store,
      chunk[place],
      group.width_per_device,
      stores.take(host, place),
      progress[place],
    )
