"""What may be given: functions, choices of layers, strengths, masks, rows.

Of a network whose middle is a stack of layers, rematerialized within a scan,
with a bottleneck that all steps share.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import bean_jax
from bean_jax import _rows
from tests.bean_jax.models.checks import assert_close

NUM_BLOCKS, NUM_SAMPLES = 3, 8
STACK = tuple(f"blocks/kernel[{i}]" for i in range(NUM_BLOCKS))
ALL = (*STACK, "shared", "last")


def _draw(*shape):
  rng = np.random.default_rng(shape)
  return jnp.asarray(0.7 * rng.normal(size=shape), jnp.float32)


PARAMS = {
  "first": _draw(5, 6),
  "blocks": {"kernel": _draw(NUM_BLOCKS, 6, 6)},
  "shared": _draw(6, 7),
  "last": _draw(6, 2),
}
INPUTS = _draw(NUM_SAMPLES, 5)


def _loss_and_hidden(params, inputs):
  """Returns the loss, and what enters the layers, by step of the scan."""

  @jax.checkpoint
  def block(hidden, kernel):
    narrow = jnp.tanh(hidden @ kernel)
    after = jnp.tanh(narrow @ params["shared"])[:, :6]
    return after, (hidden, narrow)

  start = jnp.tanh(inputs @ params["first"])
  last, hidden = lax.scan(block, start, params["blocks"]["kernel"])
  return jnp.mean((last @ params["last"] - 0.5) ** 2), (*hidden, last)


def _loss_fn(params, inputs):
  return _loss_and_hidden(params, inputs)[0]


def _by_hand(params, inputs, rows=slice(None), where=None):
  """Returns the penalty of each layer, by some rows of each call's batch."""
  _, (hidden, narrow, last) = _loss_and_hidden(params, inputs)
  real = None if where is None else where[rows]
  penalty = functools.partial(bean_jax.layer_penalty, where=real)
  kernels = params["blocks"]["kernel"]
  terms = {p: penalty(hidden[i, rows], kernels[i]) for i, p in enumerate(STACK)}
  every = [penalty(step[rows], params["shared"]) for step in narrow]
  # Each step has as many real samples.
  terms["shared"] = sum(every) / NUM_BLOCKS
  return terms | {"last": penalty(last[rows], params["last"])}


class _Owner:
  """An object whose call and whose method are the loss."""

  def __call__(self, params, inputs):
    return _loss_fn(params, inputs)

  def method(self, params, inputs):
    return _loss_fn(params, inputs)


