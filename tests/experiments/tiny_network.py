"""A network with BatchNorm so small that compiling it takes no time."""

import functools

from flax import linen as nn
import jax.numpy as jnp

from experiments import datasets
from experiments.architectures import networks

NUM_HIDDEN = 5


class TinyModule(nn.Module):
  """One hidden layer with BatchNorm, on every fourth pixel of 28 x 28.

  Attributes:
    axis_name: Axis of devices that share a batch, or None.
  """

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, dropout=None, *, train):
    del dropout
    x = images[:, ::4, ::4].reshape(len(images), -1).astype(jnp.float32) / 255
    # A bias would have no gradient but noise, which Adam makes large.
    x = nn.Dense(NUM_HIDDEN, use_bias=False, name="fc1")(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      axis_name=self.axis_name if train else None,
      name="norm",
    )(x)
    x = jnp.tanh(x)
    return nn.Dense(10, name="fc2")(x), {"fc2": x}


NETWORK = networks.from_linen(TinyModule(), (28, 28, 1), ("fc2",))


@functools.cache
def load_digits():
  """Loads 60, 50 and 80 digits for training, validation and test."""
  digits = datasets.load("digits")

  def first(split, number):
    return datasets.Split(split.images[:number], split.labels[:number])

  return digits._replace(
    train=first(digits.train, 60),
    validation=first(digits.validation, 50),
    test=first(digits.test, 80),
  )
