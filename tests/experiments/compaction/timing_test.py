"""Tests of experiments.compaction.timing."""

import time

import numpy as np
import pytest

from experiments.compaction import heads, schemes, timing
from tests.experiments.compaction import tiny_head

FEATURES = tiny_head.make_samples().inputs


@pytest.mark.parametrize("as_sparse", (False, True))
@pytest.mark.parametrize("scheme", ("weights", "units", "merge"))
def test_what_is_timed_computes_the_logits(scheme, as_sparse):
  head = tiny_head.make_head(units=("fc1", "fc2", "fc3"))
  activity = heads.activity(head, FEATURES)
  compact = schemes.SCHEMES[scheme](head, activity, 0.4)
  forward = timing.make_forward(compact, as_sparse=as_sparse)
  features = FEATURES.copy()
  logits = forward(np.ascontiguousarray(features.T))
  np.testing.assert_allclose(
    logits.T,
    tiny_head.run_compact(compact, FEATURES),
    rtol=1e-4,
    atol=1e-5,
  )
  assert logits.dtype == np.float32
  np.testing.assert_array_equal(features, FEATURES)


def spend(seconds):
  started = time.thread_time()
  while time.thread_time() - started < seconds:
    pass


def test_ratio_of_known_times():
  ratio = timing.paired_ratio(
    lambda: spend(6e-3), lambda: spend(2e-3), repeats=5
  )
  assert 2.5 < ratio < 3.5


def test_waiting_does_not_count():
  def wait():
    time.sleep(0.02)
    spend(2e-3)

  ratio = timing.paired_ratio(wait, lambda: spend(2e-3), repeats=3)
  assert 0.7 < ratio < 1.5


@pytest.mark.parametrize("as_sparse", (False, True))
def test_much_smaller_arrays_take_less_time(as_sparse):
  generator = np.random.default_rng(0)
  head = heads.Head(
    {
      "fc1": {
        "kernel": generator.normal(size=(784, 300)).astype(np.float32),
        "bias": np.zeros(300, np.float32),
      }
    },
    ("fc1",),
  )
  features = generator.uniform(size=(100, 784)).astype(np.float32)
  if as_sparse:
    compact = schemes.prune_weights(head, 0.999)
  else:
    compact = schemes.remove_units(head, heads.activity(head, features), 0.99)
  ratio = timing.time_ratio(
    compact,
    schemes.whole(head),
    features,
    as_sparse=as_sparse,
    repeats=3,
  )
  assert 0 < ratio < 0.7
