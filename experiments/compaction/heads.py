"""The dense layers of a trained network, and the features that enter them.

A head is what follows the convolutions of a network, or all of a multilayer
perceptron: dense layers with ReLU between them. Everything before is left as it
was trained, so that its outputs, the features, are computed once.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.architectures.networks import Network, Variables
from experiments.assemblies import sources
from experiments.learning.learner import Samples

PyTree = Any
Params = dict[str, dict[str, np.ndarray]]


class Head(NamedTuple):
  """Dense layers, in their order."""

  params: Params  # {layer: {"kernel": [n, m], "bias": [m]}}.
  # Layers whose inputs are units, which may be removed; pixels may not.
  units: tuple[str, ...]


class Splits(NamedTuple):
  """Features [n, f] and labels [n] of a dataset's three splits."""

  train: Samples
  validation: Samples
  test: Samples


class Activity(NamedTuple):
  """What is known of units from training images, {layer: [n]} each."""

  means: dict[str, np.ndarray]  # Mean activations.
  importance: dict[str, np.ndarray]  # `bean_jax.sparsity.unit_importance`.


def split_network(
  network: Network,
  variables: Variables,
  dataset: datasets.Dataset,
  config: dict[str, Any],
) -> tuple[Head, Splits]:
  """Splits a trained network into its head and what enters it.

  If the configuration of its checkpoint has `shots`, it was trained on so many
  images of each class, drawn by its seed.
  """
  _, hidden = jax.eval_shape(
    network.evaluate, variables, dataset.test.images[:1]
  )
  # In the order of the layers, which is that of their names.
  layers = sorted(hidden)
  params = jax.device_get(variables.params)
  head = Head({layer: params[layer] for layer in layers}, network.layers)
  train = dataset.train
  if "shots" in config:
    rows = datasets.draw_shots(
      train.labels, num_shots=config["shots"], seed=config["seed"]
    )
    train = datasets.Split(train.images[rows], train.labels[rows])
  return head, Splits(
    *(
      Samples(
        sources.activations(network, variables, images, layers[0]), labels
      )
      for images, labels in (train, dataset.validation, dataset.test)
    )
  )


def apply(params: PyTree, features: jax.Array) -> list[jax.Array]:
  """Computes what enters each dense layer [n, ...], then the logits."""
  inputs = [features]
  layers = list(params.values())
  for place, layer in enumerate(layers):
    x = inputs[-1] @ layer["kernel"] + layer["bias"]
    inputs.append(x if place == len(layers) - 1 else nn.relu(x))
  return inputs


@jax.jit
def activity(params: PyTree, features: jax.Array) -> Activity:
  """Measures what enters the layers of a head on training images [n, f]."""
  inputs = dict(zip(params, apply(params, features), strict=False))
  return Activity(
    {layer: jnp.mean(x, axis=0) for layer, x in inputs.items()},
    {
      layer: sparsity.unit_importance(x, params[layer]["kernel"])
      for layer, x in inputs.items()
    },
  )
