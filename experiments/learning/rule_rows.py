"""Learning rules beside the methods of Table 1; most do no backpropagation."""

from experiments.architectures.networks import Network
from experiments.learning import (
  chains,
  competing_units,
  descent,
  hebbian,
  method,
  nonnegative,
  penalties,
)
from experiments.learning.learner import Learner, Schedule
from experiments.learning.method import Maker, Method
from experiments.learning.options import COMPETING_OPTIONS, Options
from experiments.learning.streams import Stream
from experiments.learning.table1_rows import BEAN1_ALPHAS, BEAN_OPTIONS


def _nonnegative(penalty: penalties.Maker | None = None) -> Maker:
  """Returns what makes learners of a loss whose kernels stay at 0 or above."""
  make = method.of_loss(
    penalty, optimizer=lambda options: nonnegative.optimizer(descent.adam)
  )
  return lambda network, *rest: make(nonnegative.network(network), *rest)


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
  )


_HEBBIAN = hebbian.Settings()
# Of the published demonstration, and of the paper.
_FEW_UNITS = competing_units.Settings(norm=2.0, rank=2, step_size=0.02)
_MANY_UNITS = competing_units.Settings(norm=3.0, rank=7, step_size=0.04)

ROWS = {
  "nonnegative": Method(
    "Non-negative",
    None,
    (0.0,),
    (),
    _nonnegative(),
    nonnegative=True,
  ),
  "nonnegative_bean1": Method(
    "Non-negative, BEAN-1",
    "alpha",
    BEAN1_ALPHAS,
    BEAN_OPTIONS,
    _nonnegative(penalties.bean(1)),
    step_cost=8,
    baseline="nonnegative",
    nonnegative=True,
  ),
  "nonnegative_bean2": Method(
    "Non-negative, BEAN-2",
    "alpha",
    (1.0, 10.0, 100.0, 1e3, 1e4),
    BEAN_OPTIONS,
    _nonnegative(penalties.bean(2)),
    step_cost=40,
    baseline="nonnegative",
    nonnegative=True,
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
