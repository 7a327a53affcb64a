"""The compared methods, one entry of `METHODS` each: a row of Table 1.

To add a method, add an entry; flags, cells, tables and figures follow.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax
from bean_jax import correlation
from experiments.architectures import models
from experiments.learning import imitation, training

PyTree = Any


class Options(NamedTuple):
  """Choices that are the same for every cell of a run.

  Attributes:
    gamma: Slope in BEAN's neuron correlation.
    distance: BEAN's distance, "squared" or "absolute".
    alpha_units: "code" for the authors' code, whose correlation lacks the
      factors 1 / M and 1 / M^2 of the paper; "paper" for those of the paper.
    layers: Dense layers where BEAN applies; empty for all of the model's.
    decoupled_decay: Whether weight decay is decoupled from the gradient, as in
      AdamW; the authors' is not.
    dropout_at_eval: Whether dropout stays on at evaluation, as in the authors'
      code.
    first_pseudo: Pseudo examples of imitation networks in the first period.
    last_pseudo: Those in the last period.
    pseudo_periods: Periods of imitation networks.
    pseudo_epochs: Passes over the pseudo examples in a period.
  """

  gamma: float = 1.0
  distance: str = "squared"
  alpha_units: str = "code"
  layers: tuple[str, ...] = ()
  decoupled_decay: bool = False
  dropout_at_eval: bool = False
  first_pseudo: int = 1250
  last_pseudo: int = 10_000
  pseudo_periods: int = 8
  pseudo_epochs: int = 25


IMITATION_OPTIONS = (
  "first_pseudo",
  "last_pseudo",
  "pseudo_periods",
  "pseudo_epochs",
)
# Options that every record of a method that depends on them names, though they
# have their usual values.
ALWAYS_NAMED = ("gamma", "distance", "alpha_units", *IMITATION_OPTIONS)

Loss = Callable[
  [training.Hparams, models.Model, Options],
  training.LossFn,
]


def _adam(
  hparams: training.Hparams, options: Options
) -> optax.GradientTransformation:
  del options
  return training.adam(hparams)


class Method(NamedTuple):
  """A way to train a network.

  Attributes:
    title: Its name in tables.
    hparam: Name of its hyper-parameter, or None if it has none.
    grid: Values that are tried by default; (0.0,) without hyper-parameter.
    options: Fields of `Options` that it depends on.
    loss: Maps (hparams, model, options) to the loss to descend; None for
      imitation networks, which `imitation` trains in its own way.
    optimizer: Maps (hparams, options) to the optimizer.
    limit: What a value of the hyper-parameter must be below.
    batch: Samples that a step needs at least. Epochs are multiplied by it, so
      that there are as many steps as with batches of one.
    step_cost: What a step takes beside its images, about, in images that pass
      forward: passes over the parameters, and the penalty of a few samples.
    baseline: The entry of `METHODS` that its gain is taken over.
  """

  title: str
  hparam: str | None
  grid: tuple[float, ...]
  options: tuple[str, ...]
  loss: Loss | None
  optimizer: Callable[
    [training.Hparams, Options], optax.GradientTransformation
  ] = _adam
  limit: float = float("inf")
  batch: int = 1
  step_cost: int = 5
  baseline: str = "vanilla"


@functools.cache
def recipe(name: str, model: models.Model, options: Options) -> training.Recipe:
  """Returns how a method trains a member, one object for equal arguments.

  Args:
    name: Name in `METHODS`.
    model: The network.
    options: Choices that methods depend on.

  Returns:
    What `training` takes.
  """
  method = METHODS[name]
  evaluation_rate = None
  if name == "dropout" and options.dropout_at_eval:
    evaluation_rate = lambda hparams: hparams.strength  # noqa: E731
  return training.Recipe(
    model,
    loss=lambda hparams: method.loss(hparams, model, options),
    optimizer=lambda hparams: method.optimizer(hparams, options),
    evaluation_rate=evaluation_rate,
  )


def num_epochs(name: str, epochs: int, options: Options) -> int:
  """Returns the passes over its training images that a method makes.

  Args:
    name: Name in `METHODS`.
    epochs: Passes with batches of one.
    options: Choices that methods depend on.

  Returns:
    More with larger batches; for imitation networks passes over the pseudo
    examples, whatever `epochs` is.
  """
  if METHODS[name].loss is None:
    return options.pseudo_periods * options.pseudo_epochs
  return epochs * METHODS[name].batch


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


def _plus(
  penalty: Callable[[PyTree, training.Aux], jax.Array],
  hparams: training.Hparams,
  model: models.Model,
  dropout_rate: float | None = None,
) -> training.LossFn:
  """Returns the cross-entropy plus the strength times a penalty."""
  data_loss_fn = training.cross_entropy(model, dropout_rate)

  def loss_fn(params: PyTree, *args: Any) -> tuple[jax.Array, training.Aux]:
    loss, aux = data_loss_fn(params, *args)
    return loss + hparams.strength * penalty(params, aux), aux

  return loss_fn


def _vanilla(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  del hparams, options
  return training.cross_entropy(model)


def _dropout(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  del options
  return training.cross_entropy(model, hparams.strength)


def _weight_decay(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  """Descends half the squares of all parameters: w enters its gradient."""
  if options.decoupled_decay:
    return training.cross_entropy(model)
  return _plus(
    lambda params, aux: optax.tree.norm(params, squared=True) / 2,
    hparams,
    model,
  )


def _adam_with_decay(
  hparams: training.Hparams, options: Options
) -> optax.GradientTransformation:
  if not options.decoupled_decay:
    return training.adam(hparams)
  return optax.adamw(hparams.learning_rate, weight_decay=hparams.strength)


def _l1(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  """Adds the absolute values of the dense layers' kernels and biases."""
  del options

  def penalty(params: PyTree, aux: training.Aux) -> jax.Array:
    del aux
    leaves = traverse_util.flatten_dict(params)
    dense = {
      path[:-1]
      for path, leaf in leaves.items()
      if path[-1] == "kernel" and leaf.ndim == 2
    }
    return optax.tree.norm(
      [leaf for path, leaf in leaves.items() if path[:-1] in dense], ord=1
    )

  return _plus(penalty, hparams, model)


