r"""Dale's law: a neuron excites all that it reaches, or inhibits all.

Neuron i has n_i synapses, weights whose magnitude exceeds a part of the largest
of its layer, p_i of them positive. It obeys the law if p_i is 0 or n_i. By
chance, if the signs of a layer's synapses were permuted, p_i would be
hypergeometric: n_i draws without replacement from all T synapses of the layer,
P of which are positive. So what is expected of all permutations is known
without drawing any:

.. math:: P(p_i = k) = \binom{P}{k} \binom{T - P}{n_i - k} / \binom{T}{n_i}.

Where all weights are non-negative by force, everybody obeys, by chance too.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from experiments.weights import distributions


class Dale(NamedTuple):
  """How far neurons obey Dale's law, from 0 to 1; NaN without synapses."""

  share: float  # Of the neurons that obey it, of those with a synapse.
  chance: float  # The share that is expected of permuted signs.
  agreement: float  # Mean share of a neuron's synapses of its commoner sign.
  agreement_chance: float  # What is expected of permuted signs.


def dale(
  kernels: Iterable[ArrayLike], *, threshold: float = distributions.THRESHOLD
) -> Dale:
  """Looks at the signs of outgoing weights [N, M] of the neurons of layers.

  Example:
    >>> found = dale([[[1.0, 2.0], [-1.0, -2.0]]])
    >>> print(f"{found.share}, {found.chance:.3f}")  # Two of 6 permutations.
    1.0, 0.333
  """
  neurons = [
    _neurons(np.asarray(kernel, np.float64), threshold) for kernel in kernels
  ]
  rows = np.concatenate(neurons) if neurons else np.zeros((0, 4))
  if not len(rows):
    return Dale(*[np.nan] * 4)
  return Dale(*map(float, rows.mean(axis=0)))


def _neurons(kernel: np.ndarray, threshold: float) -> np.ndarray:
  """Returns the fields of `Dale` for each neuron with a synapse, [n, 4]."""
  sizes = np.abs(kernel)
  present = sizes > threshold * sizes.max(initial=0)
  counts = present.sum(axis=1)
  positive = (present & (kernel > 0)).sum(axis=1)
  has_any = counts > 0
  counts, positive = counts[has_any], positive[has_any]
  # Neurons of as many synapses are alike by chance.
  sizes, places = np.unique(counts, return_inverse=True)
  expected = np.array(
    [_expected(counts.sum(), positive.sum(), n) for n in sizes]
  ).reshape(-1, 2)[places]
  agreement = np.maximum(positive, counts - positive) / counts
  return np.column_stack(
    [agreement == 1, expected[:, 0], agreement, expected[:, 1]]
  )


def _expected(total: int, positive: int, count: int) -> tuple[float, float]:
  """Returns how probably a neuron obeys by chance, and its mean agreement."""
  k = np.arange(count + 1)
  chances = stats.hypergeom.pmf(k, total, positive, count)
  agreement = np.maximum(k, count - k) / count
  return chances[agreement == 1].sum(), (chances * agreement).sum()
