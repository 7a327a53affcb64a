"""The rows of Table 1: the paper's methods, and what explains them.

Most are a penalty of `penalties`; all are trained by descent.
"""

import functools
from typing import Any

import optax

from experiments.architectures.networks import Network
from experiments.learning import descent, imitation, penalties
from experiments.learning.learner import Learner, Schedule
from experiments.learning.method import Maker, Method
from experiments.learning.options import IMITATION_OPTIONS, Options
from experiments.learning.streams import Stream

BEAN_OPTIONS = ("gamma", "distance", "alpha_units", "layers")
_EVALUATION = ("dropout_at_eval",)
BEAN1_ALPHAS = (0.1, 1.0, 10.0, 30.0, 100.0)
BEAN2_ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4)
# Of dropout: what it chooses alone for most shots, by validation images.
RATE_BESIDE_BEAN = 0.5
AND_DROPOUT = " and dropout"  # How titles of methods beside it end.
_LOWER_ALPHAS1 = (0.01, 0.1, 1.0, 10.0, 100.0)
_LOWER_ALPHAS2 = (0.1, 1.0, 10.0, 100.0, 1e3)


def of_loss(**terms: Any) -> Maker:
  """Returns what makes learners of a loss, as `descent.make_learner` does."""
  return functools.partial(descent.make_learner, **terms)


def _weight_decay(
  network: Network, stream: Stream, schedule: Schedule, options: Options
) -> Learner:
  make = of_loss(penalty=penalties.weight_decay)
  if options.decoupled_decay:
    make = of_loss(
      optimizer=lambda hparams: optax.adamw(
        hparams.learning_rate, weight_decay=hparams.strength
      )
    )
  return make(network, stream, schedule, options)


def _penalized(
  title: str,
  hparam: str,
  grid: tuple[float, ...],
  penalty: descent.Penalty,
  options: tuple[str, ...] = (),
  **fields: Any,
) -> Method:
  make = of_loss(penalty=penalty)
  return Method(title, hparam, grid, options, make, **fields)


def _bean(
  title: str, order: int, grid: tuple[float, ...], *, frozen: bool = False
) -> Method:
  penalty = penalties.bean(order, frozen=frozen)
  cost = 8 if order == 1 else 40
  return _penalized(title, "alpha", grid, penalty, BEAN_OPTIONS, step_cost=cost)


def _with_dropout(method: Method) -> Method:
  """Returns a method whose outputs of hidden dense layers are dropped too."""
  make = functools.partial(
    method.make, dropout_rate=lambda hparams: RATE_BESIDE_BEAN
  )
  return method._replace(
    title=method.title + AND_DROPOUT,
    options=method.options + _EVALUATION,
    make=make,
  )


_CONSTANT = _penalized(
  "BEAN-1, A constant",
  "alpha",
  _LOWER_ALPHAS1,
  penalties.bean_without_wiring(penalties.constant_divergence),
  # Its distance is the squared one.
  ("gamma", "alpha_units", "layers"),
)
_MEAN_SQUARE = _penalized(
  "Mean square of activations",
  "activity",
  (1e-3, 1e-2, 0.1, 1.0, 10.0),
  penalties.mean_square,
  ("layers",),
)

ROWS = {
  "vanilla": Method("Vanilla", None, (0.0,), (), of_loss(), baseline=None),
  "dropout": Method(
    "Dropout",
    "rate",
    (0.1, 0.25, 0.5, 0.75, 0.9),
    _EVALUATION,
    of_loss(dropout_rate=lambda hparams: hparams.strength),
    limit=1.0,
  ),
  "weight_decay": Method(
    "Weight decay",
    "decay",
    (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ("decoupled_decay",),
    _weight_decay,
  ),
  "l1": _penalized("l1", "l1", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), penalties.l1),
  "imitation": Method(
    "Imitation networks",
    "ascent_rate",
    imitation.GRID,
    IMITATION_OPTIONS,
    imitation.make_learner,
    optimizer="nadam",
    shots_alone=True,
    pace=imitation.schedule,
    cost=imitation.cost,
  ),
  "bean1": _bean("BEAN-1", 1, BEAN1_ALPHAS),
  "bean2": _bean("BEAN-2", 2, BEAN2_ALPHAS),
  "vanilla10": Method(
    "Vanilla, batches of 10", None, (0.0,), (), of_loss(), batch=10
  ),
  "group_lasso": _penalized(
    "Group lasso", "lasso", (1e-5, 1e-4, 1e-3, 1e-2), penalties.group_lasso
  ),
  "decov": _penalized(
    "DeCov",
    "decov",
    (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    penalties.decov,
    batch=10,
    whole_batch=True,
    step_cost=20,
    baseline="vanilla10",
  ),
  "bean1_frozen": _bean("BEAN-1, A frozen", 1, BEAN1_ALPHAS, frozen=True),
  "bean2_frozen": _bean("BEAN-2, A frozen", 2, _LOWER_ALPHAS2, frozen=True),
  "bean1_random": _penalized(
    "BEAN-1, A random",
    "alpha",
    BEAN1_ALPHAS,
    penalties.bean_without_wiring(penalties.random_divergence),
    BEAN_OPTIONS,
    step_cost=30,
  ),
  "bean1_constant": _CONSTANT,
  "mean_square": _MEAN_SQUARE,
  "bean1_dropout": _with_dropout(_bean("BEAN-1", 1, _LOWER_ALPHAS1)),
  "bean2_dropout": _with_dropout(_bean("BEAN-2", 2, _LOWER_ALPHAS2)),
  "bean1_constant_dropout": _with_dropout(
    _CONSTANT._replace(title="Constant A")
  ),
  "mean_square_dropout": _with_dropout(
    _MEAN_SQUARE._replace(title="Mean square")
  ),
}
