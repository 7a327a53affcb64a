"""Clusters of neurons by their outgoing weights: K-means, silhouettes, t-SNE.

Points [N, M] are the rows of a kernel, one a neuron, as they are: neither
scaled nor reduced. Assemblies and classes are integers [N], -1 for neurons that
are left out. Where a number is not defined, because there are too few different
points, it is NaN, and assemblies are all -1.
"""

from collections.abc import Sequence
import warnings

import numpy as np
from sklearn import cluster, exceptions, manifold, metrics
import threadpoolctl


def assemble(
  points: np.ndarray,
  num_clusters: int,
  *,
  restarts: int,
  seed: int,
  dtype: type = np.float64,
) -> np.ndarray:
  """Clusters neurons by K-means, the best of some initializations."""
  if len(np.unique(points, axis=0)) < num_clusters:
    return np.full(len(points), -1)
  estimator = cluster.KMeans(num_clusters, n_init=restarts, random_state=seed)
  # A thread more costs ten times what it saves for so few points.
  with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
    # Points that differ in their last bits only.
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    return estimator.fit_predict(np.asarray(points, dtype))


def silhouette(points: np.ndarray, assemblies: np.ndarray) -> float:
  """Returns the mean silhouette of a partition, from -1 to 1.

  It is defined for 2 assemblies or more, and fewer than there are points.
  """
  kept = assemblies >= 0
  count = len(np.unique(assemblies[kept]))
  if not 2 <= count < np.count_nonzero(kept):
    return float("nan")
  with threadpoolctl.threadpool_limits(1):
    return metrics.silhouette_score(np.float64(points[kept]), assemblies[kept])


def silhouettes(
  points: np.ndarray, counts: Sequence[int], *, restarts: int, seed: int
) -> np.ndarray:
  """Returns the silhouette of K-means for each number of clusters."""
  return np.array(
    [
      silhouette(points, assemble(points, count, restarts=restarts, seed=seed))
      for count in counts
    ]
  )


def embed(kernel: np.ndarray, *, seed: int) -> np.ndarray:
  """Places neurons in a plane [N, 2] by t-SNE of their outgoing weights.

  All are at 0 where there are fewer than three different points.
  """
  points = np.asarray(kernel, np.float64)
  if len(np.unique(points, axis=0)) < 3:
    return np.zeros((len(points), 2))
  # scikit-learn's default of 30 where there are enough points for it.
  perplexity = min(30.0, (len(points) - 1) / 3)
  with threadpoolctl.threadpool_limits(1):
    # A random start, since the principal ones of points on a line have none.
    start = "pca" if np.linalg.matrix_rank(points - points[0]) > 1 else "random"
    return manifold.TSNE(
      2, perplexity=perplexity, init=start, random_state=seed
    ).fit_transform(points)


def agreement(assemblies: np.ndarray, classes: np.ndarray) -> float:
  """Returns the adjusted mutual information of assemblies and classes.

  It is 1 where they agree, and 0 for what chance gives.
  """
  kept = (assemblies >= 0) & (classes >= 0)
  if not kept.any():
    return float("nan")
  return metrics.adjusted_mutual_info_score(classes[kept], assemblies[kept])
