"""A network and data so small that compiling and training take no time."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.architectures import models
from experiments.architectures.dropout import drop

NUM_HIDDEN = 6


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
  return draw_params(key, SHAPES)


def _prepare(images):
  return images.reshape(len(images), 784)


def _apply(params, rows, dropout=None):
  # Unlike images, what `prepare` made has two dimensions.
  assert rows.ndim == 2
  hidden = {"fc1": rows.astype(jnp.float32) / 255}
  x = hidden["fc1"] @ params["fc1"]["kernel"] + params["fc1"]["bias"]
  hidden["fc2"] = drop(jnp.tanh(x), dropout, place=0)
  x = hidden["fc2"] @ params["fc2"]["kernel"] + params["fc2"]["bias"]
  return x, hidden


def _predict(params, images, dropout=None):
  logits, _ = jax.vmap(_apply, in_axes=(0, None, 0))(
    params, _prepare(images), dropout
  )
  return jnp.argmax(logits, axis=-1)


MODEL = models.Model(_init, _prepare, _apply, _predict, ("fc2",))


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
