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

import numpy as np
from scipy import sparse
import threadpoolctl

from experiments.compaction.schemes import Compact

# A turn takes about so long, so that the clock is fine enough.
_TURN_SECONDS = 2e-3


def make_forward(
  compact: Compact, *, as_sparse: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
  """Makes the function that computes logits.

  Args:
    compact: The head.
    as_sparse: Whether its kernels are compressed sparse rows.

  Returns:
    A function of features [f, n], samples last, of the whole network; it
    returns logits [classes, n].
  """
  layers = [
    (
      # As the sparse product has it, one row for each output.
      sparse.csr_array(leaves["kernel"].T)
      if as_sparse
      else np.ascontiguousarray(leaves["kernel"].T),
      leaves["bias"][:, None],
    )
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


def paired_ratio(
  run: Callable[[], object], baseline: Callable[[], object], *, repeats: int
) -> float:
  """Measures how many times as long as another a function takes.

  Args:
    run: The function.
    baseline: The other.
    repeats: Rounds.

  Returns:
    The median over rounds of the ratio within a round.
  """
  turns = []
  for function in (run, baseline):
    function()
    number = max(1, round(_TURN_SECONDS / max(_seconds(function, 1), 1e-7)))
    turns.append((function, number))
  ratios = []
  for _ in range(repeats):
    mine, others = (_seconds(function, number) for function, number in turns)
    ratios.append(mine / others)
  return statistics.median(ratios)


def time_ratio(
  compact: Compact,
  whole: Compact,
  features: np.ndarray,
  *,
  as_sparse: bool,
  repeats: int,
) -> float:
  """Times a smaller head beside the whole.

  Args:
    compact: The smaller head.
    whole: The whole, dense.
    features: Features [n, f] of a batch.
    as_sparse: Whether the kernels of the smaller are compressed sparse rows.
    repeats: Rounds.

  Returns:
    Its time as a multiple of that of the whole.
  """
  columns = np.ascontiguousarray(features.T)
  forward = make_forward(compact, as_sparse=as_sparse)
  baseline = make_forward(whole)
  with threadpoolctl.threadpool_limits(1):
    return paired_ratio(
      lambda: forward(columns), lambda: baseline(columns), repeats=repeats
    )


def _seconds(function: Callable[[], object], number: int) -> float:
  """Returns the processor time of one of so many calls."""
  started = time.thread_time()
  for _ in range(number):
    function()
  return (time.thread_time() - started) / number
