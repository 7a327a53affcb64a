"""Tests of experiments.assemblies.measures."""

import numpy as np
import pytest

from experiments.assemblies import ablation, measures
from experiments.command import parsing
from tests.experiments.assemblies import planted

SETTINGS = measures.Settings(max_clusters=6, restarts=3, controls=3)


@pytest.fixture(scope="module")
def metrics():
  trained = planted.make_layer()
  untrained = planted.make_layer(noise=10.0, seed=1)
  layers = measures.subjects(trained, untrained, seed=0)
  assert tuple(layers) == measures.SUBJECTS
  return measures.measure(layers, SETTINGS, gamma=1.0, seed=0)


def test_planted_assemblies(metrics):
  index = planted.NUM_CLASSES - 2
  assert metrics["trained_silhouettes"][index] > 0.85
  assert metrics["rescaled_silhouettes_live"][index] > 0.85
  assert metrics["permuted_silhouettes"][index] < 0.7
  assert metrics["untrained_silhouettes"][index] < 0.5
  assert metrics["trained_dead"] == 0
  assert metrics["trained_agreement"] == 1
  assert metrics["trained_agreement_targets"] == 1
  assert metrics["trained_inhibiting"] == 0
  assert metrics["trained_outputs"] < 1.1
  assert metrics["trained_selectivity"] > 0.9
  assert metrics["trained_classes_preferred"] == 4
  assert metrics["permuted_agreement"] < 0.5
  # Below 1 - 1 / 4, that of four groups of equal size without noise.
  assert 0.4 < metrics["trained_modularity1_preferred"] < 0.75
  assert 0.6 < metrics["trained_modularity2_preferred"] < 0.75
  assert metrics["permuted_modularity1_preferred"] < 0.1
  assert metrics["trained_shared_variance_preferred"] > 0.95
  assert metrics["permuted_shared_variance_preferred"] < 0.5
  assert (
    metrics["trained_divergence_within_preferred"]
    < 0.1 * metrics["trained_divergence_between_preferred"]
  )
  assert metrics["ablation_zero_diagonality"] == 1
  assert metrics["ablation_zero_own"] > 0.9
  assert metrics["ablation_zero_other"] == 0
  assert metrics["ablation_zero_random_mean"] < 0.2


def test_populations_that_inhibit_their_class():
  # They fire for all classes but their own: anything but what they prefer.
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  layer = layer._replace(
    activations=1 - layer.activations, dense=((-kernel, bias),)
  )
  layers = measures.subjects(layer, layer, seed=0)
  metrics = measures.measure(layers, SETTINGS, gamma=1.0, seed=0)
  np.testing.assert_array_equal(metrics["targeting_class_accuracy"], np.ones(4))
  assert metrics["trained_inhibiting"] == 1
  assert metrics["trained_agreement_targets"] == 1
  np.testing.assert_array_equal(metrics["targeting_sizes"], np.full(4, 6))
  outcome = ablation.ablate_populations(
    layer, planted.serves(), num_controls=3, seed=0
  )
  np.testing.assert_allclose(
    metrics["targeting_zero"], outcome.losses["zero"], atol=1e-6
  )
  assert outcome.losses["zero"].any()
  assert np.any(metrics["ablation_zero"] != metrics["targeting_zero"])
  # Within a hidden layer there is no class to lead to.
  deeper = layer._replace(dense=(*layer.dense, (np.eye(4, dtype="f"), bias)))
  layers = measures.subjects(deeper, deeper, seed=0)
  metrics = measures.measure(layers, SETTINGS, gamma=1.0, seed=0)
  assert not any(name.startswith("targeting") for name in metrics)


def test_every_number_of_planted_assemblies_is_finite(metrics):
  for name, value in metrics.items():
    assert np.isfinite(value).all(), name


def test_dead_neurons_are_found_and_left_out():
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  kernel = kernel.copy()
  kernel[:4] = 0
  layer.activations[:, 4] = 0
  layer = layer._replace(dense=((kernel, bias),))
  known = measures.neurons(layer, SETTINGS, seed=0)
  np.testing.assert_array_equal(known.dead, np.arange(24) < 5)
  assert np.all(known.preferred[:5] == -1)
  assert np.all(known.assemblies[:5] == -1)
  np.testing.assert_array_equal(known.preferred[5:], planted.serves()[5:])


def test_rescaling_changes_scale_alone():
  layer = planted.make_layer()
  (kernel, bias), *_ = layer.dense
  factors = np.geomspace(0.1, 10, 24, dtype=np.float32)
  scaled = layer._replace(
    activations=layer.activations / factors,
    dense=((kernel * factors[:, None], bias),),
  )
  rescaled = measures.rescaled(scaled)
  np.testing.assert_allclose(
    np.linalg.norm(rescaled.kernel, axis=1), np.ones(24), rtol=1e-5
  )
  np.testing.assert_allclose(
    ablation.logits(rescaled.dense, rescaled.activations),
    ablation.logits(layer.dense, layer.activations),
    rtol=1e-4,
    atol=1e-4,
  )
  values = measures._norms(scaled, 1.0)
  plain = measures._norms(layer, 1.0)
  assert values["weight_norm_spread"] > 5 * plain["weight_norm_spread"]
  one, other = (
    measures._norms(measures.rescaled(each), 1.0)["penalty1_relative"]
    for each in (scaled, layer)
  )
  np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("what", ("activations", "kernel", "both"))
def test_constant_layers_have_defined_values(what):
  layer = planted.make_layer()
  kernel = np.zeros_like(layer.kernel)
  if what != "kernel":
    layer = layer._replace(activations=np.full_like(layer.activations, 0.1))
  if what != "activations":
    layer = layer._replace(dense=((kernel, layer.dense[0][1]),))
  metrics = measures.measure(
    measures.subjects(layer, layer, seed=0), SETTINGS, gamma=1.0, seed=0
  )
  assert metrics["trained_dead"] == 24
  undefined = {k for k, v in metrics.items() if not np.isfinite(v).all()}
  kinds = ("silhouette", "agreement", "selectivity")
  assert all(any(kind in name for kind in kinds) for name in undefined)
  assert not metrics["ablation_zero"].any()


def test_strongest_connections():
  strength = np.array([[0.0, 0.3], [0.2, 0.1], [0.4, 0.0]])
  np.testing.assert_array_equal(
    measures.strongest(strength, 0.5), [[0, 1], [1, 0], [1, 0]]
  )
  # Never those that are not there, and always one.
  assert measures.strongest(strength, 1.0).sum() == 4
  assert measures.strongest(strength, 0.01).sum() == 1


@pytest.mark.parametrize("count", (3, 24, 30))
def test_numbers_of_clusters(count):
  layer = planted.make_layer()
  measures.check_sizes(layer, SETTINGS)
  with pytest.raises(parsing.ConfigError) as error:
    measures.check_sizes(layer, SETTINGS._replace(max_clusters=count))
  assert str(error.value) == (
    "--max_clusters: expected from 4, the classes, to 23, less than the "
    f"neurons that enter fc2, got {count}"
  )


def test_too_few_neurons():
  layer = planted.make_layer()
  small = layer._replace(
    activations=layer.activations[:, :4],
    dense=((layer.kernel[:4], layer.dense[0][1]),),
  )
  with pytest.raises(parsing.ConfigError, match="choose a wider layer"):
    measures.check_sizes(small, SETTINGS)
