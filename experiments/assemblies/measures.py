"""Everything that is measured of a layer and of its controls.

A layer is looked at five times: as it was `trained`; `rescaled`, all neurons
having outgoing weights of norm 1 and the network its function; `permuted`, the
weights of each column shuffled over the neurons, so that each neuron of the
next layer keeps the weights that it receives, but which of them come from one
neuron is chance; `permuted_rescaled`, both; and `untrained`, with its initial
parameters. What differs from `permuted` is structure beyond the distribution of
weights; what differs between `trained` and `rescaled` is scale.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import bean_jax
from bean_jax import assemblies
from experiments.assemblies import ablation, clusters
from experiments.assemblies.sources import Layer
from experiments.command import parsing

# Subjects that t-SNE is run for, which takes longer than all the rest.
PLANES = ("trained", "rescaled", "permuted")

Metrics = dict[str, float | np.ndarray]


class Settings(NamedTuple):
  """How layers are looked at."""

  max_clusters: int = 20  # Silhouettes are taken for 2 clusters to this many.
  restarts: int = 10  # Initializations of each K-means.
  # A neuron is dead if what it sends on, the deviation of its activation times
  # the norm of its weights, is at most this part of what the strongest sends.
  tolerance: float = 0.01
  # Share of the connections, the strongest, in the graph of C4 and BIG-ADO.
  density: float = 0.2
  controls: int = 20  # Random groups for each ablated population.


class Neurons(NamedTuple):
  """What is known of each neuron of a layer."""

  dead: np.ndarray  # Boolean [N].
  profiles: np.ndarray  # Class-conditional mean activations [C, N].
  selectivity: np.ndarray  # Indices [N].
  preferred: np.ndarray  # Classes [N]; -1 for none, as for dead neurons.
  # Neurons of the next layer that the strongest connections lead to [N]; -1 for
  # dead neurons.
  targets: np.ndarray
  # Clusters [N], as many as classes; -1 for dead neurons.
  assemblies: np.ndarray


def subjects(
  trained: Layer, untrained: Layer, *, seed: int
) -> dict[str, Layer]:
  """Makes what a layer is compared with; the seed is of the permutations."""
  (kernel, bias), *rest = trained.dense
  shuffled = np.random.default_rng(seed).permuted(kernel, axis=0)
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
  """Looks at each neuron of a layer; the seed is of K-means."""
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
    targets=np.where(dead, -1, np.argmax(np.abs(layer.kernel), axis=1)),
    assemblies=members,
  )


def measure(
  layers: dict[str, Layer], settings: Settings, *, gamma: float, seed: int
) -> Metrics:
  """Measures a layer and its controls, which `subjects` made.

  Numbers and arrays by name, NaN where one is not defined: `SUBJECT_...` for
  each subject; for the trained network `ablation_...`, populations being the
  neurons that prefer a class, and, where the layer is the last one,
  `targeting_...`, those whose strongest connection leads to the class.
  """
  metrics: Metrics = {}
  for name, layer in layers.items():
    known = neurons(layer, settings, seed=seed)
    values = (
      _clusters(layer.kernel, known, settings, seed)
      | _connections(layer.kernel, known)
      | _graphs(layer, known, settings, gamma)
      | _norms(layer, gamma)
    )
    if name in PLANES:
      # t-SNE draws clusters tighter than they are: this is no measure of them,
      # but it may be what the paper reports.
      places = clusters.embed(layer.kernel, seed=seed)
      (values["silhouette_plane"],) = clusters.silhouettes(
        places, [layer.num_classes], restarts=settings.restarts, seed=seed
      )
    metrics |= {f"{name}_{key}": value for key, value in values.items()}
    if name == "trained":
      populations = {"ablation": known.preferred}
      if len(layer.dense) == 1:
        populations["targeting"] = known.targets
      for what, classes in populations.items():
        costs = ablation.ablate_populations(
          layer, classes, num_controls=settings.controls, seed=seed
        )
        metrics |= {f"{what}_{key}": value for key, value in costs.items()}
  return metrics


def _clusters(
  kernel: np.ndarray, known: Neurons, settings: Settings, seed: int
) -> Metrics:
  """Returns what K-means and preferred classes say."""
  counts = range(2, settings.max_clusters + 1)
  options = {"restarts": settings.restarts, "seed": seed}
  live = ~known.dead
  every = clusters.silhouettes(kernel, counts, **options)
  alive = every
  if known.dead.any():
    alive = clusters.silhouettes(kernel[live], counts, **options)
  return {
    "silhouettes": every,
    "silhouettes_live": alive,
    "dead": float(known.dead.sum()),
    "selectivity": float(known.selectivity[live].mean())
    if live.any()
    else np.nan,
    "agreement": clusters.agreement(known.assemblies, known.preferred),
  }


def _connections(kernel: np.ndarray, known: Neurons) -> Metrics:
  """Returns what is known of each live neuron's strongest connection.

  BEAN's correlation does not see the sign of weights: an assembly may as well
  inhibit a neuron of the next layer as excite it, and prefers other classes
  then.
  """
  live = ~known.dead
  strongest_weight = kernel[np.arange(len(kernel)), known.targets]
  squares = np.square(kernel[live], dtype=np.float64)
  return {
    "agreement_targets": clusters.agreement(known.assemblies, known.targets),
    "inhibiting": _mean(strongest_weight[live] < 0),
    # The participation ratio: 1 for one connection, M for M equal ones.
    "outputs": _mean(squares.sum(axis=1) ** 2 / (squares**2).sum(axis=1)),
  }


def _graphs(
  layer: Layer, known: Neurons, settings: Settings, gamma: float
) -> Metrics:
  """Returns what graphs of the layer say, and how they agree with classes."""
  kernel, preferred = layer.kernel, known.preferred
  graph = strongest(np.tanh(gamma * np.abs(kernel)), settings.density)
  near = np.asarray(assemblies.proximity(graph, paths=True))
  first, second = (
    bean_jax.neuron_correlation(kernel, order=order, gamma=gamma)
    for order in (1, 2)
  )
  variances = assemblies.outgoing_variance(kernel, preferred)
  divergences = assemblies.cohesion(
    bean_jax.coactivation_divergence(layer.activations), preferred
  )
  total = float(sum(variances))
  values = {
    "c4": assemblies.clustering_coefficient(graph),
    # How many more 3-paths connected pairs have than others.
    "proximity_connected": _mean(near[graph > 0]),
    "proximity_unconnected": _mean(near[graph == 0]),
    "modularity1_preferred": assemblies.modularity(first, preferred),
    "modularity2_preferred": assemblies.modularity(second, preferred),
    "modularity1_assemblies": assemblies.modularity(first, known.assemblies),
    "shared_variance_preferred": variances[1] / total if total > 0 else 0.0,
    "divergence_within_preferred": divergences[0],
    "divergence_between_preferred": divergences[1],
  }
  return {name: float(value) for name, value in values.items()}


def _norms(layer: Layer, gamma: float) -> Metrics:
  """Returns sizes of activations and weights, and the penalties."""
  norms = np.linalg.norm(layer.kernel.astype(np.float64), axis=1)
  size = float(np.mean(np.square(layer.activations, dtype=np.float64)))
  values: Metrics = {
    "activation_rms": np.sqrt(size),
    "weight_norm": float(np.sqrt(np.mean(norms**2))),
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
    values[f"penalty{order}_relative"] = penalty / size if size > 0 else 0.0
  return values


def check_sizes(layer: Layer, settings: Settings) -> None:
  """Raises a `parsing.ConfigError` unless there are more neurons than clusters.

  Silhouettes need that, and tables as many clusters as classes.
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
  """Keeps the strongest connections as a graph of 0 and 1.

  They are a share of all [N, M], rounded down to a whole number of at least
  one; a strength of 0 is never among them.
  """
  count = max(1, int(density * strength.size))
  flat = strength.ravel()
  kept = np.argsort(-flat, kind="stable")[:count]
  graph = np.zeros(flat.shape, np.float32)
  graph[kept] = flat[kept] > 0
  return graph.reshape(strength.shape)


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if values.size else 0.0
