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
  :math:`\eta` it comes near it as sweeps are added. It is backpropagation with
  a learning rate for each layer, and is computed so (see below).
strict
  :math:`\epsilon_l = f_l(v_{l-1}) - v_l`, all derivatives are taken at the
  beliefs, and :math:`\epsilon_L` is the gradient of the loss at
  :math:`f_L(v_{L-1})`. It is not backpropagation.

What was chosen here:

- A sweep computes all errors, and then moves all beliefs: going down from the
  output, each layer reads beliefs that have not moved yet.
- The errors of `fixed` follow :math:`\epsilon_l \leftarrow \epsilon_l + \eta
  (J_{l+1}^T \epsilon_{l+1} - \epsilon_l)` from 0, with the same Jacobians in
  every sweep, so that each is a share of what backpropagation has there,
  :math:`\epsilon_l = c_{L-l} \, \partial \ell / \partial \hat v_l` with
  :math:`c_0 = 1` and :math:`c_d \leftarrow c_d + \eta (c_{d-1} - c_d)`. A sweep
  is one of L numbers. For :math:`0 \le \eta \le 1`, :math:`c_d` is the
  probability that n - 1 trials, each a success with probability
  :math:`\eta`, have d successes or more. Adam divides by the size of a
  gradient, and therefore learns from `fixed` what it learns from `exact` as
  soon as the errors have gone down to the first layer.
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
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

PyTree = Any
# Maps (params, inputs) to outputs: one layer, which takes what it needs of the
# parameters of all.
Layer = Callable[[PyTree, PyTree], PyTree]


def value_and_grad(
  layers: Sequence[Layer],
  loss_fn: Callable[..., jax.Array],
  *,
  rule: str,
  step_size: ArrayLike = 0.1,
  num_sweeps: int = 20,
) -> Callable[..., tuple[jax.Array, PyTree]]:
  """Makes what stands in for `jax.value_and_grad` of a chain of layers.

  Layers are functions of (params, inputs), from the first to the last. Each
  returns the inputs of the next, and all are given the same parameters; the
  loss is a function of (outputs of the last layer, *args). The rule is "exact",
  "fixed" or "strict". The rate of the beliefs, eta, and the sweeps, 1 at least,
  may be traced; "exact" has none.

  Returns:
    A function of (params, inputs, *args) that returns the loss of the forward
    pass and the rule's gradient by the parameters, a tree like them. Its memory
    does not grow with the sweeps.

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

  # Each layer has parameters of its own.
  def loss_of_copies(
    copies: Sequence[PyTree], inputs: PyTree, *args: Any
  ) -> jax.Array:
    for layer, params in zip(layers, copies, strict=True):
      inputs = layer(params, inputs)
    return loss_fn(inputs, *args)

  def fixed(params: PyTree, *rest: Any) -> tuple[jax.Array, PyTree]:
    loss, by_layer = jax.value_and_grad(loss_of_copies)(
      [params] * len(layers), *rest
    )
    shares = _shares(len(layers), step_size, num_sweeps)[::-1]
    return loss, _weighted_sum(shares, by_layer)

  strict = functools.partial(_strict, layers, loss_fn, step_size, num_sweeps)
  return {
    "exact": jax.value_and_grad(
      lambda params, *rest: loss_of_copies([params] * len(layers), *rest)
    ),
    "fixed": fixed,
    "strict": strict,
  }[rule]


def _weighted_sum(weights: jax.Array, trees: Sequence[PyTree]) -> PyTree:
  return jax.tree.map(
    lambda *leaves: sum(
      weight.astype(leaf.dtype) * leaf
      for weight, leaf in zip(weights, leaves, strict=True)
    ),
    *trees,
  )


def _shares(
  num_layers: int, step_size: ArrayLike, num_sweeps: int
) -> jax.Array:
  """Returns c_d for d from 0 to the number of layers, exclusive."""

  def sweep(_: jax.Array, shares: jax.Array) -> jax.Array:
    above = jnp.concatenate([shares[:1], shares[:-1]])
    return shares + step_size * (above - shares)

  # In the first sweep all errors but that of the output are zero.
  first = jnp.zeros(num_layers).at[0].set(1)
  return jax.lax.fori_loop(1, num_sweeps, sweep, first)


def _strict(
  layers: Sequence[Layer],
  loss_fn: Callable[..., jax.Array],
  step_size: ArrayLike,
  num_sweeps: int,
  params: PyTree,
  inputs: PyTree,
  *args: Any,
) -> tuple[jax.Array, PyTree]:
  """Returns the loss, and the gradient with all derivatives at the beliefs."""

  def predict_above(params: PyTree, beliefs: list[PyTree]) -> list[PyTree]:
    """Returns what each layer but the first makes of the belief below it."""
    return [
      layer(params, v) for layer, v in zip(layers[1:], beliefs, strict=True)
    ]

  def sweep(
    _: jax.Array, carry: tuple[list[PyTree], list[PyTree]]
  ) -> tuple[list[PyTree], list[PyTree]]:
    beliefs, _ = carry
    above, pull = jax.vjp(lambda v: predict_above(params, v), beliefs)
    *predictions, outputs = first, *above
    errors = jax.tree.map(jnp.subtract, predictions, beliefs)
    errors.append(jax.grad(loss_fn)(outputs, *args))
    (pulled,) = pull(errors[1:])
    beliefs = jax.tree.map(
      lambda belief, own, above: belief + step_size * (own - above),
      beliefs,
      errors[:-1],
      pulled,
    )
    return beliefs, errors

  # The same in every sweep, as the inputs are no beliefs.
  first = layers[0](params, inputs)
  *beliefs, outputs = itertools.accumulate(
    layers[1:], lambda v, layer: layer(params, v), initial=first
  )
  loss, error = jax.value_and_grad(loss_fn)(outputs, *args)
  errors = [*jax.tree.map(jnp.zeros_like, beliefs), error]
  beliefs, errors = jax.lax.fori_loop(0, num_sweeps, sweep, (beliefs, errors))
  _, pull = jax.vjp(
    lambda params: [layers[0](params, inputs), *predict_above(params, beliefs)],
    params,
  )
  return loss, pull(errors)[0]
