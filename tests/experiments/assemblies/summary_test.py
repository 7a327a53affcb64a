"""Tests of experiments.assemblies.summary; published_test has whole tables."""

import numpy as np
import pytest

from experiments.assemblies import measures, summary
from tests.experiments.assemblies import planted


def make_record(method, seed, *, alpha=None, **metrics):
  """A record of a checkpoint with some metrics."""
  trained = {"dataset": "digits", "model": "mlp500", "method": method}
  if alpha is not None:
    trained["alpha"] = alpha
  metrics.setdefault("ablation_class_accuracy", [0.5] * 4)
  return {
    "config": {"layer": "fc2", "epoch": "best", "checkpoint": trained},
    "seeds": [seed],
    "metrics": {name: [np.asarray(v).tolist()] for name, v in metrics.items()},
  }


def titles(cells):
  return [cell.title for cell in cells]


def test_choices():
  records = [
    make_record(
      method,
      seed,
      alpha=alpha,
      validation_accuracy=accuracy + seed / 1000,
      # The third is that of four clusters, as many as classes.
      rescaled_silhouettes_live=[0.1, 0.2, height, 1.0],
    )
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
  layer = planted.make_layer()
  metrics = measures.measure(
    measures.subjects(layer, layer, seed=0),
    measures.Settings(max_clusters=5, restarts=1, controls=2),
    gamma=1.0,
    seed=0,
  )
  metrics |= {
    "validation_accuracy": 0.9,
    "test_accuracy": 0.8,
    "num_neurons": 24.0,
  }
  defined = make_record("vanilla", 1, **metrics)
  metrics["trained_agreement"] = np.nan
  metrics["trained_silhouettes_live"] = np.full(4, np.nan)
  undefined = make_record("vanilla", 2, **metrics)
  for records, mark in (
    ([undefined], "none"),
    ([defined, undefined], "1 of 2"),
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
