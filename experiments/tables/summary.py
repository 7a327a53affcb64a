"""Table and figures of a run's records: what it has shown."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.learning import methods
from experiments.records import results
from experiments.tables import canvas, figures, markdown, paper, stats

Record = dict[str, Any]


def strength(record: Record) -> float | None:
  """Returns the hyper-parameter of a record's cell, None if it has none."""
  hparam = methods.METHODS[record["config"]["method"]].hparam
  return record["config"][hparam] if hparam else None


def chosen(records: Sequence[Record]) -> list[Record]:
  """Chooses the strength of each method, at each number of shots if there are.

  Args:
    records: Records of cells of one dataset.

  Returns:
    Those of best mean validation accuracy, in the order of the records; a cell
    of which every simulation failed is never chosen.
  """
  best: dict[tuple, tuple[float, int]] = {}
  for index, record in enumerate(records):
    accuracy = kept(record, "validation_accuracy")
    key = record["config"].get("shots"), record["config"]["method"]
    if accuracy and (key not in best or mean(accuracy) > best[key][0]):
      best[key] = mean(accuracy), index
  return [
    records[index] for index in sorted(index for _, index in best.values())
  ]


def table(records: Sequence[Record]) -> str:
  """Formats records as a Markdown table, aligned for a terminal too.

  Args:
    records: Records of cells of one dataset, all with shots or none.

  Returns:
    A line a record, a star at those which `chosen` chooses. Accuracies are
    means in percent with 95 % bootstrap intervals over seeds; differences are
    paired by seed with the vanilla record of the same shots; the paper's
    accuracy stands beside the strength that was chosen. The training loss is
    the mean cross-entropy of the last epoch.
  """
  stars = chosen(records)
  baselines = {
    record["config"].get("shots"): kept(record, "test_accuracy")
    for record in records
    if record["config"]["method"] == "vanilla"
  }
  lines = []
  for record in records:
    baseline = baselines.get(record["config"].get("shots"))
    is_chosen = any(record is star for star in stars)
    lines.append(_Line(record, _paired(record, baseline), is_chosen))
  has_shots = any("shots" in record["config"] for record in records)
  columns = [c for c in _COLUMNS if c.with_shots in (None, has_shots)]
  return markdown.table(
    [column.title for column in columns],
    [[column.text(line) for column in columns] for line in lines],
  )


def write(
  records: Sequence[Record], directory: pathlib.Path, *, title: str = ""
) -> None:
  """Writes `table.md`.

  Args:
    records: Records of cells of one dataset.
    directory: Folder that exists.
    title: Above the table.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  text = f"{title}\n\n" * bool(title) + f"{table(records)}\n"
  if note := results.mixed_versions(records):
    text += f"\n{note}\n"
  results.write_bytes(directory / "table.md", text.encode())


def draw(records: Sequence[Record], directory: pathlib.Path) -> None:
  """Draws a run.

  `accuracy_against_strength*.png` and `learning_curves*.png`, of each number of
  shots if there are, and then `accuracy_against_shots.png` too.

  Args:
    records: Records of cells of one dataset.
    directory: Folder that exists.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  dataset = paper.title(records[0]["config"]["dataset"])
  stars = chosen(records)
  numbers = {record["config"].get("shots") for record in stars}
  if numbers - {None}:
    path = directory / "accuracy_against_shots.png"
    with canvas.attempt(path):
      figures.accuracy_against_shots(
        path,
        _against_shots(stars),
        title=f"{dataset}: test accuracy, strength chosen on validation images",
      )
  for shots in sorted(numbers, key=lambda number: number or 0):
    suffix = "" if shots is None else f"_{shots}shot"
    title = dataset if shots is None else f"{dataset}, {shots}-shot"
    path = directory / f"learning_curves{suffix}.png"
    with canvas.attempt(path):
      figures.learning_curves(
        path,
        [_curve(r) for r in stars if r["config"].get("shots") == shots],
        title=f"{title}: validation accuracy",
      )
    path = directory / f"accuracy_against_strength{suffix}.png"
    with canvas.attempt(path):
      _draw_strengths(
        [r for r in records if r["config"].get("shots") == shots],
        path,
        f"{title}: test accuracy",
      )


