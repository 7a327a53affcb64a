"""Tests of experiments.learning.gaussian_process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.learning import gaussian_process

NUM_CLASSES = 4


def draw(num_examples, num_queries, labels=None):
  """Random points in [0, 1], with every class among the labels."""
  generator = np.random.default_rng(0)
  points = generator.random((num_examples + num_queries, 20))
  if labels is None:
    labels = generator.permutation(np.arange(num_examples) % NUM_CLASSES)
  return points[:num_examples], np.array(labels), points[num_examples:]


def squared_distances(points, others):
  return np.sum((points[:, None] - others[None]) ** 2, axis=-1)


def dense(inputs, labels, queries, num_classes=NUM_CLASSES):
  """Class probabilities, by one linear system for each class, in float64."""
  concentration = np.eye(num_classes)[labels] + 0.01
  noise = np.log(1 / concentration + 1)
  targets = np.log(concentration) - noise / 2
  mean, variance = targets.mean(), (np.ptp(targets) / 2) ** 2
  distances = squared_distances(inputs, inputs)
  pairs = np.sqrt(distances[np.triu_indices(len(inputs), 1)])
  probabilities = np.zeros((len(queries), num_classes))
  for scale in np.median(pairs) * np.array((0.5, 0.7, 1.0)):
    inner = variance * np.exp(-distances / (2 * scale**2))
    cross = variance * np.exp(
      -squared_distances(queries, inputs) / (2 * scale**2)
    )
    logarithms = np.zeros_like(probabilities)
    for label in range(num_classes):
      system = inner + np.diag(noise[:, label])
      answers = np.linalg.solve(system, cross.T)
      posterior_mean = mean + answers.T @ (targets[:, label] - mean)
      posterior_variance = variance - np.sum(cross.T * answers, axis=0)
      logarithms[:, label] = posterior_mean + posterior_variance / 2
    shares = np.exp(logarithms)
    probabilities += shares / shares.sum(axis=1, keepdims=True) / 3
  return probabilities


def predict(inputs, labels, queries, num_classes=NUM_CLASSES, blocks=False):
  function = "predict_blocks" if blocks else "predict"

  @jax.jit
  def run(inputs, labels, queries):
    posterior = gaussian_process.fit(inputs, labels, num_classes=num_classes)
    return getattr(gaussian_process, function)(posterior, queries)

  return run(inputs.astype(np.float32), labels, queries.astype(np.float32))


@pytest.mark.parametrize("concentration", (0.01, 0.5, 1.01))
def test_targets_have_the_moments_of_gamma_variables(concentration):
  # A gamma variable of shape a has mean a and variance a.
  targets, variances = map(
    np.float64, gaussian_process.dirichlet_targets(concentration - 0.01)
  )
  mean = np.exp(targets + variances / 2)
  np.testing.assert_allclose(mean, concentration, rtol=1e-5)
  np.testing.assert_allclose(
    np.expm1(variances) * mean**2, concentration, rtol=1e-5
  )


@pytest.mark.parametrize(
  "num_examples,labels",
  ((4, None), (12, None), (12, (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2))),
)
def test_equals_one_system_for_each_class(num_examples, labels):
  problem = draw(num_examples, 5, labels)
  probabilities, uncertainty = predict(*problem)
  np.testing.assert_allclose(probabilities, dense(*problem), rtol=1e-4)
  # The trace of a one-hot vector's covariance is one minus sum p^2.
  np.testing.assert_allclose(
    uncertainty**2, 1 - np.sum(probabilities**2, axis=1), rtol=1e-5
  )


def test_two_hundred_images_in_single_precision():
  images, labels = datasets.load("digits").train
  images = images.reshape(len(labels), -1) / 255
  rows = datasets.draw_shots(labels, num_shots=20, seed=0)
  problem = images[rows], labels[rows], images[:40], 10
  expected = dense(*problem)
  np.testing.assert_allclose(
    predict(*problem).probabilities, expected, rtol=1e-3, atol=1e-6
  )
  # The queries are about as hard as they should be.
  assert np.mean(expected.argmax(axis=1) == labels[:40]) > 0.7


def test_gradient_in_the_queries():
  inputs, labels, queries = draw(12, 5)
  # One query is an example.
  queries[3] = inputs[0]
  weights = np.random.default_rng(1).random((5, NUM_CLASSES))

  def mean(queries):
    return jnp.sum(weights * predict(inputs, labels, queries).probabilities)

  gradient = jax.grad(mean)(queries.astype(np.float32))
  for place in ((0, 0), (1, 7), (3, 5), (4, 19)):
    step = np.zeros_like(queries)
    step[place] = 1e-5
    above, below = (
      np.sum(weights * dense(inputs, labels, queries + side))
      for side in (step, -step)
    )
    slope = (above - below) / 2e-5
    np.testing.assert_allclose(gradient[place], slope, rtol=1e-3, atol=1e-4)


def test_blocks_make_a_whole():
  problem = draw(12, gaussian_process.BLOCK + 1)
  for part, whole in zip(
    predict(*problem, blocks=True), predict(*problem), strict=True
  ):
    np.testing.assert_allclose(part, whole, rtol=1e-4)
