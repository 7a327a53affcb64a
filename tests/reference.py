"""The float64 oracle: the paper's definitions, term by term, in NumPy.

Nothing here is shared with the library, and no closed form is used: the terms
of each equation are array expressions, one [N, N] matrix of differences a
sample. `reference_test.py` holds them against scalar loops over every index.

Symbols are the paper's: H [S, N] activations, W [N, M] outgoing weights,
F = |tanh(gamma W)| (Eq. 3), A [N, N] correlation (Eq. 4 to 7), d the distance.
"""

import numpy as np


def distance_of(difference: np.ndarray, distance: str) -> np.ndarray:
  """Returns d(x, y) for x - y, Section 2.1."""
  return {"squared": np.square, "absolute": np.abs}[distance](difference)


def slope_of(difference: np.ndarray, distance: str) -> np.ndarray:
  """Returns the derivative of d(x, y) with respect to x."""
  slopes = {"squared": lambda x: 2.0 * x, "absolute": np.sign}
  return slopes[distance](difference)


def relative_strength(kernel: np.ndarray, gamma: float = 1.0) -> np.ndarray:
  """Returns F [N, M], Eq. 3."""
  return np.abs(np.tanh(gamma * np.asarray(kernel, np.float64)))


def neuron_correlation(
  kernel: np.ndarray, *, order: int = 1, gamma: float = 1.0
) -> np.ndarray:
  """Returns A [N, N], Eq. 5 or Eq. 7."""
  strength = relative_strength(kernel, gamma)
  num_next = strength.shape[1]
  product = strength @ strength.T
  return {1: product / num_next, 2: product * product / num_next**2}[order]


def coactivation_divergence(
  activations: np.ndarray, *, distance: str = "squared"
) -> np.ndarray:
  """Returns the mean over samples of d(H_si, H_sj), [N, N]."""
  activations = np.asarray(activations, np.float64)
  num_samples, num_neurons = activations.shape
  total = np.zeros((num_neurons, num_neurons))
  for sample in activations:
    total += distance_of(sample[:, None] - sample[None, :], distance)
  return total / num_samples


def layer_penalty(
  activations: np.ndarray,
  kernel: np.ndarray,
  *,
  order: int = 1,
  gamma: float = 1.0,
  distance: str = "squared",
) -> float:
  """Returns L_c, Eq. 1, as the sum over pairs of A_ij times mean d."""
  correlation = neuron_correlation(kernel, order=order, gamma=gamma)
  divergence = coactivation_divergence(activations, distance=distance)
  return float(np.sum(correlation * divergence)) / len(correlation) ** 2


def layer_gradients(
  activations: np.ndarray,
  kernel: np.ndarray,
  *,
  order: int = 1,
  gamma: float = 1.0,
  distance: str = "squared",
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the derivatives of Eq. 1 by H [S, N] and W [N, M], Eq. 2."""
  activations = np.asarray(activations, np.float64)
  kernel = np.asarray(kernel, np.float64)
  num_samples, num_neurons = activations.shape
  num_next = kernel.shape[1]
  correlation = neuron_correlation(kernel, order=order, gamma=gamma)
  by_activations = np.empty_like(activations)
  for s, sample in enumerate(activations):
    slope = slope_of(sample[:, None] - sample[None, :], distance)
    # Each neuron is once the i and once the j of a pair.
    by_activations[s] = 2.0 * np.sum(correlation * slope, axis=1)
  by_activations /= num_samples * num_neurons**2

  strength = relative_strength(kernel, gamma)
  divergence = coactivation_divergence(activations, distance=distance)
  by_product = divergence / num_neurons**2
  if order == 2:
    by_product = by_product * 2.0 * (strength @ strength.T)
  by_strength = 2.0 * by_product @ strength / num_next**order
  squashed = np.tanh(gamma * kernel)
  by_kernel = by_strength * np.sign(kernel) * gamma * (1.0 - squashed**2)
  return by_activations, by_kernel


def convolve(images: np.ndarray, kernel: np.ndarray, border: int) -> np.ndarray:
  """Correlates images [n, r, c, k] with a kernel [i, j, k, l], zeros around."""
  sides = (border, border)
  images = np.pad(images.astype(np.float64), ((0, 0), sides, sides, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(
    images, kernel.shape[:2], axis=(1, 2)
  )
  return np.einsum("nrckij,ijkl->nrcl", windows, kernel)
