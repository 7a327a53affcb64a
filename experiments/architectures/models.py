"""The networks of the paper, returning their logits and what enters them.

Every network here returns `(logits, hidden)`: logits [batch, 10] and a dict
{layer: inputs of that dense layer [batch, n]}; with the kernels of the same
layers (`dense_kernels`) it makes the two trees that BEAN takes. Images are
uint8 [batch, height, width, channels] and are scaled to [0, 1], without
standardization, as in the authors' code.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures import unfolded_lenet5
from experiments.architectures.dropout import Dropout, drop

PyTree = Any


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
  """Draws from U(-b, b), b = 1 / sqrt(fan_in), PyTorch's default.

  Kernels and biases alike; `fan_in` is given, as a bias's shape lacks it.

  Args:
    fan_in: Number of inputs of a unit.

  Returns:
    An initializer, a function of (key, shape, dtype).

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
  """A multilayer perceptron of ReLU units, with one hidden layer of 500.

  Other hidden layers can be asked for. The dense layers are called fc1, fc2,
  and so on.
  """

  num_inputs: int = 784
  num_hidden: tuple[int, ...] = (500,)

  @nn.compact
  def __call__(
    self, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns (logits, hidden) of images [batch, ...]."""
    x = images.reshape(images.shape[0], -1).astype(jnp.float32) / 255
    hidden = {"fc1": x}
    fan_in = self.num_inputs
    for place, width in enumerate(self.num_hidden):
      x = nn.relu(_dense(width, fan_in, f"fc{place + 1}")(x))
      x = drop(x, dropout, place=place)
      hidden[f"fc{place + 2}"] = x
      fan_in = width
    return _dense(10, fan_in, f"fc{len(self.num_hidden) + 1}")(x), hidden


class Model(NamedTuple):
  """A network as pure functions, fit for a population of its copies.

  Attributes:
    init: Maps a key to parameters.
    prepare: Maps the images [n, ...] of a training set to inputs [n, ...], once
      before training.
    apply: Maps (params, inputs) to (logits, hidden); a third argument, a
      `Dropout`, drops outputs of hidden dense layers.
    predict: Maps parameters stacked over members and images [n, ...] shared by
      them to classes [members, n]; a third argument, a `Dropout` stacked over
      members, drops as in training.
    layers: Dense layers whose inputs are neurons, where BEAN applies.
  """

  init: Callable[[jax.Array], PyTree]
  prepare: Callable[[jax.Array], jax.Array]
  apply: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  predict: Callable[..., jax.Array]
  layers: tuple[str, ...]


def dense_kernels(
  params: PyTree, layers: Sequence[str]
) -> dict[str, jax.Array]:
  """Picks the kernels of dense layers.

  Args:
    params: Parameters {layer: {"kernel": [n, m], ...}} of a network.
    layers: Names of its layers.

  Returns:
    {layer: kernel [n, m]}.

  Example:
    >>> params = {"fc": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    >>> dense_kernels(params, ["fc"])["fc"].shape
    (2, 3)
  """
  return {layer: params[layer]["kernel"] for layer in layers}


def _from_linen(
  module: nn.Module, image_shape: tuple[int, ...], layers: tuple[str, ...]
) -> Model:
  """Returns the functions of a module whose members are simply mapped over."""

  def init(key: jax.Array) -> PyTree:
    return module.init(key, jnp.zeros((1, *image_shape), jnp.uint8))["params"]

  def apply(
    params: PyTree, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    return module.apply({"params": params}, images, dropout)

  def predict(
    params: PyTree, images: jax.Array, dropout: Dropout | None = None
  ) -> jax.Array:
    def of_member(member: tuple[PyTree, Dropout | None]) -> jax.Array:
      return jnp.argmax(apply(member[0], images, member[1])[0], axis=-1)

    return jax.lax.map(of_member, (params, dropout))

  return Model(init, lambda images: images, apply, predict, layers)


LENET5 = _from_linen(LeNet5(), (28, 28, 1), ("fc1", "fc2", "fc3"))._replace(
  prepare=unfolded_lenet5.prepare,
  apply=unfolded_lenet5.apply,
  predict=unfolded_lenet5.predict,
)
# The inputs of their fc1 are pixels, not neurons.
MLP500 = _from_linen(MLP(), (28, 28, 1), ("fc2",))
# LeNet-300-100 of LeCun et al., 1998, which pruning is usually shown on.
MLP300_100 = _from_linen(
  MLP(num_hidden=(300, 100)), (28, 28, 1), ("fc2", "fc3")
)

MODELS = {"lenet5": LENET5, "mlp500": MLP500, "mlp300_100": MLP300_100}


@functools.cache
def with_initializer(model: Model, name: str) -> Model:
  """Replaces how a network's parameters are drawn.

  Args:
    model: The network.
    name: "pytorch_uniform", which the networks here come with, or
      "lecun_normal", Flax's default: kernels of variance 1 / fan-in, no biases.

  Returns:
    The network with this initialization; the same object for equal arguments.

  Raises:
    ValueError: If the name is neither.
  """
  if name not in INITIALIZERS:
    raise ValueError(
      f"initializer: expected one of {', '.join(INITIALIZERS)}, got {name!r}"
    )
  if name == "pytorch_uniform":
    return model

  def draw(
    path: tuple, shape: jax.ShapeDtypeStruct, key: jax.Array
  ) -> jax.Array:
    if len(shape.shape) == 1:
      return jnp.zeros(shape.shape, shape.dtype)
    # Every leaf has its own stream, whatever other leaves there are.
    place = zlib.crc32(jax.tree_util.keystr(path).encode())
    return nn.initializers.lecun_normal()(
      jax.random.fold_in(key, place), shape.shape, shape.dtype
    )

  def init(key: jax.Array) -> PyTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, shape: draw(path, shape, key),
      jax.eval_shape(model.init, key),
    )

  return model._replace(init=init)


INITIALIZERS = ("pytorch_uniform", "lecun_normal")
