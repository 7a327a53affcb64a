"""BEAN as a transformation of a loss function."""

from collections.abc import Callable
import functools
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from bean_jax import penalty

PyTree = Any


def regularize(
  loss_fn: Callable[..., tuple[ArrayLike, Any]],
  layers_fn: Callable[[PyTree, Any], tuple[PyTree, PyTree]],
  *,
  alpha: ArrayLike | PyTree,
  order: int = 1,
  gamma: ArrayLike = 1.0,
  distance: str = "squared",
  where_fn: Callable[[PyTree, Any], ArrayLike] | None = None,
) -> Callable[..., tuple[ArrayLike, Any]]:
  r"""Adds the BEAN penalty of a network's layers to its loss.

  .. math::
    L = L_{DNN} + \sum_l \alpha_l\, L_c^{(l)}

  The result has the signature of `loss_fn` and returns the same auxiliary
  output, so that `jax.value_and_grad`, optimizers that evaluate the loss
  themselves, gradient accumulation, and `jax.vmap` over seeds and strengths go
  on as before. BEAN is no gradient transformation: its gradient flows through
  the activations, which an optimizer's update never sees.

  Args:
    loss_fn: Function of `(params, *args, **kwargs)` that returns (loss, aux),
      where aux holds the inputs of the dense layers.
    layers_fn: Function of (params, aux) that returns (activations, kernels),
      two trees of the same structure, as `bean_penalty` takes them.
    alpha: Strength, a scalar or a tree with a scalar a layer; may be traced.
    order: 1 (BEAN-1) or 2 (BEAN-2), static.
    gamma: Slope in A, a scalar in units of 1 / weight; may be traced.
    distance: "squared" or "absolute", static.
    where_fn: Function of (params, aux) that returns a boolean mask [S] of the
      real samples. All are real by default.

  Returns:
    A function of `(params, *args, **kwargs)` that returns (loss, aux), the loss
    in its own dtype, or in that of the penalty if it is no float.

  Raises:
    TypeError: While tracing, if `loss_fn` returns no pair.
    ValueError: While tracing, if the loss is no scalar; and as `bean_penalty`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> def loss_fn(params, inputs):
    ...   hidden = jax.nn.relu(inputs @ params["fc1"])
    ...   return jnp.mean(hidden @ params["fc2"]), {"fc2": hidden}
    >>> def layers_fn(params, hidden):
    ...   return hidden, {"fc2": params["fc2"]}
    >>> params = {"fc1": jnp.eye(2), "fc2": jnp.full((2, 1), jnp.arctanh(0.5))}
    >>> inputs = jnp.array([[0.0, 2.0]])
    >>> regularized_fn = regularize(loss_fn, layers_fn, alpha=1.0)
    >>> loss, _ = loss_fn(params, inputs)
    >>> regularized, _ = regularized_fn(params, inputs)
    >>> print(regularized - loss)  # 2 * 0.25 * 4 / 2**2
    0.5

  References:
    Gao, Ascoli and Zhao, `BEAN <https://doi.org/10.3389/fnbot.2021.567482>`_,
    2021: Section 2.1, "Model Training".
  """

  @functools.wraps(loss_fn)
  def regularized_fn(
    params: PyTree, *args: Any, **kwargs: Any
  ) -> tuple[ArrayLike, Any]:
    result = loss_fn(params, *args, **kwargs)
    if not isinstance(result, tuple) or len(result) != 2:
      raise TypeError(
        "loss_fn must return (loss, aux), where aux holds the inputs of the "
        f"dense layers, got {type(result).__name__}"
      )
    loss, aux = result
    loss = jnp.asarray(loss)
    if loss.ndim != 0:
      raise ValueError(
        f"loss_fn must return a scalar loss, got shape {list(loss.shape)}; "
        "take the mean over samples first"
      )
    activations, kernels = layers_fn(params, aux)
    term = penalty.bean_penalty(
      activations,
      kernels,
      alpha=alpha,
      order=order,
      gamma=gamma,
      distance=distance,
      where=None if where_fn is None else where_fn(params, aux),
    )
    if not jnp.issubdtype(loss.dtype, jnp.inexact):
      # Such as 0, for the penalty alone.
      loss = loss.astype(term.dtype)
    return loss + term.astype(loss.dtype), aux

  return regularized_fn
