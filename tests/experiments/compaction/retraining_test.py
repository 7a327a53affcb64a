"""Tests of experiments.compaction.retraining."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.compaction import heads, retraining, schemes
from experiments.learning import learner
from tests.experiments.compaction import tiny_head

OPTIONS = {"seed": 3, "epochs": 2, "batch_size": 8, "learning_rate": 0.01}
TRAIN = tiny_head.make_samples(60)


@pytest.fixture(scope="module")
def versions():
  """Three versions of a head, in arrays of the shapes of the whole."""
  head = tiny_head.make_head()
  activity = heads.activity(head, TRAIN.inputs)
  compacts = [
    schemes.whole(head),
    schemes.prune_weights(head, 0.5),
    schemes.remove_units(head, activity, 0.5),
  ]
  return head, compacts, [schemes.pad(each, head) for each in compacts]


@pytest.fixture(scope="module")
def trained(versions):
  return retraining.retrain(versions[2], retraining.place(TRAIN), **OPTIONS)


def train_by_hand(params, masks, inputs):
  """The same steps, one by one, of arrays that may be smaller."""
  optimizer = optax.adam(OPTIONS["learning_rate"])
  state = optimizer.init(params)
  key = jax.random.fold_in(
    jax.random.key(OPTIONS["seed"]), learner.EVALUATION + 1
  )

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


def test_padded_versions_are_trained_as_the_smaller_arrays(versions, trained):
  head, compacts, _ = versions
  for compact, params in zip(compacts, trained, strict=True):
    masks = {
      layer: {"kernel": mask, "bias": 1.0}
      for layer, mask in compact.masks.items()
    }
    small = train_by_hand(
      compact.params, masks, TRAIN.inputs[:, compact.inputs]
    )
    # What is not there stays 0.
    expected, _ = schemes.pad(compact._replace(params=small), head)
    jax.tree.map(
      lambda ours, theirs: np.testing.assert_allclose(
        ours, theirs, rtol=1e-3, atol=1e-4
      ),
      params,
      expected,
    )
    before, _ = schemes.pad(compact, head)
    kernels = [each["fc1"]["kernel"] for each in (params, before)]
    assert not np.allclose(*kernels)


def test_loss_falls(versions, trained):
  def loss(params):
    logits = tiny_head.run(params, TRAIN.inputs)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logits[np.arange(60), TRAIN.labels].mean()

  for (before, _), after in zip(versions[2], trained, strict=True):
    assert loss(after) < loss(before)


@pytest.mark.slow
def test_a_version_does_not_depend_on_the_others(versions, trained):
  alone = retraining.retrain(
    versions[2][1:2], retraining.place(TRAIN), **OPTIONS
  )
  assert len(alone) == 1
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
    alone[0],
    trained[1],
  )


@pytest.mark.slow
def test_seed_decides_the_order(versions, trained):
  options = {**OPTIONS, "seed": 4}
  other = retraining.retrain(versions[2], retraining.place(TRAIN), **options)
  assert not np.allclose(other[0]["fc3"]["kernel"], trained[0]["fc3"]["kernel"])


def test_accuracies_are_fractions_of_correct_samples(versions):
  params = [each for each, _ in versions[2]]
  params += [tiny_head.make_head(seed=seed).params for seed in (5, 6)]
  values = retraining.accuracies(params, retraining.place(TRAIN))
  expected = [
    np.mean(tiny_head.run(each, TRAIN.inputs).argmax(axis=1) == TRAIN.labels)
    for each in params
  ]
  np.testing.assert_allclose(values, expected)
  assert len(set(expected)) > 1
