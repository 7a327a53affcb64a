"""Statistics over seeds: intervals, paired differences, robust means.

Pure NumPy on float64. Every function takes one finite number a seed; members
that failed are for the caller to leave out (and to count), so a NaN is
refused instead of spreading or vanishing silently.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# 2^24 sums take 128 MB.
_MOST_SIGNS = 24


class Interval(NamedTuple):
  """A mean with the bounds of its confidence interval.

  The bounds of a single value are NaN: one seed says nothing of the spread.
  """

  mean: float
  low: float
  high: float


class PairedDifference(NamedTuple):
  """A difference to a baseline, seed by seed.

  `interval` is of the mean difference, `wins` counts the pairs in which the
  value is strictly greater than its baseline, of `num_pairs`.
  """

  interval: Interval
  wins: int
  num_pairs: int


def mean_interval(
  values: ArrayLike,
  *,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Estimate a mean and its percentile bootstrap interval.

  The values are drawn again with replacement, and the bounds are quantiles of
  the means of those draws. Accuracies after few shots are bounded, skewed and
  sometimes bimodal (some simulations collapse), so the interval should not
  come from a normal law. With few values it is somewhat too narrow: a 95 %
  interval of normal data covers the truth in 93 % of cases at 20 values, in
  90 % at 10 and in 84 % at 5.

  Args:
    values: [num_seeds] finite numbers, at least one.
    confidence: probability that the interval is made for, within (0, 1).
    num_resamples: number of draws.
    seed: of the draws; equal arguments give equal bounds.

  Returns:
    The mean with its bounds, which are NaN for a single value.

  Raises:
    ValueError: if there are no values, one is not finite, or an option is out
      of its range.

  Example:
    >>> mean_interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)

  References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
  """
  values = _finite(values, "values")
  if not 0.0 < confidence < 1.0:
    raise ValueError(
      f"confidence: expected a probability within (0, 1), got {confidence}"
    )
  if num_resamples < 1:
    raise ValueError(f"num_resamples: expected at least 1, got {num_resamples}")
  mean = float(values.mean())
  if values.size == 1:
    return Interval(mean, float("nan"), float("nan"))
  generator = np.random.default_rng(seed)
  rows = generator.integers(values.size, size=(num_resamples, values.size))
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(values[rows].mean(axis=1), [tail, 1.0 - tail])
  return Interval(mean, float(low), float(high))


