"""The case of capturing: its steps, and that it would notice a difference."""

import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bean_jax import linen, nnx as bean_nnx
from benchmarks import agreement, capture, settings

QUICK = settings.Settings(quick=True, repeats=1, torch=False)


def test_rows_and_ratios():
  case = capture.run(QUICK)
  assert [row["name"] for row in case.rows] == [
    "Linen, by hand",
    "Linen, captured",
    "NNX, by hand",
    "NNX, captured",
  ]
  for row in case.rows:
    assert row["median"] > 0
    assert row["times_by_hand"] > 0
  assert case.rows[0]["times_by_hand"] == 1


@pytest.mark.parametrize("make_step", (capture._linen, capture._nnx))
def test_captured_steps_train_as_those_by_hand(make_step):
  batch = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
  steps = [make_step(8, by_hand) for by_hand in (True, False)]
  losses = [[float(step(batch)) for _ in range(5)] for step in steps]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  assert losses[0][4] < losses[0][0]


def _linen_program(by_hand, layers):
  model = capture.LinenBlocks(8, by_hand)
  params = model.init(jax.random.key(0), jnp.ones((4, 8)))["params"]
  apply_fn = model.apply if by_hand else linen.capture(model, layers=layers)

  def loss_fn(params, batch):
    outputs, hidden = apply_fn({"params": params}, batch)
    return capture._loss(outputs, hidden, linen.kernels(params, hidden))

  return loss_fn, params


def _nnx_program(by_hand, layers):
  model = capture.NnxBlocks(8, by_hand=by_hand, rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(model)

  def loss_fn(state, batch):
    model = nnx.merge(graphdef, state)
    call_fn = model if by_hand else bean_nnx.capture(model, layers=layers)
    outputs, hidden = call_fn(batch)
    return capture._loss(outputs, hidden, bean_nnx.kernels(model, hidden))

  return loss_fn, state


def _operations(loss_fn, params):
  """Returns what the compiled value and gradient consist of."""
  lowered = jax.jit(jax.value_and_grad(loss_fn)).lower(params, jnp.ones((4, 8)))
  return sorted(re.findall(r"= \S+ ([a-z\-]+)\(", lowered.compile().as_text()))


@pytest.mark.parametrize("program", (_linen_program, _nnx_program))
def test_captured_steps_have_the_operations_of_those_by_hand(program):
  by_hand = _operations(*program(True, None))
  assert by_hand.count("dot") > 10
  assert _operations(*program(False, "out*")) == by_hand
  assert _operations(*program(False, None)) != by_hand


def test_a_capture_that_differs_is_not_timed(monkeypatch):
  def doubled(model, *, layers):
    apply_fn = capture_fn(model, layers=layers)

    def call_fn(*args):
      outputs, hidden = apply_fn(*args)
      return outputs, {name: 2 * rows for name, rows in hidden.items()}

    return call_fn

  capture_fn = linen.capture
  monkeypatch.setattr(linen, "capture", doubled)
  with pytest.raises(agreement.DisagreementError, match="Linen, captured"):
    capture.run(QUICK)
