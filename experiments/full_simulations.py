"""Full-data simulations: cells trained for every seed, kept in checkpoints.

A cell is a method with one strength; a member is a cell with one seed. Every
member has a checkpoint of its own, written from time to time and once more when
it is done, and goes on from there after a kill. The members of a method share a
compiled program, which trains them chunk by chunk, each chunk spread over all
devices; which members are trained together changes nothing but the last bits.

A member is trained until what it descends has converged, or for the largest
number of epochs. It then stands still until the others of its chunk are done.
"""

from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
import functools
import itertools
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  checkpoints,
  datasets,
  devices,
  full_training,
  methods,
  networks,
  training,
)

Metrics = dict[str, np.ndarray]

CURVES = ("objective_curve", "train_loss_curve", "validation_accuracy_curve")


class Cell(NamedTuple):
  """One entry of a table, trained for every seed.

  Attributes:
    method: Name in `methods.METHODS`.
    strength: The method's hyper-parameter; 0 where it has none.
  """

  method: str
  strength: float


class Member(NamedTuple):
  """One simulation.

  Attributes:
    cell: How it is trained.
    seed: Decides its initial parameters and the order of its images.
  """

  cell: Cell
  seed: int


class Protocol(NamedTuple):
  """How every cell is trained.

  Attributes:
    model: Name in `networks.NAMES`.
    seeds: Seeds of the members of each cell.
    options: Choices that methods depend on.
    epochs: Passes over the training images, at most.
    patience: Epochs without a new low after which a member has converged, as
      in `full_training.has_converged`; 0 trains for all epochs.
    tolerance: Least relative decrease to a new low.
    batch_size: Images in a step; 0 for all.
    learning_rate: Adam's learning rate.
    bfloat16: Whether ResNet-18 computes in bfloat16.
    augmentation: How training images are changed at random.
    members_per_chunk: Members that a device trains at once; 0 for as many as
      are fast.
  """

  model: str
  seeds: tuple[int, ...]
  options: methods.Options = methods.Options()
  epochs: int = 50
  patience: int = 5
  tolerance: float = 1e-3
  batch_size: int = 100
  learning_rate: float = 5e-4
  bfloat16: bool = False
  augmentation: full_training.Augmentation = full_training.Augmentation()
  members_per_chunk: int = 0


class Store(NamedTuple):
  """The checkpoints of a run.

  Attributes:
    path: Maps a member to the file of its checkpoint.
    config: Maps a member to everything that it depends on, as a checkpoint has
      it.
    environment: What checkpoints say they were made with.
    seconds: Least time between two checkpoints of a member in training.
  """

  path: Callable[[Member], pathlib.Path]
  config: Callable[[Member], dict]
  environment: Mapping
  seconds: float


class Outcome(NamedTuple):
  """What became of a cell: arrays by seed, and what it took.

  Attributes:
    metrics: Arrays [seeds] or [seeds, epochs] by name. Accuracies are
      fractions, NaN for members that failed: `test_accuracy` after the epoch
      of best validation accuracy, `test_accuracy_last` after the last epoch,
      `validation_accuracy` the best, `validation_accuracy_last` the last,
      `best_epoch`, `epochs` trained, `converged` (0 or 1), `failed_step` (-1:
      none), and the `CURVES`, NaN after the last epoch.
    seconds: Wall-clock time of its members' share of their chunks, compilation
      included.
    members_per_chunk: Members that were trained at once.
  """

  metrics: Metrics
  seconds: float
  members_per_chunk: int


def make_setting(
  protocol: Protocol, method: str, image_shape: tuple[int, int, int]
) -> full_training.Setting:
  """Makes what the program of a method is compiled for.

  Args:
    protocol: How every cell is trained.
    method: Name in `methods.METHODS`.
    image_shape: Height, width and channels of the images.

  Returns:
    The setting, equal for equal arguments.
  """
  return full_training.Setting(
    networks.make(protocol.model, image_shape, bfloat16=protocol.bfloat16),
    method,
    protocol.options,
    protocol.batch_size,
    protocol.augmentation,
  )


class Program(NamedTuple):
  """The compiled functions that train members, spread over all devices.

  Members are a multiple of the number of devices.

  Attributes:
    init: As `full_training.make_init` makes it.
    run_epoch: As `full_training.make_run_epoch` makes it; its state is
      consumed.
    count_correct: As `full_training.make_count_correct` makes it.
  """

  init: Callable
  run_epoch: Callable
  count_correct: Callable


