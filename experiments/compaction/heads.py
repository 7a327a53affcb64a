"""The dense layers of a trained network, and the features that enter them.

A head is what follows the convolutions of a network, or all of a multilayer
perceptron: dense layers with ReLU between them. Everything before is left as it
was trained, so that its outputs, the features, are computed once.
"""

from collections.abc import Callable
import functools
import os
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bean_jax import sparsity
from experiments import datasets
from experiments.architectures import networks
from experiments.learning.learner import Samples
from experiments.records import checkpoints, trained

PyTree = Any
Params = dict[str, dict[str, np.ndarray]]

# What is used of a checkpoint's configuration.
_FIELDS = (
  "dataset",
  "model",
  "method",
  "seed",
  "batch_size",
  "learning_rate",
)

# Images at a time when features are computed.
_BLOCK = 500


class Head(NamedTuple):
  """Dense layers, in their order.

  Attributes:
    params: {layer: {"kernel": [n, m], "bias": [m]}}.
    units: Layers whose inputs are units of the network, which may be removed;
      pixels may not.
  """

  params: Params
  units: tuple[str, ...]


class Splits(NamedTuple):
  """Features [n, f] and labels [n] of a dataset's three splits."""

  train: Samples
  validation: Samples
  test: Samples


class Activity(NamedTuple):
  """What is known of units from training images, {layer: [n]} each.

  Attributes:
    means: Mean activations.
    importance: As `bean_jax.sparsity.unit_importance` has it.
  """

  means: dict[str, np.ndarray]
  importance: dict[str, np.ndarray]


def read(
  path: str | os.PathLike[str], *, model: str | None = None
) -> checkpoints.Checkpoint:
  """Reads a checkpoint whose training is over.

  Args:
    path: The file.
    model: The network that it must be of, or None for any.

  Returns:
    The checkpoint.

  Raises:
    checkpoints.CheckpointError: If it cannot be used, is of another network, or
      its training is not over.
  """
  expected = {} if model is None else {"model": model}
  checkpoint = checkpoints.load(path, config=expected)
  for field in _FIELDS:
    if field not in checkpoint.config:
      raise checkpoints.CheckpointError(
        f"{os.fspath(path)}: its configuration has no {field}; give "
        "checkpoints of experiments.full_data"
      )
  if "test_accuracy" not in checkpoint.metrics:
    raise checkpoints.CheckpointError(
      f"{os.fspath(path)}: its training is not over; run the command that made "
      "it again, which goes on from there"
    )
  return checkpoint


def split_network(
  path: str | os.PathLike[str],
  checkpoint: checkpoints.Checkpoint,
  image_shape: tuple[int, int, int],
) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
  """Splits a network into its head and what comes before.

  Args:
    path: Where the checkpoint comes from, for errors.
    checkpoint: The trained network, of which the best epoch is taken.
    image_shape: Height, width and channels of the images.

  Returns:
    The head, and a function from images [n, height, width, channels] to
    features [n, f].

  Raises:
    checkpoints.CheckpointError: If its network is unknown, does not take such
      images or has other parameters.
  """
  network, variables = trained.load(path, checkpoint, image_shape)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
  _, hidden = jax.eval_shape(network.evaluate, variables, images)
  # In the order of the layers, which is that of their names.
  layers = sorted(hidden)
  params = {
    layer: {name: np.asarray(leaf) for name, leaf in leaves.items()}
    for layer, leaves in variables.params.items()
    if layer in layers
  }
  head = Head({layer: params[layer] for layer in layers}, network.layers)

  def features(images: np.ndarray) -> np.ndarray:
    blocks = [
      np.asarray(
        _features(network, layers[0], variables, images[start : start + _BLOCK])
      )
      for start in range(0, len(images), _BLOCK)
    ]
    return np.concatenate(blocks)

  return head, features


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(
  network: networks.Network,
  layer: str,
  variables: networks.Variables,
  images: jax.Array,
) -> jax.Array:
  return network.evaluate(variables, images)[1][layer]


def make_splits(
  config: dict[str, Any],
  dataset: datasets.Dataset,
  features: Callable[[np.ndarray], np.ndarray],
) -> Splits:
  """Computes what enters a head.

  Args:
    config: Of its checkpoint: one with `shots` was trained on so many images of
      each class, drawn by its seed.
    dataset: The images.
    features: What `split_network` returned.

  Returns:
    The features of the images that it was trained on, and of those for
    validation and test.

  Raises:
    datasets.DatasetError: If there are too few images for the shots.
  """
  train = dataset.train
  if "shots" in config:
    rows = datasets.draw_shots(
      train.labels, num_shots=config["shots"], seed=config["seed"]
    )
    train = datasets.Split(train.images[rows], train.labels[rows])
  return Splits(
    *(
      Samples(features(split.images), split.labels)
      for split in (train, dataset.validation, dataset.test)
    )
  )


def apply(params: PyTree, features: jax.Array) -> list[jax.Array]:
  """Computes what enters each dense layer, and the logits.

  Args:
    params: Of a head.
    features: Features [n, f].

  Returns:
    The inputs of each layer, as many as there are, then the logits.
  """
  inputs = [features]
  layers = list(params.values())
  for place, layer in enumerate(layers):
    x = inputs[-1] @ layer["kernel"] + layer["bias"]
    inputs.append(x if place == len(layers) - 1 else nn.relu(x))
  return inputs


def activity(head: Head, features: np.ndarray) -> Activity:
  """Measures units on training images.

  Args:
    head: The dense layers.
    features: What enters them [n, f].

  Returns:
    Means and importance of the inputs of `head.units`.
  """
  means, importance = jax.device_get(_activity(head.params, features))
  return Activity(
    {layer: means[layer] for layer in head.units},
    {layer: importance[layer] for layer in head.units},
  )


@jax.jit
def _activity(
  params: PyTree, features: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  inputs = dict(zip(params, apply(params, features), strict=False))
  return (
    {layer: jnp.mean(x, axis=0) for layer, x in inputs.items()},
    {
      layer: sparsity.unit_importance(x, params[layer]["kernel"])
      for layer, x in inputs.items()
    },
  )
