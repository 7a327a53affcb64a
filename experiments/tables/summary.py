"""Table and figures of a run's records: what it has shown."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np
from numpy.typing import ArrayLike

from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.tables import canvas, figures, markdown, paper, stats, versions


def kept(record: Record, name: str) -> dict[int, float]:
  """Returns a metric by seed, without the simulations that failed."""
  values = zip(record["seeds"], results.metric(record, name), strict=True)
  return {seed: value for seed, value in values if np.isfinite(value)}


def mean(values: stats.BySeed) -> float:
  """Returns the mean over seeds."""
  return float(np.mean(list(values.values())))


def percent(interval: stats.Interval, form: str, factor: float = 100) -> str:
  """Formats fractions in percent: "46.1 [43.6, 48.5]" with the form ".1f"."""
  middle, low, high = (format(factor * number, form) for number in interval)
  return middle if np.isnan(interval.low) else f"{middle} [{low}, {high}]"


def mean_percent(values: ArrayLike | stats.BySeed, form: str) -> str:
  """Formats the mean of fractions with its interval; "" without any."""
  return percent(stats.mean_interval(values), form) if len(values) else ""


def won(differences: np.ndarray) -> str:
  """Says how many differences are above 0, as "3 of 4"; "" without any."""
  wins = np.count_nonzero(differences > 0)
  return f"{wins} of {differences.size}" if differences.size else ""


def chosen(
  records: Sequence[Record], metric: str = "validation_accuracy"
) -> list[Record]:
  """Chooses each method's strength, at each number of shots if there are.

  The greatest mean wins, the first of equals; a cell of which every simulation
  failed is never chosen.
  """
  best: dict[tuple, tuple[float, int]] = {}
  for index, record in enumerate(records):
    accuracy = kept(record, metric)
    key = record["config"].get("shots"), record["config"]["method"]
    if accuracy and (key not in best or mean(accuracy) > best[key][0]):
      best[key] = mean(accuracy), index
  return [records[index] for index in sorted(i for _, i in best.values())]


def table(records: Sequence[Record]) -> str:
  """Formats records of one dataset, all with shots or none, as Markdown.

  A star marks those which `chosen` chooses. Accuracies are means in percent
  with 95 % bootstrap intervals over seeds; differences are paired by seed with
  the vanilla record of the same shots. The training loss is the mean
  cross-entropy of the last epoch.
  """
  stars = chosen(records)
  baselines = {
    record["config"].get("shots"): kept(record, "test_accuracy")
    for record in records
    if methods.METHODS[record["config"]["method"]].baseline is None
  }
  rows = [
    _row(
      record,
      baselines.get(record["config"].get("shots"), {}),
      is_chosen=any(record is star for star in stars),
    )
    for record in records
  ]
  return markdown.table(list(rows[0]), [list(row.values()) for row in rows])


def _row(
  record: Record, baseline: stats.BySeed, *, is_chosen: bool
) -> dict[str, str]:
  """Returns a line of the table by the titles of its columns."""
  config = record["config"]
  method = methods.METHODS[config["method"]]
  few = "shots" in config
  tested = kept(record, "test_accuracy")
  others = baseline if method.baseline else {}
  gains = stats.differences(tested, others)

  def accuracy(name: str) -> str:
    return mean_percent(kept(record, name), ".2f") or "none"

  row = {"shots": str(config["shots"])} if few else {}
  row["method"] = method.title
  row["strength"] = ""
  if method.hparam:
    strength = f"{method.hparam} {methods.strength(config):g}"
    row["strength"] = strength + " *" * is_chosen
  row["test accuracy, best epoch"] = accuracy("test_accuracy")
  row["last epoch"] = accuracy("test_accuracy_last")
  row["difference to vanilla"] = mean_percent(gains, "+.2f")
  if few:
    row["seeds won"] = won(gains)
  row["validation"] = accuracy("validation_accuracy")
  if not few:
    row |= _course(record)
  row["failed"] = str(len(record["seeds"]) - len(tested))
  if few:
    place = config["dataset"], config["method"], config["shots"]
    row["paper"] = paper.printed(*place) if is_chosen else ""
  return row


def _course(record: Record) -> dict[str, str]:
  """Says how long training went on, and how far."""
  losses = results.metric(record, "train_loss_curve")
  losses = losses[results.metric(record, "failed_step") < 0]
  # There are none after a simulation's last epoch.
  last = [row[np.isfinite(row)][-1] for row in losses]
  epochs = results.metric(record, "epochs").astype(int)
  converged = results.metric(record, "converged")
  return {
    "training loss": f"{np.mean(last):.2g}" if last else "none",
    "epochs": f"{epochs.min()} to {epochs.max()}",
    "converged": f"{converged.sum():.0f} of {len(converged)}",
  }


def write(
  records: Sequence[Record], directory: pathlib.Path, *, title: str = ""
) -> str:
  """Writes `table.md` into a folder, with a title; returns the table alone."""
  made = table(records)
  text = f"{title}\n\n" * bool(title) + f"{made}\n"
  if note := versions.mixed(records):
    text += f"\n{note}\n"
  results.write_bytes(directory / "table.md", text.encode())
  return made


def draw(records: Sequence[Record], directory: pathlib.Path) -> None:
  """Draws records of one dataset into a folder that exists.

  `accuracy_against_strength*.png` and `learning_curves*.png`, of each number of
  shots if there are, and then `accuracy_against_shots.png` too.
  """
  dataset = paper.title(records[0]["config"]["dataset"])
  accuracies = {}
  for record in chosen(records):
    place = record["config"]["method"], record["config"].get("shots")
    accuracies[place] = kept(record, "test_accuracy")
  numbers = {shots for _, shots in accuracies}
  if numbers - {None}:
    draw_shots(
      directory / "accuracy_against_shots.png",
      accuracies,
      f"{dataset}: test accuracy, strength chosen on validation images",
    )
  for shots in sorted(numbers, key=lambda number: number or 0):
    own = [r for r in records if r["config"].get("shots") == shots]
    suffix = "" if shots is None else f"_{shots}shot"
    title = dataset if shots is None else f"{dataset}, {shots}-shot"
    path = directory / f"learning_curves{suffix}.png"
    with canvas.attempt(path):
      figures.learning_curves(
        path,
        [_curve(record) for record in chosen(own)],
        title=f"{title}: validation accuracy",
      )
    path = directory / f"accuracy_against_strength{suffix}.png"
    with canvas.attempt(path):
      _draw_strengths(own, path, f"{title}: test accuracy")


def draw_shots(
  path: pathlib.Path,
  accuracies: Mapping[tuple[str, int], stats.BySeed],
  title: str,
) -> None:
  """Draws accuracies {(method, shots): by seed}, if there are any."""
  series: dict[str, list[tuple[int, stats.Interval]]] = {}
  for (name, shots), values in accuracies.items():
    if values:
      points = series.setdefault(methods.METHODS[name].title, [])
      points.append((shots, stats.mean_interval(values)))
  if series:
    lines = [
      (label, *zip(*points, strict=True)) for label, points in series.items()
    ]
    with canvas.attempt(path):
      figures.accuracy_against_shots(path, lines, title=title)


def against_strength(
  records: Sequence[Record], metric: str
) -> tuple[list[float], list[stats.Interval]]:
  """Returns the strengths that kept a simulation, and the metric's means."""
  values = [(methods.strength(r["config"]), kept(r, metric)) for r in records]
  return (
    [number for number, found in values if found],
    [stats.mean_interval(found) for _, found in values if found],
  )