@functools.cache
def make_program(setting: full_training.Setting) -> Program:
  """Makes what trains members; the same for equal arguments.

  Args:
    setting: What is trained, and how.

  Returns:
    Functions that compile at their first call, once for each number of members.
  """
  many, shared = devices.MEMBERS, devices.SHARED
  return Program(
    devices.spread(
      full_training.make_init(setting), takes=(many, many), gives=many
    ),
    devices.spread(
      full_training.make_run_epoch(setting),
      takes=(many, many, many, many, many, shared, shared),
      gives=many,
      donate=(0,),
    ),
    devices.spread(
      full_training.make_count_correct(setting.network),
      takes=(many, shared),
      gives=many,
    ),
  )


def find(
  cells: Iterable[Cell], protocol: Protocol, store: Store
) -> dict[Member, Metrics]:
  """Reads what the checkpoints of cells say.

  Args:
    cells: Which.
    protocol: How they are trained.
    store: Their checkpoints.

  Returns:
    The metrics of every member that has a checkpoint; those with
    `test_accuracy` are done.

  Raises:
    checkpoints.CheckpointError: If a checkpoint cannot be used.
  """
  found = {}
  for member in members(cells, protocol):
    checkpoint = checkpoints.find(store.path(member), store.config(member))
    if checkpoint is not None:
      found[member] = checkpoint.metrics
  return found


def members(cells: Iterable[Cell], protocol: Protocol) -> list[Member]:
  """Lists the members of cells, cell by cell."""
  return [Member(cell, seed) for cell in cells for seed in protocol.seeds]


def epochs_left(protocol: Protocol, metrics: Metrics | None) -> int:
  """Returns how many epochs a member may still be trained.

  Args:
    protocol: How it is trained.
    metrics: Of its checkpoint, or None if it has none.

  Returns:
    The number, 0 if it has failed or converged.
  """
  if metrics is None:
    return protocol.epochs
  curve = metrics["objective_curve"]
  if metrics["failed_step"] >= 0 or full_training.has_converged(
    curve, patience=protocol.patience, tolerance=protocol.tolerance
  ):
    return 0
  return protocol.epochs - len(curve)


def run(
  cells: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  store: Store,
  *,
  done: Collection[Cell] = (),
  found: Mapping[Member, Metrics],
  tick: Callable[[Member, int, float], None],
) -> Iterator[tuple[Cell, Outcome]]:
  """Trains cells and yields each as soon as all its members are done.

  Args:
    cells: What to train; those of equal method that follow each other are
      trained together.
    dataset: Images to train, validate and test on.
    protocol: How to train.
    store: Where checkpoints go.
    done: Those among the cells that are skipped. The others give the same bits
      as if all were trained, since chunks keep their width.
    found: What `find` found of the others, whose checkpoints are gone on from;
      {} to begin anew.
    tick: Called after each epoch of a member with (member, by how much its
      `epochs_left` fell, validation accuracy).

  Yields:
    (cell, Outcome).

  Raises:
    results.ResultError: If a checkpoint cannot be written.
  """
  samples = [
    devices.place(training.Samples(*split), devices.SHARED)
    for split in (dataset.train, dataset.validation, dataset.test)
  ]
  for method, group in itertools.groupby(cells, lambda cell: cell.method):
    planned = list(group)
    missing = [cell for cell in planned if cell not in done]
    if missing:
      image_shape = dataset.train.images.shape[1:]
      setting = make_setting(protocol, method, image_shape)
      width = _width(protocol, len(planned))
      runner = _Runner(protocol, store, width, make_program(setting), *samples)
      yield from _run_group(missing, runner, found, tick)


