"""The case of capturing: its steps, and that it would notice a difference."""

import jax.numpy as jnp
import numpy as np
import pytest

from bean_jax import linen
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
