"""The compared methods, one entry of `METHODS` each: a row of Table 1.

To add a method, add an entry; flags, cells, tables and figures follow. Most are
a penalty or an optimizer of `descent`; any function that makes a `Learner` will
do.
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
from experiments.architectures.networks import Network, dense_kernels
from experiments.learning import descent, imitation
from experiments.learning.learner import Hparams, Learner, Schedule
from experiments.learning.streams import Stream

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

Maker = Callable[[Network, Stream, Schedule, Options], Learner]
# Maps (network, options) to what is added to the cross-entropy, if anything.
Penalty = Callable[[Network, Options], descent.Penalty | None]


class Method(NamedTuple):
  """A way to train a network.

  Attributes:
    title: Its name in tables.
    hparam: Name of its hyper-parameter, or None if it has none.
    grid: Values that are tried by default; (0.0,) without hyper-parameter.
    options: Fields of `Options` that it depends on.
    make: Maps (network, stream, schedule, options) to the learner.
    limit: What a value of the hyper-parameter must be below.
    batch: Samples that a step needs at least. A run with smaller batches gives
      it more epochs, so that there are as many steps.
    whole_batch: Whether it needs all of a batch on one device.
    step_cost: What a step takes beside its images, about, in images that pass
      forward: passes over the parameters, and the penalty of a few samples.
    baseline: The entry of `METHODS` that its gain is taken over.
    optimizer: Name of its optimizer, for records.
    pace: Maps options to a schedule of its own, whatever that of a run; None
      for a method that takes the run's. Such a method learns from shots alone.
    cost: Maps (options, number of samples) to the work of a whole training of
      its own pace, without validation.
  """

  title: str
  hparam: str | None
  grid: tuple[float, ...]
  options: tuple[str, ...]
  make: Maker
  limit: float = float("inf")
  batch: int = 1
  whole_batch: bool = False
  step_cost: int = 5
  baseline: str = "vanilla"
  optimizer: str = "adam"
  pace: Callable[[Options], Schedule] | None = None
  cost: Callable[[Options, int], int] | None = None


@functools.cache
def learner(
  name: str,
  network: Network,
  stream: Stream,
  schedule: Schedule,
  options: Options,
) -> Learner:
  """Makes how a method trains a member, one object for equal arguments.

  Args:
    name: Name in `METHODS`.
    network: The network.
    stream: What it sees.
    schedule: What `schedule` returned for it.
    options: Choices that methods depend on.

  Returns:
    The learner.
  """
  return METHODS[name].make(network, stream, schedule, options)


def schedule(name: str, planned: Schedule, options: Options) -> Schedule:
  """Returns how a method is trained in a run.

  Args:
    name: Name in `METHODS`.
    planned: What the run plans for all.
    options: Choices that methods depend on.

  Returns:
    The same, with larger batches and more epochs if the method needs that; or
    the method's own.
  """
  method = METHODS[name]
  if method.pace is not None:
    return method.pace(options)
  if not 0 < planned.batch_size < method.batch:
    return planned
  factor = -(-method.batch // planned.batch_size)
  return planned._replace(
    batch_size=method.batch,
    epochs=factor * planned.epochs,
    validate_every=factor * planned.validate_every,
  )


def cost(
  name: str, planned: Schedule, options: Options, num_samples: int
) -> int:
  """Estimates the work of one member, without validation.

  Args:
    name: Name in `METHODS`.
    planned: What `schedule` returned.
    options: Choices that methods depend on.
    num_samples: Training images.

  Returns:
    The work in images that pass forward. A step goes forward and backward, and
    through all parameters.
  """
  method = METHODS[name]
  if method.cost is not None:
    return method.cost(options, num_samples)
  size = min(planned.batch_size or num_samples, num_samples)
  num_steps = planned.epochs * -(-num_samples // size)
  return num_steps * (3 * size + method.step_cost)


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


def _descent(
  penalty: Penalty | None = None,
  *,
  dropout_rate: descent.Rate | None = None,
  optimizer: Callable[[Options], descent.Optimizer] | None = None,
) -> Maker:
  """Returns what makes learners of a loss, as `descent.make_learner` does."""

  def make(
    network: Network, stream: Stream, schedule: Schedule, options: Options
  ) -> Learner:
    return descent.make_learner(
      network,
      stream,
      schedule,
      penalty=penalty and penalty(network, options),
      dropout_rate=dropout_rate,
      optimizer=optimizer(options) if optimizer else descent.adam,
      dropout_at_eval=options.dropout_at_eval and dropout_rate is not None,
    )

  return make


def _strength(hparams: Hparams) -> jax.Array:
  return hparams.strength


def _weight_decay(network: Network, options: Options) -> descent.Penalty | None:
  """Half the squares of all parameters: w enters the gradient."""
  del network
  if options.decoupled_decay:
    return None
  return lambda params, hidden, mask, hparams: (
    hparams.strength * (optax.tree.norm(params, squared=True) / 2)
  )


def _adam_with_decay(options: Options) -> descent.Optimizer:
  if not options.decoupled_decay:
    return descent.adam
  return lambda hparams: optax.adamw(
    hparams.learning_rate, weight_decay=hparams.strength
  )


def _l1(network: Network, options: Options) -> descent.Penalty:
  """The absolute values of the dense layers' kernels and biases."""
  del network, options

  def penalty(params: PyTree, *args: Any) -> jax.Array:
    *_, hparams = args
    leaves = traverse_util.flatten_dict(params)
    dense = {
      path[:-1]
      for path, leaf in leaves.items()
      if path[-1] == "kernel" and leaf.ndim == 2
    }
    return hparams.strength * optax.tree.norm(
      [leaf for path, leaf in leaves.items() if path[:-1] in dense], ord=1
    )

  return penalty


