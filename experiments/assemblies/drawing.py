"""Which figures a run has, and what is drawn in them."""

from collections.abc import Mapping
import pathlib

import numpy as np

import bean_jax
from experiments import datasets
from experiments.assemblies import (
  clusters,
  figures,
  measures,
  records,
  sources,
  summary,
)
from experiments.learning import methods
from experiments.records import results

_PANELS = {
  "weights as they are": "trained_silhouettes_live",
  "weights permuted": "permuted_silhouettes_live",
  "equal norms": "rescaled_silhouettes_live",
  "weights permuted, then equal norms": "permuted_rescaled_silhouettes_live",
}


def draw(
  config: records.Config,
  name: str,
  cells: summary.Group,
  measured: Mapping[str, sources.Source],
  loaded: Mapping[str, datasets.Dataset],
) -> list[pathlib.Path]:
  """Draws a group.

  Args:
    config: The run.
    name: Of the group, with which the names of all files begin.
    cells: Its cells.
    measured: Checkpoints by the digest that records have.
    loaded: Datasets by name.

  Returns:
    The files, without their endings. None if `config.figures` is empty.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  picked = summary.select(cells, config.figures, margin=config.margin)
  if not picked:
    return []
  folder = config.output_dir
  num_classes = cells[0].values("ablation_class_accuracy").shape[1]
  files = [folder / f"{name}-silhouettes"]
  figures.silhouettes(
    files[0],
    [
      (title, _curves(picked, cells, metric, title))
      for title, metric in _PANELS.items()
    ],
    num_classes=num_classes,
  )
  if len({cell.strength for cell in cells if cell.strength}) > 1:
    files.append(folder / f"{name}-strength")
    figures.against_strength(
      files[-1], _strength_panels(cells), xlabel="strength"
    )
  portraits = [portrait(config, cell, measured, loaded) for cell in picked]
  for what, function in (
    ("maps", figures.maps),
    ("ablation", figures.ablations),
  ):
    files.append(folder / f"{name}-{what}")
    function(files[-1], portraits)
  for cell, drawn in zip(picked, portraits, strict=True):
    for what, function in (
      ("coactivation", figures.coactivation),
      ("wiring", figures.wiring),
    ):
      strength = f"-{cell.strength:g}" if cell.strength else ""
      files.append(folder / f"{name}-{cell.method}{strength}-{what}")
      function(files[-1], drawn)
  return files


def portrait(
  config: records.Config,
  cell: summary.Cell,
  measured: Mapping[str, sources.Source],
  loaded: Mapping[str, datasets.Dataset],
) -> figures.Portrait:
  """Looks at one simulation of a cell once more, neuron by neuron.

  Args:
    config: The run.
    cell: The cell; its simulation of `config.figure_seed` is taken, or its
      first where it has none of that seed.
    measured: Checkpoints by the digest that records have.
    loaded: Datasets by name.

  Returns:
    What is drawn.
  """
  record = next(
    (r for r in cell.records if r["seeds"][0] == config.figure_seed),
    cell.records[0],
  )
  source = measured[record["config"]["checkpoint_sha256"]]
  seed = source.config["seed"]
  trained, _ = sources.trained_and_untrained(
    source,
    loaded[source.config["dataset"]],
    record["config"]["layer"],
    which=config.epoch,
  )
  rescaled = measures.rescaled(trained)
  order = 2 if cell.method.startswith("bean2") else 1
  return figures.Portrait(
    title=f"{cell.title}, seed {seed}",
    kernel=trained.kernel,
    correlation=np.asarray(
      bean_jax.neuron_correlation(
        trained.kernel, order=order, gamma=source.config.get("gamma", 1.0)
      )
    ),
    neurons=measures.neurons(trained, config.settings, seed=seed),
    places=clusters.embed(trained.kernel, seed=seed),
    rescaled_neurons=measures.neurons(rescaled, config.settings, seed=seed),
    rescaled_places=clusters.embed(rescaled.kernel, seed=seed),
    metrics={
      name: results.metric(record, name)[0] for name in record["metrics"]
    },
  )


def _curves(
  picked: list[summary.Cell], cells: summary.Group, metric: str, title: str
) -> list[tuple[str, np.ndarray]]:
  lines = [(cell.title, cell.values(metric)) for cell in picked]
  if title == next(iter(_PANELS)):
    untrained = cells[0].values("untrained_silhouettes_live")
    lines.append(("before training", untrained))
  return lines


def _strength_panels(cells: summary.Group) -> list[tuple[str, list[tuple]]]:
  names = list(dict.fromkeys(cell.method for cell in cells))
  values = {
    "test accuracy (%)": (lambda c: 100 * c.values("test_accuracy"), None),
    "silhouette\n(thin: permuted)": (
      lambda c: c.at_classes("trained_silhouettes_live"),
      lambda c: c.at_classes("permuted_silhouettes_live"),
    ),
    "silhouette, equal norms\n(thin: permuted)": (
      lambda c: c.at_classes("rescaled_silhouettes_live"),
      lambda c: c.at_classes("permuted_rescaled_silhouettes_live"),
    ),
    "share of own losses\n(to the mean; thin: random)": (
      lambda c: c.values("ablation_mean_diagonality"),
      lambda c: c.values("ablation_mean_random_diagonality"),
    ),
  }
  panels = []
  for label, (value, control) in values.items():
    lines = []
    for name in names:
      own = [cell for cell in cells if cell.method == name]
      # An axis of logarithms has no place for 0.
      own = [cell for cell in own if cell.strength] or own
      lines.append(
        (
          methods.METHODS[name].title,
          np.array([cell.strength for cell in own]),
          [value(cell) for cell in own],
          [control(cell) for cell in own] if control else None,
        )
      )
    panels.append((label, lines))
  return panels
