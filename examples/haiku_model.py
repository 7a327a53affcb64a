"""BEAN in Haiku: the line that it takes ends in `# BEAN`.

    python -m examples.haiku_model

trains a small network on 100 handwritten digits without BEAN and with it.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax

model = hk.without_apply_rng(
  hk.transform(lambda images: hk.nets.MLP([64, 32, 10])(images))
)
tx = optax.adam(3e-3)


def loss_fn(params, images, labels):
  logits = model.apply(params, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(loss_fn, params, images, labels):
  @jax.jit
  def train_step(params, opt_state):
    gradients = jax.grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for _ in range(200):
    params, opt_state = train_step(params, opt_state)
  return params


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = model.init(jax.random.key(0), images[:1])
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    params = train(function, initial, images[:100], labels[:100])
    logits = model.apply(params, images[100:])
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[100:])
    _, penalties = bean_jax.penalties(loss_fn)(
      params, images[100:], labels[100:]
    )
    penalty = sum(penalties.values())
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
