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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.command import interruption
from experiments.learning import (
  devices,
  full_training,
  memory,
  methods,
  programs,
  training,
)
from experiments.records import checkpoints

Metrics = dict[str, np.ndarray]

# Between two looks for the checkpoints of other processes.
POLL_SECONDS = 0.5

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
    data_parallel: Whether the devices share each batch, instead of having
      members of their own.
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
  data_parallel: bool = False


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
  num_shards = devices.mesh().size if protocol.data_parallel else 1
  network = networks.make(
    protocol.model,
    image_shape,
    bfloat16=protocol.bfloat16,
    axis_name=devices.BATCH_AXIS if num_shards > 1 else None,
  )
  return full_training.Setting(
    network,
    method,
    protocol.options,
    protocol.batch_size,
    protocol.augmentation,
    num_shards,
  )


class Program(NamedTuple):
  """The compiled functions that train members, spread over all devices.

  Members are a multiple of the number of devices, unless these share batches.

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
  many, held_out = _layout(setting)
  axis = devices.BATCH_AXIS if setting.num_shards > 1 else "members"
  spread = functools.partial(devices.spread, gives=many, axis=axis)
  return Program(
    spread(full_training.make_init(setting), takes=(many, many)),
    spread(
      full_training.make_run_epoch(setting),
      takes=(many, many, many, many, many, devices.SHARED, held_out),
      donate=(0,),
    ),
    spread(
      full_training.make_count_correct(setting.network, setting.num_shards),
      takes=(many, held_out),
    ),
  )


def _layout(
  setting: full_training.Setting,
) -> tuple[PartitionSpec, PartitionSpec]:
  """Returns how members lie on the devices, and the held-out images."""
  if setting.num_shards > 1:
    return devices.SHARED, devices.BATCH
  return devices.MEMBERS, devices.SHARED


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
  share: tuple[int, int] = (0, 1),
  stop_requested: Callable[[], bool] = lambda: False,
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
    share: Number of this process and of all, which deal the members out among
      themselves. The first yields all cells, and waits for the others'
      checkpoints; the others yield none.
    stop_requested: Asked after every epoch whether to stop, with a checkpoint.

  Yields:
    (cell, Outcome).

  Raises:
    interruption.Stopped: If a stop is requested before all is done.
    results.ResultError: If a checkpoint cannot be read or written.
  """
  samples = _place(dataset, protocol)
  finished = {m: metrics for m, metrics in found.items() if _is_done(metrics)}
  left = {cell: 0 for cell in cells if cell not in done}
  turn = 0
  for method, group in itertools.groupby(cells, lambda cell: cell.method):
    planned = list(group)
    image_shape = dataset.train.images.shape[1:]
    setting = make_setting(protocol, method, image_shape)
    width = _width(protocol, setting, dataset, len(planned), share[1])
    left.update({cell: width for cell in planned if cell in left})
    runner = _Runner(
      protocol,
      store,
      width,
      setting,
      *samples,
      len(dataset.validation.labels),
      len(dataset.test.labels),
      stop_requested,
    )
    # By place in the plan, not by what is missing, which may change while the
    # processes look; and going on where the last group ended, so that each
    # gets as many.
    blocks = _blocks(members(planned, protocol), width)
    waiting = [
      member
      for index, block in enumerate(blocks, turn)
      for member in block
      if index % share[1] == share[0]
      and member.cell in left
      and member not in finished
    ]
    turn += len(blocks)
    for chunk in [[], *_blocks(waiting, width)]:
      if chunk:
        finished |= _run_chunk(chunk, runner, found, tick)
      if share[0] == 0:
        yield from _whole(left, finished, protocol)
  look = _make_look(store)
  while share[0] == 0 and left:
    if stop_requested():
      raise interruption.Stopped
    time.sleep(POLL_SECONDS)
    waited = [m for m in members(left, protocol) if m not in finished]
    finished |= look(waited)
    yield from _whole(left, finished, protocol)


