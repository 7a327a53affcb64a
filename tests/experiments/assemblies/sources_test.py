"""Tests of experiments.assemblies.sources."""

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.assemblies import ablation, sources
from experiments.command import parsing
from experiments.learning import methods
from experiments.records import checkpoints
from tests.experiments import tiny

DIGITS = tiny.load_few_digits()
# Not what networks have by default.
NETWORK = networks.make(networks.Spec(initializer="lecun_normal"))


def write(folder, name, *, metrics=None, params=None, **changes):
  """Writes a checkpoint of initial parameters, plus 1."""
  config = {"dataset": "digits", "model": "lenet5", "method": "vanilla"}
  config |= {"seed": 0, "batch_size": 1, "learning_rate": 0.1}
  config |= {"initializer": "lecun_normal", **changes}
  config = {key: value for key, value in config.items() if value is not None}
  seed = config.get("seed", 0)
  if params is None:
    key = jax.random.fold_in(jax.random.key(seed), 0)
    params = NETWORK.init(key).params
    params = jax.tree.map(lambda array: np.asarray(array) + 1, params)
  variables = networks.Variables(params, {})
  if metrics is None:
    metrics = {"validation_accuracy": np.float64(0.5 + seed / 10)}
  checkpoint = checkpoints.Checkpoint(
    config=config,
    environment={},
    last=jax.tree.map(lambda array: array + 1, variables),
    best=variables,
    metrics={"failed_step": np.int32(-1), **metrics},
    memory={},
  )
  checkpoints.save(folder / f"{name}.npz", checkpoint)


def test_find(tmp_path, capsys):
  for name, config in (
    ("a", {"method": "bean2", "alpha": 10.0}),
    ("b", {"method": "bean1", "alpha": 100.0}),
    ("c", {"method": "bean1", "alpha": 2.0, "seed": 1}),
    ("d", {"method": "bean1", "alpha": 2.0}),
    ("e", {}),
    # Of older simulations of few shots there is but one network.
    ("f", {"model": None, "shots": 10}),
    ("g", {"metrics": {}}),
    ("h", {"metrics": {"failed_step": np.int32(3)}}),
  ):
    write(tmp_path, name, **{"params": {}, "model": "mlp500", **config})
  found = sources.find(tmp_path)
  # f is of lenet5, which comes before mlp500.
  assert "".join(source.path.stem for source in found) == "fedcba"
  assert capsys.readouterr().out == (
    "g.npz: still in training, left out\n"
    "h.npz: met a non-finite loss, left out\n"
  )
  settings = [sources.setting(source.config) for source in found[:2]]
  assert settings == ["digits-lenet5-10shot", "digits-mlp500"]
  assert [methods.strength(s.config) for s in found] == [0, 0, 2, 2, 100, 10]
  assert [s.validation_accuracy for s in found] == [0.5] * 3 + [0.6, 0.5, 0.5]
  assert len({source.digest for source in found}) == len(found)
  (only,) = sources.find(tmp_path, ["bean2"])
  assert only == found[-1]


@pytest.mark.parametrize(
  "files, error, text",
  (
    ([{"seed": None}], checkpoints.CheckpointError, "expected seed in its"),
    ([{"batch_size": None}], checkpoints.CheckpointError, "expected batch_si"),
    ([{"method": "bean1"}], checkpoints.CheckpointError, "expected alpha in"),
    ([{"method": "x"}], checkpoints.CheckpointError, "unknown method 'x'"),
    ([{"model": "x"}], checkpoints.CheckpointError, "expected a model.*'x'"),
    ([], parsing.ConfigError, r"got none \(0 left out\)"),
    ([{"metrics": {}}], parsing.ConfigError, r"got none \(1 left out\)"),
    (
      [{"learning_rate": 0.1}, {"learning_rate": 0.2}],
      parsing.ConfigError,
      "a.npz and b.npz are of the same",
    ),
  ),
)
def test_folders_that_are_refused(tmp_path, files, error, text):
  for name, config in zip("ab", files, strict=False):
    write(tmp_path, name, params={}, **config)
  with pytest.raises(error, match=text):
    sources.find(tmp_path)


def test_nothing_to_look_at(tmp_path):
  with pytest.raises(parsing.ConfigError, match="no folder"):
    sources.find(tmp_path / "absent")
  with pytest.raises(parsing.ConfigError, match="simulations of bean1 in"):
    sources.find(tmp_path, ["bean1"])
  (tmp_path / "b.npz").write_bytes(b"no checkpoint")
  with pytest.raises(checkpoints.CheckpointError, match="b.npz"):
    sources.find(tmp_path)


@pytest.mark.parametrize("which, added", (("best", 1), ("last", 2)))
def test_layers_of_trained_and_untrained_networks(
  tmp_path, monkeypatch, which, added
):
  write(tmp_path, "a", seed=3)
  (source,) = sources.find(tmp_path)
  # Not a divisor of the number of images.
  monkeypatch.setattr(sources, "_BLOCK", 33)
  trained, untrained = sources.trained_and_untrained(
    source, DIGITS, "fc1", which=which
  )
  variables = NETWORK.init(jax.random.fold_in(jax.random.key(3), 0))
  np.testing.assert_array_equal(
    untrained.kernel, variables.params["fc1"]["kernel"]
  )
  np.testing.assert_allclose(
    trained.kernel, untrained.kernel + added, rtol=1e-6
  )
  # All layers from this one on, and what enters it, make the network.
  logits, hidden = NETWORK.evaluate(variables, DIGITS.test.images)
  np.testing.assert_allclose(
    untrained.activations, hidden["fc1"], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    ablation.logits(untrained.dense, untrained.activations),
    logits,
    rtol=1e-4,
    atol=1e-5,
  )
  assert (trained.name, trained.num_classes) == ("fc1", 10)
  np.testing.assert_array_equal(trained.labels, DIGITS.test.labels)


def test_networks_that_a_checkpoint_cannot_be(tmp_path):
  write(tmp_path, "a", model="mlp500")
  (source,) = sources.find(tmp_path)
  in_colour = np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32)
  for test, message in (
    (DIGITS.test, "of another network"),
    (datasets.Split(*in_colour), "npz: mlp500 takes gray images"),
  ):
    with pytest.raises(checkpoints.CheckpointError, match=message):
      sources.load(source, DIGITS._replace(test=test))


def test_names_of_layers(tmp_path):
  write(tmp_path, "a", params={})
  (source,) = sources.find(tmp_path)
  assert sources.layer_name(source, DIGITS, None) == "fc3"
  assert sources.layer_name(source, DIGITS, "fc1") == "fc1"
  with pytest.raises(
    parsing.ConfigError, match="--layer: .* fc1, fc2, fc3, .*got 'fc4'"
  ):
    sources.layer_name(source, DIGITS, "fc4")
