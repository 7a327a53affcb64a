"""The table of full-data records: what a run has shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.learning import methods
from experiments.records import results
from experiments.tables import markdown, stats

Record = dict[str, Any]

COLUMNS = (
  "method",
  "strength",
  "test accuracy, best epoch",
  "last epoch",
  "difference to vanilla",
  "validation",
  "training loss",
  "epochs",
  "converged",
  "failed",
)


def chosen(records: Sequence[Record]) -> list[Record]:
  """Chooses the strength of each method.

  Args:
    records: Records of full-data cells of one dataset and model.

  Returns:
    Those of best mean validation accuracy, in the order of the records; a cell
    of which every simulation failed is never chosen.
  """
  best: dict[str, tuple[float, int]] = {}
  for index, record in enumerate(records):
    values = list(kept(record, "validation_accuracy").values())
    method = record["config"]["method"]
    if values and (method not in best or np.mean(values) > best[method][0]):
      best[method] = float(np.mean(values)), index
  return [records[index] for index in sorted(i for _, i in best.values())]


def kept(record: Record, name: str) -> dict[int, float]:
  """Returns a metric [] by seed, without the simulations that failed."""
  values = results.metric(record, name)
  return {
    seed: float(value)
    for seed, value in zip(record["seeds"], values, strict=True)
    if np.isfinite(value)
  }


def table(records: Sequence[Record]) -> str:
  """Formats records as a Markdown table, aligned for a terminal too.

  Args:
    records: Records of full-data cells of one dataset and model.

  Returns:
    A line a record, a star at those which `chosen` chooses. Accuracies are
    means in percent with 95 % bootstrap intervals over seeds; differences are
    paired by seed with the vanilla record. The training loss is the mean
    cross-entropy of the last epoch.
  """
  stars = chosen(records)
  baseline = {}
  for record in records:
    if record["config"]["method"] == "vanilla":
      baseline = kept(record, "test_accuracy")
  rows = [
    _row(record, baseline, any(record is star for star in stars))
    for record in records
  ]
  return markdown.table(COLUMNS, rows)


def _row(
  record: Record, baseline: dict[int, float], is_chosen: bool
) -> tuple[str, ...]:
  config = record["config"]
  method = methods.METHODS[config["method"]]
  best = kept(record, "test_accuracy")
  difference = ""
  if config["method"] != "vanilla" and best.keys() & baseline:
    _, values, others = stats.align(best, baseline)
    difference = _percent(stats.paired_difference(values, others).interval, "+")
  strength = ""
  if method.hparam:
    strength = f"{method.hparam} {config[method.hparam]:g}" + " *" * is_chosen
  epochs = results.metric(record, "epochs").astype(int)
  losses = results.metric(record, "train_loss_curve")
  last = losses[np.arange(len(epochs)), epochs - 1]
  finite = last[np.isfinite(last)]
  return (
    method.title,
    strength,
    _interval(best),
    _interval(kept(record, "test_accuracy_last")),
    difference,
    _interval(kept(record, "validation_accuracy")),
    f"{finite.mean():.2g}" if finite.size else "none",
    f"{epochs.min()} to {epochs.max()}",
    f"{results.metric(record, 'converged').sum():.0f} of {len(epochs)}",
    str(len(epochs) - len(best)),
  )


def _interval(values: dict[int, float]) -> str:
  if not values:
    return "none"
  return _percent(stats.mean_interval(list(values.values())))


def _percent(interval: stats.Interval, sign: str = "") -> str:
  mean, low, high = (format(100 * number, f"{sign}.2f") for number in interval)
  if np.isnan(interval.low):
    return mean
  return f"{mean} [{low}, {high}]"
