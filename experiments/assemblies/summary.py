"""Tables of what was measured: means over seeds with bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.assemblies import sources
from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.tables import markdown, stats, summary

SELECTIONS = ("chosen", "clustered", "all")


class Cell(NamedTuple):
  """Simulations that differ in their seed alone."""

  method: str  # Name in `methods.METHODS`.
  strength: float  # The method's hyper-parameter, 0 where it has none.
  records: tuple[Record, ...]  # One a seed.

  @property
  def title(self) -> str:
    """Its name for people."""
    method = methods.METHODS[self.method]
    strength = f" {method.hparam}={self.strength:g}" if method.hparam else ""
    return method.title + strength

  def values(self, name: str) -> np.ndarray:
    """Returns a metric of every seed [num_seeds, ...]."""
    return np.concatenate(
      [results.metric(record, name) for record in self.records]
    )

  def at_classes(self, name: str) -> np.ndarray:
    """Returns silhouettes at as many clusters as classes [num_seeds]."""
    num_classes = self.values("ablation_class_accuracy").shape[1]
    return self.values(name)[:, num_classes - 2]


Group = tuple[Cell, ...]


def groups(records: Sequence[Record]) -> dict[str, Group]:
  """Groups records, in their order, as {"mnist-lenet5-fc3": cells, ...}."""
  found: dict[str, dict[tuple[str, float], list[Record]]] = {}
  for record in records:
    config = record["config"]
    trained = config["checkpoint"]
    epoch = "-last" if config["epoch"] == "last" else ""
    group = f"{sources.setting(trained)}-{config['layer']}{epoch}"
    cell = trained["method"], methods.strength(trained)
    found.setdefault(group, {}).setdefault(cell, []).append(record)
  return {
    name: tuple(Cell(*key, tuple(found)) for key, found in cells.items())
    for name, cells in found.items()
  }


def chosen(cells: Group) -> list[Cell]:
  """Returns each method's cell of best mean validation accuracy."""
  return _best_of_each(cells, _accuracy)


def clustered(cells: Group, *, margin: float) -> list[Cell]:
  """Returns each method's most clustered cell that is still accurate.

  Of mean validation accuracy, a fraction, it may lack a margin of that of the
  vanilla networks, of the best where there are none. What counts is the mean
  silhouette of live neurons with weights of equal norm.
  """
  vanilla = [
    cell for cell in cells if not methods.METHODS[cell.method].baseline
  ]
  least = max(map(_accuracy, vanilla or cells)) - margin
  return _best_of_each(
    [cell for cell in cells if _accuracy(cell) >= least],
    lambda cell: np.nan_to_num(
      cell.at_classes("rescaled_silhouettes_live"), nan=-1.0
    ).mean(),
  )


def select(cells: Group, names: Sequence[str], *, margin: float) -> list[Cell]:
  """Picks cells for figures, by names of `SELECTIONS`, in their order."""
  picked = list(cells) if "all" in names else []
  if "chosen" in names:
    picked += chosen(cells)
  if "clustered" in names:
    picked += clustered(cells, margin=margin)
  return [cell for cell in cells if _is_in(cell, picked)]


def _accuracy(cell: Cell) -> float:
  return cell.values("validation_accuracy").mean()


def _is_in(cell: Cell, cells: Sequence[Cell]) -> bool:
  return any(cell is other for other in cells)


def _best_of_each(
  cells: Sequence[Cell], score: Callable[[Cell], float]
) -> list[Cell]:
  """Returns the first of each method's cells of highest score."""
  names = dict.fromkeys(cell.method for cell in cells)
  return [max((c for c in cells if c.method == n), key=score) for n in names]


