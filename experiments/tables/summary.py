"""Table and figures of few-shot records: what a run has shown."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from experiments.learning import methods
from experiments.records import results
from experiments.tables import canvas, figures, markdown, paper, stats

Record = dict[str, Any]

COLUMNS = (
  "shots",
  "method",
  "strength",
  "test accuracy, best epoch",
  "last epoch",
  "difference to vanilla",
  "seeds won",
  "validation",
  "failed",
  "paper",
)


def strength(record: Record) -> float | None:
  """Returns the hyper-parameter of a record's cell, None if it has none."""
  hparam = methods.METHODS[record["config"]["method"]].hparam
  return record["config"][hparam] if hparam else None


def chosen(records: Sequence[Record]) -> list[Record]:
  """Chooses the strength of each method at each number of shots.

  Args:
    records: Records of few-shot cells of one dataset.

  Returns:
    Those of best mean validation accuracy, in the order of the records; a cell
    of which every simulation failed is never chosen.
  """
  best: dict[tuple[int, str], tuple[float, int]] = {}
  for index, record in enumerate(records):
    accuracy = kept(record, "validation_accuracy")
    key = record["config"]["shots"], record["config"]["method"]
    if accuracy and (key not in best or mean(accuracy) > best[key][0]):
      best[key] = mean(accuracy), index
  return [
    records[index] for index in sorted(index for _, index in best.values())
  ]


def table(records: Sequence[Record]) -> str:
  """Formats records as a Markdown table, aligned for a terminal too.

  Args:
    records: Records of few-shot cells of one dataset.

  Returns:
    A line a record, a star at those which `chosen` chooses. Accuracies are
    means in percent with 95 % bootstrap intervals over seeds; differences are
    paired by seed with the vanilla record of the same shots; the paper's
    accuracy stands beside the strength that was chosen.
  """
  stars = chosen(records)
  baselines = {
    record["config"]["shots"]: kept(record, "test_accuracy")
    for record in records
    if record["config"]["method"] == "vanilla"
  }
  rows = [
    _row(record, baselines, any(record is star for star in stars))
    for record in records
  ]
  return markdown.table(COLUMNS, rows)


def write(records: Sequence[Record], directory: pathlib.Path) -> None:
  """Writes `table.md`.

  Args:
    records: Records of few-shot cells of one dataset.
    directory: Folder that exists.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  text = table(records) + "\n"
  if note := results.mixed_versions(records):
    text += f"\n{note}\n"
  results.write_bytes(directory / "table.md", text.encode())


def draw(records: Sequence[Record], directory: pathlib.Path) -> None:
  """Draws a run.

  `accuracy_against_shots.png`, and `accuracy_against_strength_*.png` and
  `learning_curves_*.png` of each number of shots.

  Args:
    records: Records of few-shot cells of one dataset.
    directory: Folder that exists.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  dataset = records[0]["config"]["dataset"]
  stars = chosen(records)
  if not stars:
    return
  path = directory / "accuracy_against_shots.png"
  with canvas.attempt(path):
    figures.accuracy_against_shots(
      path,
      _against_shots(stars),
      title=f"{dataset}: test accuracy, strength chosen on validation images",
    )
  for shots in sorted({record["config"]["shots"] for record in stars}):
    at_shots = [r for r in stars if r["config"]["shots"] == shots]
    path = directory / f"learning_curves_{shots}shot.png"
    with canvas.attempt(path):
      figures.learning_curves(
        path,
        [_curve(record) for record in at_shots],
        title=f"{dataset}, {shots}-shot: validation accuracy",
      )
    path = directory / f"accuracy_against_strength_{shots}shot.png"
    with canvas.attempt(path):
      _draw_strengths(
        [r for r in records if r["config"]["shots"] == shots],
        path,
        f"{dataset}, {shots}-shot: test accuracy",
      )


