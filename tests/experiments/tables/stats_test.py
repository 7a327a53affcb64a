"""Tests of experiments.tables.stats."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.tables import stats


class TestMeanInterval:
  @pytest.mark.parametrize("num_seeds", (2, 5, 20))
  @pytest.mark.parametrize("confidence", (0.8, 0.95))
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
    assert stats.mean_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5, 0.5)
    assert stats.mean_interval([0.0, 1.0], confidence=0.6) == (0.5, 0.0, 1.0)

  def test_covers_the_truth_about_as_often_as_stated(self):
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(1000):
      interval = stats.mean_interval(
        generator.normal(2.0, 3.0, size=20), num_resamples=500, seed=seed
      )
      covered += interval.low <= 2.0 <= interval.high
    # 93 % expected; one standard error of 1000 trials is 0.8 %.
    assert 905 <= covered <= 960

  def test_float32_is_averaged_in_float64(self):
    values = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    assert stats.mean_interval(values).mean == 0.5

  def test_single_value_has_no_bounds(self):
    interval = stats.mean_interval([0.25])
    assert interval.mean == 0.25
    assert np.isnan([interval.low, interval.high]).all()

  @pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
  def test_refuses_numbers_that_are_not_finite(self, value):
    for function in (stats.mean_interval, stats.interquartile_mean):
      with pytest.raises(ValueError, match=r"position 1 \(1 of 3"):
        function([0.0, value, 1.0])

  @pytest.mark.parametrize("values", ([], 3.0, [[1.0, 2.0]]))
  def test_refuses_other_shapes(self, values):
    for function in (stats.mean_interval, stats.interquartile_mean):
      with pytest.raises(ValueError, match="at least one, got shape"):
        function(values)

  def test_refuses_other_options(self):
    for confidence in (0.0, 1.0, 95.0, np.nan):
      with pytest.raises(ValueError, match="confidence: expected"):
        stats.mean_interval([0.0, 1.0], confidence=confidence)
    with pytest.raises(ValueError, match="num_resamples: expected"):
      stats.mean_interval([0.0, 1.0], num_resamples=0)


class TestPairedDifference:
  def test_sees_what_unpaired_intervals_hide(self):
    # Seeds differ by up to 100, methods by 1 to 3 within a seed.
    baseline = np.linspace(0.0, 100.0, 20)
    gain = np.tile([1.0, 3.0], 10)
    interval, wins, num_pairs = stats.paired_difference(
      baseline + gain, baseline
    )
    np.testing.assert_allclose(interval.mean, 2.0, rtol=1e-12)
    assert 1.0 < interval.low < interval.high < 3.0
    assert (wins, num_pairs) == (20, 20)

  def test_is_the_interval_of_the_differences(self):
    values, baseline = np.random.default_rng(0).normal(size=(2, 9))
    difference = stats.paired_difference(
      values, baseline, confidence=0.8, num_resamples=100, seed=5
    )
    expected = stats.mean_interval(
      values - baseline, confidence=0.8, num_resamples=100, seed=5
    )
    assert difference.interval == expected

  def test_ties_are_not_won(self):
    difference = stats.paired_difference([1.0, 2.0, 3.0], [1.0, 1.0, 4.0])
    assert (difference.wins, difference.num_pairs) == (1, 3)

  def test_refuses_other_lengths(self):
    with pytest.raises(ValueError, match="got 2 and 1; align"):
      stats.paired_difference([1.0, 2.0], [1.0])


class TestUnpairedDifference:
  def test_matches_the_normal_law(self):
    generator = np.random.default_rng(0)
    values = generator.normal(1.0, 2.0, size=400)
    others = generator.normal(0.0, 1.0, size=300)
    error = np.hypot(values.std() / 20, others.std() / 300**0.5)
    mean, low, high = stats.unpaired_difference(values, others)
    np.testing.assert_allclose(mean, values.mean() - others.mean(), rtol=1e-12)
    np.testing.assert_allclose(
      [mean - low, high - mean], 1.96 * error, rtol=0.05
    )

  def test_a_single_value_has_no_bounds(self):
    difference = stats.unpaired_difference([3.0], [1.0, 2.0])
    assert difference.mean == 1.5
    assert np.isnan(difference.low)


class TestAlign:
  def test_keeps_shared_seeds_in_order(self):
    seeds, values, baseline = stats.align(
      {10: 1.0, 2: 2.0, 3: 3.0}, {3: 30.0, 10: 10.0, 4: 40.0}
    )
    assert seeds == [3, 10]
    np.testing.assert_array_equal(values, [3.0, 1.0])
    np.testing.assert_array_equal(baseline, [30.0, 10.0])

  def test_refuses_disjoint_seeds(self):
    with pytest.raises(ValueError, match=r"got \[0, 1\] and \[2\]"):
      stats.align({1: 0.0, 0: 0.0}, {2: 0.0})


class TestSignFlip:
  def test_by_hand(self):
    # Of the eight sums of +-1 +-2 +-4, |7| twice, |5|, |3|, |1| twice each.
    assert stats.sign_flip_p_value([1.0, 2.0, 4.0]) == 2 / 8
    assert stats.sign_flip_p_value([-1.0, 2.0, 4.0]) == 4 / 8
    assert stats.sign_flip_p_value([0.0, 0.0]) == 1.0

  @pytest.mark.parametrize("num_seeds", (2, 5, 12))
  def test_matches_scipy(self, num_seeds):
    values = np.random.default_rng(num_seeds).normal(0.4, size=num_seeds)
    expected = scipy.stats.permutation_test(
      (values, np.zeros(num_seeds)),
      lambda x, y: np.mean(x - y),
      permutation_type="samples",
      n_resamples=np.inf,
    ).pvalue
    np.testing.assert_allclose(
      stats.sign_flip_p_value(values), expected, rtol=1e-12
    )

  def test_ties_count_whatever_the_order_of_the_sum(self):
    values = [0.1, 0.2, -0.3, 0.7]
    for order in itertools.permutations(values):
      # Five of the eight sums with +0.7 are 0.7 or more.
      assert stats.sign_flip_p_value(order) == 10 / 16

  def test_refuses_too_many(self):
    with pytest.raises(ValueError, match="at most 24, got 25"):
      stats.sign_flip_p_value(np.ones(25))


class TestHolm:
  @pytest.mark.parametrize(
    "p_values,expected",
    (
      ([0.2], [0.2]),
      # 4 * 0.005, 3 * 0.01, 2 * 0.03, and 1 * 0.04 that may not be below that.
      ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
      ([0.5, 0.6], [1.0, 1.0]),
      ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ),
  )
  def test_by_hand(self, p_values, expected):
    np.testing.assert_allclose(stats.holm(p_values), expected, rtol=1e-12)

  @pytest.mark.parametrize("p_values", ([-0.1, 0.5], [0.5, 1.1]))
  def test_refuses_what_is_no_probability(self, p_values):
    with pytest.raises(ValueError, match="expected numbers within"):
      stats.holm(p_values)


class TestInterquartileMean:
  @pytest.mark.parametrize("num_seeds", (1, 2, 3, 4, 7, 8, 20, 21))
  def test_matches_scipy(self, num_seeds):
    values = np.random.default_rng(num_seeds).normal(size=num_seeds)
    np.testing.assert_allclose(
      stats.interquartile_mean(values),
      scipy.stats.trim_mean(values, 0.25),
      rtol=1e-12,
    )
