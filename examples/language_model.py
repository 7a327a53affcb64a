"""BEAN on the feed-forward layers of a small character-level language model.

    python -m examples.language_model

trains on the texts of Python's own `help` without BEAN and with it, and shows
the assemblies that form: the neurons that are wired together most, and how
differently they fire (all neurons: 1). The penalty looks at 256 rows of each
batch. The statement that BEAN takes is marked `# BEAN`.
"""

from pydoc_data import topics

from flax import nnx
import numpy as np
import optax

import bean_jax

LENGTH, DIM = 32, 32


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


def loss_fn(model, text):
  losses = optax.softmax_cross_entropy_with_integer_labels(
    model(text[:, :-1]), text[:, 1:]
  )
  return losses.mean()


def train(loss_fn, model, codes):
  @nnx.jit
  def train_step(model, optimizer, text):
    optimizer.update(model, nnx.grad(loss_fn)(model, text))

  optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
  for step in range(500):
    train_step(model, optimizer, draw(np.random.default_rng(step), codes, 32))


def assemblies(hidden, kernel):
  """Yields the best wired neurons, and how differently they fire."""
  wires = np.array(bean_jax.neuron_correlation(kernel, order=2, gamma=10.0))
  divergence = np.array(bean_jax.coactivation_divergence(hidden))
  np.fill_diagonal(divergence, np.nan)
  for _ in range(4):
    neurons = np.sort(np.argsort(wires[np.argmax(np.diag(wires))])[-6:])
    wires[neurons], wires[:, neurons] = 0, 0
    within = np.nanmean(divergence[np.ix_(neurons, neurons)])
    yield neurons, within / np.nanmean(divergence)


def draw(rng, codes, num_samples):
  starts = rng.integers(len(codes) - LENGTH, size=num_samples)
  return codes[starts[:, None] + np.arange(LENGTH + 1)]


def main():
  text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
  alphabet, codes = np.unique(list(text), return_inverse=True)
  split = len(codes) * 9 // 10
  test = draw(np.random.default_rng(0), codes[split:], 200)
  layers = {"layers": "*/ff2/kernel"}
  bean_loss_fn = bean_jax.regularize(
    loss_fn, alpha=10.0, order=2, gamma=10.0, samples=256, **layers
  )  # BEAN
  for name, function in (("plain", loss_fn), ("BEAN", bean_loss_fn)):
    model = LanguageModel(len(alphabet), nnx.Rngs(0))
    train(function, model, codes[:split])
    loss, hidden, kernels = bean_jax.capture(loss_fn, **layers)(model, test)
    print(f"{name}: {loss / np.log(2):.2f} bits a character of unseen text")
    for layer, kernel in kernels.items():
      for neurons, ratio in assemblies(hidden[layer], kernel):
        print(f"  {layer}: neurons {neurons} differ {ratio:.2f} x as much")


if __name__ == "__main__":
  main()
