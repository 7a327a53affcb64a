"""What is measured of the trained networks of a cell.

To add an evaluation, add an entry to `EVALUATIONS`; records and tables follow.
Networks whose record lacks it are measured again.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.architectures import networks
from experiments.architectures.networks import Network, Variables
from experiments.assemblies import clusters, measures, sources
from experiments.assemblies.summary import interval
from experiments.attacks import curves
from experiments.records import results
from experiments.records.results import Record
from experiments.weights import distributions, kernels, signs

Metrics = dict[str, Any]

# Edges of the histogram of strengths, equally wide in the logarithm.
EDGES = np.geomspace(distributions.THRESHOLD, 1, 31)
# The epsilon of the table, or the nearest there is.
EPSILON = 0.1
_TITLES = {
  "lognormal": "lognormal",
  "stretched": "stretched exp.",
  "compressed": "compressed exp.",
}


class Settings(NamedTuple):
  """How networks are looked at."""

  # Largest changes of a pixel, ascending, from 0 to 1.
  epsilons: tuple[float, ...]
  attacked: int  # Test images that are attacked, the first of them; 0 for all.


class Population(NamedTuple):
  """Trained networks that differ in their seeds alone."""

  network: Network
  members: Sequence[Variables]
  seeds: Sequence[int]
  dataset: datasets.Dataset


class Evaluation(NamedTuple):
  """What is measured, and how it stands in tables.

  Attributes:
    metrics: The names of the metrics.
    measure: Maps (population, settings) to the metrics, each with an entry a
      member.
    columns: Maps a record to the columns of its row, text by title.
  """

  metrics: tuple[str, ...]
  measure: Callable[[Population, Settings], Metrics]
  columns: Callable[[Record], dict[str, str]]


def _attacks(population: Population, settings: Settings) -> Metrics:
  return curves.measure(
    population.network,
    population.members,
    datasets.Split(*(a[: settings.attacked] for a in population.dataset.test)),
    epsilons=settings.epsilons,
    seeds=population.seeds,
  )


def _attack_columns(record: Record) -> dict[str, str]:
  epsilons = np.array(record["config"]["epsilons"])
  place = int(np.argmin(np.abs(epsilons - EPSILON)))
  titles = {
    f"FGSM {epsilons[place]:g}": "fgsm",
    f"PGD {epsilons[place]:g}": "pgd",
    "random start": "pgd_random",
  }
  columns = {
    title: interval(results.metric(record, name)[:, place], 1, 100)
    for title, name in titles.items()
  }
  zero = interval(results.metric(record, "zero_gradients"), 1, 100)
  return columns | {"zero gradients": zero}


def _weights_of(params: Any) -> Metrics:
  """Looks at the largest dense layer of one network."""
  _, kernel = kernels.largest_dense(params)
  strengths = distributions.synapses(kernel)
  found: Metrics = {
    "gini": float(sparsity.gini_index(kernel)),
    "hoyer": float(sparsity.hoyer_sparsity(kernel)),
    "below": 1 - strengths.size / kernel.size,
    "histogram": np.histogram(strengths, EDGES)[0],
  }
  for name, fit in distributions.fit(kernel).items():
    found[f"{name}_likelihood"] = fit.log_likelihood
    found[f"{name}_distance"] = fit.distance
    found[f"{name}_parameters"] = np.array([fit.shape, fit.scale])
  return found


def _weights(population: Population, _: Settings) -> Metrics:
  found = [_weights_of(member.params) for member in population.members]
  return {name: np.stack([own[name] for own in found]) for name in found[0]}


def best_fit(record: Record) -> tuple[str, int, np.ndarray]:
  """Finds the distribution of greatest likelihood in the mean over seeds.

  Returns its name, how often it is best, and its lead in nats a synapse
  [seeds].
  """
  likelihoods = {
    name: results.metric(record, f"{name}_likelihood")
    for name in distributions.NAMES
  }
  first, second, _ = sorted(
    likelihoods, key=lambda name: -np.nan_to_num(likelihoods[name]).mean()
  )
  stacked = np.stack(list(likelihoods.values()))
  wins = np.count_nonzero(likelihoods[first] >= stacked.max(axis=0))
  return first, wins, likelihoods[first] - likelihoods[second]


def _weight_columns(record: Record) -> dict[str, str]:
  fit, wins, lead = best_fit(record)
  shape = np.mean(results.metric(record, f"{fit}_parameters")[:, 0])
  # Neither stretched nor compressed by more than can be seen.
  plain = fit != "lognormal" and abs(shape - 1) < 0.03
  title = "exponential" if plain else _TITLES[fit]
  return {
    "weights": f"{title}, {wins} of {len(record['seeds'])}",
    "ahead by (nats)": interval(lead, 3),
    "distance": interval(results.metric(record, f"{fit}_distance"), 3),
    "Gini": interval(results.metric(record, "gini")),
    "Hoyer": interval(results.metric(record, "hoyer")),
    "below 0.005": interval(results.metric(record, "below")),
  }


def _signs(population: Population, _: Settings) -> Metrics:
  layers = population.network.layers
  found = [
    signs.dale(networks.dense_kernels(member.params, layers).values())
    for member in population.members
  ]
  return dict(zip(_SIGNS, np.array(found).T, strict=True))


def _sign_columns(record: Record) -> dict[str, str]:
  share, chance, agreement, agreement_chance = (
    results.metric(record, name) for name in _SIGNS
  )
  return {
    "Dale (chance)": f"{interval(share)} ({chance.mean():.2f})",
    "one sign (chance)": f"{interval(agreement)} "
    f"({agreement_chance.mean():.2f})",
  }


def _assemblies(population: Population, _: Settings) -> Metrics:
  """Looks at the last dense layer as `interpret` does."""
  network, dataset = population.network, population.dataset
  name = network.layers[-1]

  def of_member(variables: Variables, seed: int) -> tuple[float, float]:
    layer = sources.Layer(
      name,
      sources.activations(network, variables, dataset.test.images, name),
      dataset.test.labels,
      dataset.num_classes,
      # What is asked here does not depend on biases.
      ((variables.params[name]["kernel"], np.zeros(0)),),
    )
    known = measures.neurons(layer, measures.Settings(), seed=seed)
    live = known.selectivity[~known.dead]
    silhouette = clusters.silhouette(layer.kernel, known.assemblies)
    return silhouette, float(live.mean()) if live.size else np.nan

  found = map(of_member, population.members, population.seeds)
  return dict(zip(_ASSEMBLIES, np.array(list(found)).T, strict=True))


_SIGNS = ("dale", "dale_chance", "agreement", "agreement_chance")
_ASSEMBLIES = ("silhouette", "selectivity")

EVALUATIONS = {
  # Lists of accuracies, one an epsilon, and the share of images without a
  # gradient.
  "attacks": Evaluation(
    (*curves.ATTACKS, "zero_gradients"), _attacks, _attack_columns
  ),
  # Of the largest dense layer. Below is the share of weights that are no
  # synapses.
  "weights": Evaluation(
    (
      *("gini", "hoyer", "below", "histogram"),
      *(
        f"{name}_{what}"
        for name in distributions.NAMES
        for what in ("likelihood", "distance", "parameters")
      ),
    ),
    _weights,
    _weight_columns,
  ),
  # Of the layers that neurons enter.
  "signs": Evaluation(_SIGNS, _signs, _sign_columns),
  # Of the last of them.
  "assemblies": Evaluation(
    _ASSEMBLIES,
    _assemblies,
    lambda record: {
      name: interval(results.metric(record, name)) for name in _ASSEMBLIES
    },
  ),
}
