"""Networks and data so small that compiling and training take no time.

`NETWORK` is one like LeNet-5, with dropout and `prepare`; `NORMED` is one like
ResNet-18, with batch statistics.
"""

import functools
import itertools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

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
  """Draws parameters of given shapes at once, which compiles fast.

  Args:
    key: A key.
    shapes: {layer: {"kernel": shape, "bias": shape}}.

  Returns:
    Parameters of these shapes, with kernels about as large as is usual.
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
  """One hidden layer with BatchNorm, on every fourth pixel of 28 x 28.

  Attributes:
    axis_name: Axis of devices that share a batch, or None.
  """

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


def load_digits(num_held_out):
  """Loads digits with so few images for validation, and as many for test."""
  digits = datasets.load("digits")
  step = len(digits.test.labels) // num_held_out

  def thin(split):
    return datasets.Split(split.images[::step], split.labels[::step])

  return digits._replace(
    validation=thin(digits.validation), test=thin(digits.test)
  )


@functools.cache
def load_few_digits():
  """Loads 60, 50 and 80 digits for training, validation and test."""
  digits = datasets.load("digits")

  def first(split, number):
    return datasets.Split(split.images[:number], split.labels[:number])

  return digits._replace(
    train=first(digits.train, 60),
    validation=first(digits.validation, 50),
    test=first(digits.test, 80),
  )


@functools.cache
def make_step(loss_fn, learning_rate):
  """Makes one step of training by hand.

  Args:
    loss_fn: Maps (params, samples, strength) to (loss, cross-entropy).
    learning_rate: Adam's.

  Returns:
    A function of (params, opt_state, samples, strength) that returns
    (params, opt_state, cross-entropy).
  """
  optimizer = optax.adam(learning_rate)

  def step(params, opt_state, samples, strength):
    grads, loss = jax.grad(loss_fn, has_aux=True)(params, samples, strength)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  return jax.jit(step)


def train_by_hand(
  step, params, order_key, train, *, strength, batch_size, num_steps
):
  """Trains one member step by step, without masks and outside of any scan.

  Args:
    step: What `make_step` made.
    params: Parameters to begin with.
    order_key: Key whose fold with the epoch decides its order of samples.
    train: Images (or what `prepare` made of them) and labels.
    strength: The method's hyper-parameter.
    batch_size: Samples in a step, fewer in an epoch's last.
    num_steps: Steps, which need not fill whole epochs.

  Returns:
    The parameters after each step, and the cross-entropy in it.
  """
  opt_state = optax.adam(0.0).init(params)
  num_samples = len(train[1])
  history, losses = [], []
  for epoch in itertools.count():
    key = jax.random.fold_in(order_key, epoch)
    order = jax.random.permutation(key, num_samples)
    for start in range(0, num_samples, batch_size):
      if len(history) == num_steps:
        return history, np.array(losses)
      rows = order[start : start + batch_size]
      samples = jax.tree.map(lambda leaf, rows=rows: leaf[rows], train)
      params, opt_state, loss = step(params, opt_state, samples, strength)
      history.append(params)
      losses.append(float(loss))
