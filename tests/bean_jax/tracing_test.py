"""What it costs to trace a loss with BEAN: in calls of Python, not in time."""

import sys

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

import bean_jax


class Block(nn.Module):
  """A block of a transformer."""

  @nn.compact
  def __call__(self, tokens):
    tokens += nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(tokens))
    hidden = nn.gelu(nn.Dense(16)(nn.LayerNorm()(tokens)))
    return tokens + nn.Dense(8)(hidden)


def _calls_to_trace(num_blocks, with_bean):
  """Returns how many functions of Python are called."""
  model = nn.Sequential([Block() for _ in range(num_blocks)])
  tokens = jnp.ones((2, 4, 8))
  params = model.init(jax.random.key(0), tokens)

  def loss_fn(params, tokens):
    return jnp.mean(model.apply(params, tokens) ** 2)

  fn = bean_jax.regularize(loss_fn, alpha=1.0) if with_bean else loss_fn
  fn = jax.value_and_grad(fn)
  num_calls = 0

  def count(frame, event, arg):
    nonlocal num_calls
    num_calls += event == "call"

  jax.clear_caches()
  before = sys.getprofile()
  sys.setprofile(count)
  try:
    jax.make_jaxpr(fn)(params, tokens)
  finally:
    sys.setprofile(before)
  return num_calls


@pytest.mark.slow
def test_bean_adds_about_half_of_what_tracing_a_layer_takes():
  # Of each further block, as calls of equal layouts are traced once. A penalty
  # that was traced by itself would add twice of what the model takes.
  plain, with_bean = (
    _calls_to_trace(3, way) - _calls_to_trace(2, way) for way in (False, True)
  )
  assert with_bean < 1.6 * plain
