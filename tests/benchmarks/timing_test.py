"""Tests of benchmarks.timing, by a clock that stands still on its own."""

import gc

import pytest

from benchmarks import floors, timing


@pytest.fixture
def clock(monkeypatch):
  """Seconds that pass only when a contender says so."""
  now = [0.0]
  monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
  # Among all the objects of JAX it takes long.
  monkeypatch.setattr(timing.gc, "collect", lambda: 0)
  return now


def _contender(name, clock, durations, *, units=1, calls=None):
  durations = iter(durations)

  def run():
    clock[0] += next(durations)
    if calls is not None:
      calls.append(name)

  return timing.Contender(name, run, units)


def test_contenders_take_turns_and_the_first_round_is_apart(clock):
  calls = []
  slow = _contender("slow", clock, [10.0, 2.0, 4.0, 3.0], calls=calls)
  fast = _contender("fast", clock, [1.5, 1.0, 2.0, 1.0], units=2, calls=calls)
  rows = timing.alternate([slow, fast], None, repeats=3)
  assert calls == ["slow", "fast"] * 4
  assert [row["name"] for row in rows] == ["slow", "fast"]
  assert [row["seconds"] for row in rows] == [[2.0, 4.0, 3.0], [0.5, 1.0, 0.5]]
  assert [row["compile_seconds"] for row in rows] == [7.0, 0.5]


def test_ratios_hold_while_the_machine_slows_down(clock):
  slowdown = [1.0, 1.0, 10.0, 100.0]
  one = _contender("one", clock, slowdown)
  three = _contender("three", clock, [3 * factor for factor in slowdown])
  rows = timing.alternate([one, three], None, repeats=3)
  timing.add_ratios(rows, "times_one", lambda row: "one")
  timing.add_ratios(rows, "faster", lambda row: "three", faster=True)
  timing.add_ratios(rows, "none", lambda row: "four")
  assert [row["times_one"] for row in rows] == [1.0, 3.0]
  assert [row["faster"] for row in rows] == [3.0, 1.0]
  assert "none" not in rows[0]


def test_row_has_statistics_and_the_fraction_of_the_floor(clock):
  work = floors.Work(flops=1e9, num_bytes=1, working_set=1)
  it = _contender("it", clock, [10.0, 2.0, 0.5, 1.0], units=5)
  rates = floors.Rates(2e10, ((1, 1e9),))
  it = it._replace(work=work, fields={"x": 7})
  (row,) = timing.alternate([it], rates, repeats=3)
  assert (row["median"], row["min"], row["max"]) == (0.2, 0.1, 0.4)
  assert (row["name"], row["x"], row["units_per_run"]) == ("it", 7, 5)
  assert row["floor"] == pytest.approx(0.05)
  assert row["fraction_of_floor"] == pytest.approx(0.25)


def test_garbage_is_not_collected_while_timing(clock):
  states = []
  watching = timing.Contender("it", lambda: states.append(gc.isenabled()))

  def fail():
    raise KeyboardInterrupt

  assert gc.isenabled()
  timing.alternate([watching], None, repeats=1)
  assert gc.isenabled()
  with pytest.raises(KeyboardInterrupt):
    timing.alternate([watching, timing.Contender("b", fail)], None, repeats=1)
  assert gc.isenabled()
  assert states == [False] * 3
