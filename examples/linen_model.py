"""BEAN in Flax Linen and optax: the line that it takes ends in `# BEAN`.

    python -m examples.linen_model

trains a small convolutional network on 50 handwritten digits without BEAN and
with it.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax


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


def train(loss_fn, params, images, labels):
  @jax.jit
  def train_step(params, opt_state):
    gradients = jax.grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for _ in range(200):
    params, opt_state = train_step(params, opt_state)
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16).reshape(-1, 8, 8, 1)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=10.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    params = train(function, initial, images[:50], labels[:50])
    logits = model.apply({"params": params}, images[50:])
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[50:])
    _, penalties = bean_jax.penalties(loss_fn)(params, images[50:], labels[50:])
    penalty = sum(penalties.values())
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
