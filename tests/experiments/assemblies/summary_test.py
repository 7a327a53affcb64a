"""Tests of experiments.assemblies.summary; published_test has whole tables."""

import numpy as np
import pytest

from experiments.assemblies import measures, summary
from tests.experiments.assemblies import planted

SETTINGS = measures.Settings(max_clusters=5, restarts=1, controls=2)


@pytest.fixture(scope="module")
def metrics():
  layer = planted.make_layer()
  layers = measures.subjects(layer, layer, seed=0)
  return measures.measure(layers, SETTINGS, gamma=1.0, seed=0)


def make_record(metrics, method, seed, *, alpha=None, shots=None, **changed):
  trained = {"dataset": "digits", "model": "mlp500", "method": method}
  if alpha is not None:
    trained["alpha"] = alpha
  if shots is not None:
    trained["shots"] = shots
  values = {
    "validation_accuracy": 0.9,
    "test_accuracy": 0.8,
    "num_neurons": 24.0,
    **metrics,
    **changed,
  }
  return {
    "config": {"layer": "fc2", "epoch": "best", "checkpoint": trained},
    "seeds": [seed],
    "metrics": {
      name: [np.asarray(value).tolist()] for name, value in values.items()
    },
  }


def _curve(height):
  return np.array([0.1, 0.2, height, 0.3])


@pytest.fixture(scope="module")
def records(metrics):
  cells = (
    ("vanilla", None, 0.90, 0.1),
    ("bean1", 1.0, 0.92, 0.3),
    ("bean1", 10.0, 0.895, 0.7),
    ("bean1", 100.0, 0.60, 0.9),
    ("bean2", 10.0, 0.5, 0.95),
  )
  return [
    make_record(
      metrics,
      method,
      seed,
      alpha=alpha,
      validation_accuracy=accuracy + seed / 1000,
      rescaled_silhouettes_live=_curve(height),
    )
    for method, alpha, accuracy, height in cells
    for seed in (0, 1)
  ]


def _titles(cells):
  return [cell.title for cell in cells]


def test_choices(records):
  (cells,) = summary.groups(records).values()
  assert _titles(summary.chosen(cells)) == [
    "Vanilla",
    "BEAN-1 alpha=1",
    "BEAN-2 alpha=10",
  ]
  close = summary.clustered(cells, margin=0.01)
  assert _titles(close) == ["Vanilla", "BEAN-1 alpha=10"]
  exact = summary.clustered(cells, margin=0.0)
  assert _titles(exact) == ["Vanilla", "BEAN-1 alpha=1"]
  every = summary.clustered(cells, margin=1.0)
  assert _titles(every) == ["Vanilla", "BEAN-1 alpha=100", "BEAN-2 alpha=10"]
  picked = summary.select(cells, ("chosen", "clustered"), margin=0.01)
  assert _titles(picked) == _titles(cells[:3] + cells[4:])
  assert summary.select(cells, ("all",), margin=0.01) == list(cells)
  assert summary.select(cells, (), margin=0.01) == []
  # Without vanilla networks, the best are what others are compared with.
  assert _titles(summary.clustered(cells[1:], margin=0.01)) == [
    "BEAN-1 alpha=1"
  ]


def test_undefined_numbers(records, metrics):
  undefined = make_record(
    metrics,
    "vanilla",
    2,
    trained_agreement=np.nan,
    trained_silhouettes_live=np.full(4, np.nan),
  )
  text = summary.text(summary.groups([undefined]), margin=0.01)
  assert "nan" not in text
  assert "none" in text
  (cells,) = summary.groups([records[0], undefined]).values()
  assert "(1 of 2)" in summary.text({"x": cells}, margin=0.01)


@pytest.mark.parametrize(
  "values, digits, expected",
  (
    ([0.123, np.nan], 2, "0.12 (1 of 2)"),
    ([1.0, 1.0], 1, "1.0 [1.0, 1.0]"),
    ([0.00012345], -3, "0.000123"),
    ([np.nan], 2, "none"),
  ),
)
def test_interval(values, digits, expected):
  assert summary.interval(np.array(values), digits) == expected
