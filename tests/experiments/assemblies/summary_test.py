"""Tests of experiments.assemblies.summary; published_test has whole tables."""

import numpy as np
import pytest

from experiments.assemblies import summary
from experiments.records import results
from tests.experiments import in_process


def make_record(method, alpha, accuracy, height):
  """A record whose silhouette of four clusters, the classes, is a height."""
  trained = {"dataset": "digits", "model": "mlp500", "method": method}
  trained |= {"alpha": alpha} if alpha else {}
  return {
    "config": {"layer": "fc2", "epoch": "best", "checkpoint": trained},
    "metrics": {
      "ablation_class_accuracy": [[0.5] * 4],
      "validation_accuracy": [accuracy],
      "rescaled_silhouettes_live": [[0.1, 0.2, height, 1.0]],
    },
  }


def titles(cells):
  return [cell.title for cell in cells]


def test_choices():
  records = [
    make_record(method, alpha, accuracy + seed / 1000, height)
    for method, alpha, accuracy, height in (
      ("vanilla", None, 0.90, 0.1),
      ("bean1", 1.0, 0.92, 0.3),
      ("bean1", 10.0, 0.895, 0.7),
      ("bean1", 100.0, 0.60, 0.9),
      ("bean2", 10.0, 0.5, 0.95),
    )
    for seed in (0, 1)
  ]
  (cells,) = summary.groups(records).values()
  assert titles(summary.chosen(cells)) == [
    "Vanilla",
    "BEAN-1 alpha=1",
    "BEAN-2 alpha=10",
  ]
  for margin, expected in (
    (0.0, ["Vanilla", "BEAN-1 alpha=1"]),
    (0.01, ["Vanilla", "BEAN-1 alpha=10"]),
    (1.0, ["Vanilla", "BEAN-1 alpha=100", "BEAN-2 alpha=10"]),
  ):
    assert titles(summary.clustered(cells, margin=margin)) == expected
  picked = summary.select(cells, ("chosen", "clustered"), margin=0.01)
  assert titles(picked) == titles(cells[:3] + cells[4:])
  assert summary.select(cells, ("all",), margin=0.01) == list(cells)
  assert summary.select(cells, ("none",), margin=0.01) == []
  # Without vanilla networks, the best are what others are compared with.
  rest = summary.clustered(cells[1:], margin=0.01)
  assert titles(rest) == ["BEAN-1 alpha=1"]


def test_undefined_numbers():
  folder = in_process.ROOT / "results" / "interpret" / "mnist-lenet5"
  defined, undefined = (
    results.read(folder / f"mnist-lenet5-vanilla-seed{seed}-fc3.json")
    for seed in (0, 1)
  )
  undefined["metrics"]["trained_agreement"] = [None]
  undefined["metrics"]["trained_silhouettes_live"] = [[None] * 19]
  for records, mark in (
    ([undefined], "none"),
    ([defined, undefined], "(1 of 2)"),
  ):
    text = summary.text(summary.groups(records), margin=0.01)
    assert mark in text
    assert "nan" not in text


@pytest.mark.parametrize(
  "values, digits, options, expected",
  (
    ([0.123, np.nan], 2, {}, "0.12 (1 of 2)"),
    ([1.0, 1.0], 1, {"factor": 100}, "100.0 [100.0, 100.0]"),
    ([0.00012345], -3, {"sign": "+"}, "+0.000123"),
    ([np.nan], 2, {}, "none"),
  ),
)
def test_interval(values, digits, options, expected):
  assert summary.interval(np.array(values), digits, **options) == expected