def _group_lasso(network: Network, options: Options) -> descent.Penalty:
  """The square root of M times the norm of each neuron's M outgoing weights."""
  del options

  def penalty(params: PyTree, *args: Any) -> jax.Array:
    *_, hparams = args
    return hparams.strength * sum(
      kernel.shape[1] ** 0.5
      * jnp.sum(optax.safe_norm(kernel, min_norm=1e-12, axis=1))
      for kernel in dense_kernels(params, network.layers).values()
    )

  return penalty


def _decov(network: Network, options: Options) -> descent.Penalty:
  """Half the squared covariances of different neurons over the batch.

  Cogswell et al., `DeCov <https://arxiv.org/abs/1511.06068>`_, 2016: Eq. 2.
  """
  del network, options

  def penalty(
    params: PyTree,
    hidden: dict[str, jax.Array],
    mask: jax.Array | None,
    hparams: Hparams,
  ) -> jax.Array:
    del params
    total = 0.0
    for rows in hidden.values():
      where = None if mask is None else mask[:, None]
      centred = rows - jnp.mean(rows, axis=0, where=where)
      if where is not None:
        centred = jnp.where(where, centred, 0)
      count = rows.shape[0] if where is None else jnp.sum(where)
      covariance = centred.T @ centred / count
      variance = jnp.diagonal(covariance)
      total += (jnp.sum(covariance**2) - jnp.sum(variance**2)) / 2
    return hparams.strength * total

  return penalty


def _mean_square(network: Network, options: Options) -> descent.Penalty:
  """The mean square of activations, over samples and neurons of a layer.

  Merity et al., `Revisiting Activation Regularization
  <https://arxiv.org/abs/1708.01009>`_, 2017: AR, on the layers of BEAN.
  """
  layers = options.layers or network.layers

  def penalty(
    params: PyTree,
    hidden: dict[str, jax.Array],
    mask: jax.Array | None,
    hparams: Hparams,
  ) -> jax.Array:
    del params
    return hparams.strength * sum(
      jnp.mean(jnp.mean(hidden[layer] ** 2, axis=-1), where=mask)
      for layer in layers
    )

  return penalty


def _bean(order: int, *, frozen: bool = False) -> Penalty:
  """BEAN's penalty, or that without a gradient through A.

  With dropout, the activations are those that enter the layers: dropped.
  """

  def make(network: Network, options: Options) -> descent.Penalty:
    layers = options.layers or network.layers

    def penalty(
      params: PyTree,
      hidden: dict[str, jax.Array],
      mask: jax.Array | None,
      hparams: Hparams,
    ) -> jax.Array:
      kernels = dense_kernels(params, layers)
      alphas = layer_alphas(
        hparams.strength, kernels, order=order, units=options.alpha_units
      )
      return bean_jax.bean_penalty(
        {layer: hidden[layer] for layer in layers},
        jax.lax.stop_gradient(kernels) if frozen else kernels,
        alpha=alphas,
        order=order,
        gamma=options.gamma,
        distance=options.distance,
        where=mask,
      )

    return penalty

  return make


# Maps (activations [batch, n], mask, number of the layer, options) to the mean
# over samples and pairs of neurons of A times distance, A of mean 1.
Divergence = Callable[[jax.Array, jax.Array | None, int, Options], jax.Array]


