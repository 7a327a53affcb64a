"""Tests of experiments.compaction.timing."""

import time

import numpy as np
import pytest

from experiments.compaction import heads, schemes, timing
from tests.experiments.compaction import tiny_head

FEATURES = tiny_head.make_samples().inputs


@pytest.mark.parametrize("as_sparse", (False, True))
@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_what_is_timed_computes_the_logits(scheme, as_sparse):
  head = tiny_head.make_head(units=("fc1", "fc2", "fc3"))
  compact = schemes.SCHEMES[scheme](head, tiny_head.measure(head), 0.4)
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


def test_ratio_of_known_times_without_waiting():
  def run():
    time.sleep(0.02)
    spend(6e-3)

  ratio = timing.paired_ratio(run, lambda: spend(2e-3), repeats=5)
  assert 2.5 < ratio < 3.5


def test_a_sparse_kernel_takes_less_time():
  generator = np.random.default_rng(0)
  kernel = generator.normal(size=(784, 300)).astype(np.float32)
  leaves = {"kernel": kernel, "bias": np.zeros(300, np.float32)}
  head = heads.Head({"fc1": leaves}, ("fc1",))
  features = generator.uniform(size=(100, 784)).astype(np.float32)
  compact = schemes.prune_weights(head, None, 0.99)
  whole = schemes.whole(head)
  options = {"as_sparse": True, "repeats": 3}
  assert 0 < timing.time_ratio(compact, whole, features, **options) < 0.7
