"""Tests of experiments.tables.stats."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.tables import stats


@pytest.mark.parametrize("num_seeds", (2, 5, 20))
def test_interval_matches_scipy(num_seeds):
  values = np.random.default_rng(num_seeds).exponential(size=num_seeds)
  bounds = scipy.stats.bootstrap(
    (values,),
    np.mean,
    confidence_level=0.95,
    n_resamples=10_000,
    method="percentile",
    rng=np.random.default_rng(0),
  ).confidence_interval
  expected = values.mean(), bounds.low, bounds.high
  ours = stats.mean_interval(values)
  np.testing.assert_allclose(ours, expected, rtol=1e-9)
  assert stats.mean_interval(dict(enumerate(values))) == ours
  # In float64, whatever comes.
  values = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
  assert stats.mean_interval(values).mean == 0.5


def test_difference_of_two_groups_matches_the_normal_law():
  generator = np.random.default_rng(0)
  values = generator.normal(1.0, 2.0, size=400)
  others = generator.normal(0.0, 1.0, size=300)
  error = np.hypot(values.std() / 20, others.std() / 300**0.5)
  mean, low, high = stats.difference_interval(values, others)
  np.testing.assert_allclose(mean, values.mean() - others.mean(), rtol=1e-12)
  np.testing.assert_allclose([mean - low, high - mean], 1.96 * error, rtol=0.05)


def test_a_single_value_has_no_bounds():
  alone = stats.mean_interval([0.25])
  one_of_two = stats.difference_interval([3.0], [1.0, 2.0])
  assert (alone.mean, one_of_two.mean) == (0.25, 1.5)
  assert np.isnan([*alone[1:], *one_of_two[1:]]).all()


@pytest.mark.parametrize(
  "values", ([0.0, np.nan], [np.inf, 1.0], [], 3.0, [[1.0, 2.0]], {})
)
@pytest.mark.parametrize(
  "function",
  (
    stats.mean_interval,
    stats.interquartile_mean,
    stats.sign_flip_p_value,
    lambda values: stats.difference_interval([1.0], values),
  ),
)
def test_refuses_what_is_not_one_finite_number_a_seed(function, values):
  with pytest.raises(ValueError, match="expected finite numbers"):
    function(values)


def test_differences_are_those_of_shared_seeds_in_order():
  found = stats.differences(
    {10: 1.0, 2: 2.0, 3: 3.0}, {3: 30.0, 10: 10.0, 4: 40.0}
  )
  np.testing.assert_array_equal(found, [-27.0, -9.0])
  assert stats.differences({1: 0.0}, {2: 0.0}).size == 0


def test_pairs_show_what_unpaired_intervals_hide():
  # Seeds differ by up to 100, methods by 1 to 3 within a seed.
  baseline = dict(enumerate(np.linspace(0.0, 100.0, 20)))
  values = {
    seed: v + (3.0 if seed % 2 else 1.0) for seed, v in baseline.items()
  }
  mean, low, high = stats.mean_interval(stats.differences(values, baseline))
  np.testing.assert_allclose(mean, 2.0, rtol=1e-12)
  assert 1.0 < low < high < 3.0
  assert stats.difference_interval(values, baseline).low < 0


def test_sign_flip_by_hand():
  # Of the eight sums of +-1 +-2 +-4, |7| twice, |5|, |3|, |1| twice each.
  assert stats.sign_flip_p_value([1.0, 2.0, 4.0]) == 2 / 8
  assert stats.sign_flip_p_value([-1.0, 2.0, 4.0]) == 4 / 8
  assert stats.sign_flip_p_value([0.0, 0.0]) == 1.0
  # Ties count, whatever the order of the sum: five of the eight sums with +0.7
  # are 0.7 or more.
  for order in itertools.permutations([0.1, 0.2, -0.3, 0.7]):
    assert stats.sign_flip_p_value(order) == 10 / 16


def test_sign_flip_of_many_differences_draws_signs(monkeypatch):
  values = np.random.default_rng(1).normal(0.4, size=20)
  exact = stats.sign_flip_p_value(values)
  assert 0.001 < exact < 0.1
  monkeypatch.setattr(stats, "_MOST_SIGNS", 19)
  drawn = stats.sign_flip_p_value(values)
  # Four standard deviations of a share of 2^17 draws.
  assert 0 < abs(drawn - exact) < 4 * np.sqrt(exact / 2**17)
  assert stats.sign_flip_p_value(values) == drawn


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
def test_holm_by_hand(p_values, expected):
  np.testing.assert_allclose(stats.holm(p_values), expected, rtol=1e-12)


@pytest.mark.parametrize("num_seeds", (1, 2, 3, 4, 7, 8, 20, 21))
def test_interquartile_mean_matches_scipy(num_seeds):
  values = np.random.default_rng(num_seeds).normal(size=num_seeds)
  np.testing.assert_allclose(
    stats.interquartile_mean(values),
    scipy.stats.trim_mean(values, 0.25),
    rtol=1e-12,
  )
