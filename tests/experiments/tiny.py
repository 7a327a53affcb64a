"""Networks and data so small that compiling and training take no time.

`NETWORK` is one like LeNet-5, with dropout and `prepare`; `NORMED` is one like
ResNet-18, with batch statistics.
"""

import functools
import io
import json
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments import datasets
from experiments.architectures import networks
from experiments.architectures.dropout import drop
from experiments.architectures.networks import Variables

NUM_HIDDEN = 6
NUM_NORMED = 5

SHAPES = {
  "fc1": {"kernel": (784, NUM_HIDDEN), "bias": (NUM_HIDDEN,)},
  "fc2": {"kernel": (NUM_HIDDEN, 10), "bias": (10,)},
}


def draw_params(key, shapes):
  """Draws parameters {layer: {name: array}} at once, which compiles fast.

  Kernels are about as large as is usual.
  """
  sizes = [math.prod(s) for layer in shapes.values() for s in layer.values()]
  numbers = jax.random.normal(key, (sum(sizes),))
  parts = iter(jnp.split(numbers, np.cumsum(sizes)[:-1]))
  return {
    layer: {
      name: next(parts).reshape(shape) * math.prod(shape[:-1], start=4) ** -0.5
      for name, shape in leaves.items()
    }
    for layer, leaves in shapes.items()
  }


def _init(key):
  return Variables(draw_params(key, SHAPES), {})


def _prepare(images):
  return images.reshape(len(images), 784)


def _apply(variables, rows, dropout=None):
  # Unlike images, what `prepare` made has two dimensions.
  assert rows.ndim == 2
  params, _ = variables
  hidden = {"fc1": rows.astype(jnp.float32) / 255}
  x = hidden["fc1"] @ params["fc1"]["kernel"] + params["fc1"]["bias"]
  hidden["fc2"] = drop(jnp.tanh(x), dropout, place=0)
  x = hidden["fc2"] @ params["fc2"]["kernel"] + params["fc2"]["bias"]
  return (x, hidden), {}


def _evaluate(variables, images):
  return _apply(variables, _prepare(images))[0]


def _predict(variables, images, dropout=None):
  (logits, _), _ = jax.vmap(_apply, in_axes=(0, None, 0))(
    variables, _prepare(images), dropout
  )
  return jnp.argmax(logits, axis=-1)


NETWORK = networks.Network(
  _init, _prepare, _apply, _evaluate, _predict, ("fc2",)
)


class NormedModule(nn.Module):
  """One hidden layer with BatchNorm, on every fourth pixel of 28 x 28."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, dropout=None, *, train):
    del dropout
    x = images[:, ::4, ::4].reshape(len(images), -1).astype(jnp.float32) / 255
    # A bias would have no gradient but noise, which Adam makes large.
    x = nn.Dense(NUM_NORMED, use_bias=False, name="fc1")(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      axis_name=self.axis_name if train else None,
      name="norm",
    )(x)
    x = jnp.tanh(x)
    return nn.Dense(10, name="fc2")(x), {"fc2": x}


NORMED = networks.from_linen(
  NormedModule(), (28, 28, 1), ("fc2",), has_stats=True
)


def cut(split, rows):
  return datasets.Split(split.images[rows], split.labels[rows])


def load_digits(num_held_out):
  """Loads digits with so few images for validation, and as many for test."""
  digits = datasets.load("digits")
  rows = slice(None, None, len(digits.test.labels) // num_held_out)
  held_out = cut(digits.validation, rows), cut(digits.test, rows)
  return digits._replace(validation=held_out[0], test=held_out[1])


@functools.cache
def load_few_digits():
  """Loads 60, 50 and 80 digits for training, validation and test."""
  digits = datasets.load("digits")
  return digits._replace(
    train=cut(digits.train, slice(60)),
    validation=cut(digits.validation, slice(50)),
    test=cut(digits.test, slice(80)),
  )


def _png(image):
  buffer = io.BytesIO()
  Image.fromarray(image[..., 0]).save(buffer, format="PNG")
  return buffer.getvalue()


def write_prepared(
  root, name, shape, *, num_train=11, num_test=4, seed=0, version="3.0.1"
):
  """Prepares a dataset in root as TFDS does; its folder and its arrays."""
  from array_record.python import array_record_module
  import tensorflow_datasets as tfds

  generator = np.random.default_rng(seed)
  folder = root / name / version
  folder.mkdir(parents=True)
  image = tfds.features.Image(shape=shape)
  label = tfds.features.ClassLabel(num_classes=10)
  features = tfds.features.FeaturesDict({"image": image, "label": label})
  features.save_config(folder)
  arrays, splits = [], []
  for split, num in (("train", num_train), ("test", num_test)):
    images = generator.integers(0, 256, (num, *shape), dtype=np.uint8)
    labels = generator.integers(0, 10, num, dtype=np.int32)
    path = folder / f"{name}-{split}.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for image, label in zip(map(_png, images), labels, strict=True):
      writer.write(features.serialize_example({"image": image, "label": label}))
    writer.close()
    arrays += [images, labels]
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits.append(
      {"name": split, "numBytes": "1", "filepathTemplate": template}
    )
    splits[-1]["shardLengths"] = [str(num)]
  info = {"name": name, "version": version, "fileFormat": "array_record"}
  (folder / "dataset_info.json").write_text(
    json.dumps(info | {"splits": splits})
  )
  return folder, arrays
