"""Inference time of a head made smaller, beside the whole.

Both run in NumPy on one core, kernels with many zeros as SciPy's compressed
sparse rows. What counts is the processor time of that thread: on a machine that
others use too, a thread waits, and the clock on the wall runs on. Even then
times drift while ratios of neighbouring runs do not: so the two take turns, and
the ratio is the median over rounds of the ratio within a round.
"""

from collections.abc import Callable
import statistics
import time
import timeit

import numpy as np
from scipy import sparse
import threadpoolctl

from experiments.compaction.schemes import Compact

# A turn takes about so long, so that the clock is fine enough.
_TURN_SECONDS = 2e-3


def make_forward(
  compact: Compact, *, as_sparse: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
  """Makes the function from features [f, n], samples last, to logits.

  Features are those of the whole network; kernels are compressed sparse rows,
  one for each output, if asked for.
  """
  make = sparse.csr_array if as_sparse else np.ascontiguousarray
  layers = [
    (make(leaves["kernel"].T), leaves["bias"][:, None])
    for leaves in compact.params.values()
  ]
  chosen = None
  if not np.array_equal(compact.inputs, np.arange(len(compact.inputs))):
    chosen = compact.inputs

  def forward(x: np.ndarray) -> np.ndarray:
    if chosen is not None:
      x = x[chosen]
    for place, (kernel, bias) in enumerate(layers):
      x = kernel @ x
      x += bias
      if place < len(layers) - 1:
        np.maximum(x, 0, out=x)
    return x

  return forward


def time_ratio(
  compact: Compact,
  whole: Compact,
  features: np.ndarray,
  *,
  as_sparse: bool,
  repeats: int,
) -> float:
  """Returns a smaller head's time as a multiple of that of the whole.

  That is for a batch of features [n, f] and so many rounds.
  """
  columns = np.ascontiguousarray(features.T)
  forward = make_forward(compact, as_sparse=as_sparse)
  baseline = make_forward(whole)
  with threadpoolctl.threadpool_limits(1):
    return paired_ratio(
      lambda: forward(columns), lambda: baseline(columns), repeats=repeats
    )


def paired_ratio(
  run: Callable[[], object], baseline: Callable[[], object], *, repeats: int
) -> float:
  """Returns how many times as long as another a function takes."""
  turns = []
  for function in (run, baseline):
    timer = timeit.Timer(function, timer=time.thread_time)
    timer.timeit(1)
    number = max(1, round(_TURN_SECONDS / max(timer.timeit(1), 1e-7)))
    turns.append((timer, number))
  ratios = []
  for _ in range(repeats):
    mine, others = (timer.timeit(number) / number for timer, number in turns)
    ratios.append(mine / others)
  return statistics.median(ratios)
