r"""Which distribution the strengths of synapses have.

Strengths are magnitudes of weights, scaled so that the largest is 1. Those at
or below a threshold c are no synapses, and left out:

.. math:: x = |w| / \max |w|, \qquad x > c.

Three distributions of two parameters each are fitted to what is left, so that
their likelihoods can be compared as they are. The lognormal distribution has

.. math:: f(x) = \frac{1}{x \sigma \sqrt{2 \pi}}
  \exp\left(-\frac{(\ln x - \mu)^2}{2 \sigma^2}\right),

and the exponential distribution, stretched (:math:`k \le 1`) or compressed
(:math:`k \ge 1`), which is Weibull's,

.. math:: f(x) = \frac{k}{s} \left(\frac{x}{s}\right)^{k-1}
  \exp\left(-(x/s)^k\right).

Since nothing below c is seen, the likelihood is that of
:math:`f(x) / P(X > c)`. For a given k it is greatest at
:math:`s^k = \overline{x^k} - c^k`, so that one number is searched for.

Chosen here: magnitudes, so that networks with negative weights can be compared
with others; and that x may exceed 1 in the distributions, though the scale
makes the largest 1.

References:
  The protocol is that of Inoue, Röhrbein and Knoblauch, `Guiding sparse neural
  networks with neurobiological principles <https://arxiv.org/abs/2603.03234>`_,
  2026, Figure 3, whose threshold is the default here.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

THRESHOLD = 0.005
_LAWS = {
  "lognormal": stats.lognorm,
  "stretched": stats.weibull_min,
  "compressed": stats.weibull_min,
}
NAMES = tuple(_LAWS)


class Fit(NamedTuple):
  """A fitted distribution."""

  # sigma or k, as `s` of `scipy.stats.lognorm` and `c` of `weibull_min`.
  shape: float
  scale: float  # exp(mu) or s, as `scale` of both.
  log_likelihood: float  # Mean over the synapses, in nats.
  # The greatest difference of the fitted and the empirical distribution
  # function (Kolmogorov and Smirnov's), from 0 to 1.
  distance: float


def synapses(weights: ArrayLike, *, threshold: float = THRESHOLD) -> np.ndarray:
  """Returns the strengths [n] above the threshold, in ascending order.

  There are none where all weights are 0.
  """
  sizes = np.sort(np.abs(np.asarray(weights, np.float64)), axis=None)
  if not sizes.size or not sizes[-1] > 0:
    return np.zeros(0)
  scaled = sizes / sizes[-1]
  return scaled[scaled > threshold]


def fit(weights: ArrayLike, *, threshold: float = THRESHOLD) -> dict[str, Fit]:
  """Fits all distributions by maximum likelihood to weights of any shape.

  Returns:
    A fit for each of `NAMES`; NaN where there are fewer than two different
    strengths.

  Example:
    >>> fits = fit(np.random.default_rng(0).lognormal(-4, 0.5, 2000))
    >>> max(fits, key=lambda name: fits[name].log_likelihood)
    'lognormal'
  """
  strengths = synapses(weights, threshold=threshold)
  if strengths.size < 2 or strengths[0] == strengths[-1]:
    return dict.fromkeys(NAMES, Fit(*[np.nan] * 4))
  found = {
    "lognormal": _lognormal(strengths, threshold),
    "stretched": _exponential(strengths, threshold, (0.02, 1.0)),
    "compressed": _exponential(strengths, threshold, (1.0, 50.0)),
  }
  fits = {}
  for name, (shape, scale) in found.items():
    densities = log_density(name, strengths, shape, scale, threshold)
    law = _LAWS[name](shape, scale=scale)
    # The distribution function of what exceeds the threshold.
    fitted = -np.expm1(law.logsf(strengths) - law.logsf(threshold))
    distance = stats.kstest(fitted, "uniform", method="asymp")
    fits[name] = Fit(shape, scale, densities.mean(), distance.statistic)
  return fits


def log_density(
  name: str, x: np.ndarray, shape: float, scale: float, threshold: float
) -> np.ndarray:
  """Returns the logarithm of the density of strengths above the threshold."""
  law = _LAWS[name](shape, scale=scale)
  return law.logpdf(x) - law.logsf(threshold)


def _lognormal(strengths: np.ndarray, threshold: float) -> tuple[float, float]:
  """Returns sigma and exp(mu) of greatest likelihood."""
  logs = np.log(strengths)
  mean, deviation = logs.mean(), logs.std()

  def loss(place: np.ndarray) -> float:
    (mu, log_sigma), sigma = place, np.exp(place[1])
    spread = deviation**2 + (mean - mu) ** 2
    hidden = stats.lognorm.logsf(threshold, sigma, scale=np.exp(mu))
    return log_sigma + 0.5 * spread / sigma**2 + hidden

  found = optimize.minimize(
    loss,
    (mean, np.log(deviation)),
    method="Nelder-Mead",
    # Densities that only fall above the threshold have no best one.
    bounds=((-30.0, 10.0), (-10.0, 3.0)),
    options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000},
  )
  mu, log_sigma = found.x
  return float(np.exp(log_sigma)), float(np.exp(mu))


def _exponential(
  strengths: np.ndarray, threshold: float, bounds: tuple[float, float]
) -> tuple[float, float]:
  """Returns k, within bounds, and s of greatest likelihood."""
  logs = np.log(strengths)

  def power(shape: float) -> float:
    """Returns the best s^k."""
    return np.mean(np.exp(shape * logs)) - threshold**shape

  def loss(log_shape: float) -> float:
    shape = np.exp(log_shape)
    return np.log(power(shape)) - log_shape - shape * logs.mean()

  low, high = np.log(bounds)
  found = optimize.minimize_scalar(
    loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8}
  )
  # The search never tries the bounds themselves, one of which is k = 1.
  shape = float(np.exp(min((found.x, low, high), key=loss)))
  return shape, float(power(shape) ** (1 / shape))
