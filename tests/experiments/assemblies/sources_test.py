"""Tests of experiments.assemblies.sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.assemblies import sources
from experiments.command import parsing
from experiments.records import checkpoints
from tests.experiments import tiny

CONFIG = {"dataset": "digits", "model": "mlp500", "method": "vanilla"}


def write(folder, name, *, seed=0, metrics=None, params=None, **config):
  """Writes a checkpoint of initial parameters, plus 1."""
  fields = {**CONFIG, "seed": seed, **config}
  model = fields.get("model", "lenet5")
  if params is None:
    key = jax.random.fold_in(jax.random.key(seed), 0)
    params = networks.make(networks.Spec(model)).init(key).params
    params = jax.tree.map(lambda array: np.asarray(array) + 1, params)
  variables = networks.Variables(params, {})
  if metrics is None:
    metrics = {"validation_accuracy": np.float64(0.5 + (seed or 0) / 10)}
  checkpoint = checkpoints.Checkpoint(
    config={key: value for key, value in fields.items() if value is not None},
    environment={},
    last=jax.tree.map(lambda array: array + 1, variables),
    best=variables,
    metrics={"failed_step": np.int32(-1), **metrics},
    memory={},
  )
  checkpoints.save(folder / f"{name}.npz", checkpoint)


def test_find(tmp_path):
  params = {"fc2": {"kernel": np.zeros((2, 3), np.float32)}}
  for name, config in (
    ("a", {"method": "bean2", "alpha": 10.0}),
    ("b", {"method": "bean1", "alpha": 100.0}),
    ("c", {"method": "bean1", "alpha": 2.0, "seed": 1}),
    ("d", {"method": "bean1", "alpha": 2.0}),
    ("e", {}),
    ("f", {"model": None, "shots": 10}),
    ("g", {"metrics": {}}),
    ("h", {"metrics": {"failed_step": np.int32(3)}}),
  ):
    write(tmp_path, name, params=params, **config)
  found, left_out = sources.find(tmp_path)
  # f is of lenet5, which comes before mlp500.
  assert "".join(source.path.stem for source in found) == "fedcba"
  assert left_out == [
    "g.npz: still in training, left out",
    "h.npz: met a non-finite loss, left out",
  ]
  assert sources.setting(found[0].config) == "digits-lenet5-10shot"
  assert sources.setting(found[1].config) == "digits-mlp500"
  assert [sources.strength(s.config) for s in found] == [0, 0, 2, 2, 100, 10]
  assert [s.validation_accuracy for s in found] == [0.5] * 3 + [0.6, 0.5, 0.5]
  assert len({source.digest for source in found}) == len(found)
  found, _ = sources.find(tmp_path, ["bean2"])
  assert [source.path.stem for source in found] == ["a"]


@pytest.mark.parametrize(
  "config, text",
  (
    ({"seed": None}, "expected seed in its configuration"),
    ({"method": "bean1"}, "expected alpha in its configuration"),
    ({"method": "bean9"}, "unknown method 'bean9'"),
    ({"model": "lenet6"}, "expected a model of .*, got 'lenet6'"),
  ),
)
def test_configurations_that_are_refused(tmp_path, config, text):
  write(tmp_path, "a", params={}, **{"seed": 0, **config})
  with pytest.raises(checkpoints.CheckpointError, match=text):
    sources.find(tmp_path)


def test_nothing_to_look_at(tmp_path):
  with pytest.raises(parsing.ConfigError, match="no folder"):
    sources.find(tmp_path / "absent")
  with pytest.raises(parsing.ConfigError, match=r"got none \(0 left out\)"):
    sources.find(tmp_path)
  write(tmp_path, "a", params={}, metrics={})
  with pytest.raises(parsing.ConfigError, match=r"got none \(1 left out\)"):
    sources.find(tmp_path)
  with pytest.raises(parsing.ConfigError, match="simulations of bean1 in"):
    sources.find(tmp_path, ["bean1"])
  (tmp_path / "b.npz").write_bytes(b"no checkpoint")
  with pytest.raises(checkpoints.CheckpointError, match="b.npz"):
    sources.find(tmp_path)


def test_simulations_that_were_trained_otherwise(tmp_path):
  for name, rate in (("a", 0.1), ("b", 0.2)):
    write(tmp_path, name, params={}, learning_rate=rate)
  with pytest.raises(parsing.ConfigError, match="a.npz and b.npz are of the"):
    sources.find(tmp_path)


@pytest.mark.parametrize("which, added", (("best", 1), ("last", 2)))
def test_layers_of_trained_and_untrained_networks(tmp_path, which, added):
  write(tmp_path, "a", seed=3)
  ((source, *_), _) = sources.find(tmp_path)
  dataset = tiny.load_few_digits()
  trained, untrained = sources.trained_and_untrained(
    source, dataset, None, which=which
  )
  network = networks.make(networks.Spec("mlp500"))
  variables = network.init(jax.random.fold_in(jax.random.key(3), 0))
  kernel = variables.params["fc2"]["kernel"]
  np.testing.assert_array_equal(untrained.kernel, kernel)
  np.testing.assert_allclose(trained.kernel, kernel + added, rtol=1e-6)
  _, hidden = network.evaluate(variables, jnp.asarray(dataset.test.images))
  assert untrained.activations.shape == (80, 500)
  np.testing.assert_allclose(
    untrained.activations, hidden["fc2"], rtol=1e-5, atol=1e-6
  )
  assert trained.name == "fc2"
  assert trained.num_classes == 10


def test_blocks_of_images_make_no_difference(monkeypatch):
  network = networks.make(networks.Spec("mlp500"))
  variables = network.init(jax.random.key(0))
  images = tiny.load_few_digits().test.images
  whole = sources.activations(network, variables, images, "fc2")
  monkeypatch.setattr(sources, "_BLOCK", 33)
  parts = sources.activations(network, variables, images, "fc2")
  assert parts.shape == (80, 500)
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_checkpoint_of_another_network(tmp_path):
  params = {
    "fc1": {"kernel": np.zeros((784, 300)), "bias": np.zeros(300)},
    "fc2": {"kernel": np.zeros((300, 10)), "bias": np.zeros(10)},
  }
  params = jax.tree.map(np.float32, params)
  write(tmp_path, "a", params=params)
  ((source, *_), _) = sources.find(tmp_path)
  with pytest.raises(checkpoints.CheckpointError, match="of another network"):
    sources.trained_and_untrained(source, tiny.load_few_digits(), None)


def test_unknown_layer():
  network = networks.make(networks.Spec("lenet5"))
  assert sources.layer_name(network, None) == "fc3"
  assert sources.layer_name(network, "fc1") == "fc1"
  with pytest.raises(parsing.ConfigError) as error:
    sources.layer_name(network, "fc4")
  assert str(error.value) == (
    "--layer: expected one of fc1, fc2, fc3, dense layers that neurons enter, "
    "got 'fc4'"
  )


def test_classes_without_images():
  dataset = tiny.load_few_digits()
  sources.check_classes(dataset)
  kept = ~np.isin(dataset.test.labels, (2, 7))
  test = datasets.Split(dataset.test.images[kept], dataset.test.labels[kept])
  with pytest.raises(datasets.DatasetError, match="got none of class 2, 7"):
    sources.check_classes(dataset._replace(test=test))
