"""Tests of experiments.architectures.networks."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import models, networks
from tests.experiments import tiny_network


@pytest.fixture(scope="module")
def images():
  return datasets.load("digits").test.images[:7]


@pytest.fixture(scope="module")
def population():
  """Variables of three tiny networks with BatchNorm."""
  init = jax.jit(jax.vmap(tiny_network.NETWORK.init))
  return init(jax.vmap(jax.random.key)(jnp.arange(3)))


def member(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


@pytest.mark.parametrize(
  "name", (pytest.param("lenet5", marks=pytest.mark.slow), "mlp500")
)
def test_networks_without_batch_statistics_are_the_models(name, images):
  network, model = networks.make(name), models.MODELS[name]
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  assert shapes.batch_stats == {}
  generator = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: generator.normal(0, 0.1, leaf.shape).astype(np.float32),
    shapes.params,
  )
  variables = networks.Variables(params, {})
  stacked = jax.tree.map(lambda leaf: leaf[None], variables)
  expected = jax.jit(model.apply)(params, model.prepare(images))
  (output, batch_stats), evaluated, classes = jax.jit(
    lambda variables, stacked, images: (
      network.apply(variables, images, None),
      network.evaluate(variables, images),
      network.predict(stacked, images),
    )
  )(variables, stacked, images)
  assert batch_stats == {}
  for actual in (output, evaluated):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      actual,
      expected,
    )
  np.testing.assert_array_equal(classes[0], expected[0].argmax(axis=1))
  assert network.layers == model.layers


def test_training_and_evaluation_differ_by_the_statistics(population, images):
  variables = member(population, 0)
  (logits, _), batch_stats = tiny_network.NETWORK.apply(variables, images, None)
  evaluated, _ = tiny_network.NETWORK.evaluate(variables, images)
  assert np.abs(logits - evaluated).max() > 0.1
  old, new = variables.batch_stats["norm"], batch_stats["norm"]
  assert np.all(old["mean"] == 0)
  assert np.all(new["mean"] != 0)
  # With the statistics of these images alone, evaluation is as training was.
  of_batch = jax.tree.map(lambda n, o: (n - 0.9 * o) / 0.1, new, old)
  evaluated, _ = tiny_network.NETWORK.evaluate(
    variables._replace(batch_stats={"norm": of_batch}), images
  )
  np.testing.assert_allclose(evaluated, logits, rtol=1e-3, atol=1e-4)


# Blocks that divide the images, that do not, and one that takes them all.
@pytest.mark.parametrize("block", (7, 3, 100))
def test_predict_takes_the_largest_logit_of_each_member(
  block, population, images, monkeypatch
):
  monkeypatch.setattr(networks, "PREDICT_BLOCK", block)
  classes = jax.jit(tiny_network.NETWORK.predict)(population, images)
  assert classes.shape == (3, 7)
  for index in range(3):
    logits, _ = tiny_network.NETWORK.evaluate(member(population, index), images)
    np.testing.assert_array_equal(classes[index], logits.argmax(axis=1))
  assert len(np.unique(classes, axis=0)) == 3


def test_resnet18_is_made_for_its_images():
  network = networks.make("resnet18", (32, 32, 3), bfloat16=True)
  assert networks.make("resnet18", (32, 32, 3), bfloat16=True) is network
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  assert shapes.params["conv"]["kernel"].shape == (3, 3, 3, 64)
  assert shapes.params["head"]["kernel"].shape == (512, 10)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
  (logits, hidden), batch_stats = jax.eval_shape(
    lambda *args: network.apply(*args, None), shapes, images
  )
  assert logits.shape == (2, 10)
  assert {name: rows.shape for name, rows in hidden.items()} == {
    "head": (2, 512)
  }
  assert jax.tree.structure(batch_stats) == jax.tree.structure(
    shapes.batch_stats
  )


@pytest.mark.parametrize(
  "args,bfloat16,message",
  (
    (("lenet",), False, "got 'lenet'"),
    (("lenet5", (32, 32, 3)), False, "lenet5 takes gray images of 28 x 28"),
    (("mlp500", (28, 28, 1)), True, "bfloat16=True"),
  ),
)
def test_what_does_not_fit_is_refused(args, bfloat16, message):
  with pytest.raises(ValueError, match=message):
    networks.make(*args, bfloat16=bfloat16)


def test_examples_of_docstrings():
  assert doctest.testmod(networks).failed == 0
