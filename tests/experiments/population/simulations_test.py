"""Tests of experiments.population.simulations, its store and its files."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import models, networks
from experiments.learning import methods
from experiments.learning.learner import Hparams, Samples
from experiments.learning.streams import Shots, Whole
from experiments.machine import interruption, processes
from experiments.population import (
  cells,
  groups,
  simulations,
  store as stores,
)
from experiments.population.cells import Cell, Member
from experiments.records import checkpoints, results
from tests.experiments import in_process, members as population, planned, tiny

SEEDS = (3, 0, 11, 7)
EPOCHS = 6
LEARNING_RATE = 2e-2
FEW = tiny.load_few_digits()
# Held-out images of which no number of devices is a divisor.
FEW = FEW._replace(
  validation=tiny.cut(FEW.validation, slice(49)),
  test=tiny.cut(FEW.test, slice(79)),
)
with jax.default_matmul_precision("highest"):
  ENVIRONMENT = results.environment()

# Two cells of one program, of each kind of stream: with images of a step, and
# members that a device trains at once.
KINDS = {
  "few_shot": (Shots(1), tiny.NETWORK, (4, 2)),
  "whole": (Whole(patience=0), tiny.NORMED, (20, 1)),
}
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _tiny_networks():
  made = {spec: network for spec, (_, network, _) in KINDS.items()}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda spec, *_, **__: made[spec.name])
    patch.setattr(processes, "POLL_SECONDS", 0.01)
    with jax.default_matmul_precision("highest"):
      yield


def make_cells(kind, *strengths, method="bean1", **changes):
  stream, *_ = KINDS[kind]
  return tuple(
    Cell(stream, method, strength, EPOCHS, LEARNING_RATE)._replace(**changes)
    for strength in strengths or (1.0, 10.0)
  )


def members(chosen):
  return [Member(cell, seed) for cell in chosen for seed in SEEDS]


def make_store(folder, kind, chosen=(), *, networks_=False, **changes):
  size, width = KINDS[kind][2]
  usual = {"network": networks.Spec(kind), "seeds": SEEDS, "batch_size": size}
  usual |= {"members_per_chunk": width, "checkpoint_seconds": 0.0}
  usual |= {"checkpoint_dir": folder if networks_ else None}
  config = planned.make_config(folder, chosen, **{**usual, **changes})
  return stores.Store(config, ENVIRONMENT)


def make_protocol(kind, **changes):
  return make_store("", kind, **changes).config.protocol


def run(
  folder,
  kind,
  chosen=None,
  *,
  tick=lambda *_: None,
  done=(),
  share=(0, 1),
  **other,
):
  """Trains cells, going on from what the folder holds; outcomes by cell."""
  chosen = make_cells(kind) if chosen is None else chosen
  store = make_store(folder, kind, chosen, **other)
  options = {"tick": tick, "done": done, "share": share}
  return dict(simulations.run(chosen, FEW, store, **options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Runs to their end, with their networks: folder, outcomes and ticks."""

  @functools.cache
  def finished(kind):
    folder, ticks = tmp_path_factory.mktemp(kind), []
    options = {"networks_": True, "tick": lambda *tick: ticks.append(tick)}
    return folder, run(folder, kind, **options), ticks

  return finished


def assert_same(actual, expected):
  """Outcomes by cell, to the bit."""
  assert actual.keys() == expected.keys()
  for cell, outcome in expected.items():
    assert actual[cell].metrics.keys() == outcome.metrics.keys()
    for name, values in outcome.metrics.items():
      np.testing.assert_array_equal(
        actual[cell].metrics[name], values, err_msg=name
      )


@BOTH
def test_cells_come_in_order_with_all_metrics(kind, finished):
  _, outcomes, _ = finished(kind)
  assert list(outcomes) == list(make_cells(kind))
  for outcome in outcomes.values():
    values = outcome.metrics
    reported = ("objective", "train_loss", "validation_accuracy")
    curves = {f"{name}_curve" for name in reported}
    assert values.keys() == curves | {
      *("test_accuracy", "test_accuracy_last", "validation_accuracy"),
      *("validation_accuracy_last", "best_epoch", "best_correct"),
      *("failed_step", "epochs", "converged"),
    }
    for name, array in values.items():
      assert array.shape == (4, EPOCHS)[: 1 + (name in curves)]
      assert np.all(np.isfinite(array))
    assert outcome.seconds > 0
    assert outcome.members_per_chunk == KINDS[kind][2][1]
    constants = {"epochs": 6, "converged": 0, "failed_step": -1}
    for name, expected in constants.items():
      np.testing.assert_array_equal(values[name], expected)
    curve = values["validation_accuracy_curve"]
    for name, expected in (
      ("validation_accuracy", curve.max(axis=1)),
      ("validation_accuracy_last", curve[:, -1]),
      ("best_epoch", curve.argmax(axis=1) + 1),
    ):
      np.testing.assert_allclose(values[name], expected, rtol=1e-5)
  first = np.stack([o.metrics["objective_curve"] for o in outcomes.values()])
  assert len(np.unique(first[..., 0])) == first[..., 0].size


