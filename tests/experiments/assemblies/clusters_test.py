"""Tests of experiments.assemblies.clusters."""

import numpy as np
import pytest

from experiments.assemblies import clusters
from tests.experiments.assemblies import planted

OPTIONS = {"restarts": 3, "seed": 0}


def test_planted_assemblies_are_found():
  kernel = planted.make_layer().kernel
  members = clusters.assemble(kernel, planted.NUM_CLASSES, **OPTIONS)
  assert clusters.agreement(members, planted.serves()) == 1
  curve = clusters.silhouettes(kernel, range(2, 8), **OPTIONS)
  assert np.argmax(curve) + 2 == planted.NUM_CLASSES
  assert curve.max() > 0.85


def test_silhouette_of_who_is_not_left_out():
  points = np.array([[9.0], [0.0], [1.0], [4.0], [5.0], [7.0]])
  members = np.array([-1, 0, 0, 1, 1, -1])
  # Distances within are 1, and to the others 4.5, 3.5, 3.5 and 4.5.
  expected = np.mean([3.5 / 4.5, 2.5 / 3.5, 2.5 / 3.5, 3.5 / 4.5])
  np.testing.assert_allclose(clusters.silhouette(points, members), expected)
  # It is not defined of one cluster, of single points and of none.
  points = np.random.default_rng(0).normal(size=(4, 2))
  for members in ([0] * 4, [0, 1, 2, 3], [-1, -1, -1, 0], [-1] * 4):
    assert np.isnan(clusters.silhouette(points, np.array(members)))


def test_equal_points_are_no_clusters():
  kernel = np.ones((9, 4), np.float32)
  kernel[:3] = 0
  np.testing.assert_array_equal(
    clusters.assemble(kernel, 3, **OPTIONS), np.full(9, -1)
  )
  curve = clusters.silhouettes(kernel, (2, 3), **OPTIONS)
  np.testing.assert_array_equal(curve, [1, np.nan])


@pytest.mark.parametrize(
  "kernel",
  (
    np.random.default_rng(0).normal(size=(4, 3)),
    np.full((12, 3), 0.1),
    np.outer(np.arange(12), np.ones(3)),
    np.eye(12, 3),  # Most are equal.
  ),
)
def test_embeddings_are_finite(kernel):
  places = clusters.embed(kernel, seed=0)
  assert places.shape == (len(kernel), 2)
  assert np.isfinite(places).all()
  assert np.any(places != 0) == (np.ptp(kernel) > 0)


def test_agreement_leaves_out_neurons_of_none():
  members = np.array([0, 0, 1, 1, -1, 0])
  classes = np.array([2, 2, 0, 0, 1, -1])
  assert clusters.agreement(members, classes) == 1
  assert np.isnan(clusters.agreement(members, np.full(6, -1)))