def _bean_without_wiring(divergence: Divergence) -> Penalty:
  """Replaces BEAN-1's A by one that has nothing to do with wiring.

  It is the same for all members and steps but for a factor without gradient
  that gives it the mean of the A which it replaces.
  """

  def make(network: Network, options: Options) -> descent.Penalty:
    layers = options.layers or network.layers

    def penalty(
      params: PyTree,
      hidden: dict[str, jax.Array],
      mask: jax.Array | None,
      hparams: Hparams,
    ) -> jax.Array:
      kernels = jax.lax.stop_gradient(dense_kernels(params, layers))
      alphas = layer_alphas(1.0, kernels, order=1, units=options.alpha_units)
      total = 0.0
      for layer, kernel in kernels.items():
        strength = correlation.relative_strength(kernel, options.gamma)
        # The mean of F F' / M, which is not formed.
        mean = jnp.mean(jnp.mean(strength, axis=0) ** 2)
        place = network.layers.index(layer)
        distance = divergence(hidden[layer], mask, place, options)
        total += alphas[layer] * mean * distance
      return hparams.strength * total

    return penalty

  return make


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
_EVALUATION = ("dropout_at_eval",)
_BEAN1_ALPHAS = (0.1, 1.0, 10.0, 30.0, 100.0)
# Of constant A, whose distance is the squared one.
_CONSTANT_OPTIONS = ("gamma", "alpha_units", "layers")


def _half(hparams: Hparams) -> float:
  """The rate beside a penalty, which dropout alone chooses for most shots."""
  del hparams
  return 0.5


def _bean_method(
  title: str,
  order: int,
  grid: tuple[float, ...],
  *,
  frozen: bool = False,
  dropout_rate: descent.Rate | None = None,
) -> Method:
  return Method(
    title,
    "alpha",
    grid,
    _BEAN_OPTIONS + _EVALUATION * (dropout_rate is not None),
    _descent(_bean(order, frozen=frozen), dropout_rate=dropout_rate),
    step_cost=8 if order == 1 else 40,
  )


def _imitation_settings(options: Options) -> imitation.Settings:
  return imitation.Settings(
    first=options.first_pseudo,
    last=options.last_pseudo,
    num_periods=options.pseudo_periods,
    epochs=options.pseudo_epochs,
  )


def _imitation(
  network: Network, stream: Stream, schedule: Schedule, options: Options
) -> Learner:
  del stream, schedule
  return imitation.make_learner(network, _imitation_settings(options))


METHODS = {
  "vanilla": Method("Vanilla", None, (0.0,), (), _descent()),
  "dropout": Method(
    "Dropout",
    "rate",
    (0.1, 0.25, 0.5, 0.75, 0.9),
    _EVALUATION,
    _descent(dropout_rate=_strength),
    limit=1.0,
  ),
  "weight_decay": Method(
    "Weight decay",
    "decay",
    (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ("decoupled_decay",),
    _descent(_weight_decay, optimizer=_adam_with_decay),
  ),
  "l1": Method("l1", "l1", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), (), _descent(_l1)),
  "imitation": Method(
    "Imitation networks",
    "ascent_rate",
    imitation.GRID,
    IMITATION_OPTIONS,
    _imitation,
    optimizer="nadam",
    pace=lambda options: imitation.schedule(_imitation_settings(options)),
    cost=lambda options, num_samples: imitation.cost(
      _imitation_settings(options), num_shots=num_samples
    ),
  ),
  "bean1": _bean_method("BEAN-1", 1, _BEAN1_ALPHAS),
  "bean2": _bean_method("BEAN-2", 2, (1.0, 10.0, 100.0, 1e3, 1e4)),
  "vanilla10": Method(
    "Vanilla, batches of 10", None, (0.0,), (), _descent(), batch=10
  ),
  "group_lasso": Method(
    "Group lasso", "lasso", (1e-5, 1e-4, 1e-3, 1e-2), (), _descent(_group_lasso)
  ),
  "decov": Method(
    "DeCov",
    "decov",
    (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    (),
    _descent(_decov),
    batch=10,
    whole_batch=True,
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
    _descent(_bean_without_wiring(_random_divergence)),
    step_cost=30,
  ),
  "bean1_constant": Method(
    "BEAN-1, A constant",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS,
    _descent(_bean_without_wiring(_constant_divergence)),
  ),
  "mean_square": Method(
    "Mean square of activations",
    "activity",
    (1e-3, 1e-2, 0.1, 1.0, 10.0),
    ("layers",),
    _descent(_mean_square),
  ),
  "bean1_dropout": _bean_method(
    "BEAN-1 and dropout",
    1,
    (0.01, 0.1, 1.0, 10.0, 100.0),
    dropout_rate=_half,
  ),
  "bean2_dropout": _bean_method(
    "BEAN-2 and dropout",
    2,
    (0.1, 1.0, 10.0, 100.0, 1e3),
    dropout_rate=_half,
  ),
  "bean1_constant_dropout": Method(
    "BEAN-1, A constant, and dropout",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS + _EVALUATION,
    _descent(_bean_without_wiring(_constant_divergence), dropout_rate=_half),
  ),
}

# Those that learn from a training set of any size.
OF_ANY_SIZE = tuple(name for name, m in METHODS.items() if m.pace is None)
