"""Which figures a run has, and what is drawn in them."""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

import bean_jax
from experiments import datasets
from experiments.assemblies import (
  clusters,
  figures,
  measures,
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
  path: pathlib.Path,
  cells: summary.Group,
  picked: Sequence[summary.Cell],
  measured: Mapping[str, sources.Source],
  loaded: Mapping[str, datasets.Dataset],
) -> None:
  """Draws a group.

  Args:
    path: With which the names of all files begin.
    cells: Cells of the group.
    picked: Those whose networks are drawn, at least one.
    measured: Checkpoints by the digest that records have.
    loaded: Datasets by name.

  Raises:
    results.ResultError: If a file cannot be written.
  """

  def place(what: str) -> pathlib.Path:
    return path.with_name(f"{path.name}-{what}")

  panels = {
    title: {cell.title: cell.values(metric) for cell in picked}
    for title, metric in _PANELS.items()
  }
  untrained = cells[0].values("untrained_silhouettes_live")
  panels["weights as they are"]["before training"] = untrained
  num_classes = cells[0].values("ablation_class_accuracy").shape[1]
  figures.silhouettes(place("silhouettes"), panels, num_classes=num_classes)
  if len({cell.strength for cell in cells if cell.strength}) > 1:
    figures.against_strength(place("strength"), _strength_panels(cells))
  portraits = [portrait(cell, measured, loaded) for cell in picked]
  figures.maps(place("maps"), portraits)
  figures.ablations(place("ablation"), portraits)
  for cell, drawn in zip(picked, portraits, strict=True):
    name = f"{cell.method}-{cell.strength:g}" if cell.strength else cell.method
    figures.coactivation(place(f"{name}-coactivation"), drawn)
    figures.wiring(place(f"{name}-wiring"), drawn)


def portrait(
  cell: summary.Cell,
  measured: Mapping[str, sources.Source],
  loaded: Mapping[str, datasets.Dataset],
) -> figures.Portrait:
  """Looks at the first simulation of a cell once more, neuron by neuron."""
  record = cell.records[0]
  config = record["config"]
  source = measured[config["checkpoint_sha256"]]
  dataset = loaded[source.config["dataset"]]
  seed = source.config["seed"]
  trained, _ = sources.trained_and_untrained(
    source, dataset, config["layer"], which=config["epoch"]
  )
  rescaled = measures.rescaled(trained)
  settings = measures.Settings(
    **{name: config[name] for name in measures.Settings._fields}
  )
  order = 2 if cell.method.startswith("bean2") else 1
  return figures.Portrait(
    title=f"{cell.title}, seed {seed}",
    kernel=trained.kernel,
    correlation=np.asarray(
      bean_jax.neuron_correlation(
        trained.kernel, order=order, gamma=source.config.get("gamma", 1.0)
      )
    ),
    neurons=measures.neurons(trained, settings, seed=seed),
    places=clusters.embed(trained.kernel, seed=seed),
    rescaled_neurons=measures.neurons(rescaled, settings, seed=seed),
    rescaled_places=clusters.embed(rescaled.kernel, seed=seed),
    metrics={
      name: results.metric(record, name)[0] for name in record["metrics"]
    },
  )


def _strength_panels(
  cells: summary.Group,
) -> dict[str, list[figures.Line]]:
  panels = {
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
  by_method: dict[str, list[summary.Cell]] = {}
  for cell in cells:
    by_method.setdefault(methods.METHODS[cell.method].title, []).append(cell)
  for title, own in by_method.items():
    # An axis of logarithms has no place for 0.
    by_method[title] = [cell for cell in own if cell.strength] or own
  return {
    label: [
      figures.Line(
        title,
        [cell.strength for cell in own],
        [value(cell) for cell in own],
        [control(cell) for cell in own] if control else None,
      )
      for title, own in by_method.items()
    ]
    for label, (value, control) in panels.items()
  }
