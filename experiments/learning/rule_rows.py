"""Learning rules beside the methods of Table 1; most do no backpropagation."""

import functools

from experiments.architectures.networks import Network
from experiments.learning import (
  chains,
  competing_units,
  descent,
  hebbian,
  nonnegative,
)
from experiments.learning.learner import Learner
from experiments.learning.method import Method
from experiments.learning.options import COMPETING_OPTIONS
from experiments.learning.table1_rows import ROWS as TABLE1_ROWS, of_loss


def _nonnegative(method: Method, title: str, **fields: str) -> Method:
  """Returns a method of a loss, with kernels that stay at 0 or above."""

  def make(network: Network, *rest: tuple) -> Learner:
    optimizer = nonnegative.optimizer(descent.adam)
    network = nonnegative.network(network)
    return method.make(network, *rest, optimizer=optimizer)

  return method._replace(title=title, make=make, nonnegative=True, **fields)


def _predictive_coding(
  title: str, rule: str, grid: tuple[float, ...], step_cost: int
) -> Method:
  gradient = functools.partial(chains.predictive_gradient, rule=rule)
  return Method(
    f"Predictive coding, {title}",
    "step_size",
    grid,
    (),
    of_loss(gradient=gradient),
    whole_batch=True,
    step_cost=step_cost,
  )


def _competing(
  num_units: int, rule: competing_units.Rule, title: str = "Competing units"
) -> Method:
  return Method(
    f"{title}, {num_units:,} units",
    "delta",
    (0.0, 0.2, 0.4),
    COMPETING_OPTIONS,
    functools.partial(competing_units.make_learner, rule=rule),
    whole_batch=True,
    pace=competing_units.schedule,
    network=f"competing{num_units}",
    nonnegative=rule.nonnegative,
    cost=competing_units.cost,
  )


def _nonnegative_competing(
  num_units: int, rule: competing_units.Rule
) -> Method:
  rule = rule._replace(nonnegative=True)
  return _competing(num_units, rule, "Non-negative, competing units")


def _hebbian(title: str, **choices: float | bool) -> Method:
  rule = hebbian.Rule(**choices)
  return Method(
    title,
    "cost",
    (0.0, 0.1, 0.3, 0.5, 0.7),
    (),
    functools.partial(hebbian.make_learner, rule=rule),
    whole_batch=True,
    pace=lambda options: hebbian.SCHEDULE,
    network="mlp500",
    nonnegative=rule.nonnegative,
  )


# Of the published demonstration, and of the paper.
_FEW_UNITS = competing_units.Rule(norm=2.0, rank=2, step_size=0.02)
_MANY_UNITS = competing_units.Rule(norm=3.0, rank=7, step_size=0.04)

ROWS = {
  "nonnegative": _nonnegative(
    TABLE1_ROWS["vanilla"], "Non-negative", baseline="vanilla"
  ),
  "nonnegative_bean1": _nonnegative(
    TABLE1_ROWS["bean1"], "Non-negative, BEAN-1", baseline="nonnegative"
  ),
  "nonnegative_bean2": _nonnegative(
    TABLE1_ROWS["bean2"], "Non-negative, BEAN-2", baseline="nonnegative"
  ),
  "pc_fixed": _predictive_coding(
    "fixed predictions", "fixed", (0.001, 0.01, 0.1, 1.0), 10
  ),
  "pc_strict": _predictive_coding(
    "strict", "strict", (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1), 15
  ),
  "competing100": _competing(100, _FEW_UNITS),
  "competing2000": _competing(2000, _MANY_UNITS),
  "nonnegative_competing100": _nonnegative_competing(100, _FEW_UNITS),
  "nonnegative_competing2000": _nonnegative_competing(2000, _MANY_UNITS),
  "hebbian": _hebbian("Hebbian"),
  "hebbian_signed": _hebbian(
    "Hebbian, weights of both signs", nonnegative=False
  ),
  "hebbian_alone": _hebbian("Hebbian, no competition", competition=False),
  "hebbian_unbiased": _hebbian("Hebbian, no biases", bias_rate=0.0),
  "hebbian_gradient": _hebbian("Hebbian, read-out by its gradient", size=0.0),
}
