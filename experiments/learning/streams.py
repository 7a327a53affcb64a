"""What a learner sees: a few images of its own, or a dataset that all share.

A stream says how images reach a member, in device code (`batch`, `reduce`) and
around it (`load`, the layout, what identifies its cells).
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from experiments import datasets
from experiments.architectures.networks import Network
from experiments.learning.learner import Samples
from experiments.machine import devices

PyTree = Any


class Batch(NamedTuple):
  """What a step sees.

  Attributes:
    samples: Inputs, as `Network.apply` takes them, and labels.
    mask: Real samples [batch], or None if all are.
    key: A key for the noise of this step.
    weight: Share of these samples in the batch, or None for all of it.
  """

  samples: Samples
  mask: jax.Array | None
  key: jax.Array
  weight: jax.Array | float | None = None


class Layout(NamedTuple):
  """How members, their data and held-out images lie on the devices."""

  members: PartitionSpec
  data: PartitionSpec
  held_out: PartitionSpec


class Augmentation(NamedTuple):
  """How training images are changed at random, anew in every step.

  Attributes:
    flip: Whether half of them are mirrored, left to right.
    crop: Whether they are shifted by up to 4 pixels, with black beyond the
      border.
  """

  flip: bool = False
  crop: bool = False


@dataclasses.dataclass(frozen=True)
class Shots:
  """A few images of each class, which a member draws by its seed.

  Attributes:
    num_shots: Images of each class.
  """

  num_shots: int

  layout = Layout(devices.MEMBERS, devices.MEMBERS, devices.SHARED)
  data_axis = 0  # Every member has its own.
  num_shards = 1
  # Between two looks of the host: often enough for a progress bar, seldom
  # enough to cost nothing.
  most_laps = 5

  @property
  def label(self) -> str:
    """Names it in the names of files, between dataset and method."""
    return f"{self.num_shots}shot"

  @property
  def title(self) -> str:
    """Names it for people."""
    return f"{self.num_shots}-shot "

  @property
  def fields(self) -> dict[str, Any]:
    """What the records of its cells say of it."""
    return {"shots": self.num_shots}

  def num_samples(self, dataset: datasets.Dataset) -> int:
    """Returns how many training images a member sees."""
    return self.num_shots * dataset.num_classes

  def load(self, dataset: datasets.Dataset, seeds: Sequence[int]) -> Samples:
    """Returns training images and labels, [members, n, ...].

    Raises:
      datasets.DatasetError: If a class has fewer images.
    """
    images, labels = dataset.train
    rows = [
      datasets.draw_shots(labels, num_shots=self.num_shots, seed=seed)
      for seed in seeds
    ]
    return Samples(images[np.array(rows)], labels[np.array(rows)])

  def prepare(self, network: Network, data: Samples) -> Samples:
    """Prepares a member's images, once: they never change."""
    return data._replace(inputs=network.prepare(data.inputs))

  def batch(
    self,
    _network: Network,
    data: Samples,
    rows: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
  ) -> Batch:
    """Returns what a step sees of prepared data, the rows [batch] of it."""
    return Batch(jax.tree.map(lambda leaf: leaf[rows], data), mask, key)

  def reduce(self, tree: PyTree) -> PyTree:
    """Sums over the devices that share a batch: there is one."""
    return tree

  def has_converged(self, _objectives: Sequence[float]) -> bool:
    """Tells whether a member is done before its last lap: never."""
    return False


