"""Records of what was measured of trained networks, one a cell and epoch.

A record has, by seed, accuracies under attacks (`fgsm`, `pgd`, `pgd_random`:
lists, one number an epsilon) and the share of zero gradients; of the largest
dense layer `gini`, `hoyer`, the share of weights `below` the threshold, and of
each distribution NAME its `NAME_likelihood`, `NAME_distance` and
`NAME_parameters`, beside the `histogram` of strengths; of the layers that
neurons enter `dale`, `dale_chance`, `agreement` and `agreement_chance`; and of
the last of them `silhouette` and `selectivity`.
"""

from collections.abc import Sequence
import hashlib
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.architectures import networks
from experiments.architectures.networks import Network, Variables
from experiments.assemblies import clusters, measures, sources
from experiments.assemblies.sources import Source
from experiments.attacks import curves
from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.weights import distributions, kernels, signs

# Edges of the histogram of strengths, equally wide in the logarithm.
EDGES = np.geomspace(distributions.THRESHOLD, 1, 31)


class Settings(NamedTuple):
  """How networks are looked at."""

  # Largest changes of a pixel, ascending, from 0 to 1.
  epsilons: tuple[float, ...]
  attacked: int  # Test images that are attacked, the first of them; 0 for all.


class Networks(NamedTuple):
  """The trained networks of a cell."""

  members: tuple[Source, ...]  # Checkpoints that differ in their seeds alone.
  epoch: str  # "best" or "last", which parameters of a checkpoint.

  @property
  def config(self) -> dict[str, Any]:
    """What they were trained with, but for the seed."""
    return {k: v for k, v in self.members[0].config.items() if k != "seed"}

  @property
  def title(self) -> str:
    """Names them for people and files, such as "digits-5shot-vanilla-last"."""
    stem = self.members[0].path.stem.rpartition("-seed")[0]
    return f"{stem}-{self.epoch}"


def cells(found: Sequence[Source]) -> list[tuple[Source, ...]]:
  """Puts checkpoints together that differ in their seeds alone."""

  def place(source: Source) -> tuple[str, str, float]:
    config = source.config
    return sources.setting(config), config["method"], methods.strength(config)

  # They come in the order of their places.
  return [tuple(group) for _, group in itertools.groupby(found, place)]


def evaluate(
  chosen: Networks,
  dataset: datasets.Dataset,
  settings: Settings,
  directory: pathlib.Path,
) -> tuple[Record, bool]:
  """Measures networks, unless there is a record; as `results.made` returns."""
  members = []
  for source in chosen.members:
    network, variables = sources.load(source, dataset, which=chosen.epoch)
    members.append(jax.device_get(variables))
  seeds = [member.config["seed"] for member in chosen.members]
  num_images = len(dataset.test.labels)
  attacked = min(settings.attacked or num_images, num_images)
  fields = {
    "experiment": "learning_rules",
    "config": {
      "cell": chosen.config,
      "epoch": chosen.epoch,
      "epsilons": list(settings.epsilons),
      "attacked": attacked,
      "threshold": distributions.THRESHOLD,
      "networks_sha256": _digest(members),
    },
    "source": dataset.source,
    "seeds": seeds,
  }

  def measured() -> dict[str, Any]:
    metrics = measure(
      network, members, dataset, settings.epsilons, attacked, seeds
    )
    return {"metrics": metrics}

  return results.made(directory / f"{chosen.title}.json", fields, measured)


def measure(
  network: Network,
  members: Sequence[Variables],
  dataset: datasets.Dataset,
  epsilons: Sequence[float],
  attacked: int,
  seeds: Sequence[int],
) -> dict[str, np.ndarray]:
  """Returns the metrics [members, ...] of a record."""
  images = datasets.Split(*(array[:attacked] for array in dataset.test))
  own = [
    weights_of(network, variables.params)
    | _assemblies(network, variables, dataset, seed)
    for variables, seed in zip(members, seeds, strict=True)
  ]
  stacked = {name: np.stack([found[name] for found in own]) for name in own[0]}
  return stacked | curves.measure(
    network, members, images, epsilons=epsilons, seeds=seeds
  )


def weights_of(network: Network, params: Any) -> dict[str, np.ndarray | float]:
  """Returns the metrics that concern the weights of one network."""
  _, kernel = kernels.largest_dense(params)
  strengths = distributions.synapses(kernel)
  found: dict[str, np.ndarray | float] = {
    "gini": float(sparsity.gini_index(kernel)),
    "hoyer": float(sparsity.hoyer_sparsity(kernel)),
    "below": 1 - strengths.size / kernel.size,
    "histogram": np.histogram(strengths, EDGES)[0],
  }
  for name, fit in distributions.fit(kernel).items():
    found[f"{name}_likelihood"] = fit.log_likelihood
    found[f"{name}_distance"] = fit.distance
    found[f"{name}_parameters"] = np.array([fit.shape, fit.scale])
  dale = signs.dale(networks.dense_kernels(params, network.layers).values())
  return found | {
    "dale": dale.share,
    "dale_chance": dale.chance,
    "agreement": dale.agreement,
    "agreement_chance": dale.agreement_chance,
  }


def _assemblies(
  network: Network, variables: Variables, dataset: datasets.Dataset, seed: int
) -> dict[str, float]:
  """Looks at the last dense layer as `interpret` does."""
  name = network.layers[-1]
  layer = sources.Layer(
    name,
    sources.activations(network, variables, dataset.test.images, name),
    dataset.test.labels,
    dataset.num_classes,
    # What is asked here does not depend on biases.
    ((variables.params[name]["kernel"], np.zeros(0)),),
  )
  known = measures.neurons(layer, measures.Settings(), seed=seed)
  live = ~known.dead
  return {
    "silhouette": clusters.silhouette(layer.kernel, known.assemblies),
    "selectivity": float(known.selectivity[live].mean())
    if live.any()
    else np.nan,
  }


def _digest(members: Sequence[Variables]) -> str:
  """Digests parameters, whatever their files say beside them."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(list(members)):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
