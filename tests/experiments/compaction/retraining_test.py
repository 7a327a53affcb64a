"""Tests of experiments.compaction.retraining."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compaction import heads, retraining, schemes
from experiments.learning import learner
from experiments.machine import devices
from tests.experiments.compaction import tiny_head

OPTIONS = {"seed": 3, "epochs": 2, "batch_size": 8, "learning_rate": 0.01}
TRAIN = tiny_head.make_samples()
HEAD = tiny_head.make_head()


def train_by_hand(params, masks, inputs):
  """The same steps, one by one, of arrays that may be smaller."""
  optimizer = optax.adam(OPTIONS["learning_rate"])
  state = optimizer.init(params)
  key = jax.random.key(OPTIONS["seed"])
  key = jax.random.fold_in(key, learner.EVALUATION + 1)

  def loss_fn(params, rows):
    logits = heads.apply(params, inputs[rows])[-1]
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels[rows]
    ).mean()

  step = jax.jit(jax.grad(loss_fn))
  inputs, labels = jnp.asarray(inputs), jnp.asarray(TRAIN.labels)
  for epoch in range(OPTIONS["epochs"]):
    order = np.asarray(
      jax.random.permutation(jax.random.fold_in(key, epoch), 60)
    )
    for start in range(0, 60, 8):
      grads = step(params, order[start : start + 8])
      grads = jax.tree.map(lambda grad, mask: grad * mask, grads, masks)
      updates, state = optimizer.update(grads, state)
      params = optax.apply_updates(params, updates)
  return params


def test_padded_versions_are_trained_as_the_smaller_arrays():
  # Three, which do not fill two devices evenly.
  activity = tiny_head.measure(HEAD)
  compacts = [
    schemes.whole(HEAD),
    schemes.prune_weights(HEAD, activity, 0.5),
    schemes.remove_units(HEAD, activity, 0.5),
  ]
  padded = [schemes.pad(each, HEAD) for each in compacts]
  placed = devices.place(TRAIN, devices.SHARED)
  trained = retraining.retrain(padded, placed, **OPTIONS)
  for compact, params in zip(compacts, trained, strict=True):
    masks = {
      layer: {"kernel": mask, "bias": 1.0}
      for layer, mask in compact.masks.items()
    }
    small = train_by_hand(
      compact.params, masks, TRAIN.inputs[:, compact.inputs]
    )
    # What is not there stays 0.
    expected, _ = schemes.pad(compact._replace(params=small), HEAD)
    jax.tree.map(
      lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs, rtol=1e-3, atol=1e-4
      ),
      params,
      expected,
    )


def test_accuracies_are_fractions_of_correct_samples():
  versions = [tiny_head.make_head(seed=seed).params for seed in range(5)]
  values = retraining.accuracies(versions, devices.place(TRAIN, devices.SHARED))
  expected = [
    np.mean(tiny_head.run(each, TRAIN.inputs).argmax(axis=1) == TRAIN.labels)
    for each in versions
  ]
  np.testing.assert_allclose(values, expected)
  assert len(set(expected)) > 1