def _draw_strengths(
  records: Sequence[Record], path: pathlib.Path, title: str
) -> None:
  baseline = None
  by_method: dict[str, list[Record]] = {}
  for record in records:
    name = record["config"]["method"]
    method = methods.METHODS[name]
    values = kept(record, "test_accuracy")
    if values and method.baseline is None:
      baseline = method.title, stats.mean_interval(values)
    elif values and method.hparam:
      by_method.setdefault(name, []).append(record)
  if by_method:
    hparams = dict.fromkeys(methods.METHODS[name].hparam for name in by_method)
    figures.accuracy_against_hparam(
      path,
      [
        (methods.METHODS[name].title, *against_strength(own, "test_accuracy"))
        for name, own in by_method.items()
      ],
      title=title,
      xlabel=" or ".join(hparams),
      baseline=baseline,
    )


def _curve(record: Record) -> tuple[str, np.ndarray, np.ndarray]:
  """Returns label, epochs and validation accuracies, NaN of who failed."""
  method = methods.METHODS[record["config"]["method"]]
  label = method.title
  if method.hparam:
    label += f", {method.hparam} = {methods.strength(record['config']):g}"
  values = results.metric(record, "validation_accuracy_curve")
  for row in values:
    # Who has converged stays what it is.
    row[np.isnan(row)] = row[np.isfinite(row)][-1:].sum()
  values[results.metric(record, "failed_step") >= 0] = np.nan
  every = record["config"].get("validate_every", 1)
  return label, every * np.arange(1, values.shape[1] + 1), values
