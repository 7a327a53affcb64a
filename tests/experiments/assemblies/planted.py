"""Layers whose assemblies are known, and a network with enough neurons."""

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from experiments.architectures import networks
from experiments.assemblies.sources import Layer

NUM_CLASSES = 4
NUM_NEURONS = 24


class WideModule(nn.Module):
  """One hidden layer, on every fourth pixel of 28 x 28."""

  @nn.compact
  def __call__(self, images, dropout=None):
    del dropout
    x = images[:, ::4, ::4].reshape(len(images), -1).astype(jnp.float32) / 255
    x = nn.relu(nn.Dense(NUM_NEURONS, name="fc1")(x))
    return nn.Dense(10, name="fc2")(x), {"fc2": x}


NETWORK = networks.from_linen(WideModule(), (28, 28, 1), ("fc2",))


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
