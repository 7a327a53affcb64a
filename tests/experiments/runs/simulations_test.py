"""Tests of experiments.runs.simulations."""

import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import models
from experiments.learning import devices, methods, programs, training
from experiments.runs import simulations
from tests.experiments import tiny

_ROOT = pathlib.Path(__file__).parents[3]
DIGITS = tiny.load_digits(50)
# A cell fills two devices with two members each.
SEEDS = (3, 0, 11, 7)
EPOCHS = 6
CELLS = (
  simulations.Cell(1, "vanilla", 0.0, EPOCHS),
  simulations.Cell(1, "bean1", 1.0, EPOCHS),
  simulations.Cell(1, "bean1", 10.0, EPOCHS),
  simulations.Cell(2, "bean1", 1.0, EPOCHS),
)
PAIR = CELLS[1:3]
SHAPES = {
  "test_accuracy": (len(SEEDS),),
  "test_accuracy_last": (len(SEEDS),),
  "validation_accuracy": (len(SEEDS),),
  "validation_accuracy_last": (len(SEEDS),),
  "best_epoch": (len(SEEDS),),
  "failed_step": (len(SEEDS),),
  "train_loss_curve": (len(SEEDS), EPOCHS),
  "validation_accuracy_curve": (len(SEEDS), EPOCHS),
}


@pytest.fixture(autouse=True, scope="module")
def _tiny_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "tiny", tiny.MODEL)
    yield


PROTOCOL = simulations.Protocol(
  model="tiny",
  options=methods.Options(),
  seeds=SEEDS,
  batch_size=4,
  learning_rate=2e-2,
)


def run(cells, *, width=2, seeds=SEEDS, done=(), **choices):
  """Trains cells; outcomes in the order they came, and the ticks."""
  protocol = PROTOCOL._replace(seeds=seeds, members_per_chunk=width, **choices)
  ticks, outcomes = [], []
  for cell, outcome in simulations.run(
    cells, DIGITS, protocol, tick=lambda *tick: ticks.append(tick), done=done
  ):
    outcomes.append((cell, outcome))
    if width == 2:
      # As soon as it is done, before anything else begins.
      assert sum(work for _, work, _ in ticks) == len(seeds) * sum(
        simulations.cost(cell, DIGITS, protocol) for cell, _ in outcomes
      )
  return outcomes, ticks


@pytest.fixture(scope="module")
def finished():
  """All cells, trained with one cell in a chunk."""
  return run(CELLS)


@pytest.fixture(scope="module")
def metrics(finished):
  return {cell: outcome.metrics for cell, outcome in finished[0]}


def assert_same(actual, expected):
  assert actual.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(actual[name], values, err_msg=name)


def test_cells_come_in_order_with_all_metrics(finished):
  outcomes, _ = finished
  assert [cell for cell, _ in outcomes] == list(CELLS)
  for _, outcome in outcomes:
    shapes = {name: values.shape for name, values in outcome.metrics.items()}
    assert shapes == SHAPES
    assert outcome.seconds > 0
    assert all(np.all(np.isfinite(v)) for v in outcome.metrics.values())
    np.testing.assert_array_equal(outcome.metrics["failed_step"], -1)


def test_what_is_missing_gives_the_bits_of_a_whole_run():
  """Chunks keep their width, though there are fewer members to fill them."""
  (_, other), _ = run(PAIR, width=100)
  outcomes, _ = run(PAIR, width=100, done={PAIR[0]})
  assert [cell for cell, _ in outcomes] == [PAIR[1]]
  assert_same(outcomes[0][1].metrics, other[1].metrics)


def test_best_epoch_is_the_first_of_best_validation(metrics):
  for values in metrics.values():
    curve = values["validation_accuracy_curve"]
    np.testing.assert_allclose(
      values["validation_accuracy"], curve.max(axis=1), rtol=1e-6
    )
    np.testing.assert_array_equal(
      values["best_epoch"], curve.argmax(axis=1) + 1
    )


