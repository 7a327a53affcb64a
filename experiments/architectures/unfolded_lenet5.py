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
convolution, their kernels side by side, and have the images in the last axis:
windows are then copied and maxima taken along runs of `PREDICT_BLOCK` numbers
instead of a few channels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.architectures.dropout import Dropout, drop

PyTree = Any

# Images at a time in `predict`: two vectors of 16 numbers. Larger blocks of
# activations leave the cache.
PREDICT_BLOCK = 32


def prepare(images: jax.Array) -> jax.Array:
  """Takes the 6 x 6 inputs under each pooling window of the first layer.

  Of images [n, 28, 28, 1] it makes windows [n, 196, 36] of the same type, zeros
  beyond the border; windows and pixels in row-major order.

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
  """Computes the logits [n, 10] of one network, as `models.LeNet5` does.

  Of windows uint8 [n, 196, 36], as `prepare` makes them; and the inputs of the
  dense layers, {layer: [n, features]}.
  """
  num_images = windows.shape[0]
  x = windows.reshape(-1, 36).astype(jnp.float32) / 255
  x = _maximum(x @ _placed(params["conv1"]["kernel"]))
  # Bias and ReLU are monotone: after the maximum they cost a quarter.
  x = _relu(x + params["conv1"]["bias"]).reshape(-1, 14, 14, 6)
  x = _windows(x).reshape(-1, 216) @ _placed(params["conv2"]["kernel"])
  x = _relu(_maximum(x) + params["conv2"]["bias"])
  return _dense_layers(params, x.reshape(num_images, 400), dropout)


def predict(
  params: PyTree, images: jax.Array, dropout: Dropout | None = None
) -> jax.Array:
  """Classifies shared images by every member of a population, [members, n].

  Images are uint8 [n, 28, 28, 1]; parameters and dropout are stacked.
  """
  num_images = images.shape[0]
  num_members = params["conv1"]["bias"].shape[0]
  padding = ((0, -num_images % PREDICT_BLOCK), (2, 2), (2, 2))
  padded = jnp.pad(images[..., 0], padding)
  blocks = padded.reshape(-1, PREDICT_BLOCK, 32, 32).transpose(0, 2, 3, 1)
  # The rows of one product, place by place, then member by member.
  placed1 = jax.vmap(_placed)(params["conv1"]["kernel"])
  placed1 = placed1.reshape(num_members, 36, 4, 6).transpose(2, 0, 3, 1)
  placed2 = jax.vmap(_placed)(params["conv2"]["kernel"])

  def of_member(
    member: PyTree, placed: jax.Array, x: jax.Array, drops: Dropout | None
  ) -> jax.Array:
    x = _maximum(placed.T @ _windows(x, axis=0).reshape(216, -1), axis=0)
    x = _relu(x + member["conv2"]["bias"][:, None])
    x = x.reshape(16, 25, PREDICT_BLOCK).transpose(2, 1, 0)
    logits, _ = _dense_layers(member, x.reshape(PREDICT_BLOCK, 400), drops)
    return jnp.argmax(logits, axis=-1)

  def of_block(item: tuple[jax.Array, jax.Array]) -> jax.Array:
    index, block = item
    drops = dropout
    if dropout is not None:
      keys = jax.vmap(jax.random.fold_in, (0, None))(dropout.key, index)
      drops = Dropout(dropout.rate, keys)
    x = _windows(block[None].astype(jnp.float32) / 255, axis=0)
    x = _maximum(placed1.reshape(-1, 36) @ x.reshape(36, -1), axis=0)
    x = x.reshape(num_members, 6, -1) + params["conv1"]["bias"][..., None]
    x = _relu(x).reshape(num_members, 6, 14, 14, PREDICT_BLOCK)
    return jax.lax.map(lambda one: of_member(*one), (params, placed2, x, drops))

  classes = jax.lax.map(of_block, (jnp.arange(len(blocks)), blocks))
  return classes.transpose(1, 0, 2).reshape(num_members, -1)[:, :num_images]


def _windows(images: jax.Array, axis: int = -1) -> jax.Array:
  """Returns the 6 x 6 inputs under every 2 x 2 of outputs.

  Of images [n, height, width, c] or [c, height, width, n], c on the axis given,
  it makes those of the windows' rows and columns, with 36 c for c.
  """
  height, width = images.shape[1] - 5, images.shape[2] - 5
  slices = [
    images[:, row : row + height : 2, column : column + width : 2]
    for row in range(6)
    for column in range(6)
  ]
  return jnp.concatenate(slices, axis=axis)


def _placed(kernel: jax.Array) -> jax.Array:
  """Returns a kernel [5, 5, c, f] at its four places in 6 x 6, [36 c, 4 f]."""
  places = [
    jnp.pad(kernel, ((row, 1 - row), (column, 1 - column), (0, 0), (0, 0)))
    for row in range(2)
    for column in range(2)
  ]
  return jnp.stack(places, axis=3).reshape(36 * kernel.shape[2], -1)


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
  return jnp.maximum(x, 0)


@_relu.defjvp
def _relu_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  (x,), (step,) = primals, tangents
  # A quotient, which XLA keeps. Of one image, a kernel's gradient is an outer
  # product; with a product or a choice in place of the quotient, a CPU would
  # compute this factor anew for each entry of it, in each of Adam's passes.
  return _relu(x), step / jnp.where(x > 0, 1, jnp.inf)


def _maximum(x: jax.Array, axis: int = -1) -> jax.Array:
  """Returns the maximum over the four places along an axis of 4 f, now f."""
  # A reduction's gradient compares every element with the maximum anew.
  first, second, third, fourth = jnp.split(x, 4, axis=axis)
  return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _dense_layers(
  params: PyTree, x: jax.Array, dropout: Dropout | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns logits and inputs of the dense layers, from features [n, 400]."""
  hidden = {"fc1": x}
  for place, layer in enumerate(("fc1", "fc2")):
    x = _relu(x @ params[layer]["kernel"] + params[layer]["bias"])
    x = hidden[f"fc{place + 2}"] = drop(x, dropout, place=place)
  return x @ params["fc3"]["kernel"] + params["fc3"]["bias"], hidden
