"""Tests of experiments.weights.signs."""

import numpy as np
import pytest

from experiments.weights import signs

GENERATOR = np.random.default_rng(0)


def by_permutation(kernel, threshold, number=4000):
  """The oracle: signs of the synapses permuted; share and agreement."""
  present = np.abs(kernel) > threshold * np.abs(kernel).max()
  found = []
  for _ in range(number):
    shuffled = np.zeros(kernel.shape)
    shuffled[present] = GENERATOR.permutation(np.sign(kernel[present]))
    found.append(by_loops(shuffled))
  return np.mean(found, axis=0)


def by_loops(kernel):
  obeying, agreeing = [], []
  for row in kernel:
    plus, minus = sum(row > 0), sum(row < 0)
    if plus + minus:
      obeying.append(plus == 0 or minus == 0)
      agreeing.append(max(plus, minus) / (plus + minus))
  return np.mean(obeying), np.mean(agreeing)


def sparse_kernel():
  kernel = GENERATOR.normal(size=(12, 5))
  kernel[GENERATOR.random(kernel.shape) < 0.5] = 0
  kernel[3] = 0  # A neuron without synapses.
  kernel[4] = [0, 0, 1, 0, 0]
  return kernel


def test_a_kernel_made_to_obey():
  kernel = np.abs(GENERATOR.normal(size=(40, 6)))
  kernel[::2] *= -1
  found = signs.dale([kernel])
  assert (found.share, found.agreement) == (1.0, 1.0)
  assert found.chance < 0.1
  assert found.agreement_chance < 0.75


@pytest.mark.parametrize("threshold", (0.0, 0.2))
def test_chance_is_that_of_permutations(threshold):
  kernel = sparse_kernel()
  found = signs.dale([kernel], threshold=threshold)
  seen = np.where(np.abs(kernel) > threshold * np.abs(kernel).max(), kernel, 0)
  np.testing.assert_allclose((found.share, found.agreement), by_loops(seen))
  np.testing.assert_allclose(
    (found.chance, found.agreement_chance),
    by_permutation(kernel, threshold),
    atol=0.01,
  )


def test_all_obey_where_no_weight_may_be_negative():
  found = signs.dale([np.abs(sparse_kernel())])
  np.testing.assert_allclose(found, 1.0)


def test_layers_count_by_their_neurons():
  first, second = GENERATOR.normal(size=(2, 3)), GENERATOR.normal(size=(6, 2))
  found = np.array(signs.dale([first, 100 * second]))
  apart = [np.array(signs.dale([kernel])) for kernel in (first, second)]
  np.testing.assert_allclose(found, (2 * apart[0] + 6 * apart[1]) / 8)


@pytest.mark.parametrize("kernels", ([], [np.zeros((3, 2))]))
def test_nothing_is_known_without_synapses(kernels):
  assert np.isnan(signs.dale(kernels)).all()
