"""Tests of experiments.learning.gaussian_process."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.learning import gaussian_process

SCALES = (0.5, 0.7, 1.0)
NUM_CLASSES = 4


def draw(num_examples, num_queries, *, labels=None, seed=0):
  """Random points in [0, 1], with every class among the labels."""
  generator = np.random.default_rng(seed)
  points = generator.random((num_examples + num_queries, 20))
  if labels is None:
    labels = generator.permutation(np.arange(num_examples) % NUM_CLASSES)
  return points[:num_examples], np.array(labels), points[num_examples:]


def squared_distances(points, others):
  return np.sum((points[:, None] - others[None]) ** 2, axis=-1)


def dense(inputs, labels, queries, *, num_classes=NUM_CLASSES, alpha_eps=0.01):
  """Class probabilities, by one linear system for each class, in float64."""
  concentration = np.eye(num_classes)[labels] + alpha_eps
  noise = np.log(1 / concentration + 1)
  targets = np.log(concentration) - noise / 2
  mean, variance = targets.mean(), (np.ptp(targets) / 2) ** 2
  distances = squared_distances(inputs, inputs)
  pairs = np.sqrt(distances[np.triu_indices(len(inputs), 1)])
  probabilities = np.zeros((len(queries), num_classes))
  for scale in np.median(pairs) * np.array(SCALES):
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
    probabilities += shares / shares.sum(axis=1, keepdims=True) / len(SCALES)
  return probabilities


@functools.cache
def make_fit(num_classes):
  """One compiled program for all tests that fit so many classes."""
  return jax.jit(
    functools.partial(
      gaussian_process.fit, num_classes=num_classes, length_scales=SCALES
    )
  )


def predict(
  inputs, labels, queries, *, num_classes=NUM_CLASSES, alpha_eps=0.01
):
  posterior = make_fit(num_classes)(
    inputs.astype(np.float32), labels, alpha_eps=alpha_eps
  )
  return jax.jit(gaussian_process.predict)(
    posterior, queries.astype(np.float32)
  )


@pytest.mark.parametrize("concentration", (0.01, 0.5, 1.01, 3.0))
def test_targets_have_the_moments_of_gamma_variables(concentration):
  # A gamma variable of shape a has mean a and variance a.
  targets, variances = gaussian_process.dirichlet_targets(
    concentration - 0.005, alpha_eps=0.005
  )
  targets, variances = np.float64(targets), np.float64(variances)
  mean = np.exp(targets + variances / 2)
  np.testing.assert_allclose(mean, concentration, rtol=1e-5)
  np.testing.assert_allclose(
    np.expm1(variances) * mean**2, concentration, rtol=1e-5
  )


def test_targets_of_a_label():
  # log(0.1 + 1) - log(1 + 1 / 1.1) / 2 and log(0.1) - log(1 + 1 / 0.1) / 2.
  targets, variances = gaussian_process.dirichlet_targets(
    [1.0, 0.0], alpha_eps=0.1
  )
  np.testing.assert_allclose(targets, (-0.2280034, -3.5015327), rtol=1e-6)
  np.testing.assert_allclose(variances, (0.6466272, 2.3978953), rtol=1e-6)


@pytest.mark.parametrize("alpha_eps", (0.01, 0.3))
@pytest.mark.parametrize(
  "num_examples,labels",
  ((4, None), (12, None), (12, (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2))),
)
def test_equals_one_system_for_each_class(num_examples, labels, alpha_eps):
  inputs, labels, queries = draw(num_examples, 5, labels=labels)
  prediction = predict(inputs, labels, queries, alpha_eps=alpha_eps)
  np.testing.assert_allclose(
    prediction.probabilities,
    dense(inputs, labels, queries, alpha_eps=alpha_eps),
    rtol=1e-4,
  )


def test_two_hundred_images_in_single_precision():
  split = datasets.load("digits").train
  images = split.images.reshape(len(split.labels), -1) / 255
  rows = datasets.draw_shots(split.labels, num_shots=20, seed=0)
  inputs, labels, queries = images[rows], split.labels[rows], images[:40]
  prediction = predict(inputs, labels, queries, num_classes=10)
  expected = dense(inputs, labels, queries, num_classes=10)
  np.testing.assert_allclose(
    prediction.probabilities, expected, rtol=1e-3, atol=1e-6
  )
  # The queries are about as hard as they should be.
  accuracy = np.mean(expected.argmax(axis=1) == split.labels[:40])
  assert accuracy > 0.7


def test_probabilities_and_the_spread_of_the_label():
  inputs, labels, queries = draw(12, 5)
  probabilities, uncertainty = predict(inputs, labels, queries)
  assert probabilities.shape == (5, NUM_CLASSES)
  assert np.all(probabilities > 0)
  np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
  # The trace of a one-hot vector's covariance is one minus sum p^2.
  np.testing.assert_allclose(
    uncertainty**2, 1 - np.sum(probabilities**2, axis=1), rtol=1e-5
  )


def test_sure_at_the_examples_and_ignorant_far_from_them():
  inputs, labels, _ = draw(12, 0)
  queries = np.concatenate([inputs[:4], inputs[:1] + 100])
  probabilities, uncertainty = predict(inputs, labels, queries)
  np.testing.assert_array_equal(
    probabilities[:-1].argmax(axis=1), labels[: len(queries) - 1]
  )
  np.testing.assert_allclose(probabilities[-1], 1 / NUM_CLASSES, rtol=1e-5)
  assert np.all(uncertainty[:-1] < uncertainty[-1])


def test_ensemble_averages_its_members():
  inputs, labels, queries = draw(12, 5)
  posterior = make_fit(NUM_CLASSES)(inputs.astype(np.float32), labels)
  queries32 = queries.astype(np.float32)

  @jax.jit
  def predict_alone(member):
    names = ("length_scales", "weights", "inverse", "correction")
    rows = {name: getattr(posterior, name)[member][None] for name in names}
    alone = posterior._replace(**rows)
    return gaussian_process.predict(alone, queries32).probabilities

  alone = np.stack([predict_alone(member) for member in range(len(SCALES))])
  assert np.ptp(alone, axis=0).max() > 0.01
  np.testing.assert_allclose(
    predict(inputs, labels, queries).probabilities,
    alone.mean(axis=0),
    rtol=1e-5,
  )


@functools.cache
def make_gradient():
  """The gradient in the queries of a mean of class probabilities."""

  def mean(queries, inputs, labels, weights):
    probabilities = predict(inputs, labels, queries).probabilities
    return jnp.sum(weights * probabilities)

  return jax.jit(jax.grad(mean))


def test_gradient_in_the_queries():
  inputs, labels, queries = draw(12, 5)
  weights = np.random.default_rng(1).random((5, NUM_CLASSES))
  gradient = make_gradient()(
    queries.astype(np.float32), inputs.astype(np.float32), labels, weights
  )
  for place in ((0, 0), (1, 7), (4, 19)):
    step = np.zeros_like(queries)
    step[place] = 1e-5
    above, below = (
      np.sum(weights * dense(inputs, labels, queries + side))
      for side in (step, -step)
    )
    slope = (above - below) / 2e-5
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(gradient[place], slope, rtol=1e-3)


def test_gradient_at_an_example_is_finite():
  inputs, labels, _ = draw(12, 0)
  inputs = inputs.astype(np.float32)
  weights = np.eye(NUM_CLASSES)[labels[:5]]
  gradient = make_gradient()(inputs[:5], inputs, labels, weights)
  assert np.all(np.isfinite(gradient))


def test_blocks_make_a_whole():
  inputs, labels, queries = draw(12, 5)
  whole = predict(inputs, labels, queries)
  posterior = make_fit(NUM_CLASSES)(inputs.astype(np.float32), labels)
  parts = jax.jit(functools.partial(gaussian_process.predict_blocks, block=2))(
    posterior, queries.astype(np.float32)
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), parts, whole
  )


def test_mapped_over_members():
  draws = [draw(12, 5, seed=seed) for seed in range(3)]
  inputs, labels, queries = map(np.stack, zip(*draws, strict=True))
  many = jax.jit(jax.vmap(predict))(
    inputs.astype(np.float32), labels, queries.astype(np.float32)
  )
  for member, arguments in enumerate(draws):
    np.testing.assert_allclose(
      many.probabilities[member], predict(*arguments).probabilities, rtol=1e-4
    )


def test_examples():
  result = doctest.testmod(gaussian_process)
  assert result.attempted > 0
  assert result.failed == 0
