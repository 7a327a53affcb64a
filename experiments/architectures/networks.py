"""Networks that may keep batch statistics beside their parameters.

What `models` has, and ResNet-18, under one interface: a network without
BatchNorm has empty batch statistics. Images are uint8 [batch, height, width,
channels] everywhere; hidden activations are as in `models`.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures import models, resnet18
from experiments.architectures.dropout import Dropout

PyTree = Any
Output = tuple[jax.Array, dict[str, jax.Array]]

# Images at a time in `predict` of networks that are not made for populations.
PREDICT_BLOCK = 500


class Variables(NamedTuple):
  """What a network consists of, {layer: {name: array}} each.

  Attributes:
    params: Parameters, which are trained.
    batch_stats: Running means and variances of BatchNorm; {} without.
  """

  params: PyTree
  batch_stats: PyTree


class Network(NamedTuple):
  """A network as pure functions of its `Variables`.

  Attributes:
    init: Maps a key to variables.
    apply: Maps (variables, images, dropout or None) to (output, new batch
      statistics), as in training. An output is (logits, hidden).
    evaluate: Maps (variables, images) to the output, as in evaluation.
    predict: Maps variables stacked over members and images [n, ...] shared by
      them to classes [members, n].
    layers: Dense layers whose inputs are neurons, where BEAN applies.
  """

  init: Callable[[jax.Array], Variables]
  apply: Callable[[Variables, jax.Array, Dropout | None], tuple[Output, PyTree]]
  evaluate: Callable[[Variables, jax.Array], Output]
  predict: Callable[[Variables, jax.Array], jax.Array]
  layers: tuple[str, ...]


NAMES = (*sorted(models.MODELS), "resnet18")


@functools.cache
def make(
  name: str,
  image_shape: tuple[int, int, int] = (28, 28, 1),
  *,
  bfloat16: bool = False,
  axis_name: str | None = None,
) -> Network:
  """Makes a network by name.

  Args:
    name: One of `NAMES`.
    image_shape: Height, width and channels of the images.
    bfloat16: Whether ResNet-18 computes its convolutions in bfloat16.
    axis_name: Axis of devices over which BatchNorm takes its statistics in
      training, if devices share a batch.

  Returns:
    The network, the same object for equal arguments.

  Raises:
    ValueError: If there is no such network, or it does not take such images.

  Example:
    >>> make("resnet18", (32, 32, 3)).layers
    ('head',)
  """
  if name == "resnet18":
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    module = resnet18.ResNet18(dtype=dtype, axis_name=axis_name)
    return from_linen(module, image_shape, ("head",))
  if name not in models.MODELS:
    raise ValueError(f"network: expected one of {NAMES}, got {name!r}")
  if image_shape != (28, 28, 1) or bfloat16:
    raise ValueError(
      f"{name} takes gray images of 28 x 28 and computes in float32, got "
      f"images of {image_shape} and bfloat16={bfloat16}"
    )
  return from_model(models.MODELS[name])


def from_model(model: models.Model) -> Network:
  """Makes a network of one without batch statistics.

  Its images are prepared batch by batch: beforehand is hardly faster, and the
  windows of LeNet-5 are nine times as large as the images.

  Args:
    model: The network as in `models`.

  Returns:
    The same with empty batch statistics.
  """

  def init(key: jax.Array) -> Variables:
    return Variables(model.init(key), {})

  def apply(
    variables: Variables, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[Output, PyTree]:
    inputs = model.prepare(images)
    return model.apply(variables.params, inputs, dropout), {}

  def evaluate(variables: Variables, images: jax.Array) -> Output:
    return model.apply(variables.params, model.prepare(images))

  def predict(variables: Variables, images: jax.Array) -> jax.Array:
    return model.predict(variables.params, images)

  return Network(init, apply, evaluate, predict, model.layers)


def as_model(network: Network, apply: Callable[..., Output]) -> models.Model:
  """Makes what methods take of a network, with its batch statistics bound.

  Args:
    network: The network.
    apply: Maps (params, images, dropout or None) to the output.

  Returns:
    A network as in `models`, of which methods use `apply` and `layers`.
  """
  return models.Model(
    init=lambda key: network.init(key).params,
    prepare=lambda images: images,
    apply=apply,
    predict=network.predict,
    layers=network.layers,
  )


def from_linen(
  module: nn.Module, image_shape: tuple[int, int, int], layers: tuple[str, ...]
) -> Network:
  """Makes a network of a Flax module with batch statistics.

  Args:
    module: Maps (images, dropout or None, train=bool) to (logits, hidden).
    image_shape: Height, width and channels of the images.
    layers: Its dense layers whose inputs are neurons.

  Returns:
    The network.
  """

  def init(key: jax.Array) -> Variables:
    images = jnp.zeros((1, *image_shape), jnp.uint8)
    variables = module.init(key, images, train=False)
    return Variables(variables["params"], variables["batch_stats"])

  def apply(
    variables: Variables, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[Output, PyTree]:
    output, changed = module.apply(
      variables._asdict(), images, dropout, train=True, mutable=["batch_stats"]
    )
    return output, changed["batch_stats"]

  def evaluate(variables: Variables, images: jax.Array) -> Output:
    return module.apply(variables._asdict(), images, train=False)

  def predict(variables: Variables, images: jax.Array) -> jax.Array:
    num_images = images.shape[0]
    size = min(PREDICT_BLOCK, num_images)
    padding = ((0, -num_images % size), (0, 0), (0, 0), (0, 0))
    blocks = jnp.pad(images, padding).reshape(-1, size, *images.shape[1:])

    def of_member(member: Variables) -> jax.Array:
      classes = jax.lax.map(
        lambda block: jnp.argmax(evaluate(member, block)[0], axis=-1), blocks
      )
      return classes.reshape(-1)[:num_images]

    return jax.lax.map(of_member, variables)

  return Network(init, apply, evaluate, predict, layers)
