"""Tests of experiments.tables.stats."""

import doctest

from absl.testing import parameterized
import numpy as np
import pytest
import scipy.stats

from experiments.tables import stats


class MeanIntervalTest(parameterized.TestCase):
  @parameterized.product(num_seeds=[2, 5, 20], confidence=[0.8, 0.95])
  def test_matches_scipy(self, num_seeds, confidence):
    values = np.random.default_rng(num_seeds).exponential(size=num_seeds)
    ours = stats.mean_interval(values, confidence=confidence, seed=3)
    theirs = scipy.stats.bootstrap(
      (values,),
      np.mean,
      confidence_level=confidence,
      n_resamples=10_000,
      method="percentile",
      rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose(ours.mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-9)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-9)

  def test_two_values(self):
    # The mean of two draws from {0, 1} is 0, 1/2, 1 with probability 1/4,
    # 1/2, 1/4, so each bound of a 40 % interval lies on 1/2 (tails of 30 %),
    # and of a 60 % interval (tails of 20 %) on an end.
    self.assertEqual(
      stats.mean_interval([0.0, 1.0], confidence=0.4), (0.5, 0.5, 0.5)
    )
    self.assertEqual(
      stats.mean_interval([0.0, 1.0], confidence=0.6), (0.5, 0.0, 1.0)
    )

  def test_covers_the_truth_about_as_often_as_stated(self):
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(1000):
      interval = stats.mean_interval(
        generator.normal(2.0, 3.0, size=20), num_resamples=500, seed=seed
      )
      covered += interval.low <= 2.0 <= interval.high
    # 93 % expected; one standard error of 1000 trials is 0.8 %.
    self.assertBetween(covered, 905, 960)

  def test_is_a_function_of_its_seed(self):
    values = np.random.default_rng(0).normal(size=20)
    first = stats.mean_interval(values, seed=1)
    self.assertEqual(first, stats.mean_interval(values, seed=1))
    self.assertNotEqual(first, stats.mean_interval(values, seed=2))

  def test_leaves_the_global_generator_alone(self):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    stats.mean_interval([0.0, 1.0, 2.0])
    np.testing.assert_array_equal(
      before,
      np.random.get_state()[1],  # noqa: NPY002
    )

  def test_float32_is_averaged_in_float64(self):
    values = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    self.assertEqual(stats.mean_interval(values).mean, 0.5)

  def test_single_value_has_no_bounds(self):
    interval = stats.mean_interval([0.25])
    self.assertEqual(interval.mean, 0.25)
    self.assertTrue(np.isnan(interval.low) and np.isnan(interval.high))

  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_refuses_numbers_that_are_not_finite(self, value):
    for function in (stats.mean_interval, stats.interquartile_mean):
      with pytest.raises(ValueError, match=r"position 1 \(1 of 3"):
        function([0.0, value, 1.0])

  @parameterized.parameters(([],), (3.0,), ([[1.0, 2.0]],))
  def test_refuses_other_shapes(self, values):
    for function in (stats.mean_interval, stats.interquartile_mean):
      with pytest.raises(ValueError, match="at least one, got shape"):
        function(values)

  @parameterized.parameters(0.0, 1.0, 95.0, np.nan)
  def test_refuses_confidence(self, confidence):
    with pytest.raises(ValueError, match="confidence: expected"):
      stats.mean_interval([0.0, 1.0], confidence=confidence)

  def test_refuses_no_resamples(self):
    with pytest.raises(ValueError, match="num_resamples: expected"):
      stats.mean_interval([0.0, 1.0], num_resamples=0)


class PairedDifferenceTest(parameterized.TestCase):
  def test_sees_what_unpaired_intervals_hide(self):
    # Seeds differ by up to 100, methods by 1 to 3 within a seed.
    baseline = np.linspace(0.0, 100.0, 20)
    gain = np.tile([1.0, 3.0], 10)
    interval, wins, num_pairs = stats.paired_difference(
      baseline + gain, baseline
    )
    np.testing.assert_allclose(interval.mean, 2.0, rtol=1e-12)
    self.assertGreater(interval.low, 1.0)
    self.assertLess(interval.high, 3.0)
    self.assertEqual((wins, num_pairs), (20, 20))

  def test_is_the_interval_of_the_differences(self):
    values, baseline = np.random.default_rng(0).normal(size=(2, 9))
    difference = stats.paired_difference(
      values, baseline, confidence=0.8, num_resamples=100, seed=5
    )
    self.assertEqual(
      difference.interval,
      stats.mean_interval(
        values - baseline, confidence=0.8, num_resamples=100, seed=5
      ),
    )

  def test_ties_are_not_won(self):
    difference = stats.paired_difference([1.0, 2.0, 3.0], [1.0, 1.0, 4.0])
    self.assertEqual((difference.wins, difference.num_pairs), (1, 3))

  def test_refuses_other_lengths(self):
    with pytest.raises(ValueError, match="got 2 and 1; align"):
      stats.paired_difference([1.0, 2.0], [1.0])


class AlignTest(parameterized.TestCase):
  def test_keeps_shared_seeds_in_order(self):
    seeds, values, baseline = stats.align(
      {10: 1.0, 2: 2.0, 3: 3.0}, {3: 30.0, 10: 10.0, 4: 40.0}
    )
    self.assertEqual(seeds, [3, 10])
    np.testing.assert_array_equal(values, [3.0, 1.0])
    np.testing.assert_array_equal(baseline, [30.0, 10.0])

  def test_refuses_disjoint_seeds(self):
    with pytest.raises(ValueError, match=r"got \[0, 1\] and \[2\]"):
      stats.align({1: 0.0, 0: 0.0}, {2: 0.0})


class InterquartileMeanTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 4, 7, 8, 20, 21)
  def test_matches_scipy(self, num_seeds):
    values = np.random.default_rng(num_seeds).normal(size=num_seeds)
    np.testing.assert_allclose(
      stats.interquartile_mean(values),
      scipy.stats.trim_mean(values, 0.25),
      rtol=1e-12,
    )

  def test_ignores_outliers_and_order(self):
    self.assertEqual(stats.interquartile_mean([1e9, 2.0, 4.0, -1e9, 3.0]), 3.0)


def test_docstrings():
  outcome = doctest.testmod(stats)
  assert outcome.attempted > 0
  assert outcome.failed == 0
