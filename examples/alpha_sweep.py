"""Which alpha? 5 alphas and 5 seeds, trained as one program.

    python -m examples.alpha_sweep

trains a small convolutional network on 50 handwritten digits, with BEAN-1 and
with BEAN-2. Alpha may be traced, so `jax.vmap` takes all alphas at once. The
line that BEAN takes ends in `# BEAN`.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax

NUM_SEEDS, NUM_STEPS = 5, 150


class Cnn(nn.Module):
  """Two convolutions and three dense layers."""

  @nn.compact
  def __call__(self, images):
    hidden = images
    for features in (8, 16):
      hidden = nn.relu(nn.Conv(features, (3, 3))(hidden))
      hidden = nn.max_pool(hidden, (2, 2), strides=(2, 2))
    hidden = hidden.reshape(len(hidden), -1)
    hidden = nn.relu(nn.Dense(48, name="fc1")(hidden))
    hidden = nn.relu(nn.Dense(32, name="fc2")(hidden))
    return nn.Dense(10, name="head")(hidden)


model = Cnn()
tx = optax.adam(3e-3)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def init(seed, images):
  params = model.init(jax.random.key(seed), images[:1])["params"]
  return params, tx.init(params)


def train_step(state, alpha, images, labels, order):
  params, opt_state = state
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=alpha, order=order)  # BEAN
  gradients = jax.grad(bean_loss_fn)(params, images, labels)
  updates, opt_state = tx.update(gradients, opt_state)
  return optax.apply_updates(params, updates), opt_state


def accuracy_fn(state, images, labels):
  logits = model.apply({"params": state[0]}, images)
  return jnp.mean(logits.argmax(axis=1) == labels)


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16).reshape(-1, 8, 8, 1)
  for order, alphas in ((1, (0, 0.1, 1, 10, 100)), (2, (0, 1, 10, 100, 1000))):
    # One member for each alpha and seed.
    alpha = jnp.repeat(jnp.float32(alphas), NUM_SEEDS)
    seeds = jnp.tile(jnp.arange(NUM_SEEDS), len(alphas))
    states = jax.vmap(init, in_axes=(0, None))(seeds, images)
    step = functools.partial(train_step, order=order)
    step = jax.jit(jax.vmap(step, in_axes=(0, 0, None, None)))
    for _ in range(NUM_STEPS):
      states = step(states, alpha, images[:50], labels[:50])
    evaluate = jax.vmap(accuracy_fn, in_axes=(0, None, None))
    accuracies = evaluate(states, images[50:], labels[50:])
    for value, members in zip(alphas, jnp.split(accuracies, 5), strict=True):
      print(
        f"BEAN-{order}, alpha {value:g}: test accuracy {members.mean():.1%}, "
        f"from {members.min():.1%} to {members.max():.1%}"
      )


if __name__ == "__main__":
  main()