FUNCTIONS = {
  "jit": jax.jit(_loss_fn),
  "checkpoint": jax.checkpoint(_loss_fn),
  "partial": functools.partial(_loss_fn),
  "method": _Owner().method,
  "callable object": _Owner(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_every_kind_are_taken(name):
  fn = FUNCTIONS[name]

  def by_hand(params, inputs):
    terms = _by_hand(params, inputs)
    return _loss_fn(params, inputs) + 2.0 * sum(terms.values())

  bean_loss_fn = bean_jax.regularize(fn, alpha=2.0)
  assert_close(
    *(
      jax.jit(jax.value_and_grad(f))(PARAMS, INPUTS)
      for f in (bean_loss_fn, by_hand)
    )
  )
  paths = [layer.path for layer in bean_jax.find_layers(fn, PARAMS, INPUTS)]
  assert sorted(paths) == sorted(("first", *ALL))
  output, activations, _ = bean_jax.capture(fn)(PARAMS, INPUTS)
  np.testing.assert_allclose(output, _loss_fn(PARAMS, INPUTS), rtol=1e-6)
  assert set(activations) == set(ALL)


@pytest.mark.parametrize(
  ("layers", "chosen"),
  (
    (None, ALL),
    ("*", ALL),
    (STACK[1], STACK[1:2]),
    ("blocks/kernel", STACK),
    ("blocks/*[2]", STACK[2:]),
    ({STACK[2], "last"}, (STACK[2], "last")),
    (f"!{STACK[0]}", ALL[1:]),
    (["!blocks/*"], ("shared", "last")),
    (["blocks/*", f"!{STACK[1]}"], (STACK[0], STACK[2])),
    ("first", ("first",)),
    (lambda path: path.endswith(("[0]", "ed")), (STACK[0], "shared")),
  ),
)
def test_choices_of_layers(layers, chosen):
  _, terms = bean_jax.penalties(_loss_fn, layers=layers)(PARAMS, INPUTS)
  expected = _by_hand(PARAMS, INPUTS)
  expected["first"] = bean_jax.layer_penalty(INPUTS, PARAMS["first"])
  assert_close(terms, {path: expected[path] for path in chosen})
  _, activations, kernels = bean_jax.capture(_loss_fn, layers=layers)(
    PARAMS, INPUTS
  )
  assert set(activations) == set(kernels) == set(chosen)
  _, (hidden, _, _) = _loss_and_hidden(PARAMS, INPUTS)
  for index, path in enumerate(STACK):
    if path in chosen:
      np.testing.assert_allclose(activations[path], hidden[index], rtol=1e-5)
      kernel = PARAMS["blocks"]["kernel"][index]
      np.testing.assert_array_equal(kernels[path], kernel)


@pytest.mark.parametrize(
  "alpha",
  (
    {STACK[1]: 0.5, "blocks/*": 2.0, "shared": 0.0, "l*": 3.0},
    lambda path: {STACK[1]: 0.5, "shared": 0.0, "last": 3.0}.get(path, 2.0),
  ),
  ids=("dict", "function"),
)
def test_strengths_within_a_stack(alpha):
  strengths = dict(zip(ALL, (2.0, 0.5, 2.0, 0.0, 3.0), strict=True))

  def by_hand(params, inputs):
    terms = _by_hand(params, inputs)
    weighted = [strengths[path] * terms[path] for path in terms]
    return _loss_fn(params, inputs) + sum(weighted)

  ours = bean_jax.regularize(_loss_fn, alpha=alpha)
  assert_close(
    *(jax.jit(jax.value_and_grad(fn))(PARAMS, INPUTS) for fn in (ours, by_hand))
  )


@pytest.mark.parametrize("samples", (None, 5))
def test_masks_and_rows_within_a_scan(samples):
  where = np.arange(NUM_SAMPLES) % 3 > 0
  rows = slice(None)
  if samples:
    rows = _rows.evenly_spaced(NUM_SAMPLES, samples)
  penalties_fn = bean_jax.penalties(
    _loss_fn, samples=samples, where_fn=lambda params, inputs: where
  )
  _, terms = jax.jit(penalties_fn)(PARAMS, INPUTS)
  assert_close(terms, _by_hand(PARAMS, INPUTS, rows, where))


def test_a_mask_of_samples_fits_experts_side_by_side():
  # The axis of experts is none of samples.
  where = np.arange(4) != 2
  params = {"first": PARAMS["first"], "experts": _draw(2, 6, 3)}

  def loss_fn(params, inputs):
    routed = jnp.tanh(inputs @ params["first"]).reshape(2, 4, 6)
    outputs = jax.vmap(jnp.matmul)(routed, params["experts"])
    return jnp.mean(outputs**2), routed

  (_, routed), terms = bean_jax.penalties(
    loss_fn, where_fn=lambda params, inputs: where
  )(params, INPUTS)
  expected = {
    f"experts[{i}]": bean_jax.layer_penalty(
      routed[i], params["experts"][i], where=where
    )
    for i in range(2)
  }
  assert_close(terms, expected)


@pytest.mark.optimized
def test_a_log_of_penalties_costs_nothing_beside_their_sum():
  def logged_loss_fn(params, inputs):
    loss, terms = bean_jax.penalties(_loss_fn)(params, inputs)
    return loss + 2.0 * sum(terms.values()), terms

  flops, with_log = (
    jax.jit(fn).lower(PARAMS, INPUTS).compile().cost_analysis()["flops"]
    for fn in (
      jax.value_and_grad(bean_jax.regularize(_loss_fn, alpha=2.0)),
      jax.value_and_grad(logged_loss_fn, has_aux=True),
    )
  )
  assert with_log == pytest.approx(flops, abs=64)