def _width(protocol: Protocol, num_cells: int) -> int:
  """Returns the members of a chunk, over all devices."""
  num_devices = devices.mesh().size
  per_device = protocol.members_per_chunk
  if not per_device:
    on_cpu = devices.mesh().devices.flat[0].platform == "cpu"
    # A step of many images keeps a CPU core busy. ResNet-18 does so with a GPU,
    # where convolutions of several members together are grouped ones.
    per_device = 1 if on_cpu or protocol.model == "resnet18" else 1000
  num_members = num_cells * len(protocol.seeds)
  return num_devices * min(per_device, -(-num_members // num_devices))


class _Runner(NamedTuple):
  """What the chunks of a method have in common.

  Attributes:
    protocol: How members are trained.
    store: Where checkpoints go.
    width: Members of a chunk.
    program: What trains them.
    train: Training samples on the devices.
    validation: Validation samples there.
    test: Test samples there.
  """

  protocol: Protocol
  store: Store
  width: int
  program: Program
  train: training.Samples
  validation: training.Samples
  test: training.Samples


def _run_group(
  cells: list[Cell],
  runner: _Runner,
  found: Mapping[Member, Metrics],
  tick: Callable[[Member, int, float], None],
) -> Iterator[tuple[Cell, Outcome]]:
  population = members(cells, runner.protocol)
  finished = {m: found[m] for m in population if _is_done(found.get(m))}
  waiting = [member for member in population if member not in finished]
  starts = range(0, len(waiting), runner.width)
  for chunk in [[], *(waiting[i : i + runner.width] for i in starts)]:
    if chunk:
      finished |= _run_chunk(chunk, runner, found, tick)
    for cell in cells:
      metrics = [finished.get(m) for m in members([cell], runner.protocol)]
      if all(metrics):
        yield cell, _outcome(metrics, runner)
        cells = [other for other in cells if other != cell]


def _is_done(metrics: Metrics | None) -> bool:
  return metrics is not None and "test_accuracy" in metrics


def _outcome(metrics: list[Metrics], runner: _Runner) -> Outcome:
  """Stacks what the members of a cell gave."""
  epochs = runner.protocol.epochs
  stacked = {}
  for name in metrics[0]:
    values = [member[name] for member in metrics]
    if name in CURVES:
      values = [
        np.pad(curve, (0, epochs - len(curve)), constant_values=np.nan)
        # Curves are for figures: six digits keep the records small.
        for curve in (value.round(6) for value in values)
      ]
    stacked[name] = np.stack(values)
  seconds = stacked.pop("seconds").sum()
  return Outcome(stacked, float(seconds), runner.width)


def _run_chunk(
  chunk: list[Member],
  runner: _Runner,
  found: Mapping[Member, Metrics],
  tick: Callable[[Member, int, float], None],
) -> dict[Member, Metrics]:
  """Trains members to their end; returns what they gave."""
  protocol = runner.protocol
  keys, hparams = _arguments(chunk, runner)
  state, progress = _begin(chunk, runner, found, keys, hparams)
  saved, changed = time.monotonic(), set()
  while any(left := [epochs_left(protocol, p) for p in progress]):
    started = time.monotonic()
    epochs = [len(p["objective_curve"]) for p in progress]
    state, metrics = runner.program.run_epoch(
      state,
      _filled(epochs, runner.width, np.int32),
      keys,
      hparams,
      np.array(left + [0] * (runner.width - len(chunk))) > 0,
      runner.train,
      runner.validation,
    )
    numbers = _numbers(state, metrics, runner)
    seconds = (time.monotonic() - started) / np.count_nonzero(left)
    for place in np.flatnonzero(left):
      progress[place] = _extended(
        progress[place], {k: v[place] for k, v in numbers.items()}, seconds
      )
      tick(
        chunk[place],
        left[place] - epochs_left(protocol, progress[place]),
        float(progress[place]["validation_accuracy_curve"][-1]),
      )
      changed.add(place)
    if time.monotonic() - saved >= runner.store.seconds:
      _save(changed, chunk, progress, state, runner)
      saved, changed = time.monotonic(), set()
  progress = _tested(progress, state, runner)
  _save(range(len(chunk)), chunk, progress, state, runner)
  return dict(zip(chunk, progress, strict=True))


def _filled(values: Sequence, width: int, dtype: type) -> np.ndarray:
  """Returns values of members, the last repeated to the width of a chunk.

  So all chunks run the same program: results do not depend on how the members
  were dealt out.
  """
  values = list(values)
  return np.array(values + values[-1:] * (width - len(values)), dtype)


def _arguments(
  chunk: list[Member], runner: _Runner
) -> tuple[jax.Array, training.Hparams]:
  """Returns keys and hyper-parameters of a chunk, on the devices."""
  width = runner.width
  seeds = _filled([member.seed for member in chunk], width, np.uint32)
  strengths = [member.cell.strength for member in chunk]
  rates = [runner.protocol.learning_rate] * width
  return devices.place(
    (
      jax.vmap(jax.random.key)(jnp.asarray(seeds)),
      training.Hparams(
        learning_rate=jnp.array(rates, jnp.float32),
        strength=jnp.asarray(_filled(strengths, width, np.float32)),
      ),
    ),
    devices.MEMBERS,
  )


def _begin(
  chunk: list[Member],
  runner: _Runner,
  found: Mapping[Member, Metrics],
  keys: jax.Array,
  hparams: training.Hparams,
) -> tuple[full_training.State, list[Metrics]]:
  """Returns the state of a chunk, where its members had stopped."""
  state = runner.program.init(keys, hparams)
  nothing = {name: np.zeros(0) for name in CURVES} | {
    "best_correct": np.int32(-1),
    "best_epoch": np.int32(0),
    "failed_step": np.int32(-1),
    "seconds": np.float64(0),
  }
  progress = [nothing] * len(chunk)
  places = [place for place, member in enumerate(chunk) if member in found]
  if not places:
    return state, progress
  host = jax.tree.map(np.array, jax.device_get(state))
  for place in places:
    path = runner.store.path(chunk[place])
    checkpoint = checkpoints.load(path)
    template = jax.tree.map(lambda leaf, i=place: leaf[i], host)
    restored = _restored(path, checkpoint, template)
    jax.tree.map(
      lambda leaf, value, i=place: leaf.__setitem__(i, value), host, restored
    )
    progress[place] = checkpoint.metrics
  return devices.place(host, devices.MEMBERS), progress


def _restored(
  path: pathlib.Path,
  checkpoint: checkpoints.Checkpoint,
  template: full_training.State,
) -> full_training.State:
  """Returns the state of one member that its checkpoint holds."""
  metrics = checkpoint.metrics
  return full_training.State(
    variables=checkpoints.restore(path, checkpoint.last, template.variables),
    opt_state=checkpoints.restore(
      path, checkpoint.opt_state, template.opt_state
    ),
    failed_step=metrics["failed_step"],
    best=checkpoints.restore(path, checkpoint.best, template.best),
    best_correct=metrics["best_correct"],
    best_epoch=metrics["best_epoch"],
  )


def _numbers(
  state: full_training.State, metrics: full_training.Metrics, runner: _Runner
) -> Metrics:
  """Returns what the host has to know of an epoch, arrays [width]."""
  failed, correct, epoch, metrics = jax.device_get(
    (state.failed_step, state.best_correct, state.best_epoch, metrics)
  )
  return {
    "objective_curve": metrics.objective.astype(np.float64),
    "train_loss_curve": metrics.train_loss.astype(np.float64),
    "validation_accuracy_curve": np.where(
      failed < 0, metrics.correct / len(runner.validation.labels), np.nan
    ),
    "best_correct": correct,
    "best_epoch": epoch,
    "failed_step": failed,
  }


def _extended(metrics: Metrics, numbers: Metrics, seconds: float) -> Metrics:
  """Returns the metrics of a member after one more epoch."""
  curves = {name: np.append(metrics[name], numbers[name]) for name in CURVES}
  return {**numbers, **curves, "seconds": metrics["seconds"] + seconds}


def _tested(
  progress: list[Metrics], state: full_training.State, runner: _Runner
) -> list[Metrics]:
  """Adds what is known of members at their end, the test above all."""
  protocol = runner.protocol
  num_test, num_validation = (
    len(samples.labels) for samples in (runner.test, runner.validation)
  )
  best, last = (
    jax.device_get(runner.program.count_correct(variables, runner.test))
    / num_test
    for variables in (state.best, state.variables)
  )
  return [
    metrics
    | {
      name: np.float64(value if metrics["failed_step"] < 0 else np.nan)
      for name, value in (
        ("test_accuracy", best[place]),
        ("test_accuracy_last", last[place]),
        ("validation_accuracy", metrics["best_correct"] / num_validation),
        ("validation_accuracy_last", metrics["validation_accuracy_curve"][-1]),
      )
    }
    | {
      "epochs": np.int32(len(metrics["objective_curve"])),
      "converged": np.int32(
        full_training.has_converged(
          metrics["objective_curve"],
          patience=protocol.patience,
          tolerance=protocol.tolerance,
        )
      ),
    }
    for place, metrics in enumerate(progress)
  ]


def _save(
  places: Iterable[int],
  chunk: list[Member],
  progress: list[Metrics],
  state: full_training.State,
  runner: _Runner,
) -> None:
  """Writes the checkpoints of some members of a chunk."""
  host = jax.device_get(state)
  for place in places:
    member = jax.tree.map(lambda leaf, i=place: leaf[i], host)
    checkpoints.save(
      runner.store.path(chunk[place]),
      checkpoints.Checkpoint(
        config=runner.store.config(chunk[place]),
        environment=dict(runner.store.environment),
        last=member.variables,
        best=member.best,
        metrics=progress[place],
        # Once a member is done, this would only take room.
        opt_state={} if _is_done(progress[place]) else member.opt_state,
      ),
    )
