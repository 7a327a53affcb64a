"""Tests of experiments.architectures.networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import datasets
from experiments.architectures import networks
from tests.experiments import members, tiny


@pytest.fixture(scope="module")
def images():
  digits = datasets.load("digits").test.images[:7]
  # Some black on white, so that an untrained network tells them apart.
  inverted = np.arange(7).reshape(7, 1, 1, 1) % 3 == 0
  return np.where(inverted, 255 - digits, digits)


@pytest.fixture(scope="module")
def population():
  """Variables of three tiny networks with BatchNorm."""
  init = jax.jit(jax.vmap(tiny.NORMED.init))
  return init(jax.vmap(jax.random.key)(jnp.arange(3)))


def test_dense_layers_whose_inputs_are_units():
  # Those of fc1 of a perceptron are pixels.
  made = {
    name: networks.make(networks.Spec(name)).layers for name in networks.NAMES
  }
  assert made == {
    "lenet5": ("fc1", "fc2", "fc3"),
    "mlp300_100": ("fc2", "fc3"),
    "mlp500": ("fc2",),
    "competing100": ("readout",),
    "competing2000": ("readout",),
    "resnet18": ("head",),
    "resnet18_16": ("head",),
  }


def test_training_and_evaluation_differ_by_the_statistics(population, images):
  variables = members.pick(population, 0)
  (logits, _), batch_stats = tiny.NORMED.apply(variables, images, None)
  evaluated, _ = tiny.NORMED.evaluate(variables, images)
  assert np.abs(logits - evaluated).max() > 0.1
  old, new = variables.batch_stats["norm"], batch_stats["norm"]
  assert np.all(old["mean"] == 0)
  assert np.all(new["mean"] != 0)
  # With the statistics of these images alone, evaluation is as training was.
  of_batch = jax.tree.map(lambda n, o: (n - 0.9 * o) / 0.1, new, old)
  evaluated, _ = tiny.NORMED.evaluate(
    variables._replace(batch_stats={"norm": of_batch}), images
  )
  np.testing.assert_allclose(evaluated, logits, rtol=1e-3, atol=1e-4)


# Blocks that divide the images, that do not, and one that takes them all.
@pytest.mark.parametrize("block", (7, 3, 100))
def test_predict_takes_the_largest_logit_of_each_member(
  block, population, images, monkeypatch
):
  monkeypatch.setattr(networks, "PREDICT_BLOCK", block)
  # A function of its own, as what was traced for another block is kept.
  classes = jax.jit(lambda *args: tiny.NORMED.predict(*args))(
    population, images
  )
  assert classes.shape == (3, 7)
  for index in range(3):
    logits, _ = tiny.NORMED.evaluate(members.pick(population, index), images)
    np.testing.assert_array_equal(classes[index], logits.argmax(axis=1))
  assert all(len(np.unique(row)) > 1 for row in classes)


def test_resnet18_is_made_for_its_images():
  spec = networks.Spec("resnet18", bfloat16=True)
  network = networks.make(spec, (32, 32, 3))
  assert networks.make(spec, (32, 32, 3)) is network
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  assert shapes.params["conv"]["kernel"].shape == (3, 3, 3, 64)
  assert shapes.params["head"]["kernel"].shape == (512, 10)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
  (logits, hidden), batch_stats = jax.eval_shape(
    lambda *args: network.apply(*args, None), shapes, images
  )
  assert logits.shape == (2, 10)
  assert [(k, rows.shape) for k, rows in hidden.items()] == [("head", (2, 512))]
  structures = map(jax.tree.structure, (batch_stats, shapes.batch_stats))
  assert len(set(structures)) == 1


@pytest.mark.parametrize(
  "fields,shape,message",
  (
    (("lenet",), (28, 28, 1), "got 'lenet'"),
    (("lenet5", "zeros"), (28, 28, 1), "initializer: .*got 'zeros'"),
    (("lenet5",), (32, 32, 3), "lenet5 takes gray images of 28 x 28"),
  ),
)
def test_what_does_not_fit_is_refused(fields, shape, message):
  with pytest.raises(ValueError, match=message):
    networks.make(networks.Spec(*fields), shape)


SHAPES = {
  "conv": {"kernel": (5, 5, 8, 40), "bias": (40,)},
  "a": {"kernel": (200, 40), "bias": (40,)},
  "b": {"kernel": (200, 40), "bias": (40,)},
}


def test_lecun_normal_has_variance_1_over_the_fan_in():
  """What a leaf is depends on its name and the key alone."""

  def draw(seed, shapes=SHAPES):
    init = networks.INITIALIZERS["lecun_normal"](
      lambda key: networks.Variables(
        tiny.draw_params(key, shapes), {"norm": jnp.full(3, 0.5)}
      )
    )
    params, batch_stats = init(jax.random.key(seed))
    # Statistics are no parameters, which are drawn.
    np.testing.assert_array_equal(batch_stats["norm"], 0.5)
    return params

  # Normal, but for what lies beyond two of its standard deviations.
  normal, whole = stats.truncnorm(-2, 2), draw(0)
  for leaves in whole.values():
    np.testing.assert_array_equal(leaves["bias"], 0)
    # Both kinds of layer have 200 inputs.
    values = np.ravel(leaves["kernel"]) * 200**0.5
    # Four standard errors.
    error = 4 / values.size**0.5
    np.testing.assert_allclose(values.mean(), 0, atol=error)
    np.testing.assert_allclose(values.std(), 1, atol=error)
    test = stats.kstest(values * normal.std(), normal.cdf)
    assert test.pvalue > 1e-3
  kernel = whole["b"]["kernel"]
  part = draw(0, {"b": SHAPES["b"]})
  np.testing.assert_array_equal(part["b"]["kernel"], kernel)
  for other in (whole["a"], draw(1)["b"]):
    assert np.mean(other["kernel"] == kernel) < 1e-3
