"""What BEAN costs of whole training steps: perceptrons and transformers.

A dense layer's penalty takes about as many operations as the layer itself, so
that it shows most where there is little else. Each program is trained plainly,
with BEAN-1 on all layers that `bean_jax.regularize` takes by default, and with
BEAN-1 of so many rows of each batch.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax
from benchmarks import cases, timing

PyTree = Any

NUM_CHARACTERS = 96
SAMPLES = (None, 256, 64)


class Block(nn.Module):
  """Attention and two dense layers; causal tokens see those before alone."""

  is_causal: bool

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Returns tokens [S, L, width]."""
    width = tokens.shape[-1]
    normed = nn.LayerNorm()(tokens)
    mask = nn.make_causal_mask(normed[..., 0]) if self.is_causal else None
    tokens += nn.MultiHeadDotProductAttention(4)(normed, mask=mask)
    hidden = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(tokens)))
    return tokens + nn.Dense(width)(hidden)


class Transformer(nn.Module):
  """Classifies patches [S, L, pixels], or tells the next characters [S, L].

  Attributes:
    width: Of the tokens.
    num_blocks: Of attention and dense layers.
    num_characters: That a text may have; 0 for images of 10 classes.
  """

  width: int
  num_blocks: int
  num_characters: int = 0

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Returns logits [S, classes], or [S, L, characters]."""
    is_text = self.num_characters > 0
    embed = (
      nn.Embed(self.num_characters, self.width)
      if is_text
      else nn.Dense(self.width)
    )
    tokens = embed(inputs)
    place = (1, *tokens.shape[1:])
    tokens += self.param("position", nn.initializers.normal(0.02), place)
    for _ in range(self.num_blocks):
      tokens = Block(is_text)(tokens)
    tokens = nn.LayerNorm()(tokens)
    if is_text:
      return nn.Dense(self.num_characters)(tokens)
    return nn.Dense(10)(tokens.mean(axis=1))


def _perceptron(width: int) -> nn.Module:
  """Makes three hidden layers of so many neurons, and a head."""
  hidden = [layer for _ in range(3) for layer in (nn.Dense(width), nn.relu)]
  return nn.Sequential([*hidden, nn.Dense(10)])


def programs(quick: bool) -> dict[str, tuple[nn.Module, Any, Any]]:
  """Returns model, inputs and labels by name, tiny ones if `quick`."""
  rng = np.random.default_rng(0)

  def size(full: int) -> int:
    return max(1, full // 16) if quick else full

  def normal(*shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape, np.float32))

  def choices(count: int, *shape: int) -> jax.Array:
    return jnp.asarray(rng.integers(0, count, shape))

  num_blocks = 1 if quick else 4
  samples, images, texts = size(256), size(32), size(8)
  width, image_width, text = size(128), size(192), (texts, size(256))
  return {
    f"perceptron, 3 layers of {size(1024)}, {samples} samples": (
      _perceptron(size(1024)),
      normal(samples, size(784)),
      choices(10, samples),
    ),
    f"vision transformer, {num_blocks} blocks of {image_width}, "
    f"{images} images": (
      Transformer(image_width, num_blocks),
      normal(images, size(64), 48),
      choices(10, images),
    ),
    f"language model, {num_blocks} blocks of {width}, {texts} texts": (
      Transformer(width, num_blocks, NUM_CHARACTERS),
      choices(NUM_CHARACTERS, *text),
      choices(NUM_CHARACTERS, *text),
    ),
  }


def run(options: cases.Settings) -> cases.Case:
  """Times a training step of each program, with and without BEAN."""
  contenders = []
  for name, (model, inputs, labels) in programs(options.quick).items():
    plain_loss = functools.partial(_loss, model)
    losses = {"plain": plain_loss}
    for samples in SAMPLES:
      way = f"BEAN-1, {'all' if samples is None else samples} rows"
      losses[way] = bean_jax.regularize(plain_loss, alpha=1.0, samples=samples)
    contenders += [
      timing.Contender(
        f"{name}: {way}",
        _step(model, loss_fn, inputs, labels),
        fields={"program": name},
      )
      for way, loss_fn in losses.items()
    ]
  case = cases.measure(
    options,
    contenders,
    title="Training step of whole programs, plain and with BEAN-1",
    unit="s per step",
  )
  timing.add_ratios(
    case.rows, "times_own_plain_step", lambda row: f"{row['program']}: plain"
  )
  return case


def layouts(options: cases.Settings) -> cases.Case:
  """Times a dense layer whose kernel is kept as [N, M], and as [M, N]."""
  size, num_samples = (64, 16) if options.quick else (1024, 256)
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((num_samples, size), np.float32))
  kernel = jnp.asarray(rng.standard_normal((size, size), np.float32) / 32)
  params = {"slope": jnp.float32(1.0), "kernel": kernel}
  contenders = []
  for layout, axis in (("[N, M]", 0), ("[M, N]", 1)):

    def loss_fn(
      params: PyTree, inputs: jax.Array, axis: int = axis
    ) -> jax.Array:
      # Times a parameter, so that inputs are neurons.
      hidden = jnp.tanh(inputs * params["slope"])
      outputs = jax.lax.dot_general(
        hidden, params["kernel"], (((1,), (axis,)), ((), ()))
      )
      return jnp.mean(jnp.tanh(outputs) ** 2)

    contenders += [
      timing.Contender(
        f"{layout}, {way}",
        _gradient(function, params, hidden),
        fields={"layout": layout},
      )
      for way, function in (
        ("plain", loss_fn),
        ("BEAN-1", bean_jax.regularize(loss_fn, alpha=1.0)),
      )
    ]
  case = cases.measure(
    options._replace(repeats=3 * options.repeats),
    contenders,
    title=f"Gradient of a dense layer, {size} x {size}, {num_samples} samples",
    unit="s",
  )
  timing.add_ratios(
    case.rows, "times_own_plain_step", lambda row: f"{row['layout']}, plain"
  )
  return case


def _gradient(
  loss_fn: Callable[..., jax.Array], params: PyTree, inputs: jax.Array
) -> Callable[[], Any]:
  grad_fn = jax.jit(jax.grad(loss_fn))
  return lambda: jax.block_until_ready(grad_fn(params, inputs))


def _loss(
  model: nn.Module, params: PyTree, inputs: jax.Array, labels: jax.Array
) -> jax.Array:
  logits = model.apply({"params": params}, inputs)
  return jnp.mean(
    optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  )


def _step(
  model: nn.Module,
  loss_fn: Callable[..., jax.Array],
  inputs: jax.Array,
  labels: jax.Array,
) -> Callable[[], Any]:
  """Returns what makes one step of Adam and waits for it."""
  params = model.init(jax.random.key(0), inputs[:1])["params"]
  tx = optax.adam(1e-3)

  @jax.jit
  def train_step(params: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]:
    gradients = jax.grad(loss_fn)(params, inputs, labels)
    updates, opt_state = tx.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state

  state = (params, tx.init(params))

  def run_step() -> None:
    nonlocal state
    state = jax.block_until_ready(train_step(*state))

  return run_step
