"""Tests of experiments.learning.memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import models, networks
from experiments.learning import (
  full_training,
  memory,
  methods,
  programs,
  training,
)
from experiments.runs import full_simulations
from tests.experiments import tiny, tiny_network

MATRIX = jax.ShapeDtypeStruct((100, 100), jnp.float32)
SIZE = 40_000


class TestPeakBytes:
  @pytest.mark.parametrize(
    "function,expected",
    (
      (lambda x: x, 1),
      (lambda x: x @ x, 2),
      # The first product is gone when the third is made.
      (lambda x: ((x @ x) @ x) @ x, 3),
      (lambda x: (x @ x) + (x @ x.T), 4),
      (lambda x: jnp.sum(x @ x + jnp.ones((100, 100))), 3),
      (jax.jit(lambda x: jax.jit(jnp.sin)(x @ x)), 3),
      (lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, 9)[0], 3),
      # Eight matrices that are stacked up.
      (lambda x: jax.lax.map(lambda row: row[0] * x, x[:8]), 11),
      (jax.grad(lambda x: jnp.sum(jnp.sin(x) @ x)), 5),
    ),
  )
  def test_what_is_alive_at_once(self, function, expected):
    got = memory.peak_bytes(function, MATRIX)
    assert got == pytest.approx(expected * SIZE, rel=0.25)

  def test_keys(self):
    keys = jax.eval_shape(jax.vmap(jax.random.key), jnp.arange(5))
    assert memory.peak_bytes(lambda keys: keys, keys) == 40


class TestWidth:
  @pytest.mark.parametrize(
    "limit,expected",
    ((10**6, 50), (300, 20), (299, 19), (110, 1), (0, 1)),
  )
  def test_width(self, limit, expected):
    got = memory.width(lambda n: 100 + 10 * n, wanted=50, limit=limit)
    assert got == expected

  def test_nothing_is_estimated_for_one(self):
    assert memory.width(None, wanted=1, limit=0) == 1


class TestDeviceBytes:
  def fake(self, monkeypatch, platform, stats):
    device = types.SimpleNamespace(
      platform=platform, memory_stats=lambda: stats
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 2)

  def test_a_gpu_says_what_it_has(self, monkeypatch):
    self.fake(monkeypatch, "gpu", {"bytes_limit": 1000})
    assert memory.device_bytes() == 800

  def test_devices_of_a_cpu_share_the_memory(self, monkeypatch):
    self.fake(monkeypatch, "cpu", None)
    monkeypatch.setattr(memory, "_host_bytes", lambda: 1000)
    assert memory.device_bytes() == 250

  @pytest.mark.parametrize("text,expected", (("123\n", 123), ("max\n", None)))
  def test_containers(self, text, expected, monkeypatch):
    whole = memory._host_bytes()
    monkeypatch.setattr(memory.pathlib.Path, "read_text", lambda _: text)
    got = memory._host_bytes()
    assert got == expected if expected else got >= whole

  def test_here(self):
    assert 2**26 < memory.device_bytes() < 2**44


def measured(function, *args):
  """Bytes that a compiled program takes."""
  analysis = jax.jit(function).lower(*args).compile().memory_analysis()
  return (
    analysis.temp_size_in_bytes
    + analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
  )


class Caught(Exception):
  """Carries what the estimate was asked for."""


@pytest.fixture
def needs(monkeypatch):
  """Makes `memory.width` hand out what it is given."""

  def width(needs, **_):
    raise Caught(needs)

  def get(function, *args, **kwargs):
    monkeypatch.setattr(memory, "width", width)
    with pytest.raises(Caught) as caught:
      function(*args, **kwargs)
    return caught.value.args[0]

  return get


@pytest.mark.slow
@pytest.mark.parametrize("method", ("vanilla", "bean1", "bean2"))
def test_estimate_beside_what_xla_takes_few_shot(method, needs, monkeypatch):
  recipe = methods.recipe(method, models.MODELS["lenet5"], methods.Options())
  get = needs(
    programs.fitting_width,
    recipe,
    batch_size=1,
    num_samples=10,
    num_validation=2000,
    wanted=9,
  )
  check(get, monkeypatch)


@pytest.mark.slow
def test_estimate_beside_what_xla_takes_full_data(needs, monkeypatch):
  setting = full_training.Setting(networks.make("lenet5"), "bean1")
  get = needs(
    full_simulations.fitting_width,
    setting,
    num_train=1000,
    num_validation=500,
    image_shape=(28, 28, 1),
    wanted=9,
  )
  check(get, monkeypatch)


def check(needs, monkeypatch):
  """A member more costs as much as was estimated, or less."""
  estimates = [needs(members) for members in (2, 6)]
  monkeypatch.setattr(memory, "peak_bytes", measured)
  truth = [needs(members) for members in (2, 6)]
  assert 0.9 * truth[1] < estimates[1] < 3 * truth[1]
  slopes = [numbers[1] - numbers[0] for numbers in (estimates, truth)]
  assert 0.8 * slopes[1] < slopes[0] < 4 * slopes[1]


class TestChosenWidth:
  """Chunks are as wide as memory allows, on whatever there is."""

  def test_few_shot(self, monkeypatch):
    recipe = methods.recipe("bean1", tiny.MODEL, methods.Options())

    def chosen(limit):
      monkeypatch.setattr(memory, "device_bytes", lambda: limit)
      programs.fitting_width.cache_clear()
      return programs.fitting_width(
        recipe, batch_size=4, num_samples=10, num_validation=50, wanted=1000
      )

    widths = [chosen(limit) for limit in (0, 10**7, 2 * 10**7, 10**12)]
    programs.fitting_width.cache_clear()
    assert widths[0] == 1
    assert widths[3] == 1000
    assert 1 < widths[1] < widths[2] < 1000
    # A member has its parameters four times at least, and their gradients.
    state = training.make_init(recipe)
    one = sum(
      leaf.size * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(
        jax.eval_shape(state, *programs.member_shapes(1))
      )
    )
    assert widths[1] < 10**7 / one
    assert widths[1] > 10**7 / one / 5

  def test_full_data(self, monkeypatch):
    setting = full_training.Setting(tiny_network.NETWORK, "bean1")

    def chosen(limit):
      monkeypatch.setattr(memory, "device_bytes", lambda: limit)
      full_simulations.fitting_width.cache_clear()
      return full_simulations.fitting_width(
        setting,
        num_train=60,
        num_validation=50,
        image_shape=(28, 28, 1),
        wanted=1000,
      )

    widths = [chosen(limit) for limit in (0, 10**7, 2 * 10**7, 10**12)]
    full_simulations.fitting_width.cache_clear()
    assert widths[0] == 1
    assert widths[3] == 1000
    assert 1 < widths[1] < widths[2] < 1000


def test_example_is_true():
  assert memory.peak_bytes(lambda x: x @ x, np.zeros((9, 9), "f4")) == 648
