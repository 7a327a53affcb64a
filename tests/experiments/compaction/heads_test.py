"""Tests of experiments.compaction.heads."""

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.compaction import heads
from experiments.learning import streams
from tests.experiments import tiny
from tests.experiments.compaction import tiny_head

DIGITS = tiny.load_few_digits()


def draw_variables(network):
  variables = jax.jit(network.init)(jax.random.key(0))
  # So that batch statistics are not those of new networks.
  return jax.tree.map(
    lambda leaf: np.asarray(leaf) + np.float32(0.01), variables
  )


@pytest.mark.parametrize(
  "network, layers",
  (
    # Of a perceptron the head is all, of others what follows.
    (networks.make(networks.Spec("mlp300_100")), ["fc1", "fc2", "fc3"]),
    (networks.make(networks.Spec("lenet5")), ["fc1", "fc2", "fc3"]),
    # Whose batch statistics are used.
    (tiny.NORMED, ["fc2"]),
  ),
)
def test_the_head_of_features_gives_the_logits(network, layers):
  variables = draw_variables(network)
  head, splits = heads.split_network(network, variables, DIGITS, {})
  assert list(head.params) == layers
  assert head.units == network.layers
  for ours, theirs in zip(
    splits, (DIGITS.train, DIGITS.validation, DIGITS.test), strict=True
  ):
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert len(ours.inputs) == len(ours.labels)
  features = splits.test.inputs
  expected, hidden = jax.jit(network.evaluate)(variables, DIGITS.test.images)
  np.testing.assert_allclose(features, hidden[layers[0]], rtol=1e-5, atol=1e-6)
  *inputs, logits = heads.apply(head.params, features)
  for ours in (logits, tiny_head.run(head.params, features)):
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
  assert len(inputs) == len(layers)


def test_shots_are_those_of_the_seed():
  """streams_test has which these are."""
  dataset = datasets.load("digits")
  network, config = tiny.NETWORK, {"shots": 2, "seed": 5}
  variables = draw_variables(network)
  _, splits = heads.split_network(network, variables, dataset, config)
  images, labels = streams.Shots(2).load(dataset, [5])
  np.testing.assert_array_equal(splits.train.labels, labels[0])
  expected = images[0].reshape(20, 784) / 255
  np.testing.assert_allclose(splits.train.inputs, expected, rtol=1e-6)
  assert len(splits.test.labels) == 500


def test_activity_of_units():
  head = tiny_head.make_head()
  # This one never fires.
  head.params["fc1"]["bias"][2] = -100
  activity = tiny_head.measure(head)
  features = tiny_head.make_samples().inputs
  first, second = head.params["fc1"], head.params["fc2"]["kernel"]
  hidden = np.maximum(features @ first["kernel"] + first["bias"], 0)
  np.testing.assert_allclose(
    activity.means["fc2"], hidden.mean(axis=0), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    activity.importance["fc2"],
    hidden.std(axis=0) * np.linalg.norm(second, axis=1),
    rtol=1e-4,
  )
  assert activity.importance["fc2"][2] == 0
