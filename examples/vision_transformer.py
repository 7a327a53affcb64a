"""Which layers of a small vision transformer? All, feed-forward, or the head.

    python -m examples.vision_transformer

trains on 500 handwritten digits without BEAN and with it on each choice, with 3
seeds. It prints the dense layers that there are, and for each choice the mean
test accuracy, the silhouette of the head's neurons, clustered by their outgoing
weights, and the time of a step. The line that BEAN takes ends in `# BEAN`.
"""

import functools
import time

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn import cluster, datasets, metrics, preprocessing

import bean_jax


class Block(nn.Module):
  """Attention and a feed-forward layer of 64 neurons."""

  @nn.compact
  def __call__(self, tokens):
    normed = nn.LayerNorm()(tokens)
    tokens += nn.MultiHeadDotProductAttention(num_heads=4)(normed)
    hidden = nn.relu(nn.Dense(64, name="ff1")(nn.LayerNorm()(tokens)))
    return tokens + nn.Dense(32, name="ff2")(hidden)


class VisionTransformer(nn.Module):
  """Classifies images of 8 x 8 pixels by their 16 patches of 2 x 2."""

  @nn.compact
  def __call__(self, images):
    patches = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
    tokens = nn.Dense(32)(patches)
    tokens += self.param("position", nn.initializers.normal(0.1), (16, 32))
    for index in range(2):
      tokens = Block(name=f"block{index}")(tokens)
    return nn.Dense(10)(nn.LayerNorm()(tokens).mean(axis=1))


model = VisionTransformer()
tx = optax.adam(1e-3)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(loss_fn, params, images, labels):
  @jax.jit
  def train_step(params, opt_state, images, labels):
    gradients = jax.grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  state, rng, times = (params, tx.init(params)), np.random.default_rng(0), []
  for _ in range(500):
    rows = rng.choice(500, size=100, replace=False)
    state = train_step(*state, images[rows], labels[rows])
    jax.block_until_ready(state)
    times.append(time.perf_counter())
  return state[0], 1e3 * np.median(np.diff(times))


def silhouette(kernel):
  # Clusters of directions, not of lengths.
  rows = preprocessing.normalize(kernel)
  kmeans = cluster.KMeans(10, n_init=10, random_state=0)
  return metrics.silhouette_score(rows, kmeans.fit_predict(rows))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  params = model.init(jax.random.key(0), images[:1])["params"]
  print(bean_jax.find_layers(loss_fn, params, images, labels))
  bean = functools.partial(bean_jax.regularize, loss_fn, alpha=30.0)  # BEAN
  functions = {"plain": loss_fn, "all by default": bean()}
  functions["feed-forward layers"] = bean(layers="*/ff*")
  functions["head"] = bean(layers="Dense_1/*")
  for name, function in functions.items():
    runs = []
    for seed in range(3):
      params = model.init(jax.random.key(seed), images[:1])["params"]
      params, ms = train(function, params, images, labels)
      logits = model.apply({"params": params}, images[500:])
      accuracy = np.mean(logits.argmax(axis=1) == labels[500:])
      runs.append((accuracy, silhouette(params["Dense_1"]["kernel"]), ms))
    hits, score, ms = np.mean(runs, axis=0)
    print(f"{name}: accuracy {hits:.1%}, silhouette {score:.2f}, {ms:.1f} ms")


if __name__ == "__main__":
  main()
