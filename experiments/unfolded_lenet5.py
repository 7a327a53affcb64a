"""LeNet-5 as matrix products, for populations of networks.

The same function as `models.LeNet5`, of the same parameters. Mapped over
members, a convolution becomes a grouped one, and inside a scan it runs a naive
loop on a CPU. So it is unfolded by static slices into matrix products:

* a training set does not change, so the patches of its first convolution are
  taken once (`prepare`), arranged by their phase in the pooling window, which
  makes max-pooling a maximum of four slices;
* members that look at shared images (`predict`) share one product for the
  first convolution, their kernels side by side in its columns.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

PyTree = Any

# Images at a time in `predict`; larger blocks of activations leave the cache.
PREDICT_BLOCK = 10


def prepare(images: jax.Array) -> jax.Array:
  """Takes the 5 x 5 patches of images, arranged by pooling phase.

  Args:
    images: Images [n, 28, 28, 1], of any type.

  Returns:
    Patches [n, 4, 196, 25] of the same type, zeros beyond the border: phase
    within the 2 x 2 pooling window, window in row-major order, pixel.

  Example:
    >>> patches = prepare(jnp.ones((1, 28, 28, 1), jnp.uint8))
    >>> patches.shape, int(patches[0, 0, 0].sum())  # 3 x 3 within the border
    ((1, 4, 196, 25), 9)
  """
  padded = jnp.pad(images[..., 0], ((0, 0), (2, 2), (2, 2)))
  slices = [
    padded[:, row : row + 28, column : column + 28]
    for row in range(5)
    for column in range(5)
  ]
  patches = jnp.stack(slices, axis=-1).reshape(-1, 14, 2, 14, 2, 25)
  return patches.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4, 196, 25)


def apply(
  params: PyTree, patches: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the logits of one network, as `models.LeNet5` does.

  Args:
    params: Parameters of `models.LeNet5`.
    patches: What `prepare` returned for the images, uint8 [n, 4, 196, 25].

  Returns:
    Logits [n, 10], and the inputs of the dense layers, {layer: [n, features]}.
  """
  num_images = patches.shape[0]
  x = patches.transpose(1, 0, 2, 3).astype(jnp.float32) / 255
  x = x.reshape(4, num_images * 196, 25) @ params["conv1"]["kernel"].reshape(
    25, 6
  )
  # Bias and ReLU are monotone: after the maximum they cost a quarter.
  x = nn.relu(_maximum(*x) + params["conv1"]["bias"])
  x = x.reshape(num_images, 14, 14, 6)
  slices = [
    x[:, row : row + 10, column : column + 10]
    for row in range(5)
    for column in range(5)
  ]
  x = jnp.concatenate(slices, axis=-1) @ params["conv2"]["kernel"].reshape(
    150, 16
  )
  return _dense_layers(params, _pool_second(params, x))


def predict(params: PyTree, images: jax.Array) -> jax.Array:
  """Classifies shared images by every member of a population.

  Args:
    params: Parameters of `models.LeNet5`, stacked over members.
    images: Images uint8 [n, 28, 28, 1].

  Returns:
    Classes [members, n].
  """
  num_images = images.shape[0]
  num_members = params["conv1"]["bias"].shape[0]
  padded = jnp.pad(
    images, ((0, -num_images % PREDICT_BLOCK), (0, 0), (0, 0), (0, 0))
  )
  kernel1 = params["conv1"]["kernel"].reshape(num_members, 25, 6)
  kernel1 = kernel1.transpose(1, 0, 2).reshape(25, num_members * 6)

  def of_member(arguments: tuple[PyTree, jax.Array]) -> jax.Array:
    member, x = arguments
    x = jax.lax.conv_general_dilated(
      x,
      member["conv2"]["kernel"],
      window_strides=(1, 1),
      padding="VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    logits, _ = _dense_layers(member, _pool_second(member, x))
    return jnp.argmax(logits, axis=-1)

  def of_block(block: jax.Array) -> jax.Array:
    x = prepare(block).transpose(1, 0, 2, 3).astype(jnp.float32) / 255
    x = _maximum(*(x.reshape(4, PREDICT_BLOCK * 196, 25) @ kernel1))
    x = x.reshape(PREDICT_BLOCK, 14, 14, num_members, 6)
    x = nn.relu(x + params["conv1"]["bias"])
    return jax.lax.map(of_member, (params, x.transpose(3, 0, 1, 2, 4)))

  classes = jax.lax.map(of_block, padded.reshape(-1, PREDICT_BLOCK, 28, 28, 1))
  return classes.transpose(1, 0, 2).reshape(num_members, -1)[:, :num_images]


def _maximum(
  first: jax.Array, second: jax.Array, third: jax.Array, fourth: jax.Array
) -> jax.Array:
  # A reduction's gradient compares every element with the maximum anew.
  return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _pool_second(params: PyTree, x: jax.Array) -> jax.Array:
  """Returns the features [n, 400] after the second convolution [n, 10, 10]."""
  x = _maximum(
    x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
  )
  return nn.relu(x + params["conv2"]["bias"]).reshape(x.shape[0], 400)


def _dense_layers(
  params: PyTree, x: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  hidden = {}
  for layer in ("fc1", "fc2", "fc3"):
    hidden[layer] = x
    x = x @ params[layer]["kernel"] + params[layer]["bias"]
    if layer != "fc3":
      x = nn.relu(x)
  return x, hidden
