"""Tests of runs that are stopped and go on."""

import itertools
import signal

from absl import flags
import jax
import numpy as np
import pytest

from experiments.architectures import models
from experiments.command import interruption, scripts
from experiments.learning import devices, methods
from experiments.runs import full_simulations, simulations
from tests.experiments import in_process, tiny, tiny_network
from tests.experiments.runs import full_simulations_test

DIGITS = tiny.load_digits(50)
CELLS = (
  simulations.Cell(1, "bean1", 1.0, 4),
  simulations.Cell(1, "bean1", 10.0, 4),
  simulations.Cell(1, "vanilla", 0.0, 4),
)
PROTOCOL = simulations.Protocol(
  model="tiny",
  options=methods.Options(),
  seeds=(3, 0, 11, 7, 5),
  batch_size=4,
  learning_rate=2e-2,
  members_per_chunk=1,
)
# On two devices: members of bean1 and of vanilla.
NUM_CHUNKS = 5 + 3


@pytest.fixture(autouse=True, scope="module")
def _tiny_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.MODELS, "tiny", tiny.MODEL)
    for module in (simulations, full_simulations):
      patch.setattr(module, "POLL_SECONDS", 0.01)
    yield


class Memory:
  """A store that outlives a run, and refuses what it has."""

  def __init__(self):
    self.members = {}

  def find(self, cell, members_per_chunk):
    assert members_per_chunk == 1
    return dict(self.members.get(cell, {}))

  def keep(self, cell, members_per_chunk, new):
    assert members_per_chunk == 1
    known = self.members.setdefault(cell, {})
    assert not known.keys() & new.keys()
    known |= new

  @property
  def store(self):
    return simulations.Store(self.find, self.keep)


def stop_after(number):
  """Makes an answer that is yes after so many questions."""
  count = itertools.count(1)
  return lambda: next(count) > number


def run(store, *, stop=lambda: False, done=(), share=(0, 1), cells=CELLS):
  """Trains cells; outcomes by cell, and the work that was told of."""
  work, outcomes = [], {}
  try:
    for cell, outcome in simulations.run(
      cells,
      DIGITS,
      PROTOCOL,
      tick=lambda cell, work_done, _: work.append(work_done),
      done=done,
      store=store,
      share=share,
      stop_requested=stop,
    ):
      outcomes[cell] = outcome
  except interruption.Stopped:
    outcomes[None] = None
  return outcomes, sum(work)


@pytest.fixture(scope="module")
def whole():
  """All cells in one go, which takes as many chunks as it should."""
  assert devices.mesh().size == 2
  assert None in run(Memory().store, stop=stop_after(NUM_CHUNKS - 1))[0]
  outcomes, work = run(Memory().store, stop=stop_after(NUM_CHUNKS))
  assert list(outcomes) == list(CELLS)
  expected = sum(simulations.cost(c, DIGITS, PROTOCOL) for c in CELLS)
  assert work == expected * len(PROTOCOL.seeds)
  return outcomes


def assert_same(actual, expected):
  assert actual.keys() == expected.keys()
  for cell in expected:
    assert actual[cell].members_per_chunk == expected[cell].members_per_chunk
    assert actual[cell].metrics.keys() == expected[cell].metrics.keys()
    for name, values in expected[cell].metrics.items():
      np.testing.assert_array_equal(actual[cell].metrics[name], values)


