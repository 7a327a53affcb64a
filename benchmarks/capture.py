"""What capturing costs: steps of models that hand out their layers, or do not.

Two models of the same parameters, in Linen and in NNX: one was written to
return the inputs of its feed-forward layers, the other is left as it is and
captured. Both train with BEAN-1, so all that differs is how the inputs are had.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn, nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import bean_jax
from bean_jax import linen as bean_linen, nnx as bean_nnx
from benchmarks import agreement, cases, floors, settings, timing

PyTree = Any

ALPHA = 10.0
NUM_BLOCKS = 4
_WAYS = ("by hand", "captured")


class LinenBlocks(nn.Module):
  """Residual blocks of two dense layers.

  Attributes:
    width: Neurons between blocks; within there are 4 times as many.
    by_hand: Whether to return the inputs of the second layers, too.
  """

  width: int
  by_hand: bool

  @nn.compact
  def __call__(self, inputs: jax.Array) -> Any:
    """Returns outputs [S, width], and {layer: [S, 4 width]} if by hand."""
    hidden = {}
    for index in range(NUM_BLOCKS):
      normed = nn.LayerNorm(name=f"norm{index}")(inputs)
      name = f"out{index}"
      hidden[name] = nn.relu(
        nn.Dense(4 * self.width, name=f"in{index}")(normed)
      )
      inputs = inputs + nn.Dense(self.width, name=name)(hidden[name])
    return (inputs, hidden) if self.by_hand else inputs


class NnxBlocks(nnx.Module):
  """The same blocks in NNX."""

  def __init__(self, width: int, *, by_hand: bool, rngs: nnx.Rngs):
    """Makes the layers; arguments as the attributes of `LinenBlocks`."""
    self.by_hand = by_hand
    for index in range(NUM_BLOCKS):
      setattr(self, f"norm{index}", nnx.LayerNorm(width, rngs=rngs))
      setattr(self, f"in{index}", nnx.Linear(width, 4 * width, rngs=rngs))
      setattr(self, f"out{index}", nnx.Linear(4 * width, width, rngs=rngs))

  def __call__(self, inputs: jax.Array) -> Any:
    """Returns what `LinenBlocks` does."""
    hidden = {}
    for index in range(NUM_BLOCKS):
      normed = getattr(self, f"norm{index}")(inputs)
      name = f"out{index}"
      hidden[name] = nnx.relu(getattr(self, f"in{index}")(normed))
      inputs = inputs + getattr(self, name)(hidden[name])
    return (inputs, hidden) if self.by_hand else inputs


def shape(options: settings.Settings) -> tuple[int, int]:
  """Returns samples S and the width between blocks."""
  return (8, 8) if options.quick else (256, 256)


def run(options: settings.Settings) -> cases.Case:
  """Times steps of both libraries, captured and by hand.

  Args:
    options: Of the run.

  Raises:
    agreement.DisagreementError: If a captured step computes something else.
  """
  num_samples, width = shape(options)
  rng = np.random.default_rng(0)
  batch = jnp.asarray(rng.standard_normal((num_samples, width), np.float32))
  contenders = []
  for library, make_step in (("Linen", _linen), ("NNX", _nnx)):
    steps = {way: make_step(width, way == "by hand") for way in _WAYS}
    losses = [float(step(batch)) for step in steps.values()]
    agreement.check(f"{library}, captured", losses[1], losses[0])
    contenders += [
      timing.Contender(
        f"{library}, {way}",
        lambda step=step: jax.block_until_ready(step(batch)),
        fields={"library": library},
      )
      for way, step in steps.items()
    ]
  # Rounds of one step each: a small difference takes many of them.
  rounds = options.repeats * (1 if options.quick else 20)
  # Whoever is first finds cold caches.
  first = timing.Contender("first", contenders[-1].run)
  timings = timing.alternate([first, *contenders], repeats=rounds)
  rates = floors.measure(quick=options.quick)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  for row in rows:
    by_hand = timings[f"{row['library']}, by hand"]
    row["times_by_hand"] = timing.ratio(timings[row["name"]], by_hand)
  return cases.Case(
    title=(
      f"Step of {NUM_BLOCKS} blocks of width {width} on {num_samples} samples "
      "with BEAN-1: inputs of layers captured, or returned by hand"
    ),
    unit="s per step",
    rates=rates,
    rows=rows,
  )


def _loss(outputs: jax.Array, hidden: PyTree, kernels: PyTree) -> jax.Array:
  penalty = bean_jax.bean_penalty(hidden, kernels, alpha=ALPHA)
  return jnp.mean(outputs**2) + penalty


def _linen(width: int, by_hand: bool) -> Callable[[jax.Array], jax.Array]:
  """Returns a function of a batch that makes a step and returns the loss."""
  model = LinenBlocks(width, by_hand)
  params = model.init(jax.random.key(0), jnp.ones((1, width)))["params"]
  apply_fn = model.apply
  if not by_hand:
    apply_fn = bean_linen.capture(model, layers="out*")
  tx = optax.adam(1e-3)

  def loss_fn(params: PyTree, batch: jax.Array) -> jax.Array:
    outputs, hidden = apply_fn({"params": params}, batch)
    return _loss(outputs, hidden, bean_linen.kernels(params, hidden))

  @jax.jit
  def train_step(params: PyTree, opt_state: PyTree, batch: jax.Array) -> Any:
    loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  state = [params, tx.init(params)]

  def step(batch: jax.Array) -> jax.Array:
    *state[:], loss = train_step(*state, batch)
    return loss

  return step


def _nnx(width: int, by_hand: bool) -> Callable[[jax.Array], jax.Array]:
  """Does what `_linen` does."""
  model = NnxBlocks(width, by_hand=by_hand, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

  def loss_fn(model: NnxBlocks, batch: jax.Array) -> jax.Array:
    call_fn = model
    if not by_hand:
      call_fn = bean_nnx.capture(model, layers="out*")
    outputs, hidden = call_fn(batch)
    return _loss(outputs, hidden, bean_nnx.kernels(model, hidden))

  @nnx.jit
  def train_step(
    model: NnxBlocks, optimizer: nnx.Optimizer, batch: jax.Array
  ) -> jax.Array:
    loss, gradients = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, gradients)
    return loss

  return lambda batch: train_step(model, optimizer, batch)
