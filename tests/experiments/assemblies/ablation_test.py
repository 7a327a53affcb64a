"""Tests of experiments.assemblies.ablation."""

import numpy as np
import pytest

from experiments.assemblies import ablation
from tests.experiments.assemblies import planted


def _accuracies(layer, ablated, means):
  """The accuracy of each class, by a loop over samples in float64."""
  kernel, bias = (np.float64(array) for array in layer.dense[0])
  correct = {c: [] for c in range(layer.num_classes)}
  for row, label in zip(layer.activations, layer.labels, strict=True):
    replaced = np.where(ablated, means, np.float64(row))
    correct[label].append(np.argmax(replaced @ kernel + bias) == label)
  return np.array([np.mean(values) for values in correct.values()])


def ablate(layer, classes, num_controls=3):
  return ablation.ablate_populations(
    layer, classes, num_controls=num_controls, seed=0
  )


def test_losses_equal_loops():
  layer = planted.make_layer(noise=1.0, num_samples=60)
  preferred = np.where(np.arange(24) < 5, -1, planted.serves())
  costs = ablate(layer, preferred)
  nothing = np.zeros(24)
  before = _accuracies(layer, nothing > 0, nothing)
  np.testing.assert_allclose(costs["class_accuracy"], before, rtol=1e-6)
  assert before.min() < 1
  for kind, means in (
    ("zero", nothing),
    ("mean", np.float64(layer.activations).mean(axis=0)),
  ):
    expected = np.array(
      [before - _accuracies(layer, preferred == c, means) for c in range(4)]
    )
    np.testing.assert_allclose(costs[kind], expected, atol=1e-6)
    own = np.diagonal(expected).mean()
    other = (expected.sum() - np.trace(expected)) / 12
    np.testing.assert_allclose(costs[f"{kind}_own"], own, atol=1e-6)
    np.testing.assert_allclose(costs[f"{kind}_other"], other, atol=1e-6)
  assert np.any(costs["zero"] != costs["mean"])


def test_random_groups_are_as_large_and_of_neurons_that_belong_to_a_class():
  # So that none but the population itself can be drawn.
  classes = np.where(planted.serves() == 2, 2, -1)
  costs = ablate(planted.make_layer(), classes)
  np.testing.assert_array_equal(costs["zero_random"], costs["zero"])
  assert costs["zero_random_diagonality"] == costs["zero_diagonality"] == 1
  # Where nobody belongs to a class, nobody is missed.
  costs = ablate(planted.make_layer(), np.full(24, -1))
  for name in ("zero", "zero_random", "mean", "zero_diagonality"):
    assert not np.any(costs[name])


@pytest.mark.parametrize(
  "losses, expected",
  (
    (np.eye(3), 1),
    (np.ones((3, 3)), 1 / 3),
    (np.ones((3, 3)) - np.eye(3), 0),
    (-np.ones((3, 3)), 0),
    ([[0.2, -5.0], [0.2, 0.4]], 0.75),
  ),
)
def test_diagonality(losses, expected):
  np.testing.assert_allclose(ablation.diagonality(np.array(losses)), expected)
