"""A head so small that compiling takes no time, and samples for it."""

import numpy as np

from experiments.compaction import heads
from experiments.learning import learner

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


def make_samples():
  generator = np.random.default_rng(1)
  features = generator.uniform(size=(60, 7)).astype(np.float32)
  labels = generator.integers(3, size=60).astype(np.int32)
  return learner.Samples(features, labels)


def measure(head):
  return heads.activity(head.params, make_samples().inputs)


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
