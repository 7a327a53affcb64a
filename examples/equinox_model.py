"""BEAN in Equinox: the line that it takes ends in `# BEAN`.

    python -m examples.equinox_model

trains a small network on 100 handwritten digits without BEAN and with it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax

tx = optax.adam(3e-3)


def loss_fn(model, images, labels):
  logits = jax.vmap(model)(images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(loss_fn, model, images, labels):
  @eqx.filter_jit
  def train_step(model, opt_state):
    gradients = eqx.filter_grad(loss_fn)(model, images, labels)
    updates, opt_state = tx.update(gradients, opt_state)
    return eqx.apply_updates(model, updates), opt_state

  opt_state = tx.init(eqx.filter(model, eqx.is_array))
  for _ in range(200):
    model, opt_state = train_step(model, opt_state)
  return model


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=1.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    model = eqx.nn.MLP(64, 10, 48, depth=2, key=jax.random.key(0))
    model = train(function, model, images[:100], labels[:100])
    logits = jax.vmap(model)(images[100:])
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[100:])
    _, penalties = bean_jax.penalties(loss_fn)(
      model, images[100:], labels[100:]
    )
    penalty = sum(penalties.values())
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
