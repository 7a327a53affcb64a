"""BEAN on the convolutions of a small residual network, in one line, `# BEAN`.

    python -m examples.resnet

trains on 100 handwritten digits without BEAN, with BEAN on the dense layer, and
with BEAN on the convolutions too, whose incoming channels are then the neurons
and whose positions are the samples. It prints the test accuracy over 5 seeds,
and what a step costs: its time, and the temporary memory of its program.
"""

import time

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import bean_jax


class ResNet(nn.Module):
  """Three residual blocks of two convolutions."""

  @nn.compact
  def __call__(self, images):
    hidden = nn.Conv(16, (3, 3))(images)
    for features, stride in ((16, 1), (32, 2), (32, 1)):
      branch = nn.Conv(features, (3, 3), stride)(nn.relu(hidden))
      branch = nn.Conv(features, (3, 3))(nn.relu(branch))
      if features != hidden.shape[-1]:
        hidden = nn.Conv(features, (1, 1), stride)(hidden)
      hidden += branch
    return nn.Dense(10)(nn.relu(hidden).mean(axis=(1, 2)))


model = ResNet()
tx = optax.adam(3e-3)


def loss_fn(params, images, labels):
  logits = model.apply({"params": params}, images)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(loss_fn, params, images, labels):
  """Returns the trained parameters, seconds a step and bytes of a step."""

  def train_step(params, opt_state):
    gradients = jax.grad(loss_fn)(params, images, labels)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  step = jax.jit(train_step).lower(params, opt_state).compile()
  started = time.perf_counter()
  for _ in range(100):
    params, opt_state = jax.block_until_ready(step(params, opt_state))
  seconds = (time.perf_counter() - started) / 100
  return params, seconds, step.memory_analysis().temp_size_in_bytes


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16).reshape(-1, 8, 8, 1)
  dense_fn = bean_jax.regularize(loss_fn, alpha=1.0)
  all_fn = bean_jax.regularize(loss_fn, alpha=1.0, convolutions=True)  # BEAN
  ways = {"plain": loss_fn, "BEAN, dense": dense_fn, "BEAN, all": all_fn}
  for name, function in ways.items():
    hits, times = [], []
    for seed in range(5):
      params = model.init(jax.random.key(seed), images[:1])["params"]
      rng = np.random.default_rng(seed)
      few, rest = np.split(rng.permutation(len(images)), [100])
      params, seconds, size = train(function, params, images[few], labels[few])
      logits = model.apply({"params": params}, images[rest])
      hits.append(jnp.mean(logits.argmax(axis=1) == labels[rest]))
      times.append(seconds)
    error = np.std(hits, ddof=1) / np.sqrt(5)
    print(f"{name}: test accuracy {np.mean(hits):.1%} +- {error:.1%}", end="")
    print(f", {1e3 * np.median(times):.1f} ms a step, {size / 1e6:.1f} MB")


if __name__ == "__main__":
  main()
