"""Few-shot simulations: a grid of cells, each trained for every seed at once.

A cell is a method with one strength at one number of shots. All members
(cell, seed) of the same method and shots share a compiled program, which
trains them chunk by chunk, each chunk spread over all devices.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import functools
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import (
  datasets,
  devices,
  methods,
  models,
  programs,
  training,
)


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
      last epoch alone.
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
      `validation_accuracy_curve`.
    seconds: Wall-clock time of its members' share of their chunks, compilation
      included.
    members_per_chunk: Members that a device trained at once.
  """

  metrics: dict[str, np.ndarray]
  seconds: float
  members_per_chunk: int


def batch_size(cell: Cell, protocol: Protocol) -> int:
  """Returns the samples in a step, which some methods want more of."""
  if not protocol.batch_size:
    return 0
  return max(protocol.batch_size, methods.METHODS[cell.method].batch)


def validate_every(cell: Cell, protocol: Protocol) -> int:
  """Returns the epochs from one validation of a cell to the next.

  Raises:
    ValueError: If the epochs are not a number of whole validations.
  """
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
  # A step goes forward and backward, and through all parameters.
  steps = cell.epochs * -(-num_samples // size) * (3 * size + 5)
  return steps + validations * len(dataset.validation.labels)


def run(
  cells: Sequence[Cell],
  dataset: datasets.Dataset,
  protocol: Protocol,
  *,
  tick: Callable[[Cell, int, float], None],
  done: Collection[Cell] = (),
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

  Yields:
    (cell, Outcome), in the order of the cells.

  Raises:
    datasets.DatasetError: If a class has fewer images than shots.
  """
  for _, group in itertools.groupby(
    cells, lambda cell: (cell.shots, cell.method, cell.epochs)
  ):
    planned = list(group)
    missing = [cell for cell in planned if cell not in done]
    if missing:
      width = _width(planned, protocol)
      yield from _run_group(missing, width, dataset, protocol, tick)


def _width(cells: list[Cell], protocol: Protocol) -> int:
  """Returns the members of a chunk, over all devices."""
  num_devices = devices.mesh().size
  per_device = protocol.members_per_chunk
  if not per_device:
    size = batch_size(cells[0], protocol) or cells[0].shots * 10
    per_device = programs.fast_width(size)
  num_members = len(cells) * len(protocol.seeds)
  return num_devices * min(per_device, -(-num_members // num_devices))


def _run_group(
  cells: list[Cell],
  width: int,
  dataset: datasets.Dataset,
  protocol: Protocol,
  tick: Callable[[Cell, int, float], None],
) -> Iterator[tuple[Cell, Outcome]]:
  members = list(itertools.product(cells, protocol.seeds))
  program = _program(cells[0], protocol)
  validation = _on_devices(dataset.validation)
  test = _on_devices(dataset.test)
  finished: list[dict[str, np.ndarray]] = []
  yielded = 0
  for start in range(0, len(members), width):
    started = time.monotonic()
    chunk = members[start : start + width]
    # Filled up, so that all chunks run the same program: results do not
    # depend on how the members were dealt out.
    filled = chunk + [chunk[-1]] * (width - len(chunk))
    outcome = _run_chunk(
      filled,
      dataset,
      protocol,
      program,
      validation,
      test,
      functools.partial(_tick_chunk, tick, chunk, dataset, protocol),
    )
    seconds = (time.monotonic() - started) / len(chunk)
    finished += [
      {name: values[row] for name, values in outcome.items()}
      | {"seconds": np.float64(seconds)}
      for row in range(len(chunk))
    ]
    num_seeds = len(protocol.seeds)
    while len(finished) >= num_seeds:
      rows, finished = finished[:num_seeds], finished[num_seeds:]
      metrics = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
      seconds = float(metrics.pop("seconds").sum())
      per_device = width // devices.mesh().size
      yield cells[yielded], Outcome(metrics, seconds, per_device)
      yielded += 1


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
) -> dict[str, np.ndarray]:
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
  train = _draw(members, dataset, recipe.model)
  keys, hparams, train = devices.place((keys, hparams, train), devices.MEMBERS)
  state = program.init(keys, hparams)
  curves = []
  for epoch in range(0, cell.epochs, program.num_epochs):
    state, metrics = program.run_epochs(
      state, jnp.int32(epoch), keys, hparams, train, validation
    )
    curves.append(jax.device_get(metrics))
    accuracy = curves[-1].validation_accuracy[-1]
    tick(program.num_epochs, float(accuracy.mean()))
  loss, accuracy = (np.concatenate(c).T for c in zip(*curves, strict=True))
  failed_step = np.asarray(state.failed_step)

  def fraction(correct: jax.Array, samples: training.Samples) -> np.ndarray:
    share = np.asarray(correct, np.float64) / len(samples.labels)
    return np.where(failed_step < 0, share, np.nan)

  best_correct = program.count_correct(state.best_params, test, dropout)
  last_correct = program.count_correct(state.params, test, dropout)
  last_accuracy = accuracy[:, -1].astype(np.float64).round(6)
  return {
    "test_accuracy": fraction(best_correct, test),
    "test_accuracy_last": fraction(last_correct, test),
    "validation_accuracy": fraction(state.best_correct, validation),
    "validation_accuracy_last": np.where(
      failed_step < 0, last_accuracy, np.nan
    ),
    "best_epoch": np.asarray(state.best_epoch),
    "failed_step": failed_step,
    # Curves are for figures: six digits keep the records small.
    "train_loss_curve": loss.astype(np.float64).round(6),
    "validation_accuracy_curve": accuracy.astype(np.float64).round(6),
  }


def _draw(
  members: list[tuple[Cell, int]],
  dataset: datasets.Dataset,
  model: models.Model,
) -> training.Samples:
  """Draws each member's shots and prepares them for the network."""
  rows = np.stack(
    [
      datasets.draw_shots(dataset.train.labels, num_shots=cell.shots, seed=seed)
      for cell, seed in members
    ]
  )
  return training.Samples(
    inputs=_prepare(model)(jnp.asarray(dataset.train.images[rows])),
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
