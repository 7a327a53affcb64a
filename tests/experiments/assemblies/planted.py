"""Layers whose assemblies are known, and a network with enough neurons."""

import numpy as np

from experiments.architectures import models, networks
from experiments.assemblies.sources import Layer

NUM_CLASSES = 4
NUM_NEURONS = 24


NETWORK = networks.from_linen(
  models.MLP(num_hidden=(NUM_NEURONS,)), (28, 28, 1), ("fc2",)
)


def make_layer(*, noise=0.05, num_samples=80, seed=0):
  """Makes a layer in which each class has an assembly of six neurons.

  Neuron i serves class i % 4: it fires for that class alone, and excites its
  logit alone, but for some noise.
  """
  generator = np.random.default_rng(seed)
  labels = np.arange(num_samples) % NUM_CLASSES
  serves = np.arange(NUM_NEURONS) % NUM_CLASSES
  activations = np.float32(labels[:, None] == serves)
  activations += noise * generator.uniform(size=activations.shape)
  kernel = np.float32(serves[:, None] == np.arange(NUM_CLASSES))
  kernel += noise * generator.normal(size=kernel.shape)
  return Layer(
    name="fc2",
    activations=np.float32(activations),
    labels=labels,
    num_classes=NUM_CLASSES,
    dense=((np.float32(kernel), np.zeros(NUM_CLASSES, np.float32)),),
  )


def serves():
  """Returns the class that each neuron serves."""
  return np.arange(NUM_NEURONS) % NUM_CLASSES
