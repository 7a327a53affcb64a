"""Few-shot simulations: a grid of cells, each trained for every seed at once.

A cell is a method with one strength at one number of shots. All members
(cell, seed) of the same method and shots share a compiled program, which
trains them chunk by chunk.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import functools
import itertools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets, methods, models, training


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
    members_per_chunk: Members that are trained at once.
  """

  model: str
  options: methods.Options
  seeds: tuple[int, ...]
  batch_size: int
  learning_rate: float
  members_per_chunk: int


class Outcome(NamedTuple):
  """What became of a cell: arrays by seed, and the time it took.

  Attributes:
    metrics: Arrays [seeds] or [seeds, epochs] by name. Accuracies are
      fractions, NaN for members that failed: `test_accuracy` after the epoch
      of best validation accuracy, `test_accuracy_last` after the last epoch,
      `validation_accuracy` the best, `best_epoch`, `failed_step` (-1: none),
      `train_loss_curve` and `validation_accuracy_curve`.
    seconds: Wall-clock time of its members' share of their chunks, compilation
      included.
  """

  metrics: dict[str, np.ndarray]
  seconds: float


def cost(cell: Cell, dataset: datasets.Dataset) -> int:
  """Estimates the work of one member, in images that pass forward."""
  num_samples = cell.shots * dataset.num_classes
  # A step goes forward, backward and through all parameters.
  return cell.epochs * (8 * num_samples + len(dataset.validation.labels))


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
    num_members = len(planned) * len(protocol.seeds)
    width = min(protocol.members_per_chunk, num_members)
    if missing:
      yield from _run_group(missing, width, dataset, protocol, tick)


def _run_group(
  cells: list[Cell],
  width: int,
  dataset: datasets.Dataset,
  protocol: Protocol,
  tick: Callable[[Cell, int, float], None],
) -> Iterator[tuple[Cell, Outcome]]:
  members = list(itertools.product(cells, protocol.seeds))
  stretch = _largest_divisor(cells[0].epochs, 5)
  run_epochs = _make_run_epochs(cells[0].method, protocol, stretch)
  validation = _on_device(dataset.validation)
  test = _on_device(dataset.test)
  finished: list[dict[str, np.ndarray]] = []
  yielded = 0
  for start in range(0, len(members), width):
    started = time.monotonic()
    chunk = members[start : start + width]
    # Filled up, so that all chunks run the same program: results do not
    # depend on how the members were dealt out.
    filled = chunk + [chunk[-1]] * (width - len(chunk))
    tick_chunk = functools.partial(_tick_chunk, tick, chunk, dataset, stretch)
    outcome = _run_chunk(
      filled,
      dataset,
      protocol,
      run_epochs,
      stretch,
      validation,
      test,
      tick_chunk,
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
      yield (
        cells[yielded],
        Outcome(seconds=metrics.pop("seconds").sum(), metrics=metrics),
      )
      yielded += 1


def _run_chunk(
  members: list[tuple[Cell, int]],
  dataset: datasets.Dataset,
  protocol: Protocol,
  run_epochs: Callable[..., tuple[training.State, training.Metrics]],
  stretch: int,
  validation: training.Samples,
  test: training.Samples,
  tick: Callable[[float], None],
) -> dict[str, np.ndarray]:
  """Trains one chunk from beginning to end; arrays [members, ...] by name."""
  epochs = members[0][0].epochs
  keys = jax.vmap(jax.random.key)(
    jnp.array([seed for _, seed in members], jnp.uint32)
  )
  hparams = training.Hparams(
    learning_rate=jnp.full(len(members), protocol.learning_rate, jnp.float32),
    strength=jnp.array([cell.strength for cell, _ in members], jnp.float32),
  )
  model = models.MODELS[protocol.model]
  train = _draw(members, dataset, model)
  state = training.make_init(model)(keys, hparams)
  curves = []
  for epoch in range(0, epochs, stretch):
    state, metrics = run_epochs(
      state, jnp.int32(epoch), keys, hparams, train, validation
    )
    curves.append(jax.device_get(metrics))
    tick(float(curves[-1].validation_accuracy[-1].mean()))
  loss, accuracy = (np.concatenate(c).T for c in zip(*curves, strict=True))
  failed_step = np.asarray(state.failed_step)

  def fraction(correct: jax.Array, samples: training.Samples) -> np.ndarray:
    share = np.asarray(correct, np.float64) / len(samples.labels)
    return np.where(failed_step < 0, share, np.nan)

  count_correct = training.make_count_correct(model)
  best_correct = count_correct(state.best_params, test)
  last_correct = count_correct(state.params, test)
  return {
    "test_accuracy": fraction(best_correct, test),
    "test_accuracy_last": fraction(last_correct, test),
    "validation_accuracy": fraction(state.best_correct, validation),
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


def _make_run_epochs(
  method: str, protocol: Protocol, num_epochs: int
) -> Callable[..., tuple[training.State, training.Metrics]]:
  model = models.MODELS[protocol.model]
  return training.make_run_epochs(
    model,
    lambda loss_fn, hparams: methods.METHODS[method].regularizer(
      loss_fn, hparams, model, protocol.options
    ),
    batch_size=protocol.batch_size,
    num_epochs=num_epochs,
  )


def _tick_chunk(
  tick: Callable[[Cell, int, float], None],
  chunk: list[tuple[Cell, int]],
  dataset: datasets.Dataset,
  stretch: int,
  accuracy: float,
) -> None:
  cell = chunk[0][0]
  tick(
    cell, len(chunk) * cost(cell._replace(epochs=stretch), dataset), accuracy
  )


def _on_device(split: datasets.Split) -> training.Samples:
  return training.Samples(jnp.asarray(split.images), jnp.asarray(split.labels))


def _largest_divisor(number: int, limit: int) -> int:
  return next(n for n in range(limit, 0, -1) if number % n == 0)
