r"""Predictive coding: gradients by local errors, in place of backpropagation.

A network is a chain of layers :math:`f_1, \dots, f_L` with predictions
:math:`\hat v_0 = x`, :math:`\hat v_l = f_l(\hat v_{l-1})` of its forward pass,
and a loss of :math:`\hat v_L`. Beliefs :math:`v_l` begin as the predictions. A
sweep compares them with what the layers below predict, and moves them towards
what lowers the errors on both sides, each layer by its neighbours alone:

.. math:: v_l \leftarrow v_l + \eta \left(\epsilon_l - J_{l+1}^T
  \epsilon_{l+1}\right), \qquad 1 \le l < L,

where J is the Jacobian of the layer above. Each layer then learns from its own
error, :math:`d \theta_l = (\partial f_l / \partial \theta_l)^T \epsilon_l`.
The rules differ in the errors:

exact
  :math:`\epsilon_l` is the gradient of the loss by :math:`\hat v_l`. This is
  backpropagation, and is computed so.
fixed
  FixedPred: :math:`\epsilon_l = \hat v_l - v_l`, all derivatives are taken at
  the predictions, and :math:`\epsilon_L` is the gradient of the loss there.
  With :math:`\eta = 1` and L sweeps it is backpropagation; with smaller
  :math:`\eta` it comes near it as sweeps are added.
strict
  :math:`\epsilon_l = f_l(v_{l-1}) - v_l`, all derivatives are taken at the
  beliefs, and :math:`\epsilon_L` is the gradient of the loss at
  :math:`f_L(v_{L-1})`. It is not backpropagation.

What was chosen here:

- Within a sweep no layer needs what another has just computed: going down from
  the output, each reads beliefs that have not moved yet. So a sweep computes
  all errors, and then moves all beliefs.
- The errors of `fixed` are kept instead of its beliefs, from which they are
  :math:`\epsilon_l \leftarrow \epsilon_l + \eta (J_{l+1}^T \epsilon_{l+1} -
  \epsilon_l)`. As differences of beliefs they would have the rounding errors of
  those, which are larger by orders of magnitude.
- Parameters learn from the errors of the last sweep; `strict` takes their
  derivatives at the beliefs that it leaves.

References:
  Rosenbaum, `On the relationship between predictive coding and backpropagation
  <https://doi.org/10.1371/journal.pone.0266102>`_, PLOS ONE, 2022, whose
  defaults of rate and sweeps are those here. Whittington and Bogacz, 2017, have
  the strict rule; Millidge, Tschantz and Buckley, `Predictive coding
  approximates backprop along arbitrary computation graphs
  <https://arxiv.org/abs/2006.04182>`_, 2020, fixed predictions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

PyTree = Any
# Maps (params, inputs) to outputs: one layer, which takes what it needs of the
# parameters of all.
Layer = Callable[[PyTree, PyTree], PyTree]

RULES = ("exact", "fixed", "strict")


def value_and_grad(
  layers: Sequence[Layer],
  loss_fn: Callable[..., jax.Array],
  *,
  rule: str,
  step_size: ArrayLike = 0.1,
  num_sweeps: int = 20,
) -> Callable[..., tuple[jax.Array, PyTree]]:
  """Makes what stands in for `jax.value_and_grad` of a chain of layers.

  Args:
    layers: Functions of (params, inputs), from the first to the last. Each
      returns the inputs of the next, and all are given the same parameters.
    loss_fn: Maps (outputs of the last layer, *args) to a scalar.
    rule: One of `RULES`.
    step_size: Rate of the beliefs, eta; may be traced. `exact` has none.
    num_sweeps: Sweeps, 1 at least; may be traced. `exact` has none.

  Returns:
    A function of (params, inputs, *args) that returns the loss of the forward
    pass and the rule's gradient by the parameters, a tree like them. Its memory
    does not grow with the sweeps.

  Raises:
    ValueError: If there is no layer, no such rule, or no sweep.

  Example:
    >>> layers = [lambda w, x: jnp.tanh(w["a"] * x), lambda w, x: w["b"] * x]
    >>> params = {"a": 0.5, "b": 2.0}
    >>> def loss_fn(output, target):
    ...   return (output - target) ** 2
    >>> learn = value_and_grad(
    ...   layers, loss_fn, rule="fixed", step_size=1.0, num_sweeps=2
    ... )
    >>> loss, grads = learn(params, 1.0, 3.0)
    >>> backpropagation = jax.grad(
    ...   lambda w: loss_fn(w["b"] * jnp.tanh(w["a"] * 1.0), 3.0)
    ... )(params)
    >>> jax.tree.all(jax.tree.map(jnp.allclose, grads, backpropagation))
    True
  """
  if not layers:
    raise ValueError("layers: expected at least one function, got none")
  if rule not in RULES:
    raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
  if isinstance(num_sweeps, int) and num_sweeps < 1:
    raise ValueError(f"num_sweeps: expected at least 1, got {num_sweeps}")

  def forward(params: PyTree, inputs: PyTree) -> list[PyTree]:
    outputs = []
    for layer in layers:
      inputs = layer(params, inputs)
      outputs.append(inputs)
    return outputs

  if rule == "exact":
    return jax.value_and_grad(
      lambda params, inputs, *args: loss_fn(forward(params, inputs)[-1], *args)
    )
  infer = _fixed if rule == "fixed" else _strict

  def loss_and_grads(
    params: PyTree, inputs: PyTree, *args: Any
  ) -> tuple[jax.Array, PyTree]:
    def predict(params: PyTree, beliefs: list[PyTree]) -> list[PyTree]:
      """Returns what each layer makes of the belief below it."""
      below = [inputs, *beliefs]
      return [layer(params, v) for layer, v in zip(layers, below, strict=True)]

    def top_error(outputs: PyTree) -> tuple[jax.Array, PyTree]:
      return jax.value_and_grad(loss_fn)(outputs, *args)

    *beliefs, outputs = forward(params, inputs)
    loss, error = top_error(outputs)
    grads = infer(
      predict, top_error, params, beliefs, error, step_size, num_sweeps
    )
    return loss, grads

  return loss_and_grads


def _fixed(
  predict: Callable[..., list[PyTree]],
  top_error: Callable[..., tuple[jax.Array, PyTree]],
  params: PyTree,
  beliefs: list[PyTree],
  error: PyTree,
  step_size: ArrayLike,
  num_sweeps: int,
) -> PyTree:
  """Returns the gradient with all derivatives at the forward pass."""
  del top_error
  _, pull = jax.vjp(predict, params, beliefs)

  def sweep(_: jax.Array, errors: list[PyTree]) -> list[PyTree]:
    _, pulled = pull([*errors, error])
    return jax.tree.map(
      lambda own, above: own + step_size * (above - own), errors, pulled
    )

  # In the first sweep all of these errors are zero.
  errors = jax.lax.fori_loop(1, num_sweeps, sweep, _zeros(beliefs))
  return pull([*errors, error])[0]


def _strict(
  predict: Callable[..., list[PyTree]],
  top_error: Callable[..., tuple[jax.Array, PyTree]],
  params: PyTree,
  beliefs: list[PyTree],
  error: PyTree,
  step_size: ArrayLike,
  num_sweeps: int,
) -> PyTree:
  """Returns the gradient with all derivatives at the beliefs."""

  def sweep(
    _: jax.Array, carry: tuple[list[PyTree], list[PyTree]]
  ) -> tuple[list[PyTree], list[PyTree]]:
    beliefs, _ = carry
    predictions, pull = jax.vjp(lambda v: predict(params, v), beliefs)
    outputs = predictions.pop()
    errors = jax.tree.map(jnp.subtract, predictions, beliefs)
    errors.append(top_error(outputs)[1])
    (pulled,) = pull(errors)
    beliefs = jax.tree.map(
      lambda belief, own, above: belief + step_size * (own - above),
      beliefs,
      errors[:-1],
      pulled,
    )
    return beliefs, errors

  start = (beliefs, [*_zeros(beliefs), error])
  beliefs, errors = jax.lax.fori_loop(0, num_sweeps, sweep, start)
  _, pull = jax.vjp(lambda params: predict(params, beliefs), params)
  return pull(errors)[0]


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)
