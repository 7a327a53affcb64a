"""Ablation of populations of neurons, and what it does to each class."""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bean_jax import assemblies
from experiments.assemblies.sources import Layer

KINDS = ("zero", "mean")


class Ablation(NamedTuple):
  """What the ablation of each class's population does.

  Attributes:
    accuracy: Accuracy of each class before [C].
    sizes: Neurons that belong to each class [C].
    losses: {kind: losses of accuracy [C, C]}, row by ablated population,
      column by class; kinds are those of `KINDS`.
    controls: {kind: the same [R, C, C] for random groups of equal sizes}.
  """

  accuracy: np.ndarray
  sizes: np.ndarray
  losses: Mapping[str, np.ndarray]
  controls: Mapping[str, np.ndarray]


def ablate_populations(
  layer: Layer, classes: np.ndarray, *, num_controls: int, seed: int
) -> Ablation:
  """Ablates, one class after the other, the neurons that belong to it.

  Args:
    layer: The layer.
    classes: Class that each neuron belongs to [N], such as the one that it
      prefers; -1 for none.
    num_controls: Random groups for each population, drawn from all neurons
      that belong to any class.
    seed: Of the groups.

  Returns:
    Losses as fractions. The ablation of nobody loses nothing.
  """
  populations = np.asarray(
    assemblies.assembly_masks(classes, num_assemblies=layer.num_classes)
  )
  generator = np.random.default_rng(seed)
  groups = [_random_groups(populations, generator) for _ in range(num_controls)]
  nobody = np.zeros((1, len(classes)), bool)
  masks = np.concatenate([nobody, populations, *groups])
  losses, controls = {}, {}
  means = layer.activations.mean(axis=0, dtype=np.float64)
  for kind in KINDS:
    accuracies = np.asarray(
      _accuracies(
        masks,
        layer.dense,
        layer.activations,
        layer.labels,
        np.float32(means) if kind == "mean" else np.zeros_like(means, "f"),
        layer.num_classes,
      )
    )
    baseline, changed = accuracies[0], accuracies[1:]
    maps = (baseline - changed).reshape(
      -1, layer.num_classes, layer.num_classes
    )
    losses[kind], controls[kind] = maps[0], maps[1:]
  return Ablation(baseline, populations.sum(axis=1), losses, controls)


def diagonality(losses: np.ndarray) -> float:
  """Returns how much of what ablation costs is lost by the class ablated.

  Args:
    losses: Losses of accuracy [C, C], row by ablated population.

  Returns:
    The sum of losses on the diagonal over the sum of all, gains not counted: 1
    where each population serves its class alone, 1 / C where all classes lose
    alike, 0 where nothing is lost.

  Example:
    >>> diagonality(np.array([[0.5, 0.0], [0.5, -0.2]]))
    0.5
  """
  lost = np.maximum(losses, 0)
  total = lost.sum()
  return float(np.trace(lost) / total) if total > 0 else 0.0


def off_diagonal(losses: np.ndarray) -> float:
  """Returns the mean loss of the classes whose population was not ablated."""
  return float(losses[~np.eye(len(losses), dtype=bool)].mean())


def _random_groups(
  populations: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
  """Returns masks [C, N] of random groups as large as the populations."""
  candidates = np.flatnonzero(populations.any(axis=0))
  groups = np.zeros_like(populations)
  for group, population in zip(groups, populations, strict=True):
    size = np.count_nonzero(population)
    group[generator.choice(candidates, size, replace=False)] = True
  return groups


@functools.partial(jax.jit, static_argnames="num_classes")
def _accuracies(
  masks: jax.Array,
  dense: tuple,
  activations: jax.Array,
  labels: jax.Array,
  means: jax.Array,
  num_classes: int,
) -> jax.Array:
  """Returns the accuracy of each class [G, C] with groups [G, N] ablated."""
  one_hot = jax.nn.one_hot(labels, num_classes)
  first, rest = dense[0], dense[1:]

  def of_group(mask: jax.Array) -> jax.Array:
    edited = assemblies.ablate(*first, mask, means=means)
    correct = jnp.argmax(logits((edited, *rest), activations), -1) == labels
    return jnp.sum(one_hot * correct[:, None], axis=0) / one_hot.sum(axis=0)

  return jax.lax.map(of_group, masks)


def logits(dense: tuple, activations: jax.Array) -> jax.Array:
  """Computes the logits of dense layers with ReLU between them.

  Args:
    dense: Kernel and bias of each layer.
    activations: What enters the first [S, N].

  Returns:
    Logits [S, C].
  """
  (kernel, bias), *rest = dense
  output = activations @ kernel + bias
  return logits(tuple(rest), jax.nn.relu(output)) if rest else output
