"""Networks as pure functions, fit for populations of their copies.

A network is a dict of parameters and, where it has BatchNorm, of running
statistics; all functions take both as `Variables`. To add one, add an entry to
`NETWORKS`; flags and everything else follow.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.architectures import models, resnet18, unfolded_lenet5
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
    prepare: Maps images [n, ...] to inputs [n, ...] in the form that training
      takes.
    apply: Maps (variables, inputs, dropout or None) to (output, new batch
      statistics), as in training. An output is (logits, hidden): hidden has the
      inputs of dense layers, {layer: [n, neurons]}.
    evaluate: Maps (variables, images) to the output, as in evaluation.
    predict: Maps (variables stacked over members, images [n, ...] shared by
      them, dropout stacked over members or None) to classes [members, n].
    layers: Dense layers whose inputs are neurons, where BEAN applies.
    one_at_a_time: Whether a device is fastest with one member, as where mapping
      over several makes grouped convolutions.
  """

  init: Callable[[jax.Array], Variables]
  prepare: Callable[[jax.Array], jax.Array]
  apply: Callable[[Variables, jax.Array, Dropout | None], tuple[Output, PyTree]]
  evaluate: Callable[[Variables, jax.Array], Output]
  predict: Callable[..., jax.Array]
  layers: tuple[str, ...]
  one_at_a_time: bool = False


class Spec(NamedTuple):
  """Which network.

  Attributes:
    name: One of `NAMES`.
    initializer: One of `INITIALIZERS`.
    bfloat16: Whether it computes its convolutions in bfloat16.
  """

  name: str = "lenet5"
  initializer: str = "pytorch_uniform"
  bfloat16: bool = False


def dense_kernels(
  params: PyTree, layers: Sequence[str]
) -> dict[str, jax.Array]:
  """Picks the kernels {layer: [n, m]} of dense layers."""
  return {layer: params[layer]["kernel"] for layer in layers}


def from_linen(
  module: nn.Module,
  image_shape: tuple[int, ...],
  layers: tuple[str, ...],
  *,
  has_stats: bool = False,
  **fields: Any,
) -> Network:
  """Makes a network of a Flax module.

  Args:
    module: Maps (images, dropout or None) to (logits, hidden).
    image_shape: Height, width and channels of the images.
    layers: Its dense layers whose inputs are neurons.
    has_stats: Whether it keeps batch statistics, and takes `train=bool` too.
    **fields: Of `Network`, where there is something better than this makes.
  """
  training = {"train": True} if has_stats else {}
  evaluation = {"train": False} if has_stats else {}

  def init(key: jax.Array) -> Variables:
    # Not before: whoever imports this may not have chosen a device yet.
    images = jnp.zeros((1, *image_shape), jnp.uint8)
    variables = module.init(key, images, **evaluation)
    return Variables(variables["params"], variables.get("batch_stats", {}))

  def apply(
    variables: Variables, images: jax.Array, dropout: Dropout | None = None
  ) -> tuple[Output, PyTree]:
    output, changed = module.apply(
      variables._asdict(), images, dropout, mutable=["batch_stats"], **training
    )
    return output, changed.get("batch_stats", {})

  def evaluate(
    variables: Variables, images: jax.Array, dropout: Dropout | None = None
  ) -> Output:
    return module.apply(variables._asdict(), images, dropout, **evaluation)

  predict = functools.partial(_in_blocks, evaluate)
  network = Network(
    init, lambda images: images, apply, evaluate, predict, layers
  )
  return network._replace(**fields)


def _in_blocks(
  evaluate: Callable[..., Output],
  variables: Variables,
  images: jax.Array,
  dropout: Dropout | None = None,
) -> jax.Array:
  """Classifies by one member after another, some images at a time.

  What drops neurons draws them for all images at once.
  """
  num_images = images.shape[0]
  size = num_images if dropout else min(PREDICT_BLOCK, num_images)
  padding = ((0, -num_images % size), *((0, 0),) * (images.ndim - 1))
  blocks = jnp.pad(images, padding).reshape(-1, size, *images.shape[1:])

  def of_member(member: tuple[Variables, Dropout | None]) -> jax.Array:
    classes = jax.lax.map(
      lambda block: jnp.argmax(evaluate(member[0], block, member[1])[0], -1),
      blocks,
    )
    return classes.reshape(-1)[:num_images]

  return jax.lax.map(of_member, (variables, dropout))


