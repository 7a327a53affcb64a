"""Assemblies: against loops in float64, networkx, and by hand."""

import itertools

import jax
import networkx
from networkx.algorithms import bipartite, community
import numpy as np
import pytest

from bean_jax import assemblies

S, N, M, C = 12, 7, 4, 3
MEMBERS = np.array([0, 2, 1, 0, -1, 2, 2])


def _generator():
  return np.random.default_rng(0)


def _draw(*shape):
  return np.float32(_generator().normal(size=shape))


def _labels():
  return _generator().permutation(np.arange(S) % C)


def _symmetric(n):
  half = _generator().uniform(size=(n, n))
  return np.float32(half + half.T)


def test_class_profiles_equal_means():
  activations, labels = _draw(S, N), _labels()
  profiles = assemblies.class_profiles(activations, labels, num_classes=C)
  expected = [
    np.mean(np.float64(activations)[labels == c], axis=0) for c in range(C)
  ]
  np.testing.assert_allclose(profiles, expected, rtol=1e-5, atol=1e-6)
  split = assemblies.class_profiles(
    activations.reshape(3, 4, N), labels.reshape(3, 4), num_classes=C
  )
  np.testing.assert_array_equal(profiles, split)


def test_class_profiles_of_traced_labels():
  activations, labels = _draw(S, N), _labels()

  @jax.jit
  def profiles(activations, labels):
    return assemblies.class_profiles(activations, labels, num_classes=C + 1)

  result = profiles(activations, labels)
  np.testing.assert_array_equal(result[C], activations[0])
  np.testing.assert_allclose(
    result[:C],
    assemblies.class_profiles(activations, labels, num_classes=C),
    rtol=1e-6,
  )


def test_constant_activations_prefer_nothing():
  # 0.1 has no exact sum: only what is centred first stays constant.
  activations = np.full((S, N), 0.1, np.float32)
  activations[:, 1] = 0
  profiles = assemblies.class_profiles(activations, _labels(), num_classes=C)
  np.testing.assert_array_equal(profiles, activations[:C])
  np.testing.assert_array_equal(assemblies.selectivity(profiles), np.zeros(N))
  np.testing.assert_array_equal(
    assemblies.preferred_classes(profiles), np.full(N, -1)
  )


@pytest.mark.parametrize("rectified", (True, False))
def test_selectivity_equals_its_definition(rectified):
  profiles = _draw(C, N)
  if rectified:
    profiles = np.abs(profiles)
  expected = []
  for column in np.float64(profiles).T:
    others = np.delete(column, np.argmax(column)).mean()
    expected.append((column.max() - others) / (abs(column.max()) + abs(others)))
  result = assemblies.selectivity(profiles)
  np.testing.assert_allclose(result, expected, rtol=1e-5)
  assert np.all((result >= 0) & (result <= 1))
  np.testing.assert_array_equal(
    assemblies.preferred_classes(profiles), np.argmax(profiles, axis=0)
  )


def test_dead_neurons():
  activations, kernel = np.abs(_draw(S, N)), _draw(N, M)
  activations[:, 0] = 0  # Silent.
  activations[:, 1] = 0.1  # Always equally active.
  kernel[2] = 0  # Not connected.
  activations[:, 3] *= 1e-6
  kernel[3] *= 1e6  # Small activations, but large weights.
  kernel[4] *= 1e-4
  expected = [True, True, True, False, True, False, False]
  dead = assemblies.dead_neurons(activations, kernel)
  np.testing.assert_array_equal(dead, expected)
  scales = np.asarray(assemblies.unit_scales(kernel))
  np.testing.assert_array_equal(
    assemblies.dead_neurons(activations * scales, kernel / scales[:, None]),
    expected,
  )
  assert assemblies.dead_neurons(activations * 0, kernel).all()


def test_assembly_masks():
  masks = assemblies.assembly_masks(MEMBERS, num_assemblies=3)
  np.testing.assert_array_equal(masks, [c == MEMBERS for c in range(3)])


@pytest.mark.parametrize("with_means", (False, True))
def test_ablation_replaces_activations(with_means):
  activations, kernel, bias = _draw(S, N), _draw(N, M), _draw(M)
  means = activations.mean(axis=0) if with_means else np.zeros(N, np.float32)
  neurons = MEMBERS == 2
  edited, shift = map(
    np.asarray,
    jax.jit(assemblies.ablate)(
      kernel, bias, neurons, means=means if with_means else None
    ),
  )
  replaced = np.where(neurons, means, activations)
  np.testing.assert_allclose(
    activations @ edited + shift, replaced @ kernel + bias, atol=1e-5
  )
  nothing = assemblies.ablate(kernel, bias, np.zeros(N, bool), means=means)
  np.testing.assert_array_equal(nothing[0], kernel)
  np.testing.assert_array_equal(nothing[1], bias)


