"""Tests of experiments.compaction.heads."""

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.compaction import heads
from experiments.records import checkpoints
from tests.experiments import tiny
from tests.experiments.compaction import tiny_head

CONFIG = {
  "dataset": "digits",
  "model": "mlp300_100",
  "method": "vanilla",
  "seed": 2,
  "batch_size": 10,
  "learning_rate": 0.01,
}
METRICS = {"test_accuracy": np.float64(0.5), "failed_step": np.int32(-1)}


def make_checkpoint(variables, **config):
  return checkpoints.Checkpoint(
    config={**CONFIG, **config},
    environment={},
    last=jax.tree.map(np.zeros_like, variables),
    best=variables,
    metrics=METRICS,
    memory={},
  )


def draw_variables(network):
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  generator = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: (
      generator.uniform(0.01, 0.1, leaf.shape).astype(np.float32)
      - np.float32(0.05 * (leaf.ndim > 1))
    ),
    shapes,
  )


@pytest.fixture
def images():
  return datasets.load("digits").test.images[:7]


def refused(function, *parts):
  with pytest.raises(checkpoints.CheckpointError) as caught:
    function()
  message = str(caught.value)
  for part in parts:
    assert str(part) in message
  assert "\n" not in message


class TestRead:
  @pytest.fixture
  def save(self, tmp_path):
    def save(**changes):
      path = tmp_path / "network.npz"
      variables = networks.Variables({"fc1": {"bias": np.ones(3)}}, {})
      checkpoint = make_checkpoint(variables)._replace(**changes)
      checkpoints.save(path, checkpoint)
      return path

    return save

  def test_finished(self, save):
    for model in (None, "mlp300_100"):
      assert heads.read(save(), model=model).config == CONFIG

  @pytest.mark.parametrize(
    "changes,model,parts",
    (
      ({}, "lenet5", ('"lenet5"', '"mlp300_100"')),
      (
        {"metrics": {"seconds": np.float64(1)}},
        None,
        ("training is not over",),
      ),
      ({"config": {"dataset": "digits"}}, None, ("has no model",)),
    ),
  )
  def test_refused(self, changes, model, parts, save):
    path = save(**changes)
    refused(lambda: heads.read(path, model=model), path, *parts)


class TestSplitNetwork:
  def test_the_head_of_features_gives_the_logits(self, images):
    # Of a perceptron the head is all, of the others what follows.
    for network, name in (
      (networks.make(networks.Spec("mlp300_100")), "mlp300_100"),
      (networks.make(networks.Spec("lenet5")), "lenet5"),
    ):
      variables = draw_variables(network)
      head, features = heads.split_network(
        "file", make_checkpoint(variables, model=name), (28, 28, 1)
      )
      assert list(head.params) == ["fc1", "fc2", "fc3"]
      assert head.units == network.layers
      expected, hidden = network.evaluate(variables, images)
      np.testing.assert_allclose(
        features(images), hidden["fc1"], rtol=1e-5, atol=1e-6
      )
      logits = tiny_head.run(head.params, features(images))
      np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
      *inputs, ours = heads.apply(head.params, features(images))
      np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)
      assert len(inputs) == 3

  def test_batch_statistics_are_used(self, monkeypatch, images):
    monkeypatch.setattr(networks, "make", lambda *args: tiny.NORMED)
    variables = draw_variables(tiny.NORMED)
    head, features = heads.split_network(
      "file", make_checkpoint(variables), (28, 28, 1)
    )
    assert list(head.params) == ["fc2"]
    assert head.units == ("fc2",)
    _, hidden = tiny.NORMED.evaluate(variables, images)
    np.testing.assert_allclose(features(images), hidden["fc2"], rtol=1e-5)

  @pytest.mark.parametrize(
    "model,shape,part",
    (
      ("vgg", (28, 28, 1), "'vgg'"),
      ("mlp300_100", (32, 32, 3), "28 x 28"),
      ("mlp500", (28, 28, 1), "of another network"),
    ),
  )
  def test_refused(self, model, shape, part):
    network = networks.make(networks.Spec("mlp300_100"))
    checkpoint = make_checkpoint(draw_variables(network), model=model)
    refused(
      lambda: heads.split_network("file", checkpoint, shape), "file", part
    )


class TestMakeSplits:
  def make(self, dataset, **config):
    return heads.make_splits(
      {**CONFIG, **config},
      dataset,
      lambda images: images.reshape(len(images), -1)[:, 300:303] / 2,
    )

  def test_features_and_labels_of_every_split(self):
    dataset = tiny.load_few_digits()
    splits = self.make(dataset)
    for ours, theirs in zip(
      splits, (dataset.train, dataset.validation, dataset.test), strict=True
    ):
      np.testing.assert_array_equal(ours.labels, theirs.labels)
      np.testing.assert_array_equal(
        ours.inputs, theirs.images.reshape(-1, 784)[:, 300:303] / 2
      )

  def test_shots_are_those_of_the_seed(self):
    dataset = datasets.load("digits")
    splits = self.make(dataset, shots=2)
    rows = datasets.draw_shots(dataset.train.labels, num_shots=2, seed=2)
    np.testing.assert_array_equal(splits.train.labels, np.arange(10).repeat(2))
    np.testing.assert_array_equal(
      splits.train.inputs,
      dataset.train.images[rows].reshape(20, 784)[:, 300:303] / 2,
    )
    assert len(splits.test.labels) == 500


def test_activity_of_units():
  head = tiny_head.make_head()
  features = tiny_head.make_samples().inputs
  # This one never fires.
  head.params["fc1"]["bias"][2] = -100
  activity = heads.activity(head, features)
  assert list(activity.means) == list(activity.importance) == ["fc2", "fc3"]
  hidden = np.maximum(
    features @ head.params["fc1"]["kernel"] + head.params["fc1"]["bias"], 0
  )
  np.testing.assert_allclose(
    activity.means["fc2"], hidden.mean(axis=0), rtol=1e-5, atol=1e-6
  )
  norms = np.linalg.norm(head.params["fc2"]["kernel"], axis=1)
  np.testing.assert_allclose(
    activity.importance["fc2"], hidden.std(axis=0) * norms, rtol=1e-4
  )
  assert activity.importance["fc2"][2] == 0
  assert np.all(np.delete(activity.importance["fc2"], 2) > 0)
