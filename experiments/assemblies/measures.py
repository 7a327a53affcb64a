"""Everything that is measured of a layer and of its controls.

A layer is looked at five times: as it was `trained`; `rescaled`, all neurons
having outgoing weights of norm 1 and the network its function; `permuted`, the
weights of each column shuffled over the neurons; `permuted_rescaled`, both; and
`untrained`, with its initial parameters. What differs from `permuted` is
structure beyond the distribution of weights; what differs between `trained` and
`rescaled` is scale.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax
from bean_jax import assemblies
from experiments.assemblies import ablation, clusters
from experiments.assemblies.sources import Layer
from experiments.command import parsing

SUBJECTS = (
  "trained",
  "rescaled",
  "permuted",
  "permuted_rescaled",
  "untrained",
)
# Those that t-SNE is run for, which takes longer than all the rest.
PLANES = ("trained", "rescaled", "permuted")
PARTITIONS = ("assemblies", "preferred")

Metrics = dict[str, float | np.ndarray]


class Settings(NamedTuple):
  """How layers are looked at.

  Attributes:
    max_clusters: Silhouettes are taken for 2 clusters to this many.
    restarts: Initializations of each K-means.
    tolerance: What a dead neuron sends, relative to the strongest one.
    density: Share of the connections that make the graph of C4 and BIG-ADO,
      the strongest of them.
    controls: Random groups for each ablated population.
  """

  max_clusters: int = 20
  restarts: int = 10
  tolerance: float = 0.01
  density: float = 0.2
  controls: int = 20


class Neurons(NamedTuple):
  """What is known of each neuron of a layer.

  Attributes:
    dead: Boolean [N].
    profiles: Class-conditional mean activations [C, N].
    selectivity: Indices [N].
    preferred: Classes [N]; -1 for none, as for dead neurons.
    assemblies: Clusters [N], as many as classes; -1 for dead neurons.
  """

  dead: np.ndarray
  profiles: np.ndarray
  selectivity: np.ndarray
  preferred: np.ndarray
  assemblies: np.ndarray


def subjects(
  trained: Layer, untrained: Layer, *, seed: int
) -> dict[str, Layer]:
  """Makes what a layer is compared with.

  Args:
    trained: The layer.
    untrained: The same before training.
    seed: Of the permutations.

  Returns:
    A layer for each of `SUBJECTS`.
  """
  (kernel, bias), *rest = trained.dense
  shuffled = clusters.permute(kernel, seed=seed)
  permuted = trained._replace(dense=((shuffled, bias), *rest))
  return {
    "trained": trained,
    "rescaled": rescaled(trained),
    "permuted": permuted,
    "permuted_rescaled": rescaled(permuted),
    "untrained": untrained,
  }


def rescaled(layer: Layer) -> Layer:
  """Gives all neurons outgoing weights of norm 1, and activations to match."""
  scales = np.asarray(assemblies.unit_scales(layer.kernel))
  (kernel, bias), *rest = layer.dense
  return layer._replace(
    activations=layer.activations * scales,
    dense=((kernel / scales[:, None], bias), *rest),
  )


def neurons(layer: Layer, settings: Settings, *, seed: int) -> Neurons:
  """Looks at each neuron of a layer.

  Args:
    layer: The layer.
    settings: How.
    seed: Of K-means.

  Returns:
    What is known of them.
  """
  dead = np.asarray(
    assemblies.dead_neurons(
      layer.activations, layer.kernel, tolerance=settings.tolerance
    )
  )
  profiles = assemblies.class_profiles(
    layer.activations, layer.labels, num_classes=layer.num_classes
  )
  preferred = np.array(assemblies.preferred_classes(profiles))
  members = np.full(len(dead), -1)
  members[~dead] = clusters.assemble(
    layer.kernel[~dead],
    layer.num_classes,
    restarts=settings.restarts,
    seed=seed,
  )
  return Neurons(
    dead=dead,
    profiles=np.asarray(profiles),
    selectivity=np.asarray(assemblies.selectivity(profiles)),
    preferred=np.where(dead, -1, preferred),
    assemblies=members,
  )


def measure(
  layers: dict[str, Layer], settings: Settings, *, gamma: float, seed: int
) -> Metrics:
  """Measures a layer and its controls.

  Args:
    layers: What `subjects` made.
    settings: How.
    gamma: Slope of the neuron correlation.
    seed: Of everything random.

  Returns:
    Numbers and arrays by name, NaN where one is not defined: `SUBJECT_...` for
    each subject; for the trained network `ablation_...`, populations being the
    neurons that prefer a class, and, where the layer is the last one,
    `targeting_...`, those whose strongest connection leads to the class.
  """
  metrics: Metrics = {}
  for name, layer in layers.items():
    known = neurons(layer, settings, seed=seed)
    values = (
      _shapes(layer, known, settings, seed)
      | _wiring(layer, known, settings, gamma)
      | _norms(layer, gamma)
    )
    if name in PLANES:
      values["silhouette_plane"] = _plane(layer, settings, seed)
    metrics |= {f"{name}_{key}": value for key, value in values.items()}
    if name == "trained":
      metrics |= _ablation("ablation", layer, known.preferred, settings, seed)
      if len(layer.dense) == 1:
        wired = targets(layer.kernel, known.dead)
        metrics |= _ablation("targeting", layer, wired, settings, seed)
  return metrics


def _shapes(
  layer: Layer, known: Neurons, settings: Settings, seed: int
) -> Metrics:
  """Returns what K-means and preferred classes say."""
  counts = range(2, settings.max_clusters + 1)
  options = {"restarts": settings.restarts, "seed": seed}
  kernel, live = layer.kernel, ~known.dead
  every = clusters.silhouettes(kernel, counts, **options)
  alive = every
  if known.dead.any():
    alive = clusters.silhouettes(kernel[live], counts, **options)
  return {
    "silhouettes": every,
    "silhouettes_live": alive,
    "silhouette_preferred": clusters.silhouette(kernel, known.preferred),
    "dead": float(known.dead.sum()),
    "unpreferred": float((known.preferred < 0).sum()),
    "selectivity": float(known.selectivity[live].mean())
    if live.any()
    else np.nan,
    "agreement": clusters.agreement(known.assemblies, known.preferred),
    "classes_preferred": float(
      len(np.unique(known.preferred[known.preferred >= 0]))
    ),
    **_targets(kernel, known),
  }


def _plane(layer: Layer, settings: Settings, seed: int) -> float:
  """Returns the silhouette of K-means in the t-SNE plane.

  t-SNE draws clusters tighter than they are: this is no measure of them, but
  it may be what the paper reports.
  """
  places = clusters.embed(layer.kernel, seed=seed)
  members = clusters.assemble(
    places, layer.num_classes, restarts=settings.restarts, seed=seed
  )
  return clusters.silhouette(places, members)


def _targets(kernel: np.ndarray, known: Neurons) -> Metrics:
  """Returns what is known of each live neuron's strongest connection.

  BEAN's correlation does not see the sign of weights: an assembly may as well
  inhibit a neuron of the next layer as excite it, and prefers other classes
  then.
  """
  live = ~known.dead
  wired = targets(kernel, known.dead)
  strongest_weight = kernel[np.arange(len(kernel)), wired]
  squares = np.square(kernel[live], dtype=np.float64)
  return {
    "agreement_targets": clusters.agreement(known.assemblies, wired),
    "inhibiting": _mean(strongest_weight[live] < 0),
    # The participation ratio: 1 for one connection, M for M equal ones.
    "outputs": _mean(squares.sum(axis=1) ** 2 / (squares**2).sum(axis=1)),
  }


def targets(kernel: np.ndarray, dead: np.ndarray) -> np.ndarray:
  """Finds where the strongest connection of each neuron leads.

  Args:
    kernel: Outgoing weights [N, M].
    dead: Boolean [N].

  Returns:
    Neurons of the next layer [N]; -1 for dead neurons.
  """
  return np.where(dead, -1, np.argmax(np.abs(kernel), axis=1))


def _wiring(
  layer: Layer, known: Neurons, settings: Settings, gamma: float
) -> Metrics:
  """Returns what graphs of the layer say."""
  kernel = layer.kernel
  strength = np.tanh(gamma * np.abs(kernel))
  graph = strongest(strength, settings.density)
  near = np.asarray(assemblies.proximity(graph, paths=True))
  values: Metrics = {
    "c4": float(assemblies.clustering_coefficient(graph)),
    "c4_weighted": float(assemblies.clustering_coefficient(strength)),
    # How many more 3-paths connected pairs have than others.
    "proximity_connected": _mean(near[graph > 0]),
    "proximity_unconnected": _mean(near[graph == 0]),
    "proximity": _mean(np.asarray(assemblies.proximity(strength))),
  }
  divergence = bean_jax.coactivation_divergence(layer.activations)
  correlations = {
    order: bean_jax.neuron_correlation(kernel, order=order, gamma=gamma)
    for order in (1, 2)
  }
  for name in PARTITIONS:
    members = getattr(known, name)
    within, between = assemblies.outgoing_variance(kernel, members)
    values[f"shared_variance_{name}"] = _share(between, within)
    for what, matrix in (
      ("correlation", correlations[1]),
      ("correlation2", correlations[2]),
      ("divergence", divergence),
    ):
      within, between = assemblies.cohesion(matrix, members)
      values[f"{what}_within_{name}"] = float(within)
      values[f"{what}_between_{name}"] = float(between)
    for order, matrix in correlations.items():
      values[f"modularity{order}_{name}"] = float(
        assemblies.modularity(matrix, members)
      )
  return values


def _norms(layer: Layer, gamma: float) -> Metrics:
  """Returns sizes of activations and weights, and the penalties."""
  norms = np.linalg.norm(layer.kernel.astype(np.float64), axis=1)
  values: Metrics = {
    "activation_rms": float(
      np.sqrt(np.mean(np.square(layer.activations, dtype=np.float64)))
    ),
    "weight_norm": float(np.sqrt(np.mean(norms**2))),
    "weight_norm_median": float(np.median(norms)),
    "weight_norm_spread": float(norms.std() / norms.mean())
    if norms.any()
    else 0.0,
  }
  for order in (1, 2):
    penalty = float(
      bean_jax.layer_penalty(
        jnp.asarray(layer.activations),
        jnp.asarray(layer.kernel),
        order=order,
        gamma=gamma,
      )
    )
    values[f"penalty{order}"] = penalty
    # Free of the scale of activations; of that of weights too where all have
    # the same norm.
    size = values["activation_rms"] ** 2
    values[f"penalty{order}_relative"] = penalty / size if size > 0 else 0.0
  return values


def _ablation(
  name: str,
  layer: Layer,
  populations: np.ndarray,
  settings: Settings,
  seed: int,
) -> Metrics:
  """Returns what the ablation of each class's population costs."""
  outcome = ablation.ablate_populations(
    layer, populations, num_controls=settings.controls, seed=seed
  )
  metrics: Metrics = {
    f"{name}_class_accuracy": outcome.accuracy,
    f"{name}_sizes": outcome.sizes,
  }
  for kind in ablation.KINDS:
    losses, controls = outcome.losses[kind], outcome.controls[kind]
    metrics |= {
      f"{name}_{kind}": losses.round(6),
      f"{name}_{kind}_random": controls.mean(axis=0).round(6),
      f"{name}_{kind}_diagonality": ablation.diagonality(losses),
      f"{name}_{kind}_random_diagonality": float(
        np.mean([ablation.diagonality(control) for control in controls])
      ),
      f"{name}_{kind}_own": float(np.diagonal(losses).mean()),
      f"{name}_{kind}_other": ablation.off_diagonal(losses),
      f"{name}_{kind}_random_mean": float(controls.mean()),
    }
  return metrics