def paired_difference(
  values: ArrayLike,
  baseline: ArrayLike,
  *,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> PairedDifference:
  """Compare values with a baseline of the same seeds.

  A seed fixes the shots and the initialization, which vary far more than the
  methods differ, so the interval is of the differences within pairs.

  Args:
    values: [num_seeds] finite numbers.
    baseline: [num_seeds] finite numbers, of the same seeds in the same order
      (see `align`).
    confidence: as in `mean_interval`.
    num_resamples: as in `mean_interval`.
    seed: as in `mean_interval`.

  Returns:
    The interval of `values - baseline`, and the number of pairs won.

  Raises:
    ValueError: if the lengths differ, or as `mean_interval` does.

  Example:
    >>> paired_difference([3.0, 4.0, 1.0], [1.0, 2.0, 1.0]).wins
    2
  """
  values = _finite(values, "values")
  baseline = _finite(baseline, "baseline")
  if values.shape != baseline.shape:
    raise ValueError(
      "values and baseline: expected one number each for the same seeds, got"
      f" {values.size} and {baseline.size}; align them first"
    )
  interval = mean_interval(
    values - baseline,
    confidence=confidence,
    num_resamples=num_resamples,
    seed=seed,
  )
  wins = int(np.count_nonzero(values > baseline))
  return PairedDifference(interval, wins, values.size)


def unpaired_difference(
  values: ArrayLike,
  others: ArrayLike,
  *,
  confidence: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Interval:
  """Compare two groups of different seeds.

  Both are drawn again with replacement, each from itself.

  Args:
    values: [num_seeds] finite numbers.
    others: [num_others] finite numbers, of other seeds.
    confidence: as in `mean_interval`.
    num_resamples: as in `mean_interval`.
    seed: as in `mean_interval`.

  Returns:
    The difference of the means, `values` less `others`, with its bounds, which
    are NaN where a group is a single value.

  Raises:
    ValueError: as `mean_interval` does.

  Example:
    >>> unpaired_difference([3.0, 3.0], [1.0, 1.0, 1.0])
    Interval(mean=2.0, low=2.0, high=2.0)
  """
  values, others = _finite(values, "values"), _finite(others, "others")
  mean = float(values.mean() - others.mean())
  if min(values.size, others.size) == 1:
    return Interval(mean, float("nan"), float("nan"))
  generator = np.random.default_rng(seed)
  first, second = (
    group[generator.integers(group.size, size=(num_resamples, group.size))]
    for group in (values, others)
  )
  tail = (1.0 - confidence) / 2.0
  low, high = np.quantile(
    first.mean(axis=1) - second.mean(axis=1), [tail, 1.0 - tail]
  )
  return Interval(mean, float(low), float(high))


def align(
  values: Mapping[int, float], baseline: Mapping[int, float]
) -> tuple[list[int], np.ndarray, np.ndarray]:
  """Keep the seeds that both sides have.

  Args:
    values: a number for each seed.
    baseline: a number for each seed.

  Returns:
    The shared seeds in ascending order, and the [num_shared] numbers of each
    side in that order.

  Raises:
    ValueError: if no seed is shared.

  Example:
    >>> align({1: 0.5, 0: 0.25, 7: 1.0}, {0: 0.0, 1: 0.125})[0]
    [0, 1]
  """
  seeds = sorted(values.keys() & baseline.keys())
  if not seeds:
    raise ValueError(
      "values and baseline: expected at least one seed in both, got"
      f" {sorted(values)} and {sorted(baseline)}; run both with the same seeds"
    )
  return (
    seeds,
    np.array([values[s] for s in seeds], np.float64),
    np.array([baseline[s] for s in seeds], np.float64),
  )


def sign_flip_p_value(differences: ArrayLike) -> float:
  """Test whether paired differences are symmetric about 0.

  If a method and its baseline did not differ, every difference would have the
  other sign as probably. The p-value is the share of all 2^n choices of signs
  whose sum is as far from 0 as the one that was found, or farther: exact, and
  at least 2 / 2^n, so five seeds never give less than 0.0625.

  Args:
    differences: [num_seeds] finite numbers, 1 to 24 of them.

  Returns:
    The two-sided p-value, within (0, 1].

  Raises:
    ValueError: if there are none or more than 24, or one is not finite.

  Example:
    >>> sign_flip_p_value([1.0, 2.0, 3.0])
    0.25

  References:
    Fisher, The Design of Experiments, 1935, section 21.
  """
  values = _finite(differences, "differences")
  if values.size > _MOST_SIGNS:
    raise ValueError(
      f"differences: expected at most {_MOST_SIGNS}, got {values.size}; all"
      " choices of their signs would not fit into memory"
    )
  sums = np.zeros(1)
  for value in values:
    sums = np.concatenate([sums + value, sums - value])
  # The same sum in another order may differ in its last bits.
  least = abs(sums[0]) - 1e-12 * np.abs(values).sum()
  return float(np.mean(np.abs(sums) >= least))


def holm(p_values: ArrayLike) -> np.ndarray:
  """Adjust p-values for the number of tests that a claim is made from.

  The k-th least of n is multiplied by n - k + 1, and is never below one before
  it. To reject what is then below 0.05 is wrong anywhere among the n tests with
  a probability of at most 0.05, however they depend on each other.

  Args:
    p_values: [num_tests] numbers within [0, 1], at least one.

  Returns:
    The adjusted p-values [num_tests], at most 1.

  Raises:
    ValueError: if there are none, or one is outside of [0, 1].

  Example:
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

  References:
    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
  """
  values = _finite(p_values, "p_values")
  if values.min() < 0 or values.max() > 1:
    raise ValueError(
      f"p_values: expected numbers within [0, 1], got {values.tolist()}"
    )
  order = np.argsort(values, kind="stable")
  factors = np.arange(values.size, 0, -1)
  adjusted = np.empty_like(values)
  adjusted[order] = np.maximum.accumulate(factors * values[order])
  return np.minimum(adjusted, 1.0)


def interquartile_mean(values: ArrayLike) -> float:
  """Average the middle half of the values.

  A quarter of them, rounded down, is left out at each end, so that a few
  collapsed simulations do not decide.

  Args:
    values: [num_seeds] finite numbers, at least one.

  Returns:
    The mean of what remains.

  Raises:
    ValueError: if there are no values or one is not finite.

  Example:
    >>> interquartile_mean([0.0, 2.0, 4.0, 99.0])
    3.0

  References:
    Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
    Precipice, 2021, https://arxiv.org/abs/2108.13264.
  """
  values = np.sort(_finite(values, "values"))
  cut = values.size // 4
  return float(values[cut : values.size - cut].mean())


def _finite(values: ArrayLike, name: str) -> np.ndarray:
  array = np.asarray(values, np.float64)
  if array.ndim != 1 or array.size == 0:
    raise ValueError(
      f"{name}: expected [num_seeds] numbers, at least one, got shape"
      f" {array.shape}"
    )
  bad = np.flatnonzero(~np.isfinite(array))
  if bad.size:
    raise ValueError(
      f"{name}: expected finite numbers, got {array[bad[0]]} at position"
      f" {bad[0]} ({bad.size} of {array.size} not finite); leave those seeds"
      " out first"
    )
  return array
