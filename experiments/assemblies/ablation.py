"""Ablation of populations of neurons, and what it does to each class."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bean_jax import assemblies
from experiments.assemblies.sources import Layer

KINDS = ("zero", "mean")


def ablate_populations(
  layer: Layer, classes: np.ndarray, *, num_controls: int, seed: int
) -> dict[str, float | np.ndarray]:
  """Ablates, one class after the other, the neurons of its population.

  These belong to it by their classes [N], -1 for none. Controls are groups of
  random neurons that belong to any class, as large as each population.

  Returns:
    `class_accuracy` [C] before, and of each of `KINDS`, to which activations
    are set: losses of accuracy [C, C] as fractions, row by ablated population
    (`zero`), and their mean over the controls (`zero_random`); how diagonal
    both are (`zero_diagonality`, `zero_random_diagonality`); what a class loses
    with its `own` population and with an `other`.
  """
  populations = np.asarray(
    assemblies.assembly_masks(classes, num_assemblies=layer.num_classes)
  )
  generator = np.random.default_rng(seed)
  groups = [_random_groups(populations, generator) for _ in range(num_controls)]
  nobody = np.zeros((1, len(classes)), bool)
  masks = np.concatenate([nobody, populations, *groups])
  means = layer.activations.mean(axis=0, dtype=np.float64).astype(np.float32)
  costs = {}
  for kind, values in zip(KINDS, (np.zeros_like(means), means), strict=True):
    baseline, *changed = np.asarray(
      _accuracies(
        masks,
        layer.dense,
        layer.activations,
        layer.labels,
        values,
        layer.num_classes,
      )
    )
    losses, *controls = np.split(baseline - changed, 1 + num_controls)
    shares = [diagonality(control) for control in controls]
    others = losses[~np.eye(len(losses), dtype=bool)]
    costs |= {
      "class_accuracy": baseline,
      kind: losses.round(6),
      f"{kind}_random": np.mean(controls, axis=0).round(6),
      f"{kind}_diagonality": diagonality(losses),
      f"{kind}_random_diagonality": float(np.mean(shares)),
      f"{kind}_own": float(np.diagonal(losses).mean()),
      f"{kind}_other": float(others.mean()),
    }
  return costs


def diagonality(losses: np.ndarray) -> float:
  """Returns how much of what ablation costs is lost by the class ablated.

  That is the trace of the losses [C, C] over their sum, gains not counted: 1
  where each population serves its class alone, 1 / C where all classes lose
  alike, 0 where nothing is lost.
  """
  lost = np.maximum(losses, 0)
  total = lost.sum()
  return float(np.trace(lost) / total) if total > 0 else 0.0


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
  """Computes the logits [S, C] of dense layers, (kernel, bias) each."""
  (kernel, bias), *rest = dense
  output = activations @ kernel + bias
  return logits(tuple(rest), jax.nn.relu(output)) if rest else output