def text(found: Mapping[str, Group], *, margin: float) -> str:
  """Formats groups as Markdown, a heading and tables each."""
  parts = []
  for name, cells in found.items():
    num_neurons = int(cells[0].values("num_neurons")[0])
    parts.append(f"## {name}: {num_neurons} neurons\n\n{_NOTE}")
    marked = {"*": chosen(cells), "+": clustered(cells, margin=margin)}
    titles = []
    for cell in cells:
      marks = "".join(m for m, own in marked.items() if _is_in(cell, own))
      # A method without strengths has nothing to choose.
      titles.append(f"{cell.title} {marks * bool(cell.strength)}".strip())
    for title, columns in _TABLES.items():
      rows = [
        (title, *(column(cell) for column in columns.values()))
        for title, cell in zip(titles, cells, strict=True)
      ]
      if title.startswith("Clusters"):
        rows.append(_untrained(cells[0], columns))
      parts.append(f"{title}\n\n" + markdown.table(("method", *columns), rows))
  return "\n\n".join(parts)


def interval(
  values: np.ndarray, digits: int = 2, factor: float = 1.0, *, sign: str = ""
) -> str:
  """Formats values [num_seeds] as "0.41 [0.39, 0.43]", mean and 95 % interval.

  Those that are not finite are left out, and counted. Of digits there are so
  many after the point, or -3 for three significant ones.
  """
  kept = factor * values[np.isfinite(values)]
  if not kept.size:
    return "none"
  form = f"{sign}.{-digits}g" if digits < 0 else f"{sign}.{digits}f"
  count = f" ({kept.size} of {values.size})" if kept.size < values.size else ""
  return summary.percent(stats.mean_interval(kept), form, factor=1) + count


def _plain(name: str, digits: int = 2, factor: float = 1.0) -> Callable:
  def column(cell: Cell) -> str:
    # Some numbers are of the last layer alone.
    if name not in cell.records[0]["metrics"]:
      return ""
    return interval(cell.values(name), digits, factor)

  return column


def _at_classes(name: str) -> Callable:
  return lambda cell: interval(cell.at_classes(name))


def _best_count(name: str) -> Callable:
  def column(cell: Cell) -> str:
    curves = cell.values(name)
    kept = curves[np.isfinite(curves).any(axis=1)]
    return interval(np.nanargmax(kept, axis=1) + 2.0, 0)

  return column


def _quotient(over: str, under: str) -> Callable:
  def column(cell: Cell) -> str:
    below = cell.values(under)
    quotients = np.full(below.shape, np.nan)
    np.divide(cell.values(over), below, out=quotients, where=below > 0)
    return interval(quotients, -3)

  return column


def _untrained(cell: Cell, columns: Mapping[str, Callable]) -> tuple[str, ...]:
  """Returns the row of the networks before training, equal for all cells."""
  instead = {
    "weights as they are": _at_classes("untrained_silhouettes"),
    "live neurons": _at_classes("untrained_silhouettes_live"),
    "dead": _plain("untrained_dead", 0),
  }
  row = [instead.get(name, lambda _: "")(cell) for name in columns]
  return ("before training", *row)


_NOTE = (
  "Means over seeds with 95 % bootstrap intervals. * strength of best "
  "validation accuracy; + most clustered strength that costs next to no "
  "accuracy. Equal norms: every neuron's outgoing weights scaled to norm 1 and "
  "its activations to match, which leaves the function of the network as it "
  "is. Permuted: the weights of each column shuffled over the neurons."
)

