"""ResNet-18 for small images, as the authors' code has it.

The variant for CIFAR: a 3 x 3 stem without pooling, so that a 32 x 32 image is
still 4 x 4 at the end. Images are uint8 [batch, height, width, channels] and
are standardized by a mean and a deviation of 0.5 in every channel, as there.

References:
  He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
  <https://arxiv.org/abs/1512.03385>`_, 2016; for small images in kuangliu's
  `pytorch-cifar <https://github.com/kuangliu/pytorch-cifar>`_.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures import models
from experiments.architectures.dropout import Dropout, drop


class ResNet18(nn.Module):
  """ResNet-18 with BatchNorm; 11,173,962 parameters for color images.

  A convolution, four stages of two residual blocks each, the mean over pixels,
  a dense layer. Initial parameters are PyTorch's: uniform, within one over the
  root of the fan-in.

  Attributes:
    dtype: Type of the convolutions' arithmetic, float32 (on a GPU with
      TensorFloat-32) or bfloat16. Parameters, statistics and the dense layer
      are float32 in any case.
    num_features: Channels of each stage.
    axis_name: Axis of devices that share a batch, over which BatchNorm takes
      its statistics; None for one device.
  """

  dtype: Any = jnp.float32
  num_features: Sequence[int] = (64, 128, 256, 512)
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    dropout: Dropout | None = None,
    *,
    train: bool,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (logits, hidden) of uint8 [batch, height, width, channels].

    In training BatchNorm takes the statistics of the batch, and keeps them.
    """
    x = images.astype(jnp.float32) / 127.5 - 1
    x = _conv(self.num_features[0], x, "conv", self.dtype)
    norm = functools.partial(
      _batch_norm, dtype=self.dtype, train=train, axis_name=self.axis_name
    )
    x = nn.relu(norm(x, "norm"))
    for stage, features in enumerate(self.num_features):
      for index in range(2):
        x = _Block(
          features,
          stride=2 if stage > 0 and index == 0 else 1,
          dtype=self.dtype,
          norm=norm,
          name=f"block{stage + 1}{'ab'[index]}",
        )(x)
    x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    x = drop(x, dropout, place=0)
    init = models.fan_in_uniform(x.shape[-1])
    head = nn.Dense(10, kernel_init=init, bias_init=init, name="head")
    return head(x), {"head": x}


class _Block(nn.Module):
  """Two convolutions beside a shortcut, which is projected where it must be."""

  features: int
  stride: int
  dtype: Any
  norm: Callable[[jax.Array, str], jax.Array]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    norm, shortcut = self.norm, x
    if self.stride > 1 or x.shape[-1] != self.features:
      shortcut = _conv(
        self.features, x, "shortcut", self.dtype, size=1, stride=self.stride
      )
      shortcut = norm(shortcut, "shortcut_norm")
    x = _conv(self.features, x, "conv1", self.dtype, stride=self.stride)
    x = nn.relu(norm(x, "norm1"))
    x = norm(_conv(self.features, x, "conv2", self.dtype), "norm2")
    return nn.relu(x + shortcut)


def _conv(
  features: int,
  x: jax.Array,
  name: str,
  dtype: Any,
  *,
  size: int = 3,
  stride: int = 1,
) -> jax.Array:
  return nn.Conv(
    features,
    (size, size),
    strides=stride,
    # "SAME" would pad a stride of 2 on one side only, unlike PyTorch.
    padding=size // 2,
    use_bias=False,
    dtype=dtype,
    # The scripts ask for more by default, which here only costs time.
    precision=jax.lax.Precision.DEFAULT,
    kernel_init=models.fan_in_uniform(size * size * x.shape[-1]),
    # On a CPU, what differentiates a convolution is a naive loop inside a scan.
    conv_general_dilated=unfolded if jax.default_backend() == "cpu" else None,
    name=name,
  )(x)


def unfolded(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **_: Any,
) -> jax.Array:
  """Returns a convolution as one product of patches and kernel.

  Args:
    x: [batch, height, width, channels].
    kernel: [height, width, channels, features].
    strides: Down and right.
    padding: Zeros before and behind, down and right.
    **_: What else `jax.lax.conv_general_dilated` takes.
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

  def seen_by_taps(axis: int) -> list[slice]:
    last = x.shape[1 + axis] - kernel.shape[axis]
    taps = range(kernel.shape[axis])
    return [slice(tap, tap + last + 1, strides[axis]) for tap in taps]

  patches = [x[:, i, j] for i in seen_by_taps(0) for j in seen_by_taps(1)]
  features = kernel.shape[-1]
  return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, features)


def _batch_norm(
  x: jax.Array, name: str, *, dtype: Any, train: bool, axis_name: str | None
) -> jax.Array:
  # What PyTorch calls a momentum of 0.1.
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    # Initialized outside of any axis, and evaluated without one.
    axis_name=axis_name if train else None,
    name=name,
  )(x)