class _Line(NamedTuple):
  """What a line of the table is made of.

  Attributes:
    record: The record.
    paired: Its difference to vanilla, or None.
    is_chosen: Whether `chosen` chooses it.
  """

  record: Record
  paired: stats.PairedDifference | None
  is_chosen: bool


class _Column(NamedTuple):
  """A column of the table.

  Attributes:
    title: Above it.
    text: Maps a line to what stands there.
    with_shots: Whether it stands in tables of few shots or in others; None for
      both.
  """

  title: str
  text: Callable[[_Line], str]
  with_shots: bool | None = None


def _paired(
  record: Record, baseline: dict[int, float] | None
) -> stats.PairedDifference | None:
  values = kept(record, "test_accuracy")
  if record["config"]["method"] == "vanilla" or not baseline:
    return None
  if not baseline.keys() & values:
    return None
  _, own, others = stats.align(values, baseline)
  return stats.paired_difference(own, others)


def _method(line: _Line) -> methods.Method:
  return methods.METHODS[line.record["config"]["method"]]


def _strength(line: _Line) -> str:
  hparam = _method(line).hparam
  if not hparam:
    return ""
  return f"{hparam} {strength(line.record):g}" + " *" * line.is_chosen


def _difference(line: _Line) -> str:
  return percent(line.paired.interval, "+.2f") if line.paired else ""


def _seeds_won(line: _Line) -> str:
  if line.paired is None:
    return ""
  return f"{line.paired.wins} of {line.paired.num_pairs}"


def _accuracy(name: str) -> Callable[[_Line], str]:
  return lambda line: _interval(kept(line.record, name))


def _train_loss(line: _Line) -> str:
  losses = results.metric(line.record, "train_loss_curve")
  losses = losses[results.metric(line.record, "failed_step") < 0]
  # There are none after a simulation's last epoch.
  last = [row[np.isfinite(row)][-1] for row in losses]
  return f"{np.mean(last):.2g}" if last else "none"


def _epochs(line: _Line) -> str:
  epochs = results.metric(line.record, "epochs").astype(int)
  return f"{epochs.min()} to {epochs.max()}"


def _converged(line: _Line) -> str:
  converged = results.metric(line.record, "converged")
  return f"{converged.sum():.0f} of {len(converged)}"


def _failed(line: _Line) -> str:
  failed = len(line.record["seeds"]) - len(kept(line.record, "test_accuracy"))
  return str(failed)


_COLUMNS = (
  _Column("shots", lambda line: str(line.record["config"]["shots"]), True),
  _Column(
    "method",
    lambda line: _method(line).title,
  ),
  _Column("strength", _strength),
  _Column("test accuracy, best epoch", _accuracy("test_accuracy")),
  _Column("last epoch", _accuracy("test_accuracy_last")),
  _Column("difference to vanilla", _difference),
  _Column("seeds won", _seeds_won, True),
  _Column("validation", _accuracy("validation_accuracy")),
  _Column("training loss", _train_loss, False),
  _Column("epochs", _epochs, False),
  _Column("converged", _converged, False),
  _Column("failed", _failed),
  _Column(
    "paper",
    lambda line: _of_paper(line.record["config"]) if line.is_chosen else "",
    True,
  ),
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
  for row in values:
    # Who has converged stays what it is.
    row[np.isnan(row)] = row[np.isfinite(row)][-1:].sum()
  values[results.metric(record, "failed_step") >= 0] = np.nan
  every = record["config"].get("validate_every", 1)
  return label, every * np.arange(1, values.shape[1] + 1), values
