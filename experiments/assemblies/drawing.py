"""Which figures a run has, and what is drawn in them."""

from collections.abc import Mapping, Sequence
import pathlib

from experiments import datasets
from experiments.assemblies import figures, measures, sources, summary
from experiments.records import results

_SILHOUETTES = {
  "weights as they are": "trained_silhouettes_live",
  "weights permuted": "permuted_silhouettes_live",
  "equal norms": "rescaled_silhouettes_live",
  "weights permuted, then equal norms": "permuted_rescaled_silhouettes_live",
}

# Metrics and controls.
_AGAINST_STRENGTH = {
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


def draw(
  path: pathlib.Path,
  cells: summary.Group,
  picked: Sequence[summary.Cell],
  known: Mapping[str, tuple[sources.Source, datasets.Dataset]],
) -> None:
  """Draws a group, and the networks of some of its cells.

  Args:
    path: With which the names of all files begin.
    cells: Cells of the group.
    picked: Those whose networks are drawn, at least one.
    known: Checkpoints, with their images, by the digest that records have.
  """

  def place(what: str) -> pathlib.Path:
    return path.with_name(f"{path.name}-{what}")

  panels = {
    title: {cell.title: cell.values(metric) for cell in picked}
    for title, metric in _SILHOUETTES.items()
  }
  untrained = cells[0].values("untrained_silhouettes_live")
  panels["weights as they are"]["before training"] = untrained
  num_classes = cells[0].values("ablation_class_accuracy").shape[1]
  figures.silhouettes(place("silhouettes"), panels, num_classes=num_classes)
  if len({cell.strength for cell in cells if cell.strength}) > 1:
    figures.against_strength(place("strength"), cells, _AGAINST_STRENGTH)
  portraits = [_portrait(cell, known) for cell in picked]
  figures.maps(place("maps"), portraits)
  figures.ablations(place("ablation"), portraits)
  for cell, drawn in zip(picked, portraits, strict=True):
    name = f"{cell.method}-{cell.strength:g}" if cell.strength else cell.method
    figures.coactivation(place(f"{name}-coactivation"), drawn)
    figures.wiring(place(f"{name}-wiring"), drawn)


def _portrait(
  cell: summary.Cell,
  known: Mapping[str, tuple[sources.Source, datasets.Dataset]],
) -> figures.Portrait:
  """Looks at the first simulation of a cell once more, neuron by neuron."""
  record = cell.records[0]
  config = record["config"]
  source, dataset = known[config["checkpoint_sha256"]]
  seed = source.config["seed"]
  trained, _ = sources.trained_and_untrained(
    source, dataset, config["layer"], which=config["epoch"]
  )
  return figures.portray(
    f"{cell.title}, seed {seed}",
    trained,
    {name: results.metric(record, name)[0] for name in record["metrics"]},
    measures.Settings(*(config[name] for name in measures.Settings._fields)),
    order=2 if cell.method.startswith("bean2") else 1,
    gamma=source.config.get("gamma", 1.0),
    seed=seed,
  )
