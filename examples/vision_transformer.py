"""Which layers of a small vision transformer? All, feed-forward, or the head.

    python -m examples.vision_transformer

trains on 100 handwritten digits without BEAN, with BEAN on all layers, by all
rows of each batch and by 256 and 64 of its 1,600, and with BEAN on some layers.
It prints the dense layers that there are, and for each way the mean of 3 seeds
of the test accuracy, and of the silhouette of the head's neurons, clustered by
their outgoing weights. The line that BEAN takes ends in `# BEAN`.
"""

import functools

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
  """Classifies images of 8 x 8 levels of 0 to 16, by patches of 2 x 2."""

  @nn.compact
  def __call__(self, images):
    patches = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
    tokens = nn.Dense(32)(patches / 16)
    tokens += self.param("position", nn.initializers.normal(0.1), (16, 32))
    for index in range(2):
      tokens = Block(name=f"block{index}")(tokens)
    return nn.Dense(10)(nn.LayerNorm()(tokens).mean(axis=1))


model = VisionTransformer()
tx = optax.adam(1e-3)


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
  keys = jax.random.split(jax.random.key(0), 500)
  orders = jax.vmap(jax.random.permutation, (0, None))(keys, len(images))
  return jax.lax.scan(step, (params, tx.init(params)), orders)[0][0]


def silhouette(kernel):
  # Clusters of directions, not of lengths.
  rows = preprocessing.normalize(kernel)
  kmeans = cluster.KMeans(10, n_init=10, random_state=0)
  return metrics.silhouette_score(rows, kmeans.fit_predict(rows))


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  params = model.init(jax.random.key(0), images[:1])["params"]
  print(bean_jax.find_layers(loss_fn, params, images, labels))
  bean = functools.partial(bean_jax.regularize, loss_fn, alpha=30.0)  # BEAN
  functions = {"plain": loss_fn, "all by default": bean()}
  functions |= {f"all, {n} rows": bean(samples=n) for n in (256, 64)}
  functions |= {f"layers {p}": bean(layers=p) for p in ("*/ff*", "Dense_1/*")}
  for name, function in functions.items():
    runs = []
    for seed in range(3):
      params = model.init(jax.random.key(seed), images[:1])["params"]
      params = train(function, params, images[:100], labels[:100])
      logits = model.apply({"params": params}, images[100:])
      accuracy = np.mean(logits.argmax(axis=1) == labels[100:])
      runs.append((accuracy, silhouette(params["Dense_1"]["kernel"])))
    accuracy, score = np.mean(runs, axis=0)
    print(f"{name}: accuracy {accuracy:.1%}, silhouette {score:.2f}")


if __name__ == "__main__":
  main()