def _lenet5(*_: Any) -> Network:
  prepare, apply = unfolded_lenet5.prepare, unfolded_lenet5.apply
  return from_linen(
    models.LeNet5(),
    _GRAY_SHAPE,
    ("fc1", "fc2", "fc3"),
    prepare=prepare,
    apply=lambda v, x, dropout=None: (apply(v.params, x, dropout), {}),
    evaluate=lambda v, images: apply(v.params, prepare(images)),
    predict=lambda v, *args: unfolded_lenet5.predict(v.params, *args),
  )


def _perceptron(num_hidden: tuple[int, ...], *_: Any) -> Network:
  # The inputs of fc1 are pixels, not neurons.
  layers = tuple(f"fc{place + 2}" for place in range(len(num_hidden)))
  return from_linen(models.MLP(num_hidden), _GRAY_SHAPE, layers)


def _competing(
  num_units: int, _spec: Spec, image_shape: tuple, _axis_name: str | None
) -> Network:
  # A step of Adam moves z by a sum over the units.
  module = models.CompetingUnits(num_units, gain=1000 / num_units)
  return from_linen(module, image_shape, ("readout",), has_stats=True)


def _resnet18(
  num_filters: int, spec: Spec, image_shape: tuple, axis_name: str | None
) -> Network:
  module = resnet18.ResNet18(
    dtype=jnp.bfloat16 if spec.bfloat16 else jnp.float32,
    num_features=tuple(num_filters * 2**stage for stage in range(4)),
    axis_name=axis_name,
  )
  return from_linen(
    module, image_shape, ("head",), has_stats=True, one_at_a_time=True
  )


class Entry(NamedTuple):
  """How a network is made, and what it takes.

  Attributes:
    make: Maps (spec, image shape, axis of devices) to the network.
    gray: Whether it takes the small gray images of the few-shot experiments
      alone.
    standardized: Whether it standardizes pixels, so that some are negative.
    bfloat16: Whether it can compute in bfloat16.
  """

  make: Callable[[Spec, tuple, str | None], Network]
  gray: bool = False
  standardized: bool = False
  bfloat16: bool = False


_GRAY_SHAPE = (28, 28, 1)
NETWORKS = {
  "lenet5": Entry(_lenet5, gray=True),
  # LeNet-300-100 of LeCun et al., 1998, which pruning is usually shown on.
  "mlp300_100": Entry(functools.partial(_perceptron, (300, 100)), gray=True),
  "mlp500": Entry(functools.partial(_perceptron, (500,)), gray=True),
  "competing100": Entry(functools.partial(_competing, 100)),
  "competing2000": Entry(functools.partial(_competing, 2000)),
  "resnet18": Entry(
    functools.partial(_resnet18, 64), standardized=True, bfloat16=True
  ),
  # A sixteenth of the work, for a CPU.
  "resnet18_16": Entry(functools.partial(_resnet18, 16), standardized=True),
}
NAMES = tuple(NETWORKS)
GRAY = tuple(name for name, entry in NETWORKS.items() if entry.gray)


@functools.cache
def make(
  spec: Spec,
  image_shape: tuple[int, int, int] = _GRAY_SHAPE,
  *,
  axis_name: str | None = None,
) -> Network:
  """Makes a network, the same object for equal arguments.

  BatchNorm takes its statistics in training over an axis of devices, if devices
  share a batch.

  Raises:
    ValueError: If there is no such network or initializer, or it does not take
      such images.

  Example:
    >>> make(Spec("resnet18"), (32, 32, 3)).layers
    ('head',)
  """
  for what, name, known in (
    ("network", spec.name, NAMES),
    ("initializer", spec.initializer, INITIALIZERS),
  ):
    if name not in known:
      expected = ", ".join(known)
      raise ValueError(f"{what}: expected one of {expected}, got {name!r}")
  entry = NETWORKS[spec.name]
  if entry.gray and image_shape != _GRAY_SHAPE:
    raise ValueError(
      f"{spec.name} takes gray images of 28 x 28, got images of {image_shape}"
    )
  network = entry.make(spec, image_shape, axis_name)
  return network._replace(init=INITIALIZERS[spec.initializer](network.init))


def _lecun_normal(
  init: Callable[[jax.Array], Variables],
) -> Callable[[jax.Array], Variables]:
  """Draws kernels of variance 1 / fan-in and no biases, Flax's default."""

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

  def draw_all(key: jax.Array) -> Variables:
    shapes = jax.eval_shape(init, key)
    params = jax.tree_util.tree_map_with_path(
      lambda path, shape: draw(path, shape, key), shapes.params
    )
    return Variables(params, init(key).batch_stats)

  return draw_all


INITIALIZERS: dict[str, Callable] = {
  "pytorch_uniform": lambda init: init,
  "lecun_normal": _lecun_normal,
}