def _place(
  dataset: datasets.Dataset, protocol: Protocol
) -> list[training.Samples]:
  """Moves training, validation and test samples to where they are used."""

  def place(split: datasets.Split) -> training.Samples:
    if not protocol.data_parallel:
      return devices.place(training.Samples(*split), devices.SHARED)
    # Filled up to a multiple of the devices, with labels that are no class.
    fill = -len(split.labels) % devices.mesh().size
    images = np.pad(split.images, ((0, fill), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(split.labels, (0, fill), constant_values=-1)
    spec = devices.BATCH if devices.mesh().size > 1 else devices.SHARED
    return devices.place(training.Samples(images, labels), spec)

  train = training.Samples(*dataset.train)
  return [
    devices.place(train, devices.SHARED),
    place(dataset.validation),
    place(dataset.test),
  ]


def _blocks(population: list[Member], width: int) -> list[list[Member]]:
  return [population[i : i + width] for i in range(0, len(population), width)]


def _whole(
  left: dict[Cell, int], finished: dict[Member, Metrics], protocol: Protocol
) -> Iterator[tuple[Cell, Outcome]]:
  """Yields the cells all of whose members are done, and forgets them."""
  for cell, width in list(left.items()):
    metrics = [finished.get(m) for m in members([cell], protocol)]
    if all(metrics):
      del left[cell]
      yield cell, _outcome(metrics, protocol.epochs, width)


def _make_look(
  store: Store,
) -> Callable[[list[Member]], dict[Member, Metrics]]:
  """Makes what finds members that other processes have done meanwhile."""
  seen: dict[Member, int] = {}

  def look(waited: list[Member]) -> dict[Member, Metrics]:
    finished = {}
    for member in waited:
      path = store.path(member)
      changed = path.stat().st_mtime_ns if path.exists() else 0
      # Checkpoints of large networks take long to read.
      if changed == seen.get(member, 0):
        continue
      seen[member] = changed
      checkpoint = checkpoints.find(path, store.config(member))
      if checkpoint is not None and _is_done(checkpoint.metrics):
        finished[member] = checkpoint.metrics
    return finished

  return look


def _width(
  protocol: Protocol,
  setting: full_training.Setting,
  dataset: datasets.Dataset,
  num_cells: int,
  num_processes: int,
) -> int:
  """Returns the members of a chunk, over all devices of this process."""
  num_devices = 1 if setting.num_shards > 1 else devices.mesh().size
  num_members = num_cells * len(protocol.seeds)
  most = -(-num_members // (num_devices * num_processes))
  if protocol.members_per_chunk:
    return num_devices * min(protocol.members_per_chunk, most)
  on_cpu = devices.mesh().devices.flat[0].platform == "cpu"
  # A step of many images keeps a CPU core busy. ResNet-18 does so with a GPU,
  # where convolutions of several members together are grouped ones.
  alone = on_cpu or protocol.model == "resnet18" or setting.num_shards > 1
  most = 1 if alone else most
  return num_devices * fitting_width(
    setting,
    num_train=len(dataset.train.labels),
    num_validation=len(dataset.validation.labels),
    image_shape=dataset.train.images.shape[1:],
    wanted=most,
  )


@functools.cache
def fitting_width(
  setting: full_training.Setting,
  *,
  num_train: int,
  num_validation: int,
  image_shape: tuple[int, int, int],
  wanted: int,
) -> int:
  """Returns how many members a device can train at once, by their memory.

  Args:
    setting: What is trained, and how.
    num_train: Training images, which members share.
    num_validation: Validation images, which they share too.
    image_shape: Height, width and channels of the images.
    wanted: The most.

  Returns:
    The number, at least 1.
  """
  shape = jax.ShapeDtypeStruct

  def samples(number: int) -> training.Samples:
    images = shape((number, *image_shape), jnp.uint8)
    return training.Samples(images, shape((number,), jnp.int32))

  def needs(members: int) -> int:
    keys, hparams = programs.member_shapes(members)
    return memory.peak_bytes(
      full_training.make_run_epoch(setting),
      jax.eval_shape(full_training.make_init(setting), keys, hparams),
      shape((members,), jnp.int32),
      keys,
      hparams,
      shape((members,), bool),
      samples(num_train),
      samples(num_validation),
    )

  return memory.width(needs, wanted=wanted, limit=memory.device_bytes())


class _Runner(NamedTuple):
  """What the chunks of a method have in common.

  Attributes:
    protocol: How members are trained.
    store: Where checkpoints go.
    width: Members of a chunk.
    setting: What is trained, and how.
    train: Training samples on the devices.
    validation: Validation samples there, and perhaps some that fill them up.
    test: Test samples there, likewise.
    num_validation: Validation samples there are.
    num_test: Test samples there are.
    stop_requested: As in `run`.
  """

  protocol: Protocol
  store: Store
  width: int
  setting: full_training.Setting
  train: training.Samples
  validation: training.Samples
  test: training.Samples
  num_validation: int
  num_test: int
  stop_requested: Callable[[], bool]

  @property
  def program(self) -> Program:
    """What trains the members."""
    return make_program(self.setting)

  def place(self, tree: Any) -> Any:
    """Moves arrays of members to the devices."""
    return devices.place(tree, _layout(self.setting)[0])


def _is_done(metrics: Metrics | None) -> bool:
  return metrics is not None and "test_accuracy" in metrics


def _outcome(metrics: list[Metrics], epochs: int, width: int) -> Outcome:
  """Stacks what the members of a cell gave."""
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
  return Outcome(stacked, float(seconds), width)


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
    if runner.stop_requested():
      _save(changed, chunk, progress, state, runner)
      raise interruption.Stopped
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
  return runner.place(
    (
      jax.vmap(jax.random.key)(jnp.asarray(seeds)),
      training.Hparams(
        learning_rate=jnp.array(rates, jnp.float32),
        strength=jnp.asarray(_filled(strengths, width, np.float32)),
      ),
    )
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
  return runner.place(host), progress


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
      failed < 0, metrics.correct / runner.num_validation, np.nan
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
  best, last = (
    jax.device_get(runner.program.count_correct(variables, runner.test))
    / runner.num_test
    for variables in (state.best, state.variables)
  )
  return [
    metrics
    | {
      name: np.float64(value if metrics["failed_step"] < 0 else np.nan)
      for name, value in (
        ("test_accuracy", best[place]),
        ("test_accuracy_last", last[place]),
        (
          "validation_accuracy",
          metrics["best_correct"] / runner.num_validation,
        ),
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