def check_sizes(layer: Layer, settings: Settings) -> None:
  """Raises a `parsing.ConfigError` unless there are more neurons than clusters.

  Args:
    layer: The layer.
    settings: How it is to be looked at.
  """
  num_neurons, least = len(layer.kernel), layer.num_classes
  if not least <= settings.max_clusters < num_neurons:
    hint = "" if num_neurons > least else "; choose a wider layer by --layer"
    raise parsing.ConfigError(
      f"--max_clusters: expected from {least}, the classes, to "
      f"{num_neurons - 1}, less than the neurons that enter {layer.name}, got "
      f"{settings.max_clusters}{hint}"
    )


def strongest(strength: np.ndarray, density: float) -> np.ndarray:
  """Keeps the strongest connections as a graph.

  Args:
    strength: Strengths [N, M], not negative.
    density: Share of them to keep.

  Returns:
    1 for those, rounded down to a whole number of at least one, else 0; never
    for a strength of 0.

  Example:
    >>> strongest(np.array([[0.1, 0.9], [0.5, 0.0]]), 0.5)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
  """
  count = max(1, int(density * strength.size))
  flat = strength.ravel()
  kept = np.argsort(-flat, kind="stable")[:count]
  graph = np.zeros(flat.shape, np.float32)
  graph[kept] = flat[kept] > 0
  return graph.reshape(strength.shape)


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if values.size else 0.0


def _share(part: jax.Array, rest: jax.Array) -> float:
  total = float(part + rest)
  return float(part) / total if total > 0 else 0.0