def test_a_member_is_its_seed_trained_alone(metrics):
  """Draw, initial parameters, order and test, all from the seed."""
  seed, cell = SEEDS[2], PAIR[0]
  key = jax.random.key(seed)
  keys = key[None]
  hparams = training.Hparams(jnp.array([2e-2]), jnp.array([cell.strength]))
  rows = datasets.draw_shots(DIGITS.train.labels, num_shots=1, seed=seed)
  train = training.Samples(
    tiny.MODEL.prepare(jnp.asarray(DIGITS.train.images[rows]))[None],
    jnp.asarray(DIGITS.train.labels[rows])[None],
  )
  recipe = methods.recipe("bean1", tiny.MODEL, methods.Options())
  run_epochs = jax.jit(
    training.make_run_epochs(recipe, batch_size=4, num_epochs=EPOCHS)
  )
  state, curves = run_epochs(
    training.make_init(recipe)(keys, hparams),
    0,
    keys,
    hparams,
    train,
    training.Samples(*DIGITS.validation),
  )
  values = {name: entry[2] for name, entry in metrics[cell].items()}
  np.testing.assert_allclose(
    values["train_loss_curve"], curves.train_loss[:, 0], rtol=1e-4
  )
  np.testing.assert_allclose(
    values["validation_accuracy_curve"],
    curves.validation_accuracy[:, 0],
    rtol=1e-6,
  )
  for name, params in (
    ("test_accuracy", state.best_params),
    ("test_accuracy_last", state.params),
  ):
    classes = np.asarray(tiny.MODEL.predict(params, DIGITS.test.images)[0])
    assert values[name] == np.mean(classes == DIGITS.test.labels)
  # Otherwise they would not be told apart.
  assert values["test_accuracy"] != values["test_accuracy_last"]


def test_members_and_cells_differ(metrics):
  for values in metrics.values():
    assert len(np.unique(values["train_loss_curve"][:, 0])) == len(SEEDS)
  first_losses = {
    cell: tuple(values["train_loss_curve"][:, -1])
    for cell, values in metrics.items()
  }
  assert len(set(first_losses.values())) == len(CELLS)


def check_ticks(ticks, cells):
  """The work told adds up to the cost, fillings of chunks left out."""
  for cell, work, accuracy in ticks:
    assert cell in cells
    assert work > 0
    assert 0 <= accuracy <= 1
  for shots in {cell.shots for cell in cells}:
    total = sum(work for cell, work, _ in ticks if cell.shots == shots)
    assert total == len(SEEDS) * sum(
      simulations.cost(cell, DIGITS, PROTOCOL)
      for cell in cells
      if cell.shots == shots
    )


def test_ticks_add_up_to_the_cost(finished):
  check_ticks(finished[1], CELLS)


