"""The compared methods, one entry of `METHODS` each: a row of a table.

To add a method, add an entry; flags, cells, tables and figures follow. Most are
a penalty or an optimizer of `descent`; any function that makes a `Learner` will
do.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import optax

from experiments.architectures.networks import Network
from experiments.learning import (
  chains,
  competing_units,
  descent,
  hebbian,
  imitation,
  nonnegative,
  penalties,
)
from experiments.learning.learner import Hparams, Learner, Schedule
from experiments.learning.options import (
  COMPETING_OPTIONS,
  IMITATION_OPTIONS,
  Options,
)
from experiments.learning.streams import Stream

PyTree = Any


Maker = Callable[[Network, Stream, Schedule, Options], Learner]


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
      for a method that takes the run's.
    network: Name of the network that it trains, with its usual initial
      parameters, whatever that of a run; None for a method that takes the
      run's.
    nonnegative: Whether its weights stay at 0 or above, so that inputs must not
      be negative.
    shots_alone: Whether it learns from few shots alone.
    cost: Maps (options, number of samples) to the work of a whole training of
      its own pace, without validation.
    in_table1: Whether it is a row of Table 1 unless the script is told so.
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
  network: str | None = None
  nonnegative: bool = False
  shots_alone: bool = False
  cost: Callable[[Options, int], int] | None = None
  in_table1: bool = True


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


def _descent(
  penalty: penalties.Maker | None = None,
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


def _nonnegative(penalty: penalties.Maker | None = None) -> Maker:
  """Returns what makes learners of a loss whose kernels stay at 0 or above."""
  make = _descent(
    penalty, optimizer=lambda options: nonnegative.optimizer(descent.adam)
  )
  return lambda network, *rest: make(nonnegative.network(network), *rest)


def _strength(hparams: Hparams) -> jax.Array:
  return hparams.strength


def _adam_with_decay(options: Options) -> descent.Optimizer:
  if not options.decoupled_decay:
    return descent.adam
  return lambda hparams: optax.adamw(
    hparams.learning_rate, weight_decay=hparams.strength
  )


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
    _descent(penalties.bean(order, frozen=frozen), dropout_rate=dropout_rate),
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


def _predictive_coding(
  title: str, rule: str, grid: tuple[float, ...], step_cost: int
) -> Method:
  def make(
    network: Network, stream: Stream, schedule: Schedule, options: Options
  ) -> Learner:
    del options
    gradient = chains.predictive_gradient(network, rule)
    return descent.make_learner(network, stream, schedule, gradient=gradient)

  return Method(
    f"Predictive coding, {title}",
    "step_size",
    grid,
    (),
    make,
    whole_batch=True,
    step_cost=step_cost,
    in_table1=False,
  )


def _competing(
  title: str, num_units: int, settings: competing_units.Settings
) -> Method:
  def chosen(options: Options) -> competing_units.Settings:
    return settings._replace(
      competing_epochs=options.competing_epochs,
      readout_epochs=options.readout_epochs,
    )

  def make(
    network: Network, stream: Stream, schedule: Schedule, options: Options
  ) -> Learner:
    del schedule
    return competing_units.make_learner(network, stream, chosen(options))

  return Method(
    f"{title}, {num_units:,} units",
    "delta",
    (0.0, 0.2, 0.4),
    COMPETING_OPTIONS,
    make,
    whole_batch=True,
    pace=lambda options: competing_units.schedule(chosen(options)),
    network=f"competing{num_units}",
    nonnegative=settings.nonnegative,
    cost=lambda options, num_samples: competing_units.cost(
      chosen(options), num_samples
    ),
    in_table1=False,
  )


def _hebbian(title: str, settings: hebbian.Settings) -> Method:
  def make(
    network: Network, stream: Stream, schedule: Schedule, options: Options
  ) -> Learner:
    del options
    return hebbian.make_learner(network, stream, schedule, settings)

  return Method(
    title,
    "cost",
    (0.0, 0.1, 0.3),
    (),
    make,
    whole_batch=True,
    pace=lambda options: hebbian.SCHEDULE,
    network="mlp500",
    nonnegative=settings.nonnegative,
    in_table1=False,
  )


_HEBBIAN = hebbian.Settings()
# Of the published demonstration, and of the paper.
_FEW_UNITS = competing_units.Settings(norm=2.0, rank=2, step_size=0.02)
_MANY_UNITS = competing_units.Settings(norm=3.0, rank=7, step_size=0.04)

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
    _descent(penalties.weight_decay, optimizer=_adam_with_decay),
  ),
  "l1": Method(
    "l1", "l1", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), (), _descent(penalties.l1)
  ),
  "imitation": Method(
    "Imitation networks",
    "ascent_rate",
    imitation.GRID,
    IMITATION_OPTIONS,
    _imitation,
    optimizer="nadam",
    shots_alone=True,
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
    "Group lasso",
    "lasso",
    (1e-5, 1e-4, 1e-3, 1e-2),
    (),
    _descent(penalties.group_lasso),
  ),
  "decov": Method(
    "DeCov",
    "decov",
    (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    (),
    _descent(penalties.decov),
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
    _descent(penalties.bean_without_wiring(penalties.random_divergence)),
    step_cost=30,
  ),
  "bean1_constant": Method(
    "BEAN-1, A constant",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS,
    _descent(penalties.bean_without_wiring(penalties.constant_divergence)),
  ),
  "mean_square": Method(
    "Mean square of activations",
    "activity",
    (1e-3, 1e-2, 0.1, 1.0, 10.0),
    ("layers",),
    _descent(penalties.mean_square),
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
    _descent(
      penalties.bean_without_wiring(penalties.constant_divergence),
      dropout_rate=_half,
    ),
  ),
  "nonnegative": Method(
    "Non-negative",
    None,
    (0.0,),
    (),
    _nonnegative(),
    nonnegative=True,
    in_table1=False,
  ),
  "nonnegative_bean1": Method(
    "Non-negative, BEAN-1",
    "alpha",
    _BEAN1_ALPHAS,
    _BEAN_OPTIONS,
    _nonnegative(penalties.bean(1)),
    step_cost=8,
    baseline="nonnegative",
    nonnegative=True,
    in_table1=False,
  ),
  "nonnegative_bean2": Method(
    "Non-negative, BEAN-2",
    "alpha",
    (1.0, 10.0, 100.0, 1e3, 1e4),
    _BEAN_OPTIONS,
    _nonnegative(penalties.bean(2)),
    step_cost=40,
    baseline="nonnegative",
    nonnegative=True,
    in_table1=False,
  ),
  "pc_fixed": _predictive_coding(
    "fixed predictions", "fixed", (0.1, 0.3, 1.0), 10
  ),
  "pc_strict": _predictive_coding(
    "strict", "strict", (0.01, 0.03, 0.1, 0.3), 15
  ),
  "competing100": _competing("Competing units", 100, _FEW_UNITS),
  "competing2000": _competing("Competing units", 2000, _MANY_UNITS),
  "nonnegative_competing100": _competing(
    "Non-negative, competing units", 100, _FEW_UNITS._replace(nonnegative=True)
  ),
  "nonnegative_competing2000": _competing(
    "Non-negative, competing units",
    2000,
    _MANY_UNITS._replace(nonnegative=True),
  ),
  "hebbian": _hebbian("Hebbian", _HEBBIAN),
  "hebbian_signed": _hebbian(
    "Hebbian, weights of both signs", _HEBBIAN._replace(nonnegative=False)
  ),
  "hebbian_alone": _hebbian(
    "Hebbian, no competition", _HEBBIAN._replace(competition=False)
  ),
  "hebbian_unbiased": _hebbian(
    "Hebbian, no biases", _HEBBIAN._replace(bias_rate=0.0)
  ),
  "hebbian_gradient": _hebbian(
    "Hebbian, read-out by its gradient", _HEBBIAN._replace(size=0.0)
  ),
}

# Rows of Table 1: the paper's methods, and what explains them.
TABLE1 = tuple(name for name, m in METHODS.items() if m.in_table1)
# Those that learn from a training set of any size.
OF_ANY_SIZE = tuple(name for name, m in METHODS.items() if not m.shots_alone)
