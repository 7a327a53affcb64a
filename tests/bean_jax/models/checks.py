"""What must hold for a model, whichever library it is written in."""

from collections.abc import Callable, Collection
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax

ALPHA = 3.0

# Compiles in two thirds of the time.
_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def loss_of(outputs: jax.Array) -> jax.Array:
  """Returns a loss of any outputs, which is no even function of them."""
  return jnp.mean(jnp.tanh(outputs.astype(jnp.float32) - 0.3) ** 2)


def assert_close(ours: Any, expected: Any, tolerance: float = 1e-6) -> None:
  """Asserts that floats agree, up to so much of the largest of a tree."""
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  pairs = [
    (np.float64(one), np.float64(other))
    for one, other in zip(
      jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
    )
    if jnp.issubdtype(other.dtype, jnp.inexact)
  ]
  largest = max(np.max(np.abs(other), initial=0) for _, other in pairs)
  for one, other in pairs:
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


def assert_equal(ours: Any, expected: Any) -> None:
  """Asserts that the arrays of two trees agree to the bit."""
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    if isinstance(other, jax.Array) and other.dtype != jax.dtypes.float0:
      assert one.dtype == other.dtype
      np.testing.assert_array_equal(one, other)


def check(
  loss_fn: Callable[..., tuple[jax.Array, Any]],
  params: Any,
  *args: Any,
  by_hand: Callable[..., dict[str, tuple[jax.Array, jax.Array]]] | None = None,
  raw: Collection[str] = (),
  jit: Callable[..., Any] = _jit,
  value_and_grad: Callable[..., Any] = jax.value_and_grad,
  copy: Callable[[Any], Any] = lambda params: params,
  to_the_bit: bool = True,
  tolerance: float = 1e-6,
) -> None:
  """Asserts that BEAN is added to a model's loss as one would by hand.

  All is compiled as one program, so that equal operations have equal results.

  Args:
    loss_fn: Function of params and args that returns (loss, aux).
    params: Parameters.
    *args: Data.
    by_hand: Function of the same that returns {path: (activations [..., N],
      kernel [N, M])}; by default the aux is this.
    raw: Paths of the layers whose inputs are raw data; no other is left out.
    jit: What compiles a function of these parameters.
    value_and_grad: What differentiates it.
    copy: What copies parameters that change when they are used.
    to_the_bit: Whether loss and aux are equal to the bit. The compiler fuses
      operations within nested loops in another way.
    tolerance: Of gradients, relative to the largest.
  """
  sizes = {}

  def ours(params: Any, *args: Any) -> Any:
    result, terms = bean_jax.penalties(loss_fn)(params, *args)
    return result[0] + ALPHA * sum(terms.values()), (result, terms)

  def expected(params: Any, *args: Any) -> Any:
    copied = copy(params)
    loss, aux = result = loss_fn(params, *args)
    layers = by_hand(copied, *args) if by_hand else aux
    sizes.update({path: kernel.shape for path, (_, kernel) in layers.items()})
    terms = {path: bean_jax.layer_penalty(*layers[path]) for path in layers}
    return loss + ALPHA * sum(terms.values()), (result, terms)

  def both(params: Any, *args: Any) -> Any:
    one, other = copy(params), copy(params)
    return (
      value_and_grad(ours, has_aux=True)(one, *args),
      value_and_grad(expected, has_aux=True)(other, *args),
      (one, other),
    )

  with jax.checking_leaks():
    found = bean_jax.find_layers(loss_fn, params, *args)
  with_bean, by_hand_too, (one, other) = jit(both)(params, *args)
  left_out = {layer.path: layer.left_out for layer in found if layer.left_out}
  assert left_out == dict.fromkeys(raw, "its inputs are raw data")
  assert {
    layer.path: (layer.num_neurons, layer.num_next)
    for layer in found
    if not layer.left_out
  } == sizes
  (_, (result, terms)), gradient = with_bean
  (_, (expected_result, expected_terms)), expected_gradient = by_hand_too
  assert min(map(float, expected_terms.values())) > 0
  assert_close(terms, expected_terms)
  assert_close(gradient, expected_gradient, tolerance)
  same = assert_equal if to_the_bit else assert_close
  same(result, expected_result)
  assert_equal(one, other)