def test_cohesion_equals_loops():
  matrix = _symmetric(N)
  pairs = {True: [], False: []}
  for i, j in itertools.permutations(range(N), 2):
    if MEMBERS[i] >= 0 and MEMBERS[j] >= 0:
      pairs[MEMBERS[i] == MEMBERS[j]].append(np.float64(matrix[i, j]))
  within, between = assemblies.cohesion(matrix, MEMBERS)
  np.testing.assert_allclose(within, np.mean(pairs[True]), rtol=1e-6)
  np.testing.assert_allclose(between, np.mean(pairs[False]), rtol=1e-6)


def test_cohesion_without_pairs_is_zero():
  matrix = _symmetric(N)
  within, between = assemblies.cohesion(matrix, np.arange(N))
  assert within == 0
  assert between > 0
  within, between = assemblies.cohesion(matrix, np.full(N, -1))
  assert within == between == 0


def test_modularity_equals_networkx():
  kept = np.flatnonzero(MEMBERS >= 0)
  matrix = _symmetric(N)
  graph = networkx.Graph()
  for i, j in itertools.combinations(kept, 2):
    graph.add_edge(i, j, weight=np.float64(matrix[i, j]))
  parts = [set(np.flatnonzero(c == MEMBERS)) for c in range(3)]
  expected = community.modularity(graph, parts, weight="weight")
  np.testing.assert_allclose(
    jax.jit(assemblies.modularity)(matrix, MEMBERS), expected, atol=1e-6
  )


def test_modularity_without_edges_is_zero():
  assert assemblies.modularity(np.eye(N, dtype=np.float32), MEMBERS) == 0
  # All in one assembly: what chance gives.
  np.testing.assert_allclose(
    assemblies.modularity(_symmetric(N), np.zeros(N, int)), 0, atol=1e-6
  )


@pytest.mark.parametrize("shape", ((5, 4), (4, 5), (9, 2), (1, 3), (3, 1)))
@pytest.mark.parametrize("density", (0.3, 0.6, 1.0))
def test_clustering_coefficient_equals_networkx(shape, density):
  edges = _generator().uniform(size=shape) < density
  graph = networkx.Graph()
  graph.add_nodes_from(range(shape[0]), bipartite=0)
  for i, k in np.argwhere(edges):
    graph.add_edge(int(i), f"out{k}")
  result = assemblies.clustering_coefficient(np.float32(edges))
  expected = bipartite.robins_alexander_clustering(graph)
  np.testing.assert_allclose(result, expected, rtol=1e-6)


def _naive_proximity(strength, *, paths):
  num_inputs, num_outputs = strength.shape
  result = np.zeros(strength.shape)
  for j, m, i, k in itertools.product(
    range(num_inputs), range(num_outputs), range(num_inputs), range(num_outputs)
  ):
    if not paths or (i != j and k != m):
      result[j, m] += strength[j, k] * strength[i, k] * strength[i, m]
  return result


@pytest.mark.parametrize("paths", (False, True))
def test_proximity_equals_loops(paths):
  strength = np.abs(_draw(N, M))
  np.testing.assert_allclose(
    assemblies.proximity(strength, paths=paths),
    _naive_proximity(np.float64(strength), paths=paths),
    rtol=1e-5,
  )


@pytest.mark.parametrize("shape", ((N, M), (M, N)))
def test_weighted_clustering_equals_loops(shape):
  strength = np.abs(np.tanh(_draw(*shape)))
  paths = _naive_proximity(np.float64(strength), paths=True)
  np.testing.assert_allclose(
    assemblies.clustering_coefficient(strength),
    np.sum(strength * paths) / np.sum(paths),
    rtol=1e-5,
  )


def test_one_edge_a_neuron_has_no_paths():
  # Of uneven strengths, so that sums are rounded.
  strength = np.zeros((N, M), np.float32)
  strength[np.arange(N), np.arange(N) % M] = 0.1 + np.abs(_draw(N))
  np.testing.assert_array_equal(
    assemblies.proximity(strength, paths=True), np.zeros((N, M))
  )
  assert assemblies.clustering_coefficient(strength) == 0
  assert assemblies.clustering_coefficient(strength * 0) == 0


