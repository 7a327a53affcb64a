"""BEAN on the feed-forward layers of a small character-level language model.

    python -m examples.language_model

trains on the texts of Python's own `help` without BEAN, and with BEAN by all
rows of each batch and by 256 and 64 of its 1,024. It prints means over 3 seeds:
bits for each character of unseen text, and how differently neurons fire that
are wired together, as a multiple of the difference between all neurons, for the
second layer of both blocks. The statement that BEAN takes is marked `# BEAN`.
"""

import functools
from pydoc_data import topics

from flax import nnx
import numpy as np
import optax

import bean_jax

LENGTH, DIM, LAYERS = 32, 32, "*/ff2/kernel"


class Block(nnx.Module):
  """Causal attention and a feed-forward layer of 64 neurons."""

  def __init__(self, rngs):
    self.norm1 = nnx.LayerNorm(DIM, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(4, DIM, decode=False, rngs=rngs)
    self.norm2 = nnx.LayerNorm(DIM, rngs=rngs)
    self.ff1 = nnx.Linear(DIM, 64, rngs=rngs)
    self.ff2 = nnx.Linear(64, DIM, rngs=rngs)

  def __call__(self, tokens):
    mask = nnx.make_causal_mask(tokens[..., 0])
    tokens += self.attention(self.norm1(tokens), mask=mask)
    return tokens + self.ff2(nnx.relu(self.ff1(self.norm2(tokens))))


class LanguageModel(nnx.Module):
  """Predicts the next of 32 characters, at every place."""

  def __init__(self, num_characters, rngs):
    self.embedding = nnx.Embed(num_characters, DIM, rngs=rngs)
    self.position = nnx.Embed(LENGTH, DIM, rngs=rngs)
    self.block0 = Block(rngs)
    self.block1 = Block(rngs)
    self.head = nnx.Linear(DIM, num_characters, rngs=rngs)

  def __call__(self, characters):
    tokens = self.embedding(characters) + self.position(np.arange(LENGTH))
    return self.head(self.block1(self.block0(tokens)))


def loss_fn(model, texts):
  logits, labels = model(texts[:, :-1]), texts[:, 1:]
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(nnx.jit, static_argnums=0)
def train_step(loss_fn, model, optimizer, texts):
  optimizer.update(model, nnx.grad(loss_fn)(model, texts))


def train(loss_fn, model, texts):
  optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
  for batch in np.random.default_rng(0).choice(texts, (400, 32)):
    train_step(loss_fn, model, optimizer, batch)


def difference(hidden, kernel):
  """Returns how differently neurons fire that are wired together."""
  wires = np.array(bean_jax.neuron_correlation(kernel, order=2, gamma=10.0))
  np.fill_diagonal(wires, 0)
  divergence = np.array(bean_jax.coactivation_divergence(hidden))
  return np.average(divergence, weights=wires) / np.mean(divergence)


def main():
  text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
  alphabet, codes = np.unique(list(text), return_inverse=True)
  texts = codes[: 14_000 * 33].reshape(14_000, LENGTH + 1)
  options = {"alpha": 10.0, "order": 2, "gamma": 10.0, "layers": LAYERS}
  bean = functools.partial(bean_jax.regularize, loss_fn, **options)  # BEAN
  functions = {"plain": loss_fn, "BEAN, all rows": bean()}
  functions |= {f"BEAN, {n} rows": bean(samples=n) for n in (256, 64)}
  capture_fn = bean_jax.capture(loss_fn, layers=LAYERS)
  for name, function in functions.items():
    runs = []
    for seed in range(3):
      model = LanguageModel(len(alphabet), nnx.Rngs(seed))
      train(function, model, texts[:-500])
      loss, hidden, kernels = capture_fn(model, texts[-500:])
      ratios = [difference(hidden[path], kernels[path]) for path in kernels]
      runs.append((loss / np.log(2), *ratios))
    bits, one, two = np.mean(runs, axis=0)
    print(f"{name}: {bits:.2f} bits, differ {one:.2f} and {two:.2f} x as much")


if __name__ == "__main__":
  main()