def _row(
  record: Record, baselines: dict[int, dict[int, float]], is_chosen: bool
) -> tuple[str, ...]:
  config = record["config"]
  method = methods.METHODS[config["method"]]
  best = kept(record, "test_accuracy")
  difference = wins = ""
  baseline = baselines.get(config["shots"])
  if config["method"] != "vanilla" and baseline and baseline.keys() & best:
    _, values, others = stats.align(best, baseline)
    paired = stats.paired_difference(values, others)
    difference = percent(paired.interval, "+.2f")
    wins = f"{paired.wins} of {paired.num_pairs}"
  if method.hparam:
    title = f"{method.hparam} {strength(record):g}" + " *" * is_chosen
  else:
    title = ""
  return (
    str(config["shots"]),
    method.title,
    title,
    _interval(best),
    _interval(kept(record, "test_accuracy_last")),
    difference,
    wins,
    _interval(kept(record, "validation_accuracy")),
    str(len(record["seeds"]) - len(best)),
    _of_paper(config) if is_chosen else "",
  )


def _of_paper(config: dict[str, Any]) -> str:
  """Returns the paper's accuracy for a cell of its Table 1, else nothing."""
  rows = paper.TABLE1.get(config["dataset"], {})
  accuracy = rows.get(config["method"], {}).get(config["shots"])
  return "" if accuracy is None else f"{accuracy:.2f}"


def kept(record: Record, name: str) -> dict[int, float]:
  """Returns a metric by seed, without the simulations that failed.

  Args:
    record: A record.
    name: Of a metric with one number a seed.
  """
  values = results.metric(record, name)
  return {
    seed: value
    for seed, value in zip(record["seeds"], values, strict=True)
    if np.isfinite(value)
  }


def mean(values: dict[int, float]) -> float:
  """Returns the mean over seeds."""
  return float(np.mean(list(values.values())))


def _interval(values: dict[int, float]) -> str:
  if not values:
    return "none"
  return percent(stats.mean_interval(list(values.values())), ".2f")


def percent(interval: stats.Interval, form: str) -> str:
  """Formats an interval of fractions in percent, such as "46.1 [43.6, 48.5]".

  Args:
    interval: A mean and its bounds, which are left out if they are NaN.
    form: Format of each number, such as ".2f".
  """
  middle, low, high = (format(100 * number, form) for number in interval)
  if np.isnan(interval.low):
    return middle
  return f"{middle} [{low}, {high}]"


def _against_shots(
  stars: Sequence[Record],
) -> list[tuple[str, list[int], list[stats.Interval]]]:
  series: dict[str, tuple[str, list[int], list[stats.Interval]]] = {}
  for record in stars:
    name = record["config"]["method"]
    title = methods.METHODS[name].title
    _, shots, intervals = series.setdefault(name, (title, [], []))
    shots.append(record["config"]["shots"])
    intervals.append(_test_interval(record))
  return list(series.values())


def _draw_strengths(
  records: Sequence[Record], path: pathlib.Path, title: str
) -> None:
  series: dict[str, tuple[str, list[float], list[stats.Interval]]] = {}
  baseline = None
  for record in records:
    if not kept(record, "test_accuracy"):
      continue
    name = record["config"]["method"]
    method = methods.METHODS[name]
    if name == "vanilla":
      baseline = method.title, _test_interval(record)
    elif method.hparam:
      _, values, intervals = series.setdefault(name, (method.title, [], []))
      values.append(strength(record))
      intervals.append(_test_interval(record))
  if series:
    names = dict.fromkeys(methods.METHODS[name].hparam for name in series)
    figures.accuracy_against_hparam(
      path,
      list(series.values()),
      title=title,
      xlabel=" or ".join(names),
      baseline=baseline,
    )


def _test_interval(record: Record) -> stats.Interval:
  return stats.mean_interval(list(kept(record, "test_accuracy").values()))


def _curve(record: Record) -> tuple[str, np.ndarray, np.ndarray]:
  method = methods.METHODS[record["config"]["method"]]
  label = method.title
  if method.hparam:
    label += f", {method.hparam} = {strength(record):g}"
  values = results.metric(record, "validation_accuracy_curve")
  values[results.metric(record, "failed_step") >= 0] = np.nan
  every = record["config"].get("validate_every", 1)
  return label, every * np.arange(1, values.shape[1] + 1), values
