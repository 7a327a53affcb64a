"""BEAN by some rows of each batch: what is left of accuracy and assemblies.

    python -m examples.some_rows

trains a perceptron on handwritten digits, 1,000 of them and 50, in one batch,
with 3 seeds: without BEAN, with BEAN by all rows of the batch, by 64 and by 16.
It prints the test accuracy, and the silhouette of the last hidden layer's
outgoing weights in ten clusters. The line that BEAN takes ends in `# BEAN`.
"""

import functools
import itertools

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn import cluster, datasets, metrics, preprocessing

import bean_jax


class Perceptron(nn.Module):
  """Classifies images of 64 pixels, whose levels are 0 to 16."""

  @nn.compact
  def __call__(self, images):
    hidden = nn.relu(nn.Dense(128)(images / 16))
    hidden = nn.relu(nn.Dense(64)(hidden))
    return nn.Dense(10, name="head")(hidden)


model = Perceptron()
tx = optax.adam(3e-3)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnums=0)
def train(loss_fn, params, images, labels):
  def step(carry, order):
    params, opt_state = carry
    gradients = jax.grad(loss_fn)(params, images[order], labels[order])
    updates, opt_state = tx.update(gradients, opt_state)
    return (optax.apply_updates(params, updates), opt_state), None

  # Which rows are looked at depends on their order, so it changes.
  keys = jax.random.split(jax.random.key(0), 600)
  orders = jax.vmap(jax.random.permutation, (0, None))(keys, len(images))
  return jax.lax.scan(step, (params, tx.init(params)), orders)[0][0]


def silhouette(kernel):
  # Clusters of directions, not of lengths.
  rows = preprocessing.normalize(kernel)
  kmeans = cluster.KMeans(10, n_init=10, random_state=0)
  return metrics.silhouette_score(rows, kmeans.fit_predict(rows))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  bean = functools.partial(bean_jax.regularize, alpha=300.0, order=2)  # BEAN
  functions = {"plain": loss_fn, "BEAN, all rows": bean(loss_fn)}
  functions |= {f"BEAN, {n} rows": bean(loss_fn, samples=n) for n in (64, 16)}
  for count, name in itertools.product((1000, 50), functions):
    runs = []
    for seed in range(3):
      rng = np.random.default_rng(seed)
      few, rest = np.split(rng.permutation(len(images)), [count])
      params = model.init(jax.random.key(seed), images[:1])["params"]
      params = train(functions[name], params, images[few], labels[few])
      logits = model.apply({"params": params}, images[rest])
      hits = np.mean(logits.argmax(axis=1) == labels[rest])
      runs.append((hits, silhouette(params["head"]["kernel"])))
    hits, score = np.mean(runs, axis=0)
    print(f"{count} images, {name}: test accuracy {hits:.1%}, ", end="")
    print(f"silhouette {score:.2f}")


if __name__ == "__main__":
  main()