# 8 members: chunks that divide them, that do not and cut a cell, and one.
@pytest.mark.parametrize("width", (1, 3, 20))
def test_chunks_do_not_change_the_numbers(width, metrics, monkeypatch):
  make_run_epochs, widths = training.make_run_epochs, set()
  programs.make.cache_clear()

  def recording(*args, **kwargs):
    run_epochs = make_run_epochs(*args, **kwargs)

    def wrapper(state, epoch, keys, *rest):
      widths.add(len(keys))
      return run_epochs(state, epoch, keys, *rest)

    return wrapper

  monkeypatch.setattr(training, "make_run_epochs", recording)
  outcomes, ticks = run(PAIR, width=width)
  # On every device, and also the last chunk runs the program of the others.
  num_devices = devices.mesh().size
  assert num_devices > 1
  assert widths == {min(width, -(-len(PAIR) * len(SEEDS) // num_devices))}
  check_ticks(ticks, PAIR)
  assert [cell for cell, _ in outcomes] == list(PAIR)
  for cell, outcome in outcomes:
    expected = metrics[cell]
    np.testing.assert_allclose(
      outcome.metrics["train_loss_curve"],
      expected["train_loss_curve"],
      rtol=1e-3,
    )
    for name in (
      "test_accuracy",
      "test_accuracy_last",
      "validation_accuracy",
      "validation_accuracy_curve",
    ):
      # One image that is as good as undecided.
      np.testing.assert_allclose(
        outcome.metrics[name], expected[name], atol=1.01 / 50, err_msg=name
      )


def test_cells_do_not_depend_on_each_other(metrics):
  """Bit by bit, in chunks of a cell: what a resumed run relies on."""
  ((_, alone),), _ = run(PAIR[1:])
  assert_same(alone.metrics, metrics[PAIR[1]])


def test_cost_grows_with_shots_epochs_methods_and_validations():
  def cost(cell, protocol=PROTOCOL):
    return simulations.cost(cell, DIGITS, protocol)

  cell = CELLS[0]
  assert cost(cell._replace(epochs=2 * EPOCHS)) == 2 * cost(cell)
  assert cost(cell._replace(shots=5)) > cost(cell)
  orders = [cost(cell._replace(method=name)) for name in ("bean1", "bean2")]
  assert cost(cell._replace(method="vanilla")) < orders[0] < orders[1]
  seldom = cost(cell, PROTOCOL._replace(validate_every=0))
  num_images = len(DIGITS.validation.labels)
  assert cost(cell) - seldom == (EPOCHS - 1) * num_images


def test_number_of_epochs_that_has_no_small_divisor():
  (outcome,), ticks = run([CELLS[0]._replace(epochs=7)])
  assert outcome[1].metrics["train_loss_curve"].shape == (len(SEEDS), 7)
  assert len(ticks) == 7
  check_ticks(ticks, [CELLS[0]._replace(epochs=7)])


def test_failed_members_have_no_accuracy(monkeypatch, metrics):
  """A method that the seed of the brightest image does not survive."""

  def poisoned(hparams, model, options):
    del options
    loss_fn = training.cross_entropy(model)

    def poisoned_fn(params, samples, mask, key):
      loss, aux = loss_fn(params, samples, mask, key)
      sums = jnp.sum(samples.inputs, axis=1, dtype=jnp.int32)
      survives = jnp.all(sums < hparams.strength)
      return jnp.where(survives, loss, jnp.nan), aux

    return poisoned_fn

  monkeypatch.setitem(
    methods.METHODS,
    "vanilla",
    methods.METHODS["vanilla"]._replace(loss=poisoned),
  )
  methods.recipe.cache_clear()
  rows = [
    datasets.draw_shots(DIGITS.train.labels, num_shots=1, seed=seed)
    for seed in SEEDS
  ]
  brightness = DIGITS.train.images[rows].sum(axis=(2, 3, 4), dtype=int)
  strength = float(brightness.max())
  doomed = int(brightness.max(axis=1).argmax())
  assert np.sum(brightness == strength) == 1
  cells = [CELLS[0]._replace(strength=s) for s in (0.0, strength, math.inf)]
  (_, lost), (_, failing), (_, healthy) = run(cells)[0]
  methods.recipe.cache_clear()
  assert_same(healthy.metrics, metrics[CELLS[0]])
  np.testing.assert_array_equal(lost.metrics["failed_step"], 0)
  assert np.all(np.isnan(lost.metrics["test_accuracy"]))
  key = jax.random.fold_in(jax.random.key(SEEDS[doomed]), training.SHUFFLE)
  order = jax.random.permutation(jax.random.fold_in(key, 0), 10)
  place = int(np.argmax(order == brightness[doomed].argmax()))
  assert failing.metrics["failed_step"][doomed] == place // 4
  for name in ("test_accuracy", "test_accuracy_last", "validation_accuracy"):
    assert np.isnan(failing.metrics[name][doomed])
  others = np.arange(len(SEEDS)) != doomed
  for name, values in failing.metrics.items():
    np.testing.assert_array_equal(
      values[others], metrics[CELLS[0]][name][others], err_msg=name
    )


class TestMethodsThatWantMoreSamples:
  """As many steps as others have, in epochs that are fewer of them."""

  CELL = simulations.Cell(1, "vanilla10", 0.0, 10 * EPOCHS)

  @pytest.mark.parametrize(
    "given,expected", ((0, 0), (1, 10), (10, 10), (11, 11))
  )
  def test_batch_size(self, given, expected):
    protocol = PROTOCOL._replace(batch_size=given)
    assert simulations.batch_size(self.CELL, protocol) == expected
    assert simulations.batch_size(CELLS[0], protocol) == given

  def test_as_many_validations(self):
    for given, expected in ((1, 10), (3, 30), (0, 10 * EPOCHS)):
      protocol = PROTOCOL._replace(validate_every=given)
      every = simulations.validate_every(self.CELL, protocol)
      assert every == expected
      other = simulations.validate_every(CELLS[0], protocol)
      assert self.CELL.epochs // every == CELLS[0].epochs // other

  def test_epochs_that_are_no_number_of_validations(self):
    protocol = PROTOCOL._replace(validate_every=4)
    for cell, got in ((CELLS[0], "6 and 4"), (self.CELL, "60 and 40")):
      with pytest.raises(ValueError, match=f"got {got}$"):
        simulations.validate_every(cell, protocol)

  def test_program(self, monkeypatch):
    class Made(Exception):
      pass

    def make(recipe, **sizes):
      assert recipe is methods.recipe("vanilla10", tiny.MODEL, PROTOCOL.options)
      raise Made(sizes)

    monkeypatch.setattr(programs, "make", make)
    with pytest.raises(Made) as made:
      run([self.CELL], batch_size=1)
    (sizes,) = made.value.args
    # In stretches of at most five validations that fill 6.
    assert sizes == {"batch_size": 10, "num_epochs": 30, "validate_every": 10}


def run_on_devices(count, path, cells, options):
  """Trains cells in a process with so many devices; metrics by cell."""
  program = f"""
import jax
jax.config.update("jax_num_cpu_devices", {count})
import numpy as np
from experiments.architectures import models
from experiments.runs import simulations
from experiments.learning.methods import Options
from experiments.runs.simulations import Cell
from tests.experiments import tiny
from tests.experiments.runs import simulations_test
models.MODELS["tiny"] = tiny.MODEL
outcomes = simulations.run(
  {cells!r},
  simulations_test.DIGITS,
  simulations_test.PROTOCOL._replace(options={options!r}, members_per_chunk=2),
  tick=lambda *tick: None,
)
for index, (_, outcome) in enumerate(outcomes):
  assert outcome.members_per_chunk == 2
  np.savez(f"{path}/{{index}}.npz", **outcome.metrics)
assert jax.local_device_count() == {count}
"""
  subprocess.run(
    [sys.executable, "-W", "error", "-c", program],
    cwd=_ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    check=True,
    timeout=600,
  )
  loaded = {}
  for index, cell in enumerate(cells):
    with np.load(path / f"{index}.npz") as file:
      loaded[cell] = dict(file)
  return loaded


@pytest.fixture(scope="module")
def two_devices():
  """Cells, options of their methods, and their metrics on two devices."""
  cells = (*PAIR, simulations.Cell(1, "dropout", 0.5, EPOCHS))
  options = methods.Options(dropout_at_eval=True)
  assert devices.mesh().size == 2
  outcomes, _ = run(cells, options=options)
  assert all(outcome.members_per_chunk == 2 for _, outcome in outcomes)
  return cells, options, {cell: outcome.metrics for cell, outcome in outcomes}


@pytest.mark.slow
class TestNumberOfDevices:
  """Two members on each, however many there are."""

  def test_several_give_equal_bits(self, two_devices, tmp_path):
    cells, options, expected = two_devices
    actual = run_on_devices(3, tmp_path, cells, options)
    for cell in cells:
      assert_same(actual[cell], expected[cell])

  # XLA compiles a program of one device otherwise: the last bits differ.
  def test_one_gives_the_same_but_for_rounding(self, two_devices, tmp_path):
    cells, options, expected = two_devices
    actual = run_on_devices(1, tmp_path, cells, options)
    for cell in cells:
      for name, values in expected[cell].items():
        # One image that is as good as undecided.
        atol = 1.01 / 50 if "accuracy" in name else 1e-3
        if name != "best_epoch":
          np.testing.assert_allclose(
            actual[cell][name], values, atol=atol, err_msg=name
          )


def test_more_shots_than_images_are_refused():
  with pytest.raises(datasets.DatasetError, match="500 shots"):
    run([CELLS[0]._replace(shots=500)])


IMITATION = methods.Options(
  first_pseudo=8, last_pseudo=20, pseudo_periods=2, pseudo_epochs=3
)
IMITATION_CELLS = (
  simulations.Cell(1, "imitation", 0.0, 6),
  simulations.Cell(1, "imitation", 0.02, 6),
)


@pytest.fixture(scope="module")
def imitations():
  return run(IMITATION_CELLS, options=IMITATION)


def test_imitation_networks_are_validated_after_every_period(imitations):
  (_, outcome), _ = imitations[0]
  shapes = {name: values.shape for name, values in outcome.metrics.items()}
  curve = (len(SEEDS), IMITATION.pseudo_periods)
  assert shapes == SHAPES | {
    "train_loss_curve": curve,
    "validation_accuracy_curve": curve,
    "imitation_loss_curve": curve,
    "test_accuracy_reference": (len(SEEDS),),
  }
  assert set(outcome.metrics["best_epoch"]) <= {3, 6}


def test_reference_model_of_imitation_networks_is_the_same_for_all_strengths(
  imitations,
):
  (_, first), (_, second) = imitations[0]
  reference = first.metrics["test_accuracy_reference"]
  np.testing.assert_array_equal(
    second.metrics["test_accuracy_reference"], reference
  )
  # Ten images of ten classes teach it more than chance.
  assert reference.mean() > 0.3
  assert np.any(
    first.metrics["imitation_loss_curve"]
    != second.metrics["imitation_loss_curve"]
  )


def test_imitation_networks_do_not_depend_on_their_company(imitations):
  (_, expected), _ = imitations[0]
  ((_, alone),), _ = run(IMITATION_CELLS[:1], options=IMITATION, width=1)
  assert_same(alone.metrics, expected.metrics)
