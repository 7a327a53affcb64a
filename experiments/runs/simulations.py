"""Few-shot simulations: a grid of cells, each trained for every seed at once.

A cell is a method with one strength at one number of shots. All members
(cell, seed) of the same method and shots share a compiled program, which
trains them chunk by chunk, each chunk spread over all devices.
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
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.architectures import models
from experiments.command import interruption
from experiments.learning import devices, imitation, methods, programs, training

Metrics = dict[str, np.ndarray]
PyTree = Any

# Between two looks for the members of other processes.
POLL_SECONDS = 0.5


class Cell(NamedTuple):
  """One entry of a table, trained for every seed.

  Attributes:
    shots: Training images of each class.
    method: Name in `methods.METHODS`.
    strength: The method's hyper-parameter; 0 where it has none.
    epochs: Passes over the training images.
  """

  shots: int
  method: str
  strength: float
  epochs: int


class Protocol(NamedTuple):
  """How every cell is trained.

  Attributes:
    model: Name in `models.MODELS`.
    options: Choices that methods depend on.
    seeds: Seeds; each decides the draw of images, the initial parameters and
      the order of samples of one member.
    batch_size: Samples in a step; 0 for all.
    learning_rate: Adam's learning rate.
    members_per_chunk: Members that a device trains at once; 0 for as many as
      are fast.
    validate_every: Epochs from one validation to the next; 0 for one after the
      last epoch alone. Imitation networks are validated after every period.
    initializer: One of `models.INITIALIZERS`.
  """

  model: str
  options: methods.Options
  seeds: tuple[int, ...]
  batch_size: int = 1
  learning_rate: float = 5e-4
  members_per_chunk: int = 0
  validate_every: int = 1
  initializer: str = "pytorch_uniform"


class Outcome(NamedTuple):
  """What became of a cell: arrays by seed, and the time it took.

  Attributes:
    metrics: Arrays [seeds] or [seeds, validations] by name. Accuracies are
      fractions, NaN for members that failed: `test_accuracy` after the epoch
      of best validation accuracy, `test_accuracy_last` after the last epoch,
      `validation_accuracy` the best, `validation_accuracy_last` the last,
      `best_epoch`, `failed_step` (-1: none), `train_loss_curve` and
      `validation_accuracy_curve`; of imitation networks `imitation_loss_curve`
      too, and `test_accuracy_reference` of the model that they imitate.
    seconds: Wall-clock time of its members' share of their chunks, compilation
      included.
    members_per_chunk: Members that a device trained at once.
  """

  metrics: dict[str, np.ndarray]
  seconds: float
  members_per_chunk: int


class Store(NamedTuple):
  """Where members of cells that are not whole yet are kept.

  Attributes:
    find: Maps a cell and the members that a device trains at once to the
      metrics of those that are there, by seed.
    keep: Takes both and more such members.
  """

  find: Callable[[Cell, int], Mapping[int, Metrics]]
  keep: Callable[[Cell, int, Mapping[int, Metrics]], None]


NO_STORE = Store(lambda *_: {}, lambda *_: None)


class Networks(NamedTuple):
  """Parameters of a trained member.

  Attributes:
    last: After the last epoch.
    best: After the epoch of best validation accuracy.
  """

  last: PyTree
  best: PyTree


def batch_size(cell: Cell, protocol: Protocol) -> int:
  """Returns the samples in a step, which some methods want more of."""
  if methods.METHODS[cell.method].loss is None:
    return _imitation_settings(protocol).batch_size
  if not protocol.batch_size:
    return 0
  return max(protocol.batch_size, methods.METHODS[cell.method].batch)


def validate_every(cell: Cell, protocol: Protocol) -> int:
  """Returns the epochs from one validation of a cell to the next.

  Raises:
    ValueError: If the epochs are not a number of whole validations.
  """
  if methods.METHODS[cell.method].loss is None:
    return protocol.options.pseudo_epochs
  every = protocol.validate_every * methods.METHODS[cell.method].batch
  if every and cell.epochs % every:
    raise ValueError(
      f"epochs must be a multiple of those between validations, got "
      f"{cell.epochs} and {every}"
    )
  return every or cell.epochs


def cost(cell: Cell, dataset: datasets.Dataset, protocol: Protocol) -> int:
  """Estimates the work of one member, in images that pass forward."""
  num_samples = cell.shots * dataset.num_classes
  size = batch_size(cell, protocol) or num_samples
  validations = cell.epochs // validate_every(cell, protocol)
  method = methods.METHODS[cell.method]
  if method.loss is None:
    settings = _imitation_settings(protocol)
    whole = imitation.cost(settings, num_shots=num_samples)
    steps = whole * validations // settings.num_periods
  else:
    # A step goes forward and backward, and through all parameters.
    num_steps = cell.epochs * -(-num_samples // size)
    steps = num_steps * (3 * size + method.step_cost)
  return steps + validations * len(dataset.validation.labels)


def run(
  cells: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  *,
  tick: Callable[[Cell, int, float], None],
  done: Collection[Cell] = (),
  store: Store | None = None,
  share: tuple[int, int] = (0, 1),
  stop_requested: Callable[[], bool] = lambda: False,
  keep_networks: Callable[[Cell, int, Networks, Metrics], None] | None = None,
) -> Iterator[tuple[Cell, Outcome]]:
  """Trains cells and yields each as soon as all its members are done.

  Args:
    cells: What to train; those of equal shots, method and epochs that follow
      each other are trained together.
    dataset: Images to draw the shots from, to validate and to test on.
    protocol: How to train.
    tick: Called while training with (cell, work done since the last call in
      units of `cost`, mean validation accuracy of the chunk now).
    done: Those among the cells that are skipped. The others give the same bits
      as if all were trained, since chunks keep their width.
    store: Where members of cells that are not whole yet are kept; without it
      they are lost when this ends early.
    share: Number of this process and of all, which deal the members out among
      themselves. The first yields all cells, and waits for the others' members
      in the store; the others yield none.
    stop_requested: Asked before every chunk whether to stop.
    keep_networks: Takes a cell, a seed, and what its training gave; None for
      networks that nobody wants.

  Yields:
    (cell, Outcome), in the order of the cells unless members were in the store.

  Raises:
    datasets.DatasetError: If a class has fewer images than shots.
    interruption.Stopped: If a stop is requested before all is done.
    results.ResultError: If the store cannot be read or written.
  """
  first, num_processes = share[0] == 0, share[1]
  pool = _Pool(dataset, protocol, tick, store or NO_STORE, keep_networks, {})
  turn = 0
  for _, group in itertools.groupby(
    cells, lambda cell: (cell.shots, cell.method, cell.epochs)
  ):
    planned = list(group)
    width = _width(planned, dataset, protocol, num_processes)
    blocks = _blocks(itertools.product(planned, protocol.seeds), width)
    # By place in the plan, not by what is missing, which may change while the
    # processes look; and going on where the last group ended, so that each
    # gets as many.
    mine = [
      member
      for index, block in enumerate(blocks, turn)
      if index % num_processes == share[0]
      for member in block
    ]
    turn += len(blocks)
    pool.unfinished.update({c: _Unfinished({}, width) for c in planned})
    for cell in done:
      pool.unfinished.pop(cell, None)
    _look(pool)
    if first:
      yield from _whole(pool)
    yield from _train(pool, mine, width, first, num_processes, stop_requested)
  while first and pool.unfinished:
    if stop_requested():
      raise interruption.Stopped
    time.sleep(POLL_SECONDS)
    _look(pool)
    yield from _whole(pool)


class _Unfinished(NamedTuple):
  """What is known of a cell: metrics by seed, and the width of its chunks."""

  members: dict[int, Metrics]
  width: int


class _Pool(NamedTuple):
  """What the groups of a run have in common.

  Attributes:
    dataset: Images.
    protocol: How to train.
    tick: As in `run`.
    store: As in `run`.
    keep_networks: As in `run`.
    unfinished: Cells that are not whole yet.
  """

  dataset: datasets.Dataset
  protocol: Protocol
  tick: Callable[[Cell, int, float], None]
  store: Store
  keep_networks: Callable[[Cell, int, Networks, Metrics], None] | None
  unfinished: dict[Cell, _Unfinished]


def _blocks(
  members: Iterable[tuple[Cell, int]], width: int
) -> list[list[tuple[Cell, int]]]:
  members = list(members)
  return [members[i : i + width] for i in range(0, len(members), width)]


def _look(pool: _Pool) -> None:
  """Takes over the members in the store that are news."""
  for cell, (members, width) in pool.unfinished.items():
    found = pool.store.find(cell, width // devices.mesh().size)
    news = {s: m for s, m in found.items() if s not in members}
    if news:
      members.update(news)
      accuracies = [m["validation_accuracy_curve"][-1] for m in news.values()]
      work = len(news) * cost(cell, pool.dataset, pool.protocol)
      pool.tick(cell, work, float(np.mean(accuracies)))


def _whole(pool: _Pool) -> Iterator[tuple[Cell, Outcome]]:
  """Yields the cells all of whose members are known, and forgets them."""
  seeds = pool.protocol.seeds
  for cell, (members, width) in list(pool.unfinished.items()):
    if all(seed in members for seed in seeds):
      del pool.unfinished[cell]
      rows = [members[seed] for seed in seeds]
      metrics = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
      seconds = float(metrics.pop("seconds").sum())
      yield cell, Outcome(metrics, seconds, width // devices.mesh().size)


def _train(
  pool: _Pool,
  members: list[tuple[Cell, int]],
  width: int,
  first: bool,
  num_processes: int,
  stop_requested: Callable[[], bool],
) -> Iterator[tuple[Cell, Outcome]]:
  """Trains those members that are missing, chunk by chunk, as `run` says."""
  missing = [
    (cell, seed)
    for cell, seed in members
    if cell in pool.unfinished and seed not in pool.unfinished[cell].members
  ]
  if not missing:
    return
  train_chunk = _make_train_chunk(missing[0][0], width, pool)
  for chunk in _blocks(missing, width):
    if stop_requested():
      raise interruption.Stopped
    trained: dict[Cell, dict[int, Metrics]] = {}
    for (cell, seed), metrics in zip(chunk, train_chunk(chunk), strict=True):
      trained.setdefault(cell, {})[seed] = metrics
      pool.unfinished[cell].members[seed] = metrics
    for cell, new in trained.items():
      known = pool.unfinished[cell].members
      if not first or len(known) < len(pool.protocol.seeds):
        pool.store.keep(cell, width // devices.mesh().size, new)
    if first:
      if num_processes > 1:
        _look(pool)
      yield from _whole(pool)


def _width(
  cells: list[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  num_processes: int,
) -> int:
  """Returns the members of a chunk, over all devices of this process."""
  cell = cells[0]
  num_devices = devices.mesh().size
  num_members = len(cells) * len(protocol.seeds)
  most = -(-num_members // (num_devices * num_processes))
  if protocol.members_per_chunk:
    return num_devices * min(protocol.members_per_chunk, most)
  num_samples = cell.shots * dataset.num_classes
  size = batch_size(cell, protocol)
  most = min(most, programs.fast_width(size or num_samples))
  # Imitation networks deal with their memory themselves.
  if methods.METHODS[cell.method].loss is not None:
    most = programs.fitting_width(
      _recipe(cell.method, protocol),
      batch_size=size,
      num_samples=num_samples,
      num_validation=len(dataset.validation.labels),
      wanted=most,
    )
  return num_devices * most


def _make_train_chunk(
  cell: Cell, width: int, pool: _Pool
) -> Callable[[list[tuple[Cell, int]]], list[Metrics]]:
  """Makes what trains up to `width` members of a group of cells."""
  dataset, protocol = pool.dataset, pool.protocol
  program = _program(cell, protocol)
  validation = _on_devices(dataset.validation)
  test = _on_devices(dataset.test)

  def train_chunk(chunk: list[tuple[Cell, int]]) -> list[Metrics]:
    started = time.monotonic()
    # Filled up, so that all chunks run the same program: results do not
    # depend on how the members were dealt out.
    filled = chunk + [chunk[-1]] * (width - len(chunk))
    outcome, state = _run_chunk(
      filled,
      dataset,
      protocol,
      program,
      validation,
      test,
      functools.partial(_tick_chunk, pool.tick, chunk, dataset, protocol),
    )
    seconds = np.float64((time.monotonic() - started) / len(chunk))
    metrics = [
      {name: values[row] for name, values in outcome.items()}
      | {"seconds": seconds}
      for row in range(len(chunk))
    ]
    if pool.keep_networks is not None:
      networks = jax.device_get(Networks(state.params, state.best_params))
      for row, member in enumerate(chunk):
        network = jax.tree.map(lambda leaf, row=row: leaf[row], networks)
        pool.keep_networks(*member, network, metrics[row])
    return metrics

  return train_chunk


def _program(cell: Cell, protocol: Protocol) -> programs.Program:
  every = validate_every(cell, protocol)
  return programs.make(
    _recipe(cell.method, protocol),
    batch_size=batch_size(cell, protocol),
    # Often enough for a progress bar, seldom enough to cost nothing.
    num_epochs=every * _largest_divisor(cell.epochs // every, 5),
    validate_every=every,
  )


def _recipe(method: str, protocol: Protocol) -> training.Recipe:
  model = models.with_initializer(
    models.MODELS[protocol.model], protocol.initializer
  )
  return methods.recipe(method, model, protocol.options)


def _run_chunk(
  members: list[tuple[Cell, int]],
  dataset: datasets.Dataset,
  protocol: Protocol,
  program: programs.Program,
  validation: training.Samples,
  test: training.Samples,
  tick: Callable[[int, float], None],
) -> tuple[Metrics, training.State]:
  """Trains one chunk from beginning to end; arrays [members, ...] by name."""
  cell, _ = members[0]
  recipe = _recipe(cell.method, protocol)
  keys = jax.vmap(jax.random.key)(
    jnp.array([seed for _, seed in members], jnp.uint32)
  )
  hparams = training.Hparams(
    learning_rate=jnp.full(len(members), protocol.learning_rate, jnp.float32),
    strength=jnp.array([cell.strength for cell, _ in members], jnp.float32),
  )
  dropout = training.evaluation_dropout(recipe, keys, hparams, 0)
  train = _draw(members, dataset)
  population = devices.place((keys, hparams, train), devices.MEMBERS)
  if methods.METHODS[cell.method].loss is None:
    settings = _imitation_settings(protocol)
    state, curves, reference = _imitate(
      recipe.model, settings, *population, validation, test, tick
    )
  else:
    reference = None
    state, curves = _descend(
      recipe.model, program, cell.epochs, *population, validation, tick
    )
  failed_step = np.asarray(state.failed_step)

  def fraction(correct: jax.Array, samples: training.Samples) -> np.ndarray:
    share = np.asarray(correct, np.float64) / len(samples.labels)
    return np.where(failed_step < 0, share, np.nan)

  best_correct = program.count_correct(state.best_params, test, dropout)
  last_correct = program.count_correct(state.params, test, dropout)
  # Curves are for figures: six digits keep the records small.
  curves = {
    f"{name}_curve": curve.T.astype(np.float64).round(6)
    for name, curve in curves.items()
  }
  last_accuracy = curves["validation_accuracy_curve"][:, -1]
  outcome = {
    "test_accuracy": fraction(best_correct, test),
    "test_accuracy_last": fraction(last_correct, test),
    "validation_accuracy": fraction(state.best_correct, validation),
    "validation_accuracy_last": np.where(
      failed_step < 0, last_accuracy, np.nan
    ),
    "best_epoch": np.asarray(state.best_epoch),
    "failed_step": failed_step,
    **curves,
  }
  if reference is not None:
    outcome["test_accuracy_reference"] = reference / len(test.labels)
  return outcome, state


def _descend(
  model: models.Model,
  program: programs.Program,
  epochs: int,
  keys: jax.Array,
  hparams: training.Hparams,
  train: training.Samples,
  validation: training.Samples,
  tick: Callable[[int, float], None],
) -> tuple[training.State, dict[str, np.ndarray]]:
  """Trains a chunk by descending a loss; returns curves by name too."""
  train = train._replace(inputs=_prepare(model)(train.inputs))
  state = program.init(keys, hparams)
  curves = []
  for epoch in range(0, epochs, program.num_epochs):
    state, metrics = program.run_epochs(
      state, jnp.int32(epoch), keys, hparams, train, validation
    )
    curves.append(jax.device_get(metrics))
    accuracy = curves[-1].validation_accuracy[-1]
    tick(program.num_epochs, float(accuracy.mean()))
  joined = (np.concatenate(leaves) for leaves in zip(*curves, strict=True))
  return state, dict(zip(training.Metrics._fields, joined, strict=True))


def _imitate(
  model: models.Model,
  settings: imitation.Settings,
  keys: jax.Array,
  hparams: training.Hparams,
  train: training.Samples,
  validation: training.Samples,
  test: training.Samples,
  tick: Callable[[int, float], None],
) -> tuple[training.State, dict[str, np.ndarray], np.ndarray]:
  """Trains a chunk of imitation networks.

  Returns what `_descend` does, and how many test images the model that each of
  them imitates classifies correctly.
  """
  state, curves = imitation.make_train(model, settings)(
    keys,
    imitation.make_hparams(hparams.learning_rate, hparams.strength),
    train,
    validation,
    tick,
  )
  classes = imitation.make_classify(settings)(train, test.inputs)
  correct = np.sum(np.asarray(classes) == np.asarray(test.labels), axis=1)
  return state.network, curves._asdict(), correct


def _imitation_settings(protocol: Protocol) -> imitation.Settings:
  options = protocol.options
  return imitation.Settings(
    first=options.first_pseudo,
    last=options.last_pseudo,
    num_periods=options.pseudo_periods,
    epochs=options.pseudo_epochs,
    # As many as there are on a GPU, one on a CPU.
    members_at_once=programs.fast_width(imitation.Settings().batch_size),
  )


def _draw(
  members: list[tuple[Cell, int]], dataset: datasets.Dataset
) -> training.Samples:
  """Draws each member's shots."""
  rows = np.stack(
    [
      datasets.draw_shots(dataset.train.labels, num_shots=cell.shots, seed=seed)
      for cell, seed in members
    ]
  )
  return training.Samples(
    inputs=jnp.asarray(dataset.train.images[rows]),
    labels=jnp.asarray(dataset.train.labels[rows]),
  )


@functools.cache
def _prepare(model: models.Model) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(jax.vmap(model.prepare))


def _tick_chunk(
  tick: Callable[[Cell, int, float], None],
  chunk: list[tuple[Cell, int]],
  dataset: datasets.Dataset,
  protocol: Protocol,
  num_epochs: int,
  accuracy: float,
) -> None:
  cell = chunk[0][0]
  stretch = cell._replace(epochs=num_epochs)
  tick(cell, len(chunk) * cost(stretch, dataset, protocol), accuracy)


def _on_devices(split: datasets.Split) -> training.Samples:
  samples = training.Samples(split.images, split.labels)
  return devices.place(samples, devices.SHARED)


def _largest_divisor(number: int, limit: int) -> int:
  return next(n for n in range(limit, 0, -1) if number % n == 0)
