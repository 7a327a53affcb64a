"""BEAN in bare JAX: the three lines that it takes end in `# BEAN`.

    python -m examples.bare_jax

trains a small network on 100 handwritten digits without BEAN and with it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

import bean_jax  # BEAN

SIZES = {"fc1": (64, 64), "fc2": (64, 32), "head": (32, 10)}


def init_params(key):
  params = {}
  for index, (name, size) in enumerate(SIZES.items()):
    draw = jax.random.normal(jax.random.fold_in(key, index), size)
    params[name] = {
      "kernel": draw * np.sqrt(2 / size[0]),
      "bias": jnp.zeros(size[1]),
    }
  return params


def dense(layer, inputs):
  return inputs @ layer["kernel"] + layer["bias"]


def encode(params, images):
  hidden = jax.nn.relu(dense(params["fc1"], images))
  return jax.nn.relu(dense(params["fc2"], hidden))


def loss_fn(params, images, labels, alpha):
  hidden = encode(params, images)
  log_probs = jax.nn.log_softmax(dense(params["head"], hidden))
  loss = -jnp.mean(log_probs[jnp.arange(len(labels)), labels])
  penalty = bean_jax.layer_penalty(hidden, params["head"]["kernel"])  # BEAN
  return loss + alpha * penalty  # BEAN


@functools.partial(jax.jit, static_argnames="num_steps")
def train(params, images, labels, alpha, num_steps=500):
  def step(params, _):
    gradients = jax.grad(loss_fn)(params, images, labels, alpha)
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradients), None

  return jax.lax.scan(step, params, length=num_steps)[0]


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  params = init_params(jax.random.key(0))
  for name, alpha in (("plain", 0.0), ("BEAN", 10.0)):
    trained = train(params, images[:100], labels[:100], alpha)
    hidden = encode(trained, images[100:])
    logits = dense(trained["head"], hidden)
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels[100:])
    penalty = bean_jax.layer_penalty(hidden, trained["head"]["kernel"])
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
