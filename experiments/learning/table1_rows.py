"""The rows of Table 1: the paper's methods, and what explains them.

Most are a penalty of `penalties`; all are trained by descent.
"""

import jax
import optax

from experiments.architectures.networks import Network
from experiments.learning import descent, imitation, method, penalties
from experiments.learning.learner import Hparams, Learner, Schedule
from experiments.learning.method import Method
from experiments.learning.options import IMITATION_OPTIONS, Options
from experiments.learning.streams import Stream

BEAN_OPTIONS = ("gamma", "distance", "alpha_units", "layers")
_EVALUATION = ("dropout_at_eval",)
BEAN1_ALPHAS = (0.1, 1.0, 10.0, 30.0, 100.0)
# Of constant A, whose distance is the squared one.
_CONSTANT_OPTIONS = ("gamma", "alpha_units", "layers")


def _strength(hparams: Hparams) -> jax.Array:
  return hparams.strength


def _adam_with_decay(options: Options) -> descent.Optimizer:
  if not options.decoupled_decay:
    return descent.adam
  return lambda hparams: optax.adamw(
    hparams.learning_rate, weight_decay=hparams.strength
  )


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
    BEAN_OPTIONS + _EVALUATION * (dropout_rate is not None),
    method.of_loss(
      penalties.bean(order, frozen=frozen), dropout_rate=dropout_rate
    ),
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


ROWS = {
  "vanilla": Method("Vanilla", None, (0.0,), (), method.of_loss()),
  "dropout": Method(
    "Dropout",
    "rate",
    (0.1, 0.25, 0.5, 0.75, 0.9),
    _EVALUATION,
    method.of_loss(dropout_rate=_strength),
    limit=1.0,
  ),
  "weight_decay": Method(
    "Weight decay",
    "decay",
    (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ("decoupled_decay",),
    method.of_loss(penalties.weight_decay, optimizer=_adam_with_decay),
  ),
  "l1": Method(
    "l1", "l1", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2), (), method.of_loss(penalties.l1)
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
  "bean1": _bean_method("BEAN-1", 1, BEAN1_ALPHAS),
  "bean2": _bean_method("BEAN-2", 2, (1.0, 10.0, 100.0, 1e3, 1e4)),
  "vanilla10": Method(
    "Vanilla, batches of 10", None, (0.0,), (), method.of_loss(), batch=10
  ),
  "group_lasso": Method(
    "Group lasso",
    "lasso",
    (1e-5, 1e-4, 1e-3, 1e-2),
    (),
    method.of_loss(penalties.group_lasso),
  ),
  "decov": Method(
    "DeCov",
    "decov",
    (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    (),
    method.of_loss(penalties.decov),
    batch=10,
    whole_batch=True,
    step_cost=20,
    baseline="vanilla10",
  ),
  "bean1_frozen": _bean_method(
    "BEAN-1, A frozen", 1, BEAN1_ALPHAS, frozen=True
  ),
  "bean2_frozen": _bean_method(
    "BEAN-2, A frozen", 2, (0.1, 1.0, 10.0, 100.0, 1e3), frozen=True
  ),
  "bean1_random": Method(
    "BEAN-1, A random",
    "alpha",
    BEAN1_ALPHAS,
    BEAN_OPTIONS,
    method.of_loss(penalties.bean_without_wiring(penalties.random_divergence)),
    step_cost=30,
  ),
  "bean1_constant": Method(
    "BEAN-1, A constant",
    "alpha",
    (0.01, 0.1, 1.0, 10.0, 100.0),
    _CONSTANT_OPTIONS,
    method.of_loss(
      penalties.bean_without_wiring(penalties.constant_divergence)
    ),
  ),
  "mean_square": Method(
    "Mean square of activations",
    "activity",
    (1e-3, 1e-2, 0.1, 1.0, 10.0),
    ("layers",),
    method.of_loss(penalties.mean_square),
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
    method.of_loss(
      penalties.bean_without_wiring(penalties.constant_divergence),
      dropout_rate=_half,
    ),
  ),
}