@dataclasses.dataclass(frozen=True)
class Whole:
  """All training images of a dataset, which lie on the device once, as uint8.

  Attributes:
    augmentation: How images are changed.
    num_shards: Devices that share a batch, each taking as many of its images;
      1 where each device has members of its own.
    patience: Epochs without a new low of the objective after which a member
      has converged; 0 for none that ever does.
    tolerance: Least relative decrease to a new low.
  """

  augmentation: Augmentation = Augmentation()
  num_shards: int = 1
  patience: int = 5
  tolerance: float = 1e-3

  data_axis = None  # All members share them.
  # Who goes on is decided after every epoch.
  most_laps = 1
  label = ""
  title = ""

  @property
  def layout(self) -> Layout:
    """Where each device has members of its own, or a part of every batch."""
    shared = devices.SHARED
    if self.num_shards > 1:
      return Layout(shared, shared, PartitionSpec(devices.AXIS))
    return Layout(devices.MEMBERS, shared, shared)

  @property
  def fields(self) -> dict[str, Any]:
    """What the records of its cells say of it."""
    return {
      "patience": self.patience,
      "tolerance": self.tolerance,
      "bfloat16": False,
      **self.augmentation._asdict(),
      # Left out where it is not so, so that older files stay valid.
      **({"data_parallel": True} if self.num_shards > 1 else {}),
    }

  def num_samples(self, dataset: datasets.Dataset) -> int:
    """Returns how many training images a member sees."""
    return len(dataset.train.labels)

  def load(self, dataset: datasets.Dataset, _seeds: Sequence[int]) -> Samples:
    """Returns all training images and labels, [n, ...]."""
    return Samples(*dataset.train)

  def prepare(self, _network: Network, data: Samples) -> Samples:
    """Leaves the images as they are.

    Beforehand is hardly faster than in every step, and the windows of LeNet-5
    are nine times as large as the images.
    """
    return data

  def batch(
    self,
    network: Network,
    data: Samples,
    rows: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
  ) -> Batch:
    """Returns what a step sees of the data, this device's part of the rows."""
    samples = jax.tree.map(lambda leaf: leaf[rows], data)
    image_key, key = jax.random.split(key)
    images = augment(samples.inputs, self.augmentation, image_key)
    whole = Batch(samples._replace(inputs=images), mask, key)
    own = _own_shard(self.num_shards, whole) if self.num_shards > 1 else whole
    inputs = network.prepare(own.samples.inputs)
    return own._replace(samples=own.samples._replace(inputs=inputs))

  def reduce(self, tree: PyTree) -> PyTree:
    """Sums over the devices that share a batch."""
    if self.num_shards == 1:
      return tree
    return jax.lax.psum(tree, devices.AXIS)

  def has_converged(self, objectives: Sequence[float]) -> bool:
    """Tells whether a learning curve falls no more.

    It does not if none of its last `patience` values is below 1 - tolerance
    times the lowest before them. The criterion has no unit, so that it means
    the same whatever a method adds to the loss; and Adam's steps upwards, from
    which it recovers within a few epochs, do not end a training.
    """
    if self.patience < 1 or len(objectives) <= self.patience:
      return False
    lowest = np.min(objectives[: -self.patience])
    latest = np.min(objectives[-self.patience :])
    return bool(latest >= (1 - self.tolerance) * lowest)


Stream = Shots | Whole


@functools.cache
def preparation(
  stream: Stream, network: Network
) -> Callable[[Samples], Samples]:
  """Makes `Learner.prepare`, the same function for equal arguments."""
  return functools.partial(stream.prepare, network)


def batches(
  key: jax.Array, num_samples: int, batch_size: int
) -> tuple[jax.Array, jax.Array | None]:
  """Draws the order of one epoch's samples.

  Rows [steps, batch], and a mask of the same shape or None if all are real: the
  last batch is filled up with samples that are masked out. Of all that is
  computed they enter batch statistics alone. A size of 0, or more than there
  are, means all.
  """
  size = min(batch_size or num_samples, num_samples)
  order = jax.random.permutation(key, num_samples)
  missing = -num_samples % size
  if not missing:
    return order.reshape(-1, size), None
  rows = jnp.concatenate([order, order[:missing]]).reshape(-1, size)
  mask = jnp.arange(num_samples + missing) < num_samples
  return rows, mask.reshape(-1, size)


def augment(
  images: jax.Array, augmentation: Augmentation, key: jax.Array
) -> jax.Array:
  """Changes images [n, height, width, channels] at random, each in its own way.

  What comes out has their shape and type.
  """
  flip_key, crop_key = jax.random.split(key)
  num_images = images.shape[0]
  if augmentation.flip:
    mirrored = jax.random.bernoulli(flip_key, shape=(num_images, 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
  if augmentation.crop:
    corners = jax.random.randint(crop_key, (num_images, 2), 0, 9)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    images = jax.vmap(
      lambda image, corner: jax.lax.dynamic_slice(
        image, (*corner, 0), images.shape[1:]
      )
    )(padded, corners)
  return images


def _own_shard(num_shards: int, batch: Batch) -> Batch:
  """Returns the part of a batch that a device takes.

  The weights, the shares of real samples, make the sum over devices of means
  over samples the mean over all samples.
  """
  place = jax.lax.axis_index(devices.AXIS)

  def own(leaf: jax.Array) -> jax.Array:
    # Dealt out in turn, so that also of an epoch's last batch, which is filled
    # up at its end, everybody has real samples.
    dealt = leaf.reshape(-1, num_shards, *leaf.shape[1:])
    return jax.lax.dynamic_index_in_dim(dealt, place, 1, keepdims=False)

  samples = jax.tree.map(own, batch.samples)
  key = jax.random.fold_in(batch.key, place)
  if batch.mask is None:
    return Batch(samples, None, key, 1 / num_shards)
  own_mask = own(batch.mask)
  weight = jnp.sum(own_mask) / jnp.sum(batch.mask)
  # The mean over no samples would not be a number.
  return Batch(samples, own_mask | ~jnp.any(own_mask), key, weight)
