"""Dense layers with drawn numbers, and the options they are tested under."""

from collections.abc import Callable, Iterator
import functools
import itertools
from typing import Any

import jax
from jax.extend import core
import numpy as np

import bean_jax
from tests import reference

ORDERS = (1, 2)
DISTANCES = ("squared", "absolute")
OPTIONS = tuple(
  {"order": order, "distance": distance}
  for order, distance in itertools.product(ORDERS, DISTANCES)
)
# S, N and M for which different closed forms are the cheapest.
SHAPES = ((6, 20, 3), (2, 20, 4), (8, 4, 30))


def draw_layer(
  num_samples: int,
  num_neurons: int,
  num_next: int,
  *,
  dtype: type = np.float32,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns activations [S, N] and a kernel [N, M].

  Activations have mean 1 and spread 1, and within a sample no two of them are
  so close that rounding could make a tie. Weights keep away from the kink at 0.
  """
  rng = np.random.default_rng((seed, num_samples, num_neurons, num_next))
  jitter = rng.uniform(0.0, 0.8, size=(num_samples, num_neurons))
  levels = rng.permuted(np.arange(num_neurons) + jitter, axis=1) / num_neurons
  scale = rng.uniform(2.0, 5.0, size=(num_samples, 1))
  activations = 1.0 + scale * (levels - 0.5)
  kernel = rng.uniform(0.01, 1.0, size=(num_neurons, num_next))
  kernel *= rng.choice([-1.0, 1.0], size=kernel.shape)
  return activations.astype(dtype), kernel.astype(dtype)


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
  """Yields all equations, also those of inner programs."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from equations(getattr(inner, "jaxpr", inner))


def name_of(options: dict) -> str:
  """Returns a name for the test that runs under these options."""
  return "-".join(str(value) for value in options.values())


@functools.cache
def jitted_penalty(*, order: int, distance: str) -> Callable:
  """Returns `layer_penalty`, compiled once for each shape in all tests."""
  return jax.jit(
    functools.partial(bean_jax.layer_penalty, order=order, distance=distance)
  )


@functools.cache
def jitted_gradients(*, order: int, distance: str) -> Callable:
  """Returns the gradients by activations and kernel, compiled likewise."""
  penalty = functools.partial(
    bean_jax.layer_penalty, order=order, distance=distance
  )
  return jax.jit(jax.grad(penalty, argnums=(0, 1)))


def assert_leaves_close(
  ours: Any, expected: Any, tolerance: float = 1e-5
) -> None:
  """Asserts that each leaf agrees, up to so much of its largest entry."""
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    largest = max(np.max(np.abs(other)), 1e-30)
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


def assert_equals_oracle(
  layer: tuple[np.ndarray, np.ndarray],
  *,
  where: np.ndarray | None = None,
  tolerance: float = 1e-5,
  **options: Any,
) -> None:
  """Asserts that value and gradients of a layer are the oracle's.

  Gradients may differ by so much of their largest entry; those of samples that
  are masked out are 0.
  """
  activations, kernel = layer
  real = np.ones(len(activations), bool) if where is None else where
  exact = activations[real], kernel
  value = jitted_penalty(**options)(*layer, where=where)
  expected = reference.layer_penalty(*exact, **options)
  np.testing.assert_allclose(value, expected, rtol=max(tolerance, 1e-10))
  gradients = jitted_gradients(**options)(*layer, where=where)
  assert not np.any(gradients[0][~real])
  oracle = reference.layer_gradients(*exact, **options)
  assert {gradient.dtype for gradient in gradients} == {kernel.dtype}
  assert_leaves_close((gradients[0][real], gradients[1]), oracle, tolerance)
