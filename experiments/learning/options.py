"""Choices that methods depend on."""

from typing import NamedTuple


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
    competing_epochs: Epochs of competing hidden units, without labels.
    readout_epochs: Epochs of the read-out after them.
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
  competing_epochs: int = 200
  readout_epochs: int = 300


IMITATION_OPTIONS = (
  "first_pseudo",
  "last_pseudo",
  "pseudo_periods",
  "pseudo_epochs",
)
COMPETING_OPTIONS = ("competing_epochs", "readout_epochs")
# Options that every record of a method that depends on them names, though they
# have their usual values.
ALWAYS_NAMED = (
  "gamma",
  "distance",
  "alpha_units",
  *IMITATION_OPTIONS,
  *COMPETING_OPTIONS,
)
