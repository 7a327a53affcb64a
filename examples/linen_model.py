"""BEAN in Flax Linen and optax: the three lines that it takes end in `# BEAN`.

    python -m examples.linen_model

trains a small convolutional network on 50 handwritten digits without BEAN and
with it. The model knows nothing of BEAN.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from bean_jax import bean_penalty, linen  # BEAN


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


def loss_fn(params, images, labels, alpha):
  logits, inputs = linen.capture(model)({"params": params}, images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_penalty(inputs, linen.kernels(params, inputs))  # BEAN
  return loss


@jax.jit
def train_step(params, opt_state, images, labels, alpha):
  gradients = jax.grad(loss_fn)(params, images, labels, alpha)
  updates, opt_state = tx.update(gradients, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


@jax.jit
def evaluate(params, images, labels):
  logits, inputs = linen.capture(model)({"params": params}, images)
  accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels)
  return accuracy, bean_penalty(inputs, linen.kernels(params, inputs))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16).reshape(-1, 8, 8, 1)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  for name, alpha in (("plain", 0.0), ("BEAN", 10.0)):
    params, opt_state = initial, tx.init(initial)
    for _ in range(200):
      params, opt_state = train_step(
        params, opt_state, images[:50], labels[:50], alpha
      )
    accuracy, penalty = evaluate(params, images[50:], labels[50:])
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
