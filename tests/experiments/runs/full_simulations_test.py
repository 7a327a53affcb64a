"""Tests of experiments.runs.full_simulations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learning import full_training, training
from experiments.records import checkpoints, results
from experiments.runs import full_simulations
from experiments.runs.full_simulations import Cell, Member
from tests.experiments import tiny_network

SEEDS = (3, 0, 11)
EPOCHS = 6
CELLS = (Cell("bean1", 1.0), Cell("bean1", 10.0))
PROTOCOL = full_simulations.Protocol(
  model="tiny",
  seeds=SEEDS,
  epochs=EPOCHS,
  patience=0,
  batch_size=20,
  learning_rate=2e-2,
  members_per_chunk=1,
)
WIDTH = jax.device_count()
with jax.default_matmul_precision("highest"):
  ENVIRONMENT = results.environment()
DIGITS = tiny_network.load_digits()
SHAPES = {
  "test_accuracy": (3,),
  "test_accuracy_last": (3,),
  "validation_accuracy": (3,),
  "validation_accuracy_last": (3,),
  "best_epoch": (3,),
  "best_correct": (3,),
  "failed_step": (3,),
  "epochs": (3,),
  "converged": (3,),
  "objective_curve": (3, EPOCHS),
  "train_loss_curve": (3, EPOCHS),
  "validation_accuracy_curve": (3, EPOCHS),
}


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      full_simulations.networks,
      "make",
      lambda name, image_shape, **_: tiny_network.NETWORK,
    )
    with jax.default_matmul_precision("highest"):
      yield


def member_config(member, protocol=PROTOCOL):
  return {
    **member.cell._asdict(),
    "seed": member.seed,
    "patience": protocol.patience,
  }


def make_store(folder, protocol=PROTOCOL, seconds=0.0):
  return full_simulations.Store(
    path=lambda m: folder / f"{m.cell.method}{m.cell.strength}-{m.seed}.npz",
    config=lambda member: member_config(member, protocol),
    environment=ENVIRONMENT,
    seconds=seconds,
  )


def ignore(*_):
  pass


def run(
  folder, *, cells=CELLS, protocol=PROTOCOL, tick=ignore, done=(), **store
):
  """Trains cells, going on from what the folder holds; outcomes by cell."""
  store = make_store(folder, protocol, **store)
  missing = [cell for cell in cells if cell not in done]
  found = full_simulations.find(missing, protocol, store)
  return dict(
    full_simulations.run(
      cells,
      DIGITS,
      protocol,
      store,
      done=done,
      found=found,
      tick=tick,
    )
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def ticks():
  return []


@pytest.fixture(scope="module")
def finished(folder, ticks):
  """All cells, trained for all epochs, a member on each device."""
  return run(folder, tick=lambda *tick: ticks.append(tick))


def assert_same(actual, expected):
  assert actual.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(actual[name], values, err_msg=name)


def assert_same_outcomes(actual, expected):
  assert list(actual) == list(expected)
  for cell, outcome in expected.items():
    assert_same(actual[cell].metrics, outcome.metrics)


def test_cells_come_in_order_with_all_metrics(finished):
  assert list(finished) == list(CELLS)
  for outcome in finished.values():
    shapes = {name: values.shape for name, values in outcome.metrics.items()}
    assert shapes == SHAPES
    assert outcome.seconds > 0
    assert outcome.members_per_chunk == WIDTH
    np.testing.assert_array_equal(outcome.metrics["epochs"], EPOCHS)
    np.testing.assert_array_equal(outcome.metrics["converged"], 0)
    np.testing.assert_array_equal(outcome.metrics["failed_step"], -1)
    assert all(np.all(np.isfinite(v)) for v in outcome.metrics.values())


def test_best_epoch_is_the_first_of_best_validation(finished):
  for outcome in finished.values():
    values = outcome.metrics
    curve = values["validation_accuracy_curve"]
    np.testing.assert_allclose(values["validation_accuracy"], curve.max(axis=1))
    np.testing.assert_allclose(values["validation_accuracy_last"], curve[:, -1])
    np.testing.assert_array_equal(
      values["best_epoch"], curve.argmax(axis=1) + 1
    )


def test_ticks_add_up_to_the_epochs(finished, ticks):
  left = dict.fromkeys(full_simulations.members(CELLS, PROTOCOL), 0)
  for member, epochs, accuracy in ticks:
    left[member] += epochs
    assert 0 <= accuracy <= 1
  assert set(left.values()) == {EPOCHS}


@pytest.mark.slow
def test_a_member_is_its_seed_trained_alone(finished):
  """Initial parameters, order and test, all from the seed."""
  cell, seed = CELLS[1], SEEDS[2]
  setting = full_training.Setting(tiny_network.NETWORK, "bean1", batch_size=20)
  train, validation, test = (
    training.Samples(*map(jnp.asarray, split))
    for split in (
      DIGITS.train,
      DIGITS.validation,
      DIGITS.test,
    )
  )
  keys = jax.random.key(seed)[None]
  hparams = training.Hparams(jnp.array([2e-2]), jnp.array([cell.strength]))
  state = jax.jit(full_training.make_init(setting))(keys, hparams)
  run_epoch = jax.jit(full_training.make_run_epoch(setting))
  losses = []
  for epoch in range(EPOCHS):
    state, metrics = run_epoch(
      state,
      np.int32([epoch]),
      keys,
      hparams,
      np.ones(1, bool),
      train,
      validation,
    )
    losses.append(metrics.train_loss[0])
  values = {name: v[2] for name, v in finished[cell].metrics.items()}
  np.testing.assert_allclose(values["train_loss_curve"], losses, rtol=1e-4)
  for name, variables in (
    ("test_accuracy", state.best),
    ("test_accuracy_last", state.variables),
  ):
    classes = np.asarray(
      tiny_network.NETWORK.predict(variables, test.inputs)[0]
    )
    assert values[name] == np.mean(classes == DIGITS.test.labels)


def test_members_and_cells_differ(finished):
  curves = np.concatenate(
    [outcome.metrics["objective_curve"] for outcome in finished.values()]
  )
  assert len(np.unique(curves[:, 0])) == len(curves)


def test_checkpoints_hold_the_networks_that_were_tested(finished, folder):
  store = make_store(folder)
  test = DIGITS.test
  differ = []
  for place, member in enumerate(full_simulations.members(CELLS, PROTOCOL)):
    checkpoint = checkpoints.load(store.path(member))
    assert checkpoint.config == member_config(member)
    assert checkpoint.environment == ENVIRONMENT
    assert checkpoint.opt_state == {}
    metrics = finished[member.cell].metrics
    for name, variables in (
      ("test_accuracy", checkpoint.best),
      ("test_accuracy_last", checkpoint.last),
    ):
      logits, _ = tiny_network.NETWORK.evaluate(variables, test.images)
      accuracy = np.mean(np.argmax(np.asarray(logits), axis=1) == test.labels)
      assert checkpoint.metrics[name] == accuracy
      assert metrics[name][place % 3] == accuracy
    differ.append(
      np.any(
        checkpoint.best.params["fc2"]["kernel"]
        != checkpoint.last.params["fc2"]["kernel"]
      )
    )
  assert any(differ)


def test_nothing_is_trained_twice(finished, folder):
  before = {path.name: path.read_bytes() for path in folder.iterdir()}

  def forbidden(*_):
    raise AssertionError

  assert_same_outcomes(run(folder, tick=forbidden), finished)
  after = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert after == before


def arrays_of(folder):
  """All that checkpoints hold but for the time they took."""
  arrays = {}
  for path in folder.iterdir():
    with np.load(path) as archive:
      for name in archive.files:
        if name != "metrics/seconds":
          arrays[path.name, name] = archive[name]
  return arrays


class Stop(Exception):
  """Stands for a kill."""


def stop_at(number):
  """Makes a tick that stops the training when it is called so often."""
  count = itertools.count(1)

  def tick(*_):
    if next(count) == number:
      raise Stop

  return tick


# In the first epoch, between chunks, in a later chunk with others done.
@pytest.mark.parametrize("stops", ((1,), (4, 3), (13,), (29, 2)))
def test_resumed_equals_uninterrupted(stops, finished, folder, tmp_path):
  for stop in stops:
    with pytest.raises(Stop):
      run(tmp_path, tick=stop_at(stop))
  total = []
  outcomes = run(tmp_path, tick=lambda *args: total.append(args[1]))
  assert 0 < sum(total) < EPOCHS * 6 or stops == (1,)
  assert_same_outcomes(outcomes, finished)
  assert_same(arrays_of(tmp_path), arrays_of(folder))


def test_checkpoints_are_written_from_time_to_time(tmp_path):
  """Without them a kill loses what was trained, and nothing else."""
  with pytest.raises(Stop):
    run(tmp_path, tick=stop_at(5), seconds=1000.0)
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(Stop):
    run(tmp_path, tick=stop_at(5), seconds=0.0)
  found = full_simulations.find(CELLS, PROTOCOL, make_store(tmp_path))
  saved = 4 // WIDTH
  assert [len(m["objective_curve"]) for m in found.values()] == [saved] * WIDTH
  left = functools.partial(full_simulations.epochs_left, PROTOCOL)
  assert {left(metrics) for metrics in found.values()} == {EPOCHS - saved}
  assert left(None) == EPOCHS


def test_what_is_missing_gives_the_bits_of_a_whole_run(finished, tmp_path):
  """Chunks keep their width and deal the members out anew."""
  outcomes = run(tmp_path, done=CELLS[:1])
  assert list(outcomes) == [CELLS[1]]
  assert_same(outcomes[CELLS[1]].metrics, finished[CELLS[1]].metrics)


@pytest.mark.slow
def test_width_of_chunks_does_not_change_the_numbers(finished, tmp_path):
  outcomes = run(tmp_path, protocol=PROTOCOL._replace(members_per_chunk=3))
  for cell, outcome in outcomes.items():
    assert outcome.members_per_chunk == 3 * WIDTH
    for name in ("objective_curve", "test_accuracy_last"):
      np.testing.assert_allclose(
        outcome.metrics[name], finished[cell].metrics[name], rtol=1e-3
      )


def assert_same_networks(path, expected_path):
  actual, expected = map(checkpoints.load, (path, expected_path))
  for part in ("last", "best"):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(actual, part),
      getattr(expected, part),
    )


def test_converged_members_wait_for_the_others(finished, tmp_path):
  protocol = PROTOCOL._replace(patience=1, tolerance=0.12)
  ticks = []
  outcomes = run(
    tmp_path, protocol=protocol, tick=lambda *tick: ticks.append(tick)
  )
  epochs = []
  for cell, outcome in outcomes.items():
    values, whole = outcome.metrics, finished[cell].metrics
    for member, number in enumerate(values["epochs"]):
      for name in full_simulations.CURVES:
        np.testing.assert_array_equal(
          values[name][member, :number], whole[name][member, :number]
        )
        assert np.all(np.isnan(values[name][member, number:]))
      curve = values["objective_curve"][member, :number]
      fell = curve[1:] < (1 - 0.12) * curve[:-1]
      assert np.all(fell[:-1])
      assert values["converged"][member] == (not fell[-1])
      assert values["best_epoch"][member] <= number
    epochs += list(values["epochs"])
  # Otherwise the test would say nothing.
  assert 1 < min(epochs) < max(epochs)
  # Who waits is not trained on meanwhile.
  for number in set(epochs):
    capped = tmp_path / f"{number}"
    capped.mkdir()
    run(capped, protocol=PROTOCOL._replace(epochs=int(number)))
    for place, member in enumerate(full_simulations.members(CELLS, PROTOCOL)):
      if epochs[place] == number:
        assert_same_networks(
          make_store(tmp_path).path(member), make_store(capped).path(member)
        )
  total = {}
  for member, number, _ in ticks:
    total[member] = total.get(member, 0) + number
  assert set(total.values()) == {EPOCHS}


def test_failed_members_are_left_out_and_harm_nobody(finished, tmp_path):
  cells = (CELLS[0], Cell("bean1", 1e38))
  outcomes = run(tmp_path, cells=cells)
  assert_same(outcomes[CELLS[0]].metrics, finished[CELLS[0]].metrics)
  values = outcomes[cells[1]].metrics
  assert np.all((values["failed_step"] >= 0) & (values["failed_step"] < 3))
  np.testing.assert_array_equal(values["epochs"], 1)
  for name in ("test_accuracy", "test_accuracy_last", "validation_accuracy"):
    assert np.all(np.isnan(values[name]))
  checkpoint = checkpoints.load(
    make_store(tmp_path).path(Member(cells[1], SEEDS[0]))
  )
  for leaf in jax.tree.leaves(checkpoint.last):
    assert np.all(np.isfinite(leaf))


def test_another_network_in_a_checkpoint_is_refused(tmp_path):
  with pytest.raises(Stop):
    run(tmp_path, tick=stop_at(WIDTH + 1))
  path = make_store(tmp_path).path(Member(CELLS[0], SEEDS[0]))
  checkpoint = checkpoints.load(path)
  last = checkpoint.last._replace(batch_stats={})
  checkpoints.save(path, checkpoint._replace(last=last))
  before = path.read_bytes()
  with pytest.raises(checkpoints.CheckpointError, match="another network"):
    run(tmp_path)
  assert path.read_bytes() == before
