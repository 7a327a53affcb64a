"""Tests of experiments.assemblies.ablation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
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


def test_populations_that_serve_one_class():
  layer = planted.make_layer()
  outcome = ablation.ablate_populations(
    layer, planted.serves(), num_controls=5, seed=0
  )
  np.testing.assert_array_equal(outcome.accuracy, np.ones(4))
  np.testing.assert_array_equal(outcome.sizes, np.full(4, 6))
  losses = outcome.losses["zero"]
  assert ablation.diagonality(losses) == 1
  assert np.all(np.diagonal(losses) > 0.9)
  assert ablation.off_diagonal(losses) == 0
  # A random group takes a quarter of each class's neurons.
  assert outcome.controls["zero"].shape == (5, 4, 4)
  assert outcome.controls["zero"].mean() < 0.1
  # Their mean is still more than what others get from neurons that are silent.
  assert not outcome.losses["mean"].any()


def test_losses_equal_loops():
  layer = planted.make_layer(noise=1.0, num_samples=60)
  preferred = np.where(np.arange(24) < 5, -1, planted.serves())
  outcome = ablation.ablate_populations(
    layer, preferred, num_controls=1, seed=0
  )
  nothing = np.zeros(24)
  before = _accuracies(layer, nothing > 0, nothing)
  np.testing.assert_allclose(outcome.accuracy, before, rtol=1e-6)
  assert before.min() < 1
  for kind, means in (
    ("zero", nothing),
    ("mean", np.float64(layer.activations).mean(axis=0)),
  ):
    expected = [
      before - _accuracies(layer, preferred == c, means) for c in range(4)
    ]
    np.testing.assert_allclose(outcome.losses[kind], expected, atol=1e-6)
  assert np.any(outcome.losses["zero"] != outcome.losses["mean"])


def test_random_groups_are_of_equal_size_and_of_neurons_that_prefer():
  preferred = np.array([0, 0, 0, 1, 2, -1, -1, -1])
  populations = preferred == np.arange(3)[:, None]
  generator = np.random.default_rng(0)
  draws = [ablation._random_groups(populations, generator) for _ in range(9)]
  for groups in draws:
    np.testing.assert_array_equal(groups.sum(axis=1), [3, 1, 1])
    assert not groups[:, preferred < 0].any()
  assert any(np.any(groups != draws[0]) for groups in draws)


def test_nobody_prefers_anything():
  outcome = ablation.ablate_populations(
    planted.make_layer(), np.full(24, -1), num_controls=2, seed=0
  )
  for kind in ablation.KINDS:
    assert not outcome.losses[kind].any()
    assert ablation.diagonality(outcome.losses[kind]) == 0
    assert not outcome.controls[kind].any()


@pytest.mark.parametrize(
  "losses, expected",
  (
    (np.eye(3), 1),
    (np.ones((3, 3)), 1 / 3),
    (np.ones((3, 3)) - np.eye(3), 0),
    (np.zeros((3, 3)), 0),
    (-np.ones((3, 3)), 0),
    ([[0.2, -5.0], [0.2, 0.4]], 0.75),
  ),
)
def test_diagonality(losses, expected):
  np.testing.assert_allclose(ablation.diagonality(np.array(losses)), expected)


@pytest.mark.parametrize(
  "model, layer",
  (("lenet5", "fc1"), ("lenet5", "fc3"), ("mlp500", "fc2")),
)
@pytest.mark.slow
def test_dense_layers_after_one_are_the_rest_of_the_network(model, layer):
  network = networks.make(networks.Spec(model))
  variables = network.init(jax.random.key(0))
  images = np.random.default_rng(0).integers(
    0, 256, (6, 28, 28, 1), dtype=np.uint8
  )
  expected, hidden = network.evaluate(variables, jnp.asarray(images))
  following = network.layers[network.layers.index(layer) :]
  dense = tuple(
    (variables.params[name]["kernel"], variables.params[name]["bias"])
    for name in following
  )
  np.testing.assert_allclose(
    ablation.logits(dense, hidden[layer]), expected, rtol=1e-4, atol=1e-5
  )
