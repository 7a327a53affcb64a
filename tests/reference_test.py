"""The oracle itself: against scalar loops, numbers by hand, differences."""

import itertools
import math

import numpy as np
import pytest

from tests import reference

ORDERS = (1, 2)
DISTANCES = ("squared", "absolute")
TINY_SHAPES = ((1, 1, 1), (1, 2, 1), (2, 1, 3), (2, 3, 1), (3, 4, 2), (4, 3, 5))


def _draw(shape):
  num_samples, num_neurons, num_next = shape
  rng = np.random.default_rng(shape)
  activations = rng.normal(size=(num_samples, num_neurons))
  return activations, rng.normal(size=(num_neurons, num_next))


def penalty_by_loops(activations, kernel, *, order, gamma, distance):
  """Eq. 1 with Eq. 4 or 6, from sums over i, j, s, k, and for order 2 m."""
  (num_samples, num_neurons), num_next = activations.shape, kernel.shape[1]
  strength = [[abs(math.tanh(gamma * w)) for w in row] for row in kernel]
  power = {"squared": 2, "absolute": 1}[distance]
  total = 0.0
  for i, j in itertools.product(range(num_neurons), repeat=2):
    products = [strength[i][k] * strength[j][k] for k in range(num_next)]
    paths = map(math.prod, itertools.product(products, repeat=order))
    correlation = sum(paths) / num_next**order
    for sample in activations:
      total += correlation * abs(sample[i] - sample[j]) ** power
  return total / (num_samples * num_neurons**2)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_arrays_equal_loops(shape, order, distance):
  for gamma in (0.5, 3.0):
    options = {"order": order, "gamma": gamma, "distance": distance}
    np.testing.assert_allclose(
      reference.layer_penalty(*_draw(shape), **options),
      penalty_by_loops(*_draw(shape), **options),
      rtol=1e-13,
    )


def test_numbers_by_hand():
  # F = [[1/2, 0], [1/2, 1/2]]. F F' = [[1/4, 1/4], [1/4, 1/2]], so over M = 2
  # A = [[1/8, 1/8], [1/8, 1/4]], and order 2 squares each entry. Both samples
  # differ by 2 and 4 between the neurons: d is 4 and 16, or 2 and 4.
  kernel = np.arctanh([[0.5, 0.0], [-0.5, 0.5]])
  activations = np.array([[1.0, 3.0], [0.0, -4.0]])
  first = reference.neuron_correlation(kernel, order=1)
  np.testing.assert_allclose(first, [[1 / 8, 1 / 8], [1 / 8, 1 / 4]])
  second = reference.neuron_correlation(kernel, order=2)
  np.testing.assert_allclose(second, [[1 / 64, 1 / 64], [1 / 64, 1 / 16]])
  for order, distance, expected in (
    (1, "squared", (2 * 4 + 2 * 16) / 8 / (2 * 4)),
    (2, "squared", (2 * 4 + 2 * 16) / 64 / (2 * 4)),
    (1, "absolute", (2 * 2 + 2 * 4) / 8 / (2 * 4)),
    (2, "absolute", (2 * 2 + 2 * 4) / 64 / (2 * 4)),
  ):
    penalty = reference.layer_penalty(
      activations, kernel, order=order, distance=distance
    )
    np.testing.assert_allclose(penalty, expected, rtol=1e-14)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_gradients_equal_central_differences(shape, order, distance):
  arrays = _draw(shape)
  options = {"order": order, "gamma": 0.7, "distance": distance}
  gradients = reference.layer_gradients(*arrays, **options)
  step = 1e-6
  for position, array in enumerate(arrays):
    for index in np.ndindex(array.shape):
      ends = []
      for sign in (1, -1):
        moved = [np.array(x) for x in arrays]
        moved[position][index] += sign * step
        ends.append(reference.layer_penalty(*moved, **options))
      slope = (ends[0] - ends[1]) / (2 * step)
      np.testing.assert_allclose(
        gradients[position][index], slope, rtol=1e-6, atol=1e-8
      )
