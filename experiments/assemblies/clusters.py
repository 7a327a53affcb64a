"""Clusters of neurons by their outgoing weights: K-means, silhouettes, t-SNE.

The weight space is that of the rows of a kernel, one point a neuron, as they
are: neither scaled nor reduced. Where a number is not defined, because there
are too few different points, it is NaN, and assemblies are all -1.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import cluster, manifold, metrics
import threadpoolctl


def assemble(
  kernel: np.ndarray, num_clusters: int, *, restarts: int, seed: int
) -> np.ndarray:
  """Clusters neurons by K-means.

  Args:
    kernel: Points [N, M].
    num_clusters: How many clusters.
    restarts: Initializations, the best of which is kept.
    seed: Of the initializations.

  Returns:
    Assemblies [N] from 0, or all -1 where there are not as many different
    points as clusters.
  """
  if len(np.unique(kernel, axis=0)) < num_clusters:
    return np.full(len(kernel), -1)
  # A thread more costs ten times what it saves for so few points.
  with threadpoolctl.threadpool_limits(1):
    estimator = cluster.KMeans(
      num_clusters, n_init=restarts, random_state=seed, algorithm="lloyd"
    )
    return estimator.fit(np.asarray(kernel, np.float64)).labels_


def silhouette(points: np.ndarray, assemblies: np.ndarray) -> float:
  """Returns the mean silhouette of a partition.

  Args:
    points: Points [N, M].
    assemblies: Integers [N]; -1 for points that are left out.

  Returns:
    From -1 to 1; NaN unless there are at least 2 assemblies and fewer of them
    than points.
  """
  kept = assemblies >= 0
  count = len(np.unique(assemblies[kept]))
  if not 2 <= count < np.count_nonzero(kept):
    return float("nan")
  with threadpoolctl.threadpool_limits(1):
    return float(
      metrics.silhouette_score(
        np.asarray(points[kept], np.float64), assemblies[kept]
      )
    )


def silhouettes(
  kernel: np.ndarray, counts: Sequence[int], *, restarts: int, seed: int
) -> np.ndarray:
  """Returns the silhouette of K-means for each number of clusters.

  Args:
    kernel: Points [N, M].
    counts: Numbers of clusters.
    restarts: As in `assemble`.
    seed: As in `assemble`.

  Returns:
    Silhouettes [len(counts)], NaN where not defined.
  """
  return np.array(
    [
      silhouette(kernel, assemble(kernel, count, restarts=restarts, seed=seed))
      for count in counts
    ]
  )


def embed(kernel: np.ndarray, *, seed: int) -> np.ndarray:
  """Places neurons in a plane by t-SNE of their outgoing weights.

  Args:
    kernel: Points [N, M].
    seed: Of scikit-learn's t-SNE.

  Returns:
    Places [N, 2], all zero where there are fewer than three different points.
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
  """Returns the adjusted mutual information of two partitions.

  Args:
    assemblies: Integers [N]; -1 for neurons that are left out.
    classes: Integers [N]; -1 for neurons that are left out.

  Returns:
    1 where they agree, 0 for what chance gives; NaN without any neuron.
  """
  kept = (assemblies >= 0) & (classes >= 0)
  if not kept.any():
    return float("nan")
  return float(
    metrics.adjusted_mutual_info_score(classes[kept], assemblies[kept])
  )


def permute(kernel: np.ndarray, *, seed: int) -> np.ndarray:
  """Shuffles the weights of each column over the neurons.

  The control of what clusters say: each neuron of the next layer keeps the
  weights that it receives, but which of them come from one neuron is chance.

  Args:
    kernel: Outgoing weights [N, M].
    seed: Of the permutations.

  Returns:
    The shuffled kernel [N, M].
  """
  return np.random.default_rng(seed).permuted(kernel, axis=0)
