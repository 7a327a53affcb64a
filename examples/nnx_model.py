"""BEAN in Flax NNX: the three lines that it takes end in `# BEAN`.

    python -m examples.nnx_model

trains a small network with dropout on 100 handwritten digits without BEAN and
with it. The model knows nothing of BEAN.
"""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from bean_jax import bean_penalty, nnx as bean_nnx  # BEAN


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


def loss_fn(model, images, labels, alpha):
  logits, inputs = bean_nnx.capture(model)(images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_penalty(inputs, bean_nnx.kernels(model, inputs))  # BEAN
  return loss


@nnx.jit
def train_step(model, optimizer, images, labels, alpha):
  gradients = nnx.grad(loss_fn)(model, images, labels, alpha)
  optimizer.update(model, gradients)


@nnx.jit
def evaluate(model, images, labels):
  logits, inputs = bean_nnx.capture(model)(images)
  accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels)
  return accuracy, bean_penalty(inputs, bean_nnx.kernels(model, inputs))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
    model = Mlp(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    for _ in range(200):
      train_step(model, optimizer, images[:100], labels[:100], alpha)
    model.eval()
    accuracy, penalty = evaluate(model, images[100:], labels[100:])
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
