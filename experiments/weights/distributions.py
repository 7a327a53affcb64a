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
from scipy import optimize, special

THRESHOLD = 0.005
# Shapes of the exponential distributions that are searched.
_SHAPES = {"stretched": (0.02, 1.0), "compressed": (1.0, 50.0)}
NAMES = ("lognormal", *_SHAPES)


class Fit(NamedTuple):
  """A fitted distribution.

  Attributes:
    shape: sigma or k, as `s` of `scipy.stats.lognorm` and `c` of `weibull_min`.
    scale: exp(mu) or s, as `scale` of both.
    log_likelihood: Mean over the synapses, in nats.
    distance: The greatest difference of the fitted and the empirical
      distribution function (Kolmogorov and Smirnov's), from 0 to 1.
  """

  shape: float
  scale: float
  log_likelihood: float
  distance: float


def synapses(weights: ArrayLike, *, threshold: float = THRESHOLD) -> np.ndarray:
  """Returns the strengths above the threshold, the largest of which is 1.

  Args:
    weights: Weights of any shape.
    threshold: What strengths must exceed, from 0.

  Returns:
    Strengths [n] in ascending order; none where all weights are 0.

  Example:
    >>> synapses([[0.0, -4.0], [0.01, 2.0]])
    array([0.5, 1. ])
  """
  sizes = np.sort(np.abs(np.asarray(weights, np.float64)), axis=None)
  if not sizes.size or not sizes[-1] > 0:
    return np.zeros(0)
  scaled = sizes / sizes[-1]
  return scaled[scaled > threshold]


def fit(weights: ArrayLike, *, threshold: float = THRESHOLD) -> dict[str, Fit]:
  """Fits all distributions by maximum likelihood.

  Args:
    weights: Weights of any shape.
    threshold: Strength above which a synapse is one, from 0.

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
  found = {"lognormal": _lognormal(strengths, threshold)}
  for name, bounds in _SHAPES.items():
    found[name] = _exponential(strengths, threshold, bounds)
  return {
    name: Fit(
      *parameters,
      float(np.mean(log_density(name, strengths, *parameters, threshold))),
      _distance(name, strengths, *parameters, threshold),
    )
    for name, parameters in found.items()
  }


def log_density(
  name: str, x: np.ndarray, shape: float, scale: float, threshold: float
) -> np.ndarray:
  """Returns the logarithm of the density of what exceeds the threshold.

  Args:
    name: One of `NAMES`.
    x: Strengths above the threshold.
    shape: As in `Fit`.
    scale: As in `Fit`.
    threshold: c.
  """
  logs = np.log(x)
  units = logs - np.log(scale)
  if name == "lognormal":
    plain = (
      -0.5 * (units / shape) ** 2 - np.log(shape) - 0.5 * np.log(2 * np.pi)
    )
  else:
    plain = np.log(shape) + shape * units - np.exp(shape * units)
  return plain - logs - _log_survival(name, threshold, shape, scale)


def _log_survival(
  name: str, x: ArrayLike, shape: float, scale: float
) -> np.ndarray:
  """Returns the logarithm of P(X > x)."""
  with np.errstate(divide="ignore"):  # At a threshold of 0.
    units = np.log(x) - np.log(scale)
  if name == "lognormal":
    return special.log_ndtr(-units / shape)
  return -np.exp(shape * units)


def _lognormal(strengths: np.ndarray, threshold: float) -> tuple[float, float]:
  """Returns sigma and exp(mu) of greatest likelihood."""
  logs = np.log(strengths)
  mean, deviation = logs.mean(), logs.std()

  def loss(place: np.ndarray) -> float:
    (mu, log_sigma), sigma = place, np.exp(place[1])
    spread = deviation**2 + (mean - mu) ** 2
    hidden = _log_survival("lognormal", threshold, sigma, np.exp(mu))
    return float(log_sigma + 0.5 * spread / sigma**2 + hidden)

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
    return float(np.mean(np.exp(shape * logs)) - threshold**shape)

  def loss(log_shape: float) -> float:
    shape = np.exp(log_shape)
    return float(np.log(power(shape)) - log_shape - shape * logs.mean())

  low, high = np.log(bounds)
  found = optimize.minimize_scalar(
    loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8}
  )
  # The search never tries the bounds themselves, one of which is k = 1.
  log_shape = min((found.x, low, high), key=loss)
  shape = float(np.exp(log_shape))
  return shape, power(shape) ** (1 / shape)


def _distance(
  name: str,
  strengths: np.ndarray,
  shape: float,
  scale: float,
  threshold: float,
) -> float:
  hidden = _log_survival(name, threshold, shape, scale)
  fitted = -np.expm1(_log_survival(name, strengths, shape, scale) - hidden)
  count = len(strengths)
  below = np.arange(count) / count
  return float(np.max(np.maximum(fitted - below, below + 1 / count - fitted)))
