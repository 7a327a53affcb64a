"""Tests of experiments.machine.memory, and of chunks as wide as it says."""

import types

import jax
import jax.numpy as jnp
import pytest

from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.learner import Schedule
from experiments.learning.streams import Shots, Whole
from experiments.machine import memory
from experiments.population import program
from tests.experiments import tiny

MATRIX = jax.ShapeDtypeStruct((100, 100), jnp.float32)
SIZE = 40_000


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
def test_what_is_alive_at_once(function, expected):
  got = memory.peak_bytes(function, MATRIX)
  assert got == pytest.approx(expected * SIZE, rel=0.25)


def test_bytes_of_keys():
  keys = jax.eval_shape(jax.vmap(jax.random.key), jnp.arange(5))
  assert memory.peak_bytes(lambda keys: keys, keys) == 40


@pytest.mark.parametrize(
  "limit,expected", ((10**6, 50), (300, 20), (299, 19), (110, 1), (0, 1))
)
def test_width(limit, expected):
  got = memory.width(lambda n: 100 + 10 * n, wanted=50, limit=limit)
  assert got == expected
  # Nothing is estimated for one.
  assert memory.width(None, wanted=1, limit=limit) == 1


@pytest.mark.parametrize(
  "platform,stats,expected",
  # A GPU says what it has, devices of a CPU share the memory of the machine.
  (("gpu", {"bytes_limit": 1000}, 800), ("cpu", None, 250)),
)
def test_device_bytes(platform, stats, expected, monkeypatch):
  assert 2**26 < memory.device_bytes() < 2**44
  device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
  monkeypatch.setattr(jax, "local_devices", lambda: [device] * 2)
  monkeypatch.setattr(memory, "_host_bytes", lambda: 1000)
  assert memory.device_bytes() == expected


@pytest.mark.parametrize("text,expected", (("123\n", 123), ("max\n", None)))
def test_memory_of_a_container(text, expected, monkeypatch):
  whole = memory._host_bytes()
  monkeypatch.setattr(memory.pathlib.Path, "read_text", lambda _: text)
  got = memory._host_bytes()
  assert got == expected if expected else got >= whole


def measured(function, *args):
  """Bytes that a compiled program takes."""
  analysis = jax.jit(function).lower(*args).compile().memory_analysis()
  return (
    analysis.temp_size_in_bytes
    + analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
  )


def fitting_width(method, network, stream, wanted, *, num_validation=50):
  """As many members as fit, of ten images each or of sixty for all."""
  own = isinstance(stream, Shots)
  schedule = Schedule(1, batch_size=1 if own else 20)
  return program.fitting_width(
    methods.learner(method, network, stream, schedule, methods.Options()),
    stream,
    image_shape=(28, 28, 1),
    num_samples=10 if own else 60,
    num_validation=num_validation,
    wanted=wanted,
  )


@pytest.fixture(autouse=True)
def _nothing_is_kept():
  program.fitting_width.cache_clear()
  yield
  program.fitting_width.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
  "method,stream",
  (
    *((name, Shots(1)) for name in ("vanilla", "bean1", "bean2", "imitation")),
    ("bean1", Whole()),
  ),
  ids=str,
)
def test_a_member_more_costs_what_was_estimated_or_less(
  method, stream, monkeypatch
):
  """Beside what XLA takes."""
  found = []
  monkeypatch.setattr(
    memory, "width", lambda needs, **_: found.append(needs) or 1
  )
  network = networks.make(networks.Spec())
  fitting_width(method, network, stream, 9, num_validation=500)
  (needs,) = found
  estimates = [needs(members) for members in (2, 6)]
  monkeypatch.setattr(memory, "peak_bytes", measured)
  truth = [needs(members) for members in (2, 6)]
  assert 0.9 * truth[1] < estimates[1] < 3 * truth[1]
  slopes = [numbers[1] - numbers[0] for numbers in (estimates, truth)]
  assert 0.8 * slopes[1] < slopes[0] < 4 * slopes[1]


@pytest.mark.parametrize(
  "network,stream",
  ((tiny.NETWORK, Shots(1)), (tiny.NORMED, Whole())),
  ids=("of its own", "shared"),
)
def test_chunks_are_as_wide_as_memory_allows(network, stream, monkeypatch):
  def chosen(limit):
    monkeypatch.setattr(memory, "device_bytes", lambda: limit)
    program.fitting_width.cache_clear()
    return fitting_width("bean1", network, stream, 10_000)

  widths = [chosen(limit) for limit in (0, 10**7, 2 * 10**7, 10**12)]
  assert widths[0] == 1
  assert widths[3] == 10_000
  assert 1 < widths[1] < widths[2] < 10_000
  # A member has its variables four times at least, and their gradients.
  variables = jax.eval_shape(network.init, jax.random.key(0))
  leaves = jax.tree.leaves(variables)
  one = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
  assert widths[1] < 10**7 / one
