"""Records of what was measured of trained networks, one a cell and epoch.

A record has the metrics of all `evaluations.EVALUATIONS`, by seed.
"""

from collections.abc import Sequence
import hashlib
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import datasets
from experiments.architectures.networks import Variables
from experiments.assemblies import sources
from experiments.assemblies.sources import Source
from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.rules.evaluations import EVALUATIONS, Population, Settings
from experiments.weights import distributions


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
  population = Population(network, members, seeds, dataset)
  num_images = len(dataset.test.labels)
  attacked = min(settings.attacked or num_images, num_images)
  settings = settings._replace(attacked=attacked)
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
    metrics: dict[str, Any] = {}
    for evaluation in EVALUATIONS.values():
      metrics |= evaluation.measure(population, settings)
    return {"metrics": metrics}

  path = directory / f"{chosen.title}.json"
  names = [n for e in EVALUATIONS.values() for n in e.metrics]
  return results.made(path, fields, measured, metrics=names)


def _digest(members: Sequence[Variables]) -> str:
  """Digests parameters, whatever their files say beside them."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(list(members)):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()
