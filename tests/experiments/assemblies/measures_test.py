"""Tests of experiments.assemblies.measures."""

import numpy as np
import pytest

from experiments.assemblies import ablation, measures
from experiments.command import parsing
from tests.experiments.assemblies import planted

SETTINGS = measures.Settings(max_clusters=6, restarts=3, controls=3)


def measure(trained, untrained=None):
  layers = measures.subjects(trained, untrained or trained, seed=0)
  return measures.measure(layers, SETTINGS, gamma=1.0, seed=0)


def test_planted_assemblies():
  found = measure(planted.make_layer(), planted.make_layer(noise=10.0, seed=1))
  for name, value in found.items():
    assert np.isfinite(value).all(), name
  index = planted.NUM_CLASSES - 2
  for name, low, high in (
    ("trained_silhouettes", 0.85, 1),
    ("rescaled_silhouettes_live", 0.85, 1),
    ("permuted_silhouettes", -1, 0.7),
    ("untrained_silhouettes", -1, 0.5),
    ("trained_dead", 0, 0),
    ("trained_agreement", 1, 1),
    ("trained_agreement_targets", 1, 1),
    ("permuted_agreement", -1, 0.5),
    ("trained_inhibiting", 0, 0),
    ("trained_outputs", 1, 1.1),
    ("trained_selectivity", 0.9, 1),
    # Below 1 - 1 / 4, that of four groups of equal size without noise.
    ("trained_modularity1_preferred", 0.4, 0.6),
    ("trained_modularity2_preferred", 0.6, 0.75),
    ("trained_modularity1_assemblies", 0.4, 0.6),
    ("permuted_modularity1_preferred", -1, 0.1),
    ("trained_shared_variance_preferred", 0.95, 1),
    ("permuted_shared_variance_preferred", 0, 0.5),
    ("ablation_zero_diagonality", 1, 1),
    ("ablation_zero_own", 0.9, 1),
    ("ablation_zero_other", 0, 0),
  ):
    value = found[name][index] if "silhouettes" in name else found[name]
    assert low <= value <= high, name
  within, between = (
    found[f"trained_divergence_{where}_preferred"]
    for where in ("within", "between")
  )
  assert within < 0.1 * between


def test_connected_pairs_have_more_paths():
  layer = planted.make_layer()
  # Neurons of two classes lead to the outputs of both.
  layer.kernel[:] += np.roll(layer.kernel, 2, axis=1)
  found = measure(layer)
  connected, others = (
    found[f"trained_proximity_{name}"] for name in ("connected", "unconnected")
  )
  assert connected > 2 * others > 0


def test_populations_that_inhibit_their_class():
  # They fire for all classes but their own: anything but what they prefer.
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  layer = layer._replace(
    activations=1 - layer.activations, dense=((-kernel, bias),)
  )
  found = measure(layer)
  np.testing.assert_array_equal(found["targeting_class_accuracy"], np.ones(4))
  assert found["trained_inhibiting"] == 1
  assert found["trained_agreement_targets"] == 1
  costs = ablation.ablate_populations(
    layer, planted.serves(), num_controls=3, seed=0
  )
  np.testing.assert_array_equal(found["targeting_zero"], costs["zero"])
  assert costs["zero"].any()
  assert np.any(found["ablation_zero"] != found["targeting_zero"])
  # Within a hidden layer there is no class to lead to.
  deeper = layer._replace(dense=(*layer.dense, (np.eye(4, dtype="f"), bias)))
  assert not any(name.startswith("targeting") for name in measure(deeper))


def test_permuted_weights_stay_in_their_column():
  layer = planted.make_layer()
  found = [
    measures.subjects(layer, layer, seed=seed)["permuted"].kernel
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(
    np.sort(found[0], axis=0), np.sort(layer.kernel, axis=0)
  )
  np.testing.assert_array_equal(found[0], found[1])
  assert np.any(found[0] != found[2])


def test_dead_neurons_are_found_and_left_out():
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  kernel[:4] = 0
  layer.activations[:, 4] = 0
  known = measures.neurons(layer, SETTINGS, seed=0)
  np.testing.assert_array_equal(known.dead, np.arange(24) < 5)
  for classes in (known.preferred, known.targets):
    expected = np.where(known.dead, -1, planted.serves())
    np.testing.assert_array_equal(classes, expected)
  assert np.all(known.assemblies[:5] == -1)


def test_rescaling_changes_scale_alone():
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  factors = np.geomspace(0.1, 10, 24, dtype=np.float32)
  scaled = layer._replace(
    activations=layer.activations / factors,
    dense=((kernel * factors[:, None], bias),),
  )
  first, second = measure(scaled), measure(layer)
  assert first["trained_weight_norm_spread"] > 1
  np.testing.assert_allclose(first["rescaled_weight_norm"], 1, rtol=1e-5)
  for name, value in second.items():
    # t-SNE tells last bits apart.
    if name.startswith("rescaled") and "plane" not in name:
      np.testing.assert_allclose(first[name], value, 1e-3, 1e-6, err_msg=name)


@pytest.mark.parametrize("what", ("activations", "kernel"))
def test_constant_layers_have_defined_values(what):
  layer = planted.make_layer()
  if what == "activations":
    layer.activations[:] = 0.1
  else:
    layer.kernel[:] = 0
  found = measure(layer)
  assert found["trained_dead"] == 24
  undefined = {k for k, v in found.items() if not np.isfinite(v).all()}
  kinds = ("silhouette", "agreement", "selectivity")
  assert all(any(kind in name for kind in kinds) for name in undefined)
  assert not found["ablation_zero"].any()


def test_strongest_connections():
  strength = np.array([[0.0, 0.3], [0.2, 0.1], [0.4, 0.0]])
  np.testing.assert_array_equal(
    measures.strongest(strength, 0.5), [[0, 1], [1, 0], [1, 0]]
  )
  # Never those that are not there, and always one.
  assert measures.strongest(strength, 1.0).sum() == 4
  assert measures.strongest(strength, 0.01).sum() == 1


@pytest.mark.parametrize("num_neurons, most", ((24, 3), (24, 24), (4, 4)))
def test_numbers_of_clusters(num_neurons, most):
  layer = planted.make_layer()
  for fitting in (4, 23):
    measures.check_sizes(layer, SETTINGS._replace(max_clusters=fitting))
  small = layer._replace(dense=((layer.kernel[:num_neurons], None),))
  with pytest.raises(parsing.ConfigError, match=f"max_clusters.*got {most}"):
    measures.check_sizes(small, SETTINGS._replace(max_clusters=most))