@BOTH
def test_ticks_add_up_to_the_cost(kind, finished):
  _, outcomes, ticks = finished(kind)
  work = collections.Counter()
  for member, done, accuracy in ticks:
    work[member] += done
    assert 0 <= accuracy <= 1
  cost = {cell: cells.cost(cell, FEW, make_protocol(kind)) for cell in outcomes}
  assert work == {m: pytest.approx(cost[m.cell]) for m in members(outcomes)}


@BOTH
def test_a_member_is_its_seed_trained_alone(kind, finished):
  """Draw, initial parameters, order and test, all from the seed."""
  _, outcomes, _ = finished(kind)
  cell, place = make_cells(kind)[1], 2
  group = groups.make([cell], FEW, make_protocol(kind))
  # Twice, as there are two devices.
  seeds = [SEEDS[place]] * 2
  numbers = jnp.array([LEARNING_RATE] * 2), jnp.array([cell.strength] * 2)
  (_, carry), curves = population.train(
    *(group.learner, group.stream, group.stream.load(FEW, seeds)),
    Samples(*FEW.validation),
    seeds=seeds,
    hparams=Hparams(*numbers),
    laps=(EPOCHS,),
  )
  values = {name: v[place] for name, v in outcomes[cell].metrics.items()}
  for name in ("objective", "train_loss"):
    np.testing.assert_allclose(
      values[f"{name}_curve"], curves[name][:, 0], rtol=1e-3
    )
  network = KINDS[kind][1]
  for name, variables in (
    ("test_accuracy", carry.best),
    ("test_accuracy_last", carry.state.variables),
  ):
    classes = np.asarray(network.predict(variables, FEW.test.images)[0])
    # One image that is as good as undecided.
    expected = np.mean(classes == FEW.test.labels)
    assert values[name] == pytest.approx(expected, abs=1.01 / 79)


@BOTH
def test_networks_that_are_kept_are_those_that_were_tested(kind, finished):
  folder, outcomes, _ = finished(kind)
  store = make_store(folder, kind, outcomes, networks_=True)
  differ = []
  for place, member in enumerate(members(outcomes)):
    checkpoint = checkpoints.load(stores.path(store, member, 1))
    assert checkpoint.config == cells.member_config(store.config, member)
    assert checkpoint.environment == ENVIRONMENT
    assert checkpoint.memory == {}
    both = checkpoint.best, checkpoint.last
    names = ("test_accuracy", "test_accuracy_last")
    for name, variables in zip(names, both, strict=True):
      logits, _ = KINDS[kind][1].evaluate(variables, FEW.test.images)
      accuracy = np.mean(np.argmax(logits, axis=1) == FEW.test.labels)
      assert checkpoint.metrics[name] == pytest.approx(accuracy)
      metrics = outcomes[member.cell].metrics
      assert metrics[name][place % 4] == checkpoint.metrics[name]
    kernels = [variables.params["fc2"]["kernel"] for variables in both]
    differ.append(np.any(kernels[0] != kernels[1]))
  assert any(differ)


class Killed(Exception):
  """Stands for a kill."""


def kill_at(number):
  """Makes a tick that ends the training when it is called so often."""
  count = itertools.count(1)

  def tick(*_):
    if next(count) == number:
      raise Killed

  return tick


def stop_after(number):
  """Makes an answer that is yes after so many questions."""
  count = itertools.count(1)
  return lambda: next(count) > number


# In the first call, between chunks, in a later chunk with others done; and
# when one of a chunk was lost, so that it begins anew and the others wait.
@BOTH
@pytest.mark.parametrize("moments", ((1,), (7, 2), (11, 1), None))
def test_killed_and_resumed(moments, kind, finished, tmp_path):
  folder, outcomes, _ = finished(kind)
  for moment in moments or (1 + KINDS[kind][2][1] * 2,):
    with pytest.raises(Killed):
      run(tmp_path, kind, networks_=True, tick=kill_at(moment))
  if moments is None:
    kept = sorted(tmp_path.glob("*.npz"))
    assert len(kept) > 1
    kept[0].unlink()
  assert_same(run(tmp_path, kind, networks_=True), outcomes)
  assert in_process.numbers(tmp_path) == in_process.numbers(folder)


