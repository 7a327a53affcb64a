"""Tests of experiments.machine.devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from experiments.machine import devices
from tests.experiments import in_process

MANY, SHARED = devices.MEMBERS, devices.SHARED
SECOND = PartitionSpec(None, devices.AXIS)


def num_devices(code):
  """How many devices a fresh process has after some code."""
  program = f"""
import os
import jax
from experiments.machine import devices
{code}
print(devices.mesh().size, jax.local_device_count())
"""
  out = subprocess.run(
    [sys.executable, "-W", "error", "-c", program],
    cwd=in_process.ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  size, count = map(int, out.split())
  assert size == count
  return count


@pytest.mark.parametrize(
  "code,expected",
  (
    ("cores = {1, 4, 5}", 3),
    # Their program gives the bits of more, that of one device does not.
    ("cores = {1}", 2),
    # Who has started the backend has chosen.
    pytest.param(
      "cores = {1, 4, 5}; jax.config.update('jax_num_cpu_devices', 2); "
      "jax.devices()",
      2,
      marks=pytest.mark.slow,
    ),
  ),
)
def test_every_core_that_the_process_may_use_is_a_device(code, expected):
  use = "os.sched_getaffinity = lambda _: cores\ndevices.use_all_cores()"
  assert num_devices(f"{code}\n{use}") == expected


def test_mesh_is_over_all_devices():
  mesh = devices.mesh()
  assert mesh is devices.mesh()
  assert list(mesh.devices.flat) == jax.local_devices()
  # As tests/conftest.py sets it; otherwise nothing here is spread.
  assert mesh.size == 2


class TestSpread:
  def test_every_device_runs_its_part(self):
    shapes = []

    def function(first, second, shared):
      shapes.append((first.shape, second["a"].shape, shared.shape))
      return first * shared.sum(), {"b": second["a"] + first}

    spread = devices.spread(
      function, takes=(MANY, SECOND, SHARED), gives=(MANY, SECOND)
    )
    first = jnp.arange(6.0)
    second = jnp.arange(12.0).reshape(2, 6)
    shared = jnp.array([1.0, 2.0])
    products, sums = spread(first, {"a": second}, shared)
    np.testing.assert_array_equal(products, first * 3)
    np.testing.assert_array_equal(sums["b"], second + first)
    # Traced once, for the half of the members that a device has.
    assert shapes == [((3,), (2, 3), (2,))]
    assert products.sharding.spec == MANY
    assert sums["b"].sharding.spec == SECOND
    for shard in products.addressable_shards:
      assert shard.data.shape == (3,)

  def test_members_of_a_device_are_neighbours(self):
    """A sum over the members of each device tells which they are."""
    spread = devices.spread(
      lambda x: jnp.sum(x, keepdims=True), takes=(MANY,), gives=MANY
    )
    np.testing.assert_array_equal(spread(jnp.array([1, 2, 30, 40])), [3, 70])
    with pytest.raises(ValueError, match="evenly divisible"):
      spread(jnp.arange(3))


@pytest.mark.parametrize("spec", (MANY, SECOND, SHARED), ids=str)
def test_place(spec):
  tree = {"a": np.arange(8.0).reshape(4, 2), "b": np.ones((2, 6))}
  placed = devices.place(tree, spec)
  for name, values in tree.items():
    np.testing.assert_array_equal(placed[name], values)
    sharding = placed[name].sharding
    assert sharding.spec == spec
    assert sharding.device_set == set(jax.local_devices())
    assert sharding.is_fully_replicated == (spec == PartitionSpec())
