"""A head so small that compiling takes no time, and samples for it."""

import numpy as np

from experiments.compaction import heads
from experiments.learning import learner

NUM_FEATURES, NUM_CLASSES = 7, 3
SHAPES = {"fc1": (7, 6), "fc2": (6, 4), "fc3": (4, 3)}


def make_head(*, units=("fc2", "fc3"), seed=0, layers=tuple(SHAPES)):
  generator = np.random.default_rng(seed)
  params = {
    layer: {
      "kernel": generator.normal(size=SHAPES[layer]).astype(np.float32),
      "bias": generator.normal(size=SHAPES[layer][1]).astype(np.float32),
    }
    for layer in layers
  }
  return heads.Head(params, units)


def make_samples(num_samples=60, seed=1, num_features=NUM_FEATURES):
  generator = np.random.default_rng(seed)
  features = generator.uniform(size=(num_samples, num_features))
  labels = generator.integers(NUM_CLASSES, size=num_samples)
  return learner.Samples(features.astype(np.float32), labels.astype(np.int32))


def run(params, features):
  """Logits in float64, written from the layers."""
  x = np.asarray(features, np.float64)
  for place, leaves in enumerate(params.values()):
    if place:
      x = np.maximum(x, 0)
    x = x @ np.asarray(leaves["kernel"], np.float64) + leaves["bias"]
  return x


def run_compact(compact, features):
  return run(compact.params, features[:, compact.inputs])