@BOTH
def test_stopped_between_calls(kind, finished, tmp_path, monkeypatch):
  """Although no checkpoint is due, nothing is lost; nor are networks wanted."""
  _, expected, _ = finished(kind)
  chosen = make_cells(kind)
  store = make_store(tmp_path, kind, chosen, checkpoint_seconds=1000.0)
  outcomes, stops, before = {}, 0, 0.0
  while len(outcomes) < 2:
    work = []
    stop = stop_after(1 if kind == "few_shot" else 5)
    monkeypatch.setattr(interruption, "stop_requested", stop)
    try:
      for cell, outcome in simulations.run(
        chosen,
        FEW,
        store,
        done=frozenset(outcomes),
        tick=lambda member, done, _, work=work: work.append(done),
      ):
        outcomes[cell] = outcome
        stores.discard(store, cell, outcome.members_per_chunk)
    except interruption.Stopped:
      stops += 1
      # What was found is told of too, so that a bar comes to its end.
      assert sum(work) > before or outcomes
      before = sum(work)
  assert stops > 1
  assert_same(outcomes, expected)
  assert list(tmp_path.iterdir()) == []


@BOTH
def test_checkpoints_are_written_from_time_to_time(kind, tmp_path):
  """Without them a kill loses what was trained, and nothing else."""
  for seconds, expected in ((1000.0, 0), (0.0, KINDS[kind][2][1] * 2)):
    # In the second call of the first chunk.
    moment = expected + 1 if expected else 6
    with pytest.raises(Killed):
      run(tmp_path, kind, tick=kill_at(moment), checkpoint_seconds=seconds)
    assert len(list(tmp_path.rglob("*.npz"))) == expected
  store = make_store(tmp_path, kind, make_cells(kind))
  member = Member(make_cells(kind)[0], SEEDS[0])
  metrics = stores.find(store, member, KINDS[kind][2][1])
  assert not stores.is_done(metrics)
  assert len(metrics["objective_curve"]) in (1, 3)


@BOTH
def test_what_is_missing_gives_the_bits_of_a_whole_run(
  kind, finished, tmp_path
):
  """Chunks keep their width, though there are fewer members to fill them."""
  _, expected, _ = finished(kind)
  first, second = make_cells(kind)
  assert_same(run(tmp_path, kind, done={first}), {second: expected[second]})


@BOTH
@pytest.mark.parametrize("width", (3, 20))
def test_width_of_chunks_does_not_change_the_numbers(
  width, kind, finished, tmp_path
):
  _, expected, _ = finished(kind)
  outcomes = run(tmp_path, kind, members_per_chunk=width)
  for cell, outcome in outcomes.items():
    # On every device; a last chunk runs the program of the others.
    assert outcome.members_per_chunk == min(width, 4)
    for name in ("objective_curve", "test_accuracy_last"):
      np.testing.assert_allclose(
        outcome.metrics[name],
        expected[cell].metrics[name],
        rtol=1e-3,
        atol=1.01 / 79 if "accuracy" in name else 1e-3,
      )


@BOTH
@pytest.mark.parametrize("num_processes", (2, 20))
def test_processes_share_the_members(num_processes, kind, tmp_path):
  """The first comes last, and puts together what the others left."""
  alone = tmp_path / "alone"
  trained = []
  for process in range(1, num_processes):
    before = len(list(tmp_path.rglob("*.npz")))
    share = process, num_processes
    assert run(tmp_path, kind, share=share) == {}
    trained.append(len(list(tmp_path.rglob("*.npz"))) - before)
  outcomes = run(tmp_path, kind, share=(0, num_processes))
  width = 1 if num_processes == 20 else KINDS[kind][2][1]
  assert sum(trained) == (8 - 2 * width if num_processes == 20 else 4)
  assert_same(outcomes, run(alone, kind, members_per_chunk=width))


@BOTH
def test_first_process_waits_until_it_is_stopped(kind, tmp_path, monkeypatch):
  monkeypatch.setattr(interruption, "stop_requested", stop_after(30))
  with pytest.raises(interruption.Stopped):
    run(tmp_path, kind, share=(0, 2))
  assert len(list(tmp_path.rglob("*.npz"))) == 4