def test_outgoing_variance_equals_loops():
  kernel = _draw(N, M) + 5
  wide = np.float64(kernel)
  kept = MEMBERS >= 0
  means = np.stack([wide[c == MEMBERS].mean(axis=0) for c in MEMBERS[kept]])
  within, between = assemblies.outgoing_variance(kernel, MEMBERS)
  np.testing.assert_allclose(
    within, np.mean((wide[kept] - means) ** 2), rtol=1e-5
  )
  np.testing.assert_allclose(
    between, np.mean((means - wide[kept].mean(axis=0)) ** 2), rtol=1e-5
  )
  np.testing.assert_allclose(
    within + between, wide[kept].var(axis=0).mean(), rtol=1e-5
  )
  nobody = assemblies.outgoing_variance(kernel, np.full(N, -1))
  np.testing.assert_array_equal(nobody, (0, 0))


@pytest.mark.parametrize("norm", (1.0, 0.25))
def test_unit_scales_give_equal_norms(norm):
  kernel = _draw(N, M)
  kernel[0] = 0
  kernel[1] *= 1e-30
  kernel[2] *= 1e30
  scales = assemblies.unit_scales(kernel, norm=norm)
  assert np.all(scales > 0)
  norms = np.linalg.norm(kernel / scales[:, None], axis=1)
  np.testing.assert_allclose(norms, [0] + [norm] * (N - 1), rtol=1e-5)


def test_rescaling_keeps_the_function():
  images, incoming, bias = _draw(S, 5), _draw(5, N), _draw(N)
  outgoing = _draw(N, M)

  def function(incoming, bias, outgoing):
    return jax.nn.relu(images @ incoming + bias[None]) @ outgoing

  rescaled = assemblies.rescale_units(
    incoming, bias, outgoing, assemblies.unit_scales(outgoing)
  )
  np.testing.assert_allclose(
    function(*rescaled),
    function(incoming, bias, outgoing),
    rtol=1e-4,
    atol=1e-5,
  )
  assert not np.allclose(rescaled[2], outgoing)


def _profiles(num, labels, **options):
  return assemblies.class_profiles(_draw(num, N), labels, **options)


# What is refused, by what the message says.
REFUSED = {
  "expected samples of all 4 classes, got none of class 1, 2": lambda: (
    _profiles(3, np.array([0, 0, 3]), num_classes=4)
  ),
  "labels must be from 0 to 3, got 0 to 4": lambda: _profiles(
    3, np.array([0, 1, 4]), num_classes=4
  ),
  "at least one sample": lambda: _profiles(0, np.zeros(0, int), num_classes=2),
  "labels must be integers, got float": lambda: _profiles(
    3, np.ones(3), num_classes=2
  ),
  "labels must have shape [3], got [2]": lambda: _profiles(
    3, np.arange(2), num_classes=2
  ),
  "at least 2 classes": lambda: assemblies.selectivity(_draw(1, N)),
  "neurons must be boolean, got int": lambda: assemblies.ablate(
    _draw(N, M), _draw(M), np.zeros(N, int)
  ),
  "neurons must have shape [7], got [4]": lambda: assemblies.ablate(
    _draw(N, M), _draw(M), np.zeros(M, bool)
  ),
  "bias must have shape [4], got [7]": lambda: assemblies.ablate(
    _draw(N, M), _draw(N), np.zeros(N, bool)
  ),
  "matrix must have shape [7, 7], got [7, 4]": lambda: assemblies.modularity(
    _draw(N, M), MEMBERS
  ),
  "assemblies must be integers": lambda: assemblies.cohesion(
    _draw(N, N), np.ones(N)
  ),
  "assemblies must have shape [7], got [6]": lambda: (
    assemblies.outgoing_variance(_draw(N, M), MEMBERS[1:])
  ),
  "must share N": lambda: assemblies.dead_neurons(_draw(S, M), _draw(N, M)),
  "scales must have shape [7], got [4]": lambda: assemblies.rescale_units(
    _draw(5, N), _draw(N), _draw(N, M), np.ones(M)
  ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
  is_type = any(word in text for word in ("integers", "boolean"))
  with pytest.raises(TypeError if is_type else ValueError) as caught:
    REFUSED[text]()
  assert text in str(caught.value)
