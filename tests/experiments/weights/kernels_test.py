"""Tests of experiments.weights.kernels."""

import jax
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.weights import kernels

SHAPE = (28, 28, 1)


def make_params(name):
  network = networks.make(networks.Spec(name))
  return jax.device_get(jax.jit(network.init)(jax.random.key(0)).params)


def test_fields_of_a_layer_that_sees_pixels():
  """A unit answers most to the picture that is its field."""
  params = make_params("mlp500")
  fields = kernels.receptive_fields(params, SHAPE)
  assert fields.shape == (500, 28, 28)
  image = np.zeros(SHAPE)
  image[3, 5] = 1
  np.testing.assert_array_equal(
    fields[:, 3, 5], image.reshape(-1) @ params["fc1"]["kernel"]
  )
  assert kernels.largest_dense(params)[0] == "fc1"


def test_fields_of_a_convolution():
  params = make_params("lenet5")
  fields = kernels.receptive_fields(params, SHAPE)
  assert fields.shape == (6, 5, 5)
  np.testing.assert_array_equal(
    fields[2], params["conv1"]["kernel"][:, :, 0, 2]
  )
  name, kernel = kernels.largest_dense(params)
  assert (name, kernel.shape) == ("fc1", (400, 120))


def test_what_has_no_such_layer_is_refused():
  params = {"fc": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}}
  with pytest.raises(ValueError, match="expected a layer that sees images"):
    kernels.receptive_fields(params, SHAPE)