def test_converged_members_wait_for_the_others(finished, tmp_path):
  _, whole, _ = finished("whole")
  chosen = make_cells("whole", stream=Whole(patience=1, tolerance=0.12))
  work, epochs = collections.Counter(), []

  def tick(member, done, _):
    work[member] += done

  for cell, outcome in run(tmp_path, "whole", chosen, tick=tick).items():
    values = outcome.metrics
    expected = whole[cell._replace(stream=KINDS["whole"][0])].metrics
    for member, number in enumerate(values["epochs"]):
      for name in ("objective_curve", "validation_accuracy_curve"):
        curve = values[name][member]
        np.testing.assert_array_equal(
          curve[:number], expected[name][member, :number]
        )
        assert np.all(np.isnan(curve[number:]))
      curve = values["objective_curve"][member, :number]
      fell = curve[1:] < (1 - 0.12) * curve[:-1]
      assert np.all(fell[:-1])
      assert values["converged"][member] == (not fell[-1])
      assert values["best_epoch"][member] <= number
    epochs += list(values["epochs"])
  # Otherwise the test would say nothing.
  assert 1 < min(epochs) < max(epochs)
  cost = cells.cost(chosen[0], FEW, make_protocol("whole"))
  assert [*work.values()] == pytest.approx([cost] * 8)


@BOTH
def test_failed_members_are_left_out_and_harm_nobody(kind, finished, tmp_path):
  _, expected, _ = finished(kind)
  healthy, failing = make_cells(kind, 1.0, 1e38)
  outcomes = run(tmp_path, kind, [healthy, failing], networks_=True)
  assert_same({healthy: outcomes[healthy]}, {healthy: expected[healthy]})
  values = outcomes[failing].metrics
  assert np.all((values["failed_step"] >= 0) & (values["failed_step"] < 9))
  assert np.all(values["epochs"] < EPOCHS)
  for name in ("test_accuracy", "test_accuracy_last", "validation_accuracy"):
    assert np.all(np.isnan(values[name]))
  store = make_store(tmp_path, kind, (), networks_=True)
  path = stores.path(store, Member(failing, SEEDS[0]), 1)
  for leaf in jax.tree.leaves(checkpoints.load(path).last):
    assert np.all(np.isfinite(leaf))


# At the first float32 overflows, at the second it does not.
@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("method", ("bean1", "bean2", "l1", "group_lasso"))
def test_overflow_disturbs_no_other_of_its_chunk(kind, method, tmp_path):
  """Beside strengths 1 and 10, all twelve members at once on two devices."""

  def train(strength):
    chosen = make_cells(kind, 1.0, strength, 10.0, method=method)
    outcomes = run(tmp_path / f"{strength}", kind, chosen, members_per_chunk=6)
    return [outcomes[cell].metrics for cell in chosen]

  healthy = train(5.0)
  for metrics in healthy:
    np.testing.assert_array_equal(metrics["failed_step"], -1)
  for strength, fails in ((1e38, True), (1e20, False)):
    before, failing, after = train(strength)
    assert np.all((failing["failed_step"] >= 0) == fails)
    assert np.any(failing["train_loss_curve"] != healthy[1]["train_loss_curve"])
    for metrics, expected in ((before, healthy[0]), (after, healthy[2])):
      assert metrics.keys() == expected.keys()
      for name, values in expected.items():
        np.testing.assert_array_equal(metrics[name], values, name)


def test_cost_counts_validations():
  (cell,) = make_cells("few_shot", 0.0, method="vanilla")
  often, seldom = (
    cells.cost(cell, FEW, make_protocol("few_shot", validate_every=every))
    for every in (1, 0)
  )
  assert often - seldom == (EPOCHS - 1) * len(FEW.validation.labels)
  assert (
    cells.cost(cell._replace(stream=Shots(5)), FEW, make_protocol("few_shot"))
    > often
  )


def test_number_of_laps_that_has_no_small_divisor(tmp_path):
  chosen = make_cells("few_shot", 1.0, epochs=7)
  ticks = []
  (outcome,) = run(
    tmp_path, "few_shot", chosen, tick=lambda *tick: ticks.append(tick)
  ).values()
  assert outcome.metrics["train_loss_curve"].shape == (4, 7)
  assert len(ticks) == 7 * 4


OPTIONS = methods.Options(
  first_pseudo=8,
  last_pseudo=20,
  pseudo_periods=2,
  pseudo_epochs=3,
  competing_epochs=20,
  readout_epochs=100,
)


