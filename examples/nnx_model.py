"""BEAN in Flax NNX: the line that it takes ends in `# BEAN`.

    python -m examples.nnx_model

trains a small network with dropout on 100 handwritten digits without BEAN and
with it.
"""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax


class Mlp(nnx.Module):
  """Three dense layers."""

  def __init__(self, rngs):
    self.fc1 = nnx.Linear(64, 64, rngs=rngs)
    self.fc2 = nnx.Linear(64, 32, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.head = nnx.Linear(32, 10, rngs=rngs)

  def __call__(self, images):
    hidden = nnx.relu(self.fc1(images))
    return self.head(self.dropout(nnx.relu(self.fc2(hidden))))


def loss_fn(model, images, labels):
  losses = optax.softmax_cross_entropy_with_integer_labels(
    model(images), labels
  )
  return losses.mean()


def train(loss_fn, model, images, labels):
  @nnx.jit
  def train_step(model, optimizer):
    optimizer.update(model, nnx.grad(loss_fn)(model, images, labels))

  optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
  for _ in range(200):
    train_step(model, optimizer)


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    model = Mlp(nnx.Rngs(0))
    train(function, model, images[:100], labels[:100])
    model.eval()
    accuracy = jnp.mean(jnp.argmax(model(images[100:]), axis=1) == labels[100:])
    _, penalties = bean_jax.penalties(loss_fn)(
      model, images[100:], labels[100:]
    )
    penalty = sum(penalties.values())
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