def _group_lasso(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  """Adds sqrt(M) times the norm of each neuron's M outgoing weights."""
  del options

  def penalty(params: PyTree, aux: training.Aux) -> jax.Array:
    del aux
    kernels = models.dense_kernels(params, model.layers).values()
    return sum(
      kernel.shape[1] ** 0.5
      * jnp.sum(optax.safe_norm(kernel, min_norm=1e-12, axis=1))
      for kernel in kernels
    )

  return _plus(penalty, hparams, model)


def _decov(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  """Adds half the squared covariances of different neurons over the batch.

  Cogswell et al., `DeCov <https://arxiv.org/abs/1511.06068>`_, 2016: Eq. 2.
  """
  del options

  def penalty(params: PyTree, aux: training.Aux) -> jax.Array:
    del params
    total = 0.0
    for rows in aux.hidden.values():
      where = None if aux.mask is None else aux.mask[:, None]
      centred = rows - jnp.mean(rows, axis=0, where=where)
      if where is not None:
        centred = jnp.where(where, centred, 0)
      count = rows.shape[0] if where is None else jnp.sum(where)
      covariance = centred.T @ centred / count
      variance = jnp.diagonal(covariance)
      total += (jnp.sum(covariance**2) - jnp.sum(variance**2)) / 2
    return total

  return _plus(penalty, hparams, model)


def _mean_square(
  hparams: training.Hparams, model: models.Model, options: Options
) -> training.LossFn:
  """Adds the mean square of activations, over samples and neurons of a layer.

  Merity et al., `Revisiting Activation Regularization
  <https://arxiv.org/abs/1708.01009>`_, 2017: AR, on the layers of BEAN.
  """
  layers = options.layers or model.layers

  def penalty(params: PyTree, aux: training.Aux) -> jax.Array:
    del params
    return sum(
      jnp.mean(jnp.mean(aux.hidden[layer] ** 2, axis=-1), where=aux.mask)
      for layer in layers
    )

  return _plus(penalty, hparams, model)


def _bean(
  order: int, *, frozen: bool = False, dropout_rate: float | None = None
) -> Loss:
  """Returns BEAN's loss, or that without a gradient through A.

  With dropout, the activations are those that enter the layers: dropped.
  """

  def loss(
    hparams: training.Hparams, model: models.Model, options: Options
  ) -> training.LossFn:
    layers = options.layers or model.layers

    def layers_fn(
      params: PyTree, aux: training.Aux
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
      kernels = models.dense_kernels(params, layers)
      if frozen:
        kernels = jax.lax.stop_gradient(kernels)
      return {layer: aux.hidden[layer] for layer in layers}, kernels

    def regularized_fn(
      params: PyTree, *args: Any
    ) -> tuple[jax.Array, training.Aux]:
      alphas = layer_alphas(
        hparams.strength,
        models.dense_kernels(params, layers),
        order=order,
        units=options.alpha_units,
      )
      return bean_jax.regularize(
        training.cross_entropy(model, dropout_rate),
        layers_fn,
        alpha=alphas,
        order=order,
        gamma=options.gamma,
        distance=options.distance,
        where_fn=lambda params, samples, mask, key: mask,
      )(params, *args)

    return regularized_fn

  return loss


# Maps (activations [batch, n], mask, number of the layer, options) to the mean
# over samples and pairs of neurons of A times distance, A of mean 1.
Divergence = Callable[[jax.Array, jax.Array | None, int, Options], jax.Array]


def _bean_without_wiring(
  divergence: Divergence, *, dropout_rate: float | None = None
) -> Loss:
  """Replaces BEAN-1's A by one that has nothing to do with wiring.

  It is the same for all members and steps but for a factor without gradient
  that gives it the mean of the A which it replaces.
  """

  def loss(
    hparams: training.Hparams, model: models.Model, options: Options
  ) -> training.LossFn:
    layers = options.layers or model.layers

    def penalty(params: PyTree, aux: training.Aux) -> jax.Array:
      kernels = jax.lax.stop_gradient(models.dense_kernels(params, layers))
      alphas = layer_alphas(1.0, kernels, order=1, units=options.alpha_units)
      total = 0.0
      for layer, kernel in kernels.items():
        strength = correlation.relative_strength(kernel, options.gamma)
        # The mean of F F' / M, which is not formed.
        mean = jnp.mean(jnp.mean(strength, axis=0) ** 2)
        total += (
          alphas[layer]
          * mean
          * divergence(
            aux.hidden[layer], aux.mask, model.layers.index(layer), options
          )
        )
      return total

    return _plus(penalty, hparams, model, dropout_rate)

  return loss


def _constant_divergence(
  rows: jax.Array, mask: jax.Array | None, place: int, options: Options
) -> jax.Array:
  """All pairs alike: their mean squared difference is twice the variance."""
  del place, options
  return 2 * jnp.mean(jnp.var(rows, axis=-1), where=mask)


def _random_divergence(
  rows: jax.Array, mask: jax.Array | None, place: int, options: Options
) -> jax.Array:
  differences = bean_jax.coactivation_divergence(
    rows, distance=options.distance, where=mask
  )
  return jnp.mean(_random_correlation(place, rows.shape[1]) * differences)


@functools.cache
def _random_correlation(place: int, num_neurons: int) -> np.ndarray:
  """Returns a symmetric matrix [n, n] of mean 1, uniform and independent."""
  generator = np.random.default_rng(place)
  half = np.triu(generator.uniform(size=(num_neurons, num_neurons)))
  whole = half + np.triu(half, 1).T
  return (whole / whole.mean()).astype(np.float32)


_BEAN_OPTIONS = ("gamma", "distance", "alpha_units", "layers")
_BEAN1_ALPHAS = (0.1, 1.0, 10.0, 30.0, 100.0)
# Of constant A, whose distance is the squared one.
_CONSTANT_OPTIONS = ("gamma", "alpha_units", "layers")
# Beside a penalty; what the row of dropout chooses for most shots.
_DROPOUT_RATE = 0.5


def _bean_method(
  title: str,
  order: int,
  grid: tuple[float, ...],
  *,
  frozen: bool = False,
  dropout_rate: float | None = None,
) -> Method:
  return Method(
    title,
    "alpha",
    grid,
    _BEAN_OPTIONS,
    _bean(order, frozen=frozen, dropout_rate=dropout_rate),
    step_cost=8 if order == 1 else 40,
  )


METHODS = {
  "vanilla": Method("Vanilla", None, (0.0,), (), _vanilla),
  "dropout": Method(
    "Dropout",
    "rate",
    (0.1, 0.25, 0.5, 0.75, 0.9),
    ("dropout_at_eval",),
    _dropout,
    limit=1.0,
  ),
  "weight_decay": Method(
    "Weight decay",
    "decay",
    (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ("decoupled_decay",),
    _weight_decay,
    _adam_with_decay,
  ),
  "l1": Method("l1", "l1", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), (), _l1),
  "imitation": Method(
    "Imitation networks",
    "ascent_rate",
    imitation.GRID,
    IMITATION_OPTIONS,
    None,
  ),
  "bean1": _bean_method("BEAN-1", 1, _BEAN1_ALPHAS),
  "bean2": _bean_method("BEAN-2", 2, (1.0, 10.0, 100.0, 1e3, 1e4)),
  "vanilla10": Method(
    "Vanilla, batches of 10", None, (0.0,), (), _vanilla, batch=10
  ),
  "group_lasso": Method(
    "Group lasso", "lasso", (1e-5, 1e-4, 1e-3, 1e-2), (), _group_lasso
  ),
  "decov": Method(
    "DeCov",
    "decov",
    (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    (),
    _decov,
    batch=10,
    step_cost=20,
    baseline="vanilla10",
  ),
  "bean1_frozen": _bean_method(
    "BEAN-1, A frozen", 1, _BEAN1_ALPHAS, frozen=True
  ),
  "bean2_frozen": _bean_method(
    "BEAN-2, A frozen", 2, (0.1, 1.0, 10.0, 100.0, 1e3), frozen=True
  ),
  "bean1_random": Method(
    "BEAN-1, A random",
    "alpha",
    _BEAN1_ALPHAS,
    _BEAN_OPTIONS,
    _bean_without_wiring(_random_divergence),
    step_cost=30,
  ),
  "bean1_constant": Method(
    "BEAN-1, A constant",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS,
    _bean_without_wiring(_constant_divergence),
  ),
  "mean_square": Method(
    "Mean square of activations",
    "activity",
    (1e-3, 1e-2, 0.1, 1.0, 10.0),
    ("layers",),
    _mean_square,
  ),
  "bean1_dropout": _bean_method(
    "BEAN-1 and dropout",
    1,
    (0.01, 0.1, 1.0, 10.0, 100.0),
    dropout_rate=_DROPOUT_RATE,
  ),
  "bean2_dropout": _bean_method(
    "BEAN-2 and dropout",
    2,
    (0.1, 1.0, 10.0, 100.0, 1e3),
    dropout_rate=_DROPOUT_RATE,
  ),
  "bean1_constant_dropout": Method(
    "BEAN-1, A constant, and dropout",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS,
    _bean_without_wiring(_constant_divergence, dropout_rate=_DROPOUT_RATE),
  ),
}

# Those that are a loss to descend, on a training set of any size.
DESCENDED = tuple(name for name, method in METHODS.items() if method.loss)