@pytest.mark.parametrize("method", ("imitation", "competing100", "hebbian"))
def test_methods_of_their_own_pace_go_on_to_the_bit(
  method, tmp_path, monkeypatch
):
  if method == "competing100":
    small = networks.from_linen(
      models.CompetingUnits(12), (28, 28, 1), ("readout",), has_stats=True
    )
    monkeypatch.setattr(networks, "make", lambda *_, **__: small)
  else:
    monkeypatch.setattr(networks, "make", lambda *_, **__: tiny.NETWORK)
  chosen = make_cells("few_shot", 0.02, method=method)
  go = functools.partial(run, kind="few_shot", chosen=chosen, options=OPTIONS)
  whole = go(tmp_path / "whole")
  with pytest.raises(Killed):
    go(tmp_path / "killed", tick=kill_at(3))
  assert_same(go(tmp_path / "killed"), whole)
  (outcome,) = whole.values()
  values = outcome.metrics
  np.testing.assert_array_equal(values["failed_step"], -1)
  if method == "imitation":
    # Its laps are periods, and it has a rival, which ten images of ten classes
    # teach more than chance.
    assert values["imitation_loss_curve"].shape == (4, 2)
    assert set(values["best_epoch"]) <= {3, 6}
    np.testing.assert_array_equal(values["epochs"], 6)
    assert values["test_accuracy_reference"].mean() > 0.3


class TestStore:
  @pytest.fixture
  def store(self, tmp_path):
    return make_store(tmp_path, "few_shot", make_cells("few_shot"))

  CELL = make_cells("few_shot")[0]

  @pytest.mark.parametrize(
    "field,value",
    (("versions", {"jax": "0.0"}), ("device", {"kind": "x"}), ("git", None)),
  )
  def test_what_was_made_otherwise_is_kept_apart(
    self, field, value, store, tmp_path, capsys
  ):
    other = store._replace(environment={**ENVIRONMENT, "git": {}, field: value})
    store = store._replace(environment={**ENVIRONMENT, "git": {}})
    before = stores.folder(store, self.CELL, 2)
    changed = stores.folder(other, self.CELL, 2)
    assert len({before, changed, stores.folder(store, self.CELL, 3)}) == 3
    # Neither the number of devices matters nor who else is trained.
    device = {**ENVIRONMENT["device"], "count": 99}
    environment = {**store.environment, "device": device}
    others = make_store(tmp_path, "few_shot", seeds=(5,))
    others = others._replace(environment=environment)
    assert stores.folder(others, self.CELL, 2) == before
    changed.mkdir(parents=True)
    stores.prepare(store, self.CELL, 2)
    assert f"warning: {changed}: members of another version" in (
      capsys.readouterr().err
    )
    stores.prepare(other, self.CELL, 2)
    # Of a cell whose name begins alike.
    stores.prepare(store, self.CELL._replace(strength=10.0), 2)
    assert capsys.readouterr().err == ""

  def test_discard(self, store, tmp_path):
    other = self.CELL._replace(strength=10.0)
    for cell in (self.CELL, other):
      folder = stores.folder(store, cell, 2)
      folder.mkdir(parents=True)
      stores.path(store, Member(cell, 3), 2).write_text("a member")
    stores.discard(store, self.CELL, 2)
    assert not stores.folder(store, self.CELL, 2).exists()
    # A damaged file is never deleted.
    folder = stores.folder(store, other, 2)
    damaged = folder / "seed1.npz.damaged"
    damaged.write_text("?")
    stores.discard(store, other, 2)
    assert list(folder.iterdir()) == [damaged]
    damaged.unlink()
    stores.discard(store, other, 2)
    assert list(tmp_path.iterdir()) == []
    stores.discard(store, other, 2)

  def test_another_network_is_refused(self, tmp_path):
    with pytest.raises(Killed):
      run(tmp_path, "whole", networks_=True, tick=kill_at(3))
    path = sorted(tmp_path.glob("*.npz"))[0]
    checkpoint = checkpoints.load(path)
    last = checkpoint.last._replace(batch_stats={})
    checkpoints.save(path, checkpoint._replace(last=last))
    before = path.read_bytes()
    with pytest.raises(checkpoints.CheckpointError, match="another network"):
      run(tmp_path, "whole", networks_=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
  "batch_size,width",
  ((1, 5), (20, 5), (25, 4), (50, 2), (51, 1), (100, 1), (1000, 1)),
)
def test_cpu_core_trains_as_many_as_its_cache_holds(batch_size, width):
  assert groups.fast_width(batch_size) == width
