"""BEAN in bare JAX: the line that it takes ends in `# BEAN`.

    python -m examples.bare_jax

trains a small network on 100 handwritten digits without BEAN and with it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

import bean_jax

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


def apply_fn(params, images):
  hidden = jax.nn.relu(dense(params["fc1"], images))
  hidden = jax.nn.relu(dense(params["fc2"], hidden))
  return dense(params["head"], hidden)


def loss_fn(params, images, labels):
  log_probs = jax.nn.log_softmax(apply_fn(params, images))
  return -jnp.mean(log_probs[jnp.arange(len(labels)), labels])


def train(loss_fn, params, images, labels):
  @jax.jit
  def step(params, _):
    gradients = jax.grad(loss_fn)(params, images, labels)
    return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradients), None

  return jax.lax.scan(step, params, length=500)[0]


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  bean_loss_fn = bean_jax.regularize(loss_fn, alpha=10.0)  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    params = init_params(jax.random.key(0))
    params = train(function, params, images[:100], labels[:100])
    test = images[100:], labels[100:]
    accuracy = jnp.mean(apply_fn(params, test[0]).argmax(axis=1) == test[1])
    penalty = sum(bean_jax.penalties(loss_fn)(params, *test)[1].values())
    print(f"{name}: test accuracy {accuracy:.1%}, penalty {penalty:.4f}")


if __name__ == "__main__":
  main()
