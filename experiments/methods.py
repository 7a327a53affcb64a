"""The compared methods, one entry of `METHODS` each: a row of Table 1.

To add a method, add an entry; flags, cells, tables and figures follow.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

import bean_jax
from experiments import models, training


class Options(NamedTuple):
  """Choices that are the same for every cell of a run.

  Attributes:
    gamma: Slope in BEAN's neuron correlation.
    distance: BEAN's distance, "squared" or "absolute".
    alpha_units: "code" for the authors' code, whose correlation lacks the
      factors 1 / M and 1 / M^2 of the paper; "paper" for those of the paper.
  """

  gamma: float = 1.0
  distance: str = "squared"
  alpha_units: str = "code"


Regularizer = Callable[
  [training.LossFn, training.Hparams, models.Model, Options], training.LossFn
]


class Method(NamedTuple):
  """A way to train a network.

  Attributes:
    title: Its name in tables.
    hparam: Name of its hyper-parameter, or None if it has none.
    grid: Values that are tried by default; (0.0,) without hyper-parameter.
    options: Fields of `Options` that it depends on.
    regularizer: Maps (loss_fn, hparams, model, options) to the loss to descend.
  """

  title: str
  hparam: str | None
  grid: tuple[float, ...]
  options: tuple[str, ...]
  regularizer: Regularizer


def layer_alphas(
  alpha: jax.Array, kernels: dict[str, jax.Array], *, order: int, units: str
) -> dict[str, jax.Array]:
  """Translates a strength into the library's units, layer by layer.

  Args:
    alpha: Strength, a scalar.
    kernels: Kernels {layer: [n, m]}.
    order: 1 or 2.
    units: "paper", or "code" for alpha times m^order.

  Returns:
    {layer: alpha in the units of the paper's Eq. 5 and 7}.

  Example:
    >>> import numpy as np
    >>> layer_alphas(2.0, {"fc": np.ones((3, 5))}, order=2, units="code")
    {'fc': 50.0}
  """
  if units == "paper":
    return dict.fromkeys(kernels, alpha)
  return {
    layer: alpha * float(kernel.shape[1]) ** order
    for layer, kernel in kernels.items()
  }


def _vanilla(
  loss_fn: training.LossFn,
  hparams: training.Hparams,
  model: models.Model,
  options: Options,
) -> training.LossFn:
  del hparams, model, options
  return loss_fn


def _bean(order: int) -> Regularizer:
  def regularizer(
    loss_fn: training.LossFn,
    hparams: training.Hparams,
    model: models.Model,
    options: Options,
  ) -> training.LossFn:
    def layers_fn(params, aux):
      return aux.hidden, models.dense_kernels(params, model.layers)

    def regularized_fn(params, *args):
      alphas = layer_alphas(
        hparams.strength,
        models.dense_kernels(params, model.layers),
        order=order,
        units=options.alpha_units,
      )
      return bean_jax.regularize(
        loss_fn,
        layers_fn,
        alpha=alphas,
        order=order,
        gamma=options.gamma,
        distance=options.distance,
        where_fn=lambda params, aux: aux.mask,
      )(params, *args)

    return regularized_fn

  return regularizer


METHODS = {
  "vanilla": Method("Vanilla", None, (0.0,), (), _vanilla),
  "bean1": Method(
    "BEAN-1", "alpha", (0.1, 1.0, 10.0, 100.0), Options._fields, _bean(1)
  ),
  "bean2": Method(
    "BEAN-2", "alpha", (10.0, 100.0, 1e3, 1e4), Options._fields, _bean(2)
  ),
}