class TestFewShot:
  @pytest.mark.parametrize("number", range(NUM_CHUNKS))
  def test_stopped_between_chunks(self, number, whole):
    memory = Memory()
    outcomes, _ = run(memory.store, stop=stop_after(number))
    assert outcomes.pop(None, 0) is None
    # Two chunks and a half fill a cell; nothing of the others is lost.
    known = sum(map(len, memory.members.values()))
    kept = [m for c, ms in memory.members.items() for m in [c] * len(ms)]
    trained = min(2 * number, 10) + min(2 * max(number - 5, 0), 5)
    lost = len(outcomes) * 5 - sum(cell in outcomes for cell in kept)
    assert known + lost == trained
    again, work = run(memory.store, done=frozenset(outcomes))
    assert_same(outcomes | again, whole)
    left = [cell for cell in CELLS if cell not in outcomes]
    # What is found is told of too, so that a progress bar comes to its end.
    expected = sum(simulations.cost(c, DIGITS, PROTOCOL) for c in left)
    assert work == expected * len(PROTOCOL.seeds)

  def test_stopped_after_every_chunk(self, whole):
    memory, outcomes = Memory(), {}
    for _ in range(NUM_CHUNKS + 1):
      new, _ = run(memory.store, stop=stop_after(1), done=frozenset(outcomes))
      outcomes |= new
      if None not in new:
        break
      del outcomes[None]
    assert_same({cell: outcomes[cell] for cell in CELLS}, whole)

  @pytest.mark.parametrize("num_processes", (2, 3, 20))
  def test_processes_share_the_members(self, num_processes, whole):
    """The first comes last, and puts together what the others left."""
    memory = Memory()
    for process in range(1, num_processes):
      before = sum(map(len, memory.members.values()))
      outcomes, _ = run(memory.store, share=(process, num_processes))
      assert outcomes == {}
      trained = sum(map(len, memory.members.values())) - before
      assert trained in (
        [0, 1, 2]
        if num_processes == 20
        else range(2 * (NUM_CHUNKS // num_processes) - 1, 10)
      )
    outcomes, _ = run(memory.store, share=(0, num_processes))
    assert_same(outcomes, whole)

  def test_first_process_waits_until_it_is_stopped(self):
    outcomes, _ = run(Memory().store, share=(0, 2), stop=stop_after(9))
    assert None in outcomes
    assert set(outcomes) < {*CELLS, None}


class TestScripts:
  @pytest.fixture(autouse=True)
  def _settings(self):
    with in_process.kept_settings():
      yield

  def test_work_that_stopped(self, capsys):
    def work():
      raise interruption.Stopped

    assert scripts.run(["script"], work, flags.FlagValues()) == 0
    assert capsys.readouterr() == (
      "",
      "stopped as asked; finished cells are kept, the same command goes on "
      "from there\n",
    )

  def test_sigterm_is_heard_where_work_asks(self):
    seen = []

    def work():
      seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    assert scripts.run(["script"], work, flags.FlagValues()) == 0
    assert scripts.run(["script"], work) == 0
    assert seen[0] != before
    assert seen[1] == before == signal.getsignal(signal.SIGTERM)


@pytest.mark.slow
class TestFullSimulations:
  @pytest.fixture(autouse=True)
  def _network(self, monkeypatch):
    monkeypatch.setattr(
      full_simulations.networks,
      "make",
      lambda *args, **kwargs: tiny_network.NETWORK,
    )
    with jax.default_matmul_precision("highest"):
      yield

  def train(self, folder, **options):
    """Trains the cells of the tests of `full_simulations`; by cell."""
    tests = full_simulations_test
    store = tests.make_store(folder, seconds=1000.0)
    found = full_simulations.find(tests.CELLS, tests.PROTOCOL, store)
    outcomes = {}
    try:
      for cell, outcome in full_simulations.run(
        tests.CELLS,
        tests.DIGITS,
        tests.PROTOCOL,
        store,
        found=found,
        tick=tests.ignore,
        **options,
      ):
        outcomes[cell] = outcome
    except interruption.Stopped:
      return None
    return outcomes

  def test_stopped_between_epochs(self, tmp_path):
    tests = full_simulations_test
    whole = self.train(_new(tmp_path, "whole"))
    broken = _new(tmp_path, "broken")
    stops = 0
    # Once in the midst of every chunk, and at its end.
    while not (outcomes := self.train(broken, stop_requested=stop_after(4))):
      stops += 1
      store = tests.make_store(broken)
      found = full_simulations.find(tests.CELLS, tests.PROTOCOL, store)
      # Although no checkpoint is due, nothing is lost.
      epochs = [len(metrics["objective_curve"]) for metrics in found.values()]
      assert sum(epochs) >= 4 * 2 * stops - 2 * stops
      assert stops < 10
    assert stops > 2
    tests.assert_same_outcomes(outcomes, whole)

  @pytest.mark.parametrize("num_processes", (2, 3))
  def test_processes_share_the_members(self, num_processes, tmp_path):
    whole = self.train(_new(tmp_path, "whole"))
    shared = _new(tmp_path, "shared")
    for process in range(1, num_processes):
      before = len(list(shared.iterdir()))
      assert self.train(shared, share=(process, num_processes)) == {}
      assert len(list(shared.iterdir())) == before + 2
    outcomes = self.train(shared, share=(0, num_processes))
    ordered = {cell: outcomes[cell] for cell in whole}
    full_simulations_test.assert_same_outcomes(ordered, whole)

  def test_first_process_waits_until_it_is_stopped(self, tmp_path):
    assert (
      self.train(tmp_path, share=(0, 2), stop_requested=stop_after(20)) is None
    )
    assert len(list(tmp_path.iterdir())) == 4


def _new(parent, name):
  folder = parent / name
  folder.mkdir()
  return folder
