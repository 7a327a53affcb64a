"""Tests of experiments.weights.distributions."""

import numpy as np
import pytest
from scipy import optimize, stats

from experiments.weights import distributions

SIZE = 6000
TRUTH = {
  "lognormal": stats.lognorm(0.8, scale=0.05),
  "stretched": stats.weibull_min(0.6, scale=0.05),
  "compressed": stats.weibull_min(2.5, scale=0.3),
}


def draw(name, seed=0):
  """Strengths of a distribution, the largest of which is 1, with signs."""
  generator = np.random.default_rng(seed)
  weights = TRUTH[name].rvs(SIZE, random_state=generator)
  return weights * generator.choice([-1.0, 1.0], SIZE)


def truncated(name, threshold):
  """The float64 oracle: -log likelihood a strength, by scipy.stats."""
  law = stats.lognorm if name == "lognormal" else stats.weibull_min

  def loss(parameters, strengths):
    shape, scale = np.exp(parameters)
    frozen = law(shape, scale=scale)
    return frozen.logsf(threshold) - np.mean(frozen.logpdf(strengths))

  return loss


@pytest.mark.parametrize("name", TRUTH)
def test_samples_are_told_right(name):
  fits = distributions.fit(draw(name, seed=1))
  assert max(fits, key=lambda other: fits[other].log_likelihood) == name
  # The critical distance of 6,000 samples at a level of 1 % is 0.021.
  assert fits[name].distance < 0.021
  assert all(
    fits[other].distance > 2 * fits[name].distance
    for other in TRUTH
    if other != name
  )


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("threshold", (0.0, 0.02))
def test_parameters_are_those_of_greatest_likelihood(name, threshold):
  """Near those of the truth, whatever the threshold hides."""
  weights = draw(name)
  strengths = distributions.synapses(weights, threshold=threshold)
  fit = distributions.fit(weights, threshold=threshold)[name]
  truth = TRUTH[name]
  np.testing.assert_allclose(fit.shape, truth.args[0], rtol=0.08)
  scale = fit.scale * np.abs(weights).max()
  np.testing.assert_allclose(scale, truth.kwds["scale"], rtol=0.15)
  start = np.log([fit.shape, fit.scale])
  loss = truncated(name, threshold)
  np.testing.assert_allclose(
    -loss(start, strengths), fit.log_likelihood, rtol=1e-12
  )
  found = optimize.minimize(loss, start, (strengths,), method="Nelder-Mead")
  assert fit.log_likelihood >= -found.fun - 1e-7


def test_distance_is_the_greatest_of_distribution_functions():
  fit = distributions.fit(draw("stretched"), threshold=0.01)["compressed"]
  x = distributions.synapses(draw("stretched"), threshold=0.01)
  law = stats.weibull_min(fit.shape, scale=fit.scale)
  fitted = 1 - law.sf(x) / law.sf(0.01)
  below, above = np.arange(len(x)) / len(x), np.arange(1, len(x) + 1) / len(x)
  farthest = np.abs([fitted - below, fitted - above]).max()
  np.testing.assert_allclose(fit.distance, farthest, rtol=1e-9)


def test_the_other_exponential_ends_at_the_plain_one():
  fits = distributions.fit(draw("compressed"))
  np.testing.assert_allclose(fits["stretched"].shape, 1.0)
  fits = distributions.fit(draw("stretched"))
  np.testing.assert_allclose(fits["compressed"].shape, 1.0)


def test_scale_and_sign_change_nothing():
  weights = draw("lognormal")
  first = distributions.fit(weights)
  second = distributions.fit(-7.0 * weights.reshape(60, -1))
  for name in distributions.NAMES:
    np.testing.assert_allclose(first[name], second[name], rtol=1e-6)


def test_strengths():
  found = distributions.synapses([[0.0, -2.0], [0.01, 0.02]], threshold=0.005)
  np.testing.assert_array_equal(found, [0.01, 1.0])  # 0.005 is at it.


@pytest.mark.parametrize("weights", ([], [0.0, 0.0], [0.3], [0.5, -0.5]))
def test_no_distribution_without_different_strengths(weights):
  for fit in distributions.fit(weights).values():
    assert np.isnan(fit).all()
