"""LeNet-5, multilayer perceptrons and competing units, as Flax modules.

The first two are those of the authors' code, the last Krotov and Hopfield's.
Every module returns `(logits, hidden)`: logits [batch, 10] and a dict {layer:
inputs of that dense layer [batch, n]}. Images are uint8 [batch, height, width,
channels] and are scaled to [0, 1], without standardization, as in the authors'
code.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures.dropout import Dropout, drop


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
  """Draws from U(-b, b), b = 1 / sqrt(fan_in), PyTorch's default.

  Kernels and biases alike; `fan_in` is given, as a bias's shape lacks it.

  Example:
    >>> key = jax.random.key(0)
    >>> bool(jnp.all(jnp.abs(fan_in_uniform(4)(key, (100,))) <= 0.5))
    True
  """
  bound = fan_in**-0.5

  def init(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any
  ) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def _dense(features: int, fan_in: int, name: str) -> nn.Dense:
  init = fan_in_uniform(fan_in)
  return nn.Dense(features, kernel_init=init, bias_init=init, name=name)


def _conv(features: int, fan_in: int, padding: Any, name: str) -> nn.Conv:
  init = fan_in_uniform(fan_in)
  return nn.Conv(
    features,
    (5, 5),
    padding=padding,
    kernel_init=init,
    bias_init=init,
    name=name,
  )


class LeNet5(nn.Module):
  """LeNet-5 of the authors' code for 28 x 28 gray images; 61,706 parameters.

  conv 6@5x5 (padding 2), max-pool 2, conv 16@5x5, max-pool 2, dense 120,
  dense 84, dense 10, with ReLU between them.
  """

  @nn.compact
  def __call__(
    self, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (logits, hidden) of images [batch, 28, 28, 1]."""
    x = images.astype(jnp.float32) / 255
    x = nn.relu(_conv(6, 25, 2, "conv1")(x))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(_conv(16, 150, "VALID", "conv2")(x))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = x.reshape(x.shape[0], -1)
    hidden = {"fc1": x}
    x = drop(nn.relu(_dense(120, 400, "fc1")(x)), dropout, place=0)
    hidden["fc2"] = x
    x = drop(nn.relu(_dense(84, 120, "fc2")(x)), dropout, place=1)
    hidden["fc3"] = x
    return _dense(10, 84, "fc3")(x), hidden


class MLP(nn.Module):
  """A multilayer perceptron of ReLU units, on 784 pixels.

  The dense layers are called fc1, fc2, and so on.
  """

  num_hidden: tuple[int, ...]

  @nn.compact
  def __call__(
    self, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (logits, hidden) of images [batch, ...]."""
    x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
    hidden = {"fc1": x}
    fan_in = 784
    for place, width in enumerate(self.num_hidden):
      x = nn.relu(_dense(width, fan_in, f"fc{place + 1}")(x))
      x = drop(x, dropout, place=place)
      hidden[f"fc{place + 2}"] = x
      fan_in = width
    return _dense(10, fan_in, f"fc{len(self.num_hidden) + 1}")(x), hidden


class CompetingUnits(nn.Module):
  r"""Krotov and Hopfield's network: hidden units with a power, and a read-out.

  .. math:: h = \beta \max(W v, 0)^n / \lambda, \qquad z = S h + b,

  with pixels v from 0 to 1. :math:`\lambda` is the largest power that training
  has met, a batch statistic, so that beta means the same for any n. The source
  has the output tanh z, and no b, which begins at 0, as S does.

  Attributes:
    num_units: Hidden units.
    power: n.
    gain: beta.
  """

  num_units: int = 100
  power: float = 4.5
  gain: float = 10.0

  @nn.compact
  def __call__(
    self, images: jax.Array, dropout: Dropout | None = None, *, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (z, hidden) of images [batch, ...]."""
    x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
    x = nn.Dense(
      self.num_units,
      use_bias=False,
      kernel_init=nn.initializers.normal(1.0),
      name="hidden",
    )(x)
    x = nn.relu(x) ** self.power
    largest = self.variable("batch_stats", "largest", lambda: jnp.float32(0))
    if train:
      met = jax.lax.stop_gradient(jnp.max(x))
      largest.value = jnp.maximum(largest.value, met)
    # Before any training nothing was met.
    x *= self.gain / jnp.where(largest.value > 0, largest.value, 1)
    x = drop(x, dropout, place=0)
    zeros = nn.initializers.zeros
    logits = nn.Dense(10, kernel_init=zeros, name="readout")(x)
    return logits, {"readout": x}
