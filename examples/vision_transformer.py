"""BEAN on the feed-forward layers of a small vision transformer.

    python -m examples.vision_transformer

trains on 500 handwritten digits without BEAN and with it, and shows the
assemblies that form: the neurons that are wired together most, how differently
they fire (all neurons: 1), and for which digits. First it prints all the dense
layers that there are. The statement that BEAN takes is marked `# BEAN`.
"""

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn import datasets

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

  opt_state, rng = tx.init(params), np.random.default_rng(0)
  for _ in range(500):
    rows = rng.choice(500, size=100, replace=False)
    params, opt_state = train_step(
      params, opt_state, images[rows], labels[rows]
    )
  return params


def find_assemblies(hidden, kernel):
  """Returns the best wired neurons, and how differently they fire."""
  wires = np.array(bean_jax.neuron_correlation(kernel, order=2, gamma=10.0))
  assemblies = []
  for _ in range(4):
    neurons = np.argsort(wires[np.argmax(np.diag(wires))])[-6:]
    wires[neurons], wires[:, neurons] = 0, 0
    assemblies.append(np.sort(neurons))
  divergence = np.array(bean_jax.coactivation_divergence(hidden))
  np.fill_diagonal(divergence, np.nan)
  within = [divergence[np.ix_(neurons, neurons)] for neurons in assemblies]
  return assemblies, np.nanmean(within) / np.nanmean(divergence)


def favourite_digits(hidden, labels, neurons):
  """Returns the two digits for which an assembly fires most."""
  by_image = hidden.mean(axis=1)[:, neurons].mean(axis=1)
  by_digit = [by_image[labels == digit].mean() for digit in range(10)]
  return np.argsort(by_digit)[:-3:-1]


def main():
  images, labels = datasets.load_digits(return_X_y=True)
  images = np.float32(images / 16)
  initial = model.init(jax.random.key(0), images[:1])["params"]
  print(bean_jax.find_layers(loss_fn, initial, images, labels))
  bean_loss_fn = bean_jax.regularize(
    loss_fn, alpha=50.0, layers="*/ff2/kernel", order=2, gamma=10.0
  )  # BEAN
  capture_fn = bean_jax.capture(model.apply, layers="*/ff2/kernel")
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    params = train(function, initial, images, labels)
    logits, hidden, kernels = capture_fn({"params": params}, images[500:])
    accuracy = np.mean(logits.argmax(axis=1) == labels[500:])
    print(f"{name}: test accuracy {accuracy:.1%}")
    for layer, kernel in kernels.items():
      assemblies, ratio = find_assemblies(hidden[layer], kernel)
      print(f"  {layer}: neurons of an assembly differ {ratio:.2f} x as much")
      for neurons in assemblies:
        digits = favourite_digits(hidden[layer], labels[500:], neurons)
        print(f"    neurons {neurons} fire most for {digits}")


if __name__ == "__main__":
  main()
