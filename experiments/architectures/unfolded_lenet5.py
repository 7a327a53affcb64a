"""LeNet-5 as matrix products, for populations of networks.

The same function as `models.LeNet5`, of the same parameters. Mapped over
members, a convolution becomes a grouped one, and inside a scan it runs a naive
loop on a CPU. So a convolution and the 2 x 2 max-pool behind it are unfolded
into one product: the 6 x 6 inputs under a pooling window, times the kernel at
its four places in them, give the four numbers whose maximum is taken. That is
1.44 times the arithmetic, for patches of 9 inputs an output instead of 25, and
products four times as wide.

A training set does not change, so its windows are taken once (`prepare`).
Members that look at shared images (`predict`) share one product for the first
convolution, their kernels side by side.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures.dropout import Dropout, drop

PyTree = Any

# Images at a time in `predict`; larger blocks of activations leave the cache.
PREDICT_BLOCK = 10


def prepare(images: jax.Array) -> jax.Array:
  """Takes the 6 x 6 inputs under each pooling window of the first layer.

  Args:
    images: Images [n, 28, 28, 1], of any type.

  Returns:
    Windows [n, 196, 36] of the same type, zeros beyond the border; windows and
    pixels in row-major order.

  Example:
    >>> windows = prepare(jnp.ones((1, 28, 28, 1), jnp.uint8))
    >>> windows.shape, int(windows[0, 0].sum())  # 4 x 4 within the border
    ((1, 196, 36), 16)
  """
  padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  return _windows(padded).reshape(-1, 196, 36)


def apply(
  params: PyTree, windows: jax.Array, dropout: Dropout | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the logits of one network, as `models.LeNet5` does.

  Args:
    params: Parameters of `models.LeNet5`.
    windows: What `prepare` returned for the images, uint8 [n, 196, 36].
    dropout: What drops outputs of fc1 and fc2, if anything.

  Returns:
    Logits [n, 10], and the inputs of the dense layers, {layer: [n, features]}.
  """
  x = windows.reshape(-1, 36).astype(jnp.float32) / 255
  x = _maximum(x @ _placed(params["conv1"]["kernel"]))
  # Bias and ReLU are monotone: after the maximum they cost a quarter.
  x = nn.relu(x + params["conv1"]["bias"]).reshape(-1, 14, 14, 6)
  return _after_first(params, _placed(params["conv2"]["kernel"]), x, dropout)


def predict(
  params: PyTree, images: jax.Array, dropout: Dropout | None = None
) -> jax.Array:
  """Classifies shared images by every member of a population.

  Args:
    params: Parameters of `models.LeNet5`, stacked over members.
    images: Images uint8 [n, 28, 28, 1].
    dropout: What drops outputs of fc1 and fc2, stacked over members, if
      anything.

  Returns:
    Classes [members, n].
  """
  num_images = images.shape[0]
  num_members = params["conv1"]["bias"].shape[0]
  blocks = jnp.pad(
    images, ((0, -num_images % PREDICT_BLOCK), (0, 0), (0, 0), (0, 0))
  ).reshape(-1, PREDICT_BLOCK, 28, 28, 1)
  # The columns of one product, place by place, then member by member.
  placed1 = jax.vmap(_placed)(params["conv1"]["kernel"])
  placed1 = placed1.reshape(num_members, 36, 4, 6).transpose(1, 2, 0, 3)
  placed2 = jax.vmap(_placed)(params["conv2"]["kernel"])

  def of_member(arguments: tuple) -> jax.Array:
    logits, _ = _after_first(*arguments)
    return jnp.argmax(logits, axis=-1)

  def of_block(item: tuple[jax.Array, jax.Array]) -> jax.Array:
    index, block = item
    drops = dropout
    if dropout is not None:
      keys = jax.vmap(jax.random.fold_in, (0, None))(dropout.key, index)
      drops = Dropout(dropout.rate, keys)
    x = prepare(block).reshape(-1, 36).astype(jnp.float32) / 255
    x = _maximum(x @ placed1.reshape(36, -1))
    x = x.reshape(PREDICT_BLOCK, 14, 14, num_members, 6)
    x = nn.relu(x + params["conv1"]["bias"])
    x = x.transpose(3, 0, 1, 2, 4)
    return jax.lax.map(of_member, (params, placed2, x, drops))

  classes = jax.lax.map(of_block, (jnp.arange(len(blocks)), blocks))
  return classes.transpose(1, 0, 2).reshape(num_members, -1)[:, :num_images]


def _windows(images: jax.Array) -> jax.Array:
  """Returns the 6 x 6 inputs [n, h, w, 36 c] under every 2 x 2 of outputs."""
  height, width = images.shape[1] - 5, images.shape[2] - 5
  slices = [
    images[:, row : row + height : 2, column : column + width : 2]
    for row in range(6)
    for column in range(6)
  ]
  return jnp.concatenate(slices, axis=-1)


def _placed(kernel: jax.Array) -> jax.Array:
  """Returns a kernel [5, 5, c, f] at its four places in 6 x 6, [36 c, 4 f]."""
  places = [
    jnp.pad(kernel, ((row, 1 - row), (column, 1 - column), (0, 0), (0, 0)))
    for row in range(2)
    for column in range(2)
  ]
  return jnp.stack(places, axis=3).reshape(36 * kernel.shape[2], -1)


def _maximum(x: jax.Array) -> jax.Array:
  """Returns the maximum [..., f] over the four places of [..., 4 f]."""
  # A reduction's gradient compares every element with the maximum anew.
  first, second, third, fourth = jnp.split(x, 4, axis=-1)
  return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _after_first(
  params: PyTree, placed: jax.Array, x: jax.Array, dropout: Dropout | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Goes on after the first layer, with the second's kernel placed."""
  num_images = x.shape[0]
  x = _maximum(_windows(x).reshape(-1, 216) @ placed)
  x = nn.relu(x + params["conv2"]["bias"]).reshape(num_images, 400)
  hidden = {"fc1": x}
  x = nn.relu(x @ params["fc1"]["kernel"] + params["fc1"]["bias"])
  x = drop(x, dropout, place=0)
  hidden["fc2"] = x
  x = nn.relu(x @ params["fc2"]["kernel"] + params["fc2"]["bias"])
  x = drop(x, dropout, place=1)
  hidden["fc3"] = x
  return x @ params["fc3"]["kernel"] + params["fc3"]["bias"], hidden
