"""BEAN under sharpness-aware minimization, in three lines, `# BEAN`.

    python -m examples.sam

trains a small network on 100 handwritten digits without BEAN and with it. SAM
takes the gradient again at a point near by, so the penalty belongs to the loss:
a gradient transformation would not see what it depends on.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from bean_jax import bean_penalty, linen  # BEAN

model = nn.Sequential(
  [nn.Dense(64), nn.relu, nn.Dense(32), nn.relu, nn.Dense(10)]
)
tx = optax.contrib.sam(
  optax.adam(3e-3),
  optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
  opaque_mode=True,
)


def loss_fn(params, images, labels, alpha):
  logits, inputs = linen.capture(model)({"params": params}, images)  # BEAN
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  loss += alpha * bean_penalty(inputs, linen.kernels(params, inputs))  # BEAN
  return loss


@jax.jit
def train_step(params, opt_state, images, labels, alpha):
  def grad_fn(params, _):
    return jax.grad(loss_fn)(params, images, labels, alpha)

  updates, opt_state = tx.update(
    grad_fn(params, None), opt_state, params, grad_fn=grad_fn
  )
  return optax.apply_updates(params, updates), opt_state


@jax.jit
def evaluate(params, images, labels):
  logits, inputs = linen.capture(model)({"params": params}, images)
  accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels)
  return accuracy, bean_penalty(inputs, linen.kernels(params, inputs))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  for name, alpha in (("plain", 0.0), ("BEAN", 1.0)):
    params, opt_state = initial, tx.init(initial)
    for _ in range(150):
      params, opt_state = train_step(
        params, opt_state, images[:100], labels[:100], alpha
      )
    accuracy, penalty = evaluate(params, images[100:], labels[100:])
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
