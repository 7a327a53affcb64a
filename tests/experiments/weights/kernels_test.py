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


def test_fields_of_a_layer_that_sees_pixels_and_of_a_convolution():
  """A unit answers most to the picture that is its field."""
  dense, convolved = make_params("mlp500"), make_params("lenet5")
  fields = kernels.receptive_fields(dense, SHAPE)
  assert fields.shape == (500, 28, 28)
  expected = dense["fc1"]["kernel"].reshape(28, 28, 500)
  np.testing.assert_array_equal(fields[:, 3, 5], expected[3, 5])
  assert kernels.largest_dense(dense)[0] == "fc1"
  fields = kernels.receptive_fields(convolved, SHAPE)
  expected = convolved["conv1"]["kernel"][:, :, 0, 2]
  np.testing.assert_array_equal(fields[2], expected)
  name, kernel = kernels.largest_dense(convolved)
  assert (len(fields), name, kernel.shape) == (6, "fc1", (400, 120))


def test_what_has_no_such_layer_is_refused():
  params = {"fc": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}}
  with pytest.raises(ValueError, match="expected a layer that sees images"):
    kernels.receptive_fields(params, SHAPE)