_TABLES: dict[str, dict[str, Callable[[Cell], str]]] = {
  "Clusters (Figure 2): silhouette of K-means with as many clusters as classes,"
  " in weight space but for the t-SNE plane; test accuracy in percent": {
    "seeds": lambda cell: str(len(cell.records)),
    "test accuracy": _plain("test_accuracy", factor=100),
    "weights as they are": _at_classes("trained_silhouettes"),
    "live neurons": _at_classes("trained_silhouettes_live"),
    "permuted": _at_classes("permuted_silhouettes_live"),
    "equal norms, live": _at_classes("rescaled_silhouettes_live"),
    "equal norms, permuted": _at_classes("permuted_rescaled_silhouettes_live"),
    "t-SNE plane": _plain("trained_silhouette_plane"),
    "t-SNE, equal norms": _plain("rescaled_silhouette_plane"),
    "t-SNE, permuted": _plain("permuted_silhouette_plane"),
    "best k": _best_count("trained_silhouettes_live"),
    "best k, equal norms": _best_count("rescaled_silhouettes_live"),
    "dead": _plain("trained_dead", 0),
  },
  "Classes (Figure 4): adjusted mutual information of clusters and preferred "
  "classes; the same with the class that each neuron's strongest connection "
  "leads to, how many of these inhibit it, and how many classes a neuron "
  "reaches (participation ratio)": {
    "AMI": _plain("trained_agreement"),
    "AMI, equal norms": _plain("rescaled_agreement"),
    "AMI, permuted": _plain("permuted_agreement"),
    "selectivity": _plain("trained_selectivity"),
    "AMI, target": _plain("trained_agreement_targets"),
    "equal norms": _plain("rescaled_agreement_targets"),
    "permuted": _plain("permuted_agreement_targets"),
    "inhibiting": _plain("trained_inhibiting"),
    "classes reached": _plain("trained_outputs", 1),
  },
  "Ablation (Figure 5): accuracy in points that a class loses when its own "
  "population is ablated, to zero or to the mean, or that of another, and the "
  "share of all losses that is its own; then with populations of the neurons "
  "whose strongest connection leads to the class, whichever they prefer": {
    "zero: own": _plain("ablation_zero_own", 1, 100),
    "other": _plain("ablation_zero_other", 1, 100),
    "share": _plain("ablation_zero_diagonality"),
    "random groups": _plain("ablation_zero_random_diagonality"),
    "mean: own": _plain("ablation_mean_own", 1, 100),
    "other ": _plain("ablation_mean_other", 1, 100),
    "share ": _plain("ablation_mean_diagonality"),
    "random groups ": _plain("ablation_mean_random_diagonality"),
    "wired to it, mean: own": _plain("targeting_mean_own", 1, 100),
    "other  ": _plain("targeting_mean_other", 1, 100),
    "share  ": _plain("targeting_mean_diagonality"),
  },
  "Graphs (Section 2.3, Figure 6): C4 (Eq. 8) of the strongest connections; "
  "BIG-ADO proximity (Eq. 9) of connected pairs over that of others; modularity"
  " of A (Eq. 5 and 7) under preferred classes; share of the variance of "
  "weights that is between preferred classes; co-activation divergence within "
  "over that between them": {
    "C4": _plain("trained_c4"),
    "equal norms": _plain("rescaled_c4"),
    "permuted": _plain("permuted_c4"),
    "proximity": _quotient(
      "trained_proximity_connected", "trained_proximity_unconnected"
    ),
    "permuted ": _quotient(
      "permuted_proximity_connected", "permuted_proximity_unconnected"
    ),
    "modularity, Eq. 5": _plain("trained_modularity1_preferred"),
    "Eq. 7": _plain("trained_modularity2_preferred"),
    "Eq. 5, equal norms": _plain("rescaled_modularity1_preferred"),
    "Eq. 5, clusters": _plain("trained_modularity1_assemblies"),
    "Eq. 5, permuted": _plain("permuted_modularity1_preferred"),
    "shared variance": _plain("trained_shared_variance_preferred"),
    "equal norms ": _plain("rescaled_shared_variance_preferred"),
    "permuted  ": _plain("permuted_shared_variance_preferred"),
    "divergence": _quotient(
      "trained_divergence_within_preferred",
      "trained_divergence_between_preferred",
    ),
  },
  "Scale: what the penalty can be lowered by without any structure; relative: "
  "penalty over mean squared activation, all weights of norm 1": {
    "activations, rms": _plain("trained_activation_rms", -3),
    "norm of weights, rms": _plain("trained_weight_norm", -3),
    "spread of norms": _plain("trained_weight_norm_spread"),
    "activations at norm 1": _plain("rescaled_activation_rms", -3),
    "penalty, order 1": _plain("trained_penalty1", -3),
    "order 2": _plain("trained_penalty2", -3),
    "relative, order 1": _plain("rescaled_penalty1_relative", -3),
    "relative, order 2": _plain("rescaled_penalty2_relative", -3),
  },
}
