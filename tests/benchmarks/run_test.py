"""Tests of benchmarks.run as users call it, and of its files."""

import functools
import importlib.util
import json

import jax
import pytest

from benchmarks import (
  cases,
  plots,
  records,
  run as benchmarks_run,
  suites,
)
from experiments.records import results
from tests.experiments import in_process

OPTIONS = cases.Settings(quick=True, repeats=1, torch=False)
TORCH = importlib.util.find_spec("torch") is not None
ROW = {"name": "bean_jax", "median": 0.5, "min": 0.4, "max": 0.6, "floor": 0.1}


refused = functools.partial(in_process.refused, benchmarks_run)


@pytest.mark.parametrize(
  "flag,message",
  [
    ("--suite=tpu", "<cpu|gpu>"),
    ("--only=evaluation,speed", "different ones of step_batch1, "),
    ("--repeats=4", "--repeats: expected a number from 5 to 1e6, got 4"),
    ("cpu", "unexpected argument 'cpu'"),
    pytest.param(
      *("--suite=gpu", "JAX has no GPU here, only 'cpu'"),
      marks=pytest.mark.skipif(
        jax.default_backend() == "gpu", reason="has a GPU"
      ),
    ),
  ],
)
def test_wrong_values_are_one_line(flag, message):
  assert message in refused("--notorch", flag)


@pytest.mark.skipif(TORCH, reason="PyTorch is installed")
def test_missing_pytorch_is_one_line():
  assert "pip install '.[bench]', or add --notorch" in refused("--quick")


def test_cases_are_added_to_one_file_and_drawn(tmp_path):
  common = ("--quick", "--repeats=2", "--notorch", f"--output_dir={tmp_path}")
  for name in ("penalty", "penalty_memory"):
    status, out, err = in_process.run(benchmarks_run, f"--only={name}", *common)
    assert (status, err) == (0, "")
    assert f"[{name}]" in out
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "cpu-quick-penalty.png",
    "cpu-quick-penalty_memory.png",
    "cpu-quick.json",
  ]
  stored = json.loads((tmp_path / "cpu-quick.json").read_text())
  assert list(stored["cases"]) == ["penalty", "penalty_memory"]
  record = stored["cases"]["penalty"]
  assert record["repeats"] == 2
  assert record["versions"]["jax"]
  assert record["device"]["platform"] == "cpu"
  assert all(len(row["seconds"]) == 2 for row in record["rows"])
  assert all(
    row["temp_bytes"] >= 0 for row in stored["cases"]["penalty_memory"]["rows"]
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "suite,name",
  (
    *(("cpu", "evaluation"), ("cpu", "growth_members"), ("cpu", "startup")),
    *(("cpu", "growth_penalty_widths"), ("cpu", "growth_penalty_samples")),
    *(("cpu", "predictive_coding"), ("cpu", "competition")),
    *(("cpu", "processes"), ("cpu", "epoch_lenet5")),
    *(("gpu", "members_batch1"), ("gpu", "penalty_16384")),
  ),
)
def test_every_case_runs_and_is_drawn(suite, name, tmp_path):
  case = suites.SUITES[suite][name](OPTIONS)
  record = records.describe(case, OPTIONS, 0.0)
  records.merge(tmp_path / "it.json", suite, name, record)
  plots.draw(tmp_path / "it.png", case)
  assert len(cases.table(case).splitlines()) == 1 + len(case.rows)
  stored = records.read(tmp_path / "it.json")["cases"][name]
  assert stored["rows"] == list(case.rows)
  assert all(row["median"] > 0 for row in stored["rows"])


def test_a_case_replaces_itself_and_no_other(tmp_path):
  path = tmp_path / "cpu.json"
  case = cases.Case("Time", "s", [ROW])
  record = records.describe(case, OPTIONS, 0.5)
  records.merge(path, "cpu", "one", record)
  records.merge(path, "cpu", "two", record)
  records.merge(path, "cpu", "one", record | {"title": "Time again"})
  stored = records.read(path)["cases"]
  assert {name: kept["title"] for name, kept in stored.items()} == {
    "one": "Time again",
    "two": "Time",
  }
  assert stored["two"]["load_average_before"] == 0.5
  assert stored["two"]["cores"] >= 1


@pytest.mark.parametrize("text", ("", "[]", '{"schema": 2, "cases": {}}'))
def test_foreign_files_are_refused_and_kept(text, tmp_path):
  path = tmp_path / "cpu.json"
  path.write_text(text)
  with pytest.raises(results.ResultError, match="move this file away"):
    records.merge(path, "cpu", "one", {})
  assert path.read_text() == text


def test_bars_are_drawn_with_their_numbers(tmp_path):
  rows = [ROW, ROW | {"name": "PyTorch", "median": 5.0, "max": 6.0}]
  case = cases.Case("Time", "s per step", rows)
  drawing = plots.draw(tmp_path / "it.png", case)
  (plot,) = drawing.axes
  assert plot.get_xscale() == "log"
  assert [text.get_text() for text in plot.texts] == ["500", "5000"]
  assert [label.get_text() for label in plot.get_yticklabels()] == [
    "bean_jax",
    "PyTorch",
  ]
  bars = [patch for patch in plot.patches if patch.get_height() == 0.7]
  assert [bar.get_width() for bar in bars] == [500, 5000]
  # Told apart without colours.
  assert [bar.get_hatch() for bar in bars] == [None, "///"]
  assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_has_a_place_on_a_log_axis(tmp_path):
  rows = [
    {"name": "h W", "temp_bytes": 0},
    {"name": "BEAN-1", "temp_bytes": 2e6},
  ]
  drawing = plots.draw(tmp_path / "it.png", cases.Case("It", "bytes", rows))
  (plot,) = drawing.axes
  assert [text.get_text() for text in plot.texts] == ["0", "2"]
  assert plot.get_xlim()[0] > 0


def test_lines_are_drawn_by_series(tmp_path):
  points = functools.partial(dict, min=0.1, max=9.0)
  rows = [
    points(name="a1", series="a", x=1, median=1.0),
    points(name="b1", series="b", x=1, median=2.0),
    points(name="a4", series="a", x=4, median=3.0),
  ]
  case = cases.Case("Time", "s per step", rows, x_label="members")
  (plot,) = plots.draw(tmp_path / "it.png", case).axes
  assert plot.get_legend_handles_labels()[1] == ["a", "b"]
  assert plot.get_xlabel() == "members"
  first = plot.containers[0].lines[0]
  assert list(zip(*first.get_data(), strict=True)) == [(1, 1000), (4, 3000)]
