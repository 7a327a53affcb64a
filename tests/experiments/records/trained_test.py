"""Tests of experiments.records.trained; the scripts' tests load networks."""

import jax
import pytest

from experiments.architectures import networks
from experiments.records import checkpoints, trained


def test_networks_of_configurations():
  shape = (28, 28, 1)
  config = {"model": "mlp500", "initializer": "lecun_normal"}
  network = trained.network_of("path", config, shape)
  assert not network.init(jax.random.key(0)).params["fc2"]["bias"].any()
  assert network.layers == networks.make(networks.Spec("mlp500")).layers
  usual = trained.network_of("path", {}, shape)
  assert usual.layers == networks.make(networks.Spec()).layers
  for name, images, message in (
    ("magic", shape, "path: network: expected one of"),
    ("lenet5", (32, 32, 3), "path: lenet5 takes gray images"),
  ):
    with pytest.raises(checkpoints.CheckpointError, match=message):
      trained.network_of("path", {"model": name}, images)
