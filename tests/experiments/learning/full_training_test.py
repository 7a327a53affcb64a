"""Tests of experiments.learning.full_training."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from experiments import datasets
from experiments.architectures import networks
from experiments.learning import full_training, methods, training
from tests.experiments import tiny, tiny_network

NETWORK = tiny_network.NETWORK
SEEDS = (0, 1, 2)
STRENGTHS = (0.3, 3.0, 0.0)
LEARNING_RATE = 5e-3
NUM_IMAGES = 23
STEPS = 3  # Of 8 images; the last has one image too few.
DIGITS = datasets.load("digits")


def take(split, number):
  return training.Samples(
    jnp.asarray(split.images[:number]), jnp.asarray(split.labels[:number])
  )


TRAIN = take(DIGITS.train, NUM_IMAGES)
VALIDATION = take(DIGITS.validation, 20)


@functools.cache
def compiled(method="bean1", batch_size=8, **augmentation):
  """One compiled program for all tests that run it."""
  setting = full_training.Setting(
    NETWORK,
    method,
    batch_size=batch_size,
    augmentation=full_training.Augmentation(**augmentation),
  )
  return compiled_init(), jax.jit(full_training.make_run_epoch(setting))


@functools.cache
def compiled_init():
  """The same for all methods with Adam."""
  return jax.jit(
    full_training.make_init(full_training.Setting(NETWORK, "vanilla"))
  )


def make_hparams(strengths):
  return training.Hparams(
    jnp.full(len(strengths), LEARNING_RATE, jnp.float32),
    jnp.array(strengths, jnp.float32),
  )


def run(
  *,
  programs=None,
  seeds=SEEDS,
  strengths=STRENGTHS,
  num_epochs=3,
  first=0,
  active=None,
  train=TRAIN,
):
  """Trains a population; the states and metrics after every epoch."""
  init, run_epoch = programs or compiled()
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = make_hparams(strengths)
  states, metrics = [init(keys, hparams)], []
  for epoch in range(first, first + num_epochs):
    state, numbers = run_epoch(
      states[-1],
      np.full(len(seeds), epoch, np.int32),
      keys,
      hparams,
      np.ones(len(seeds), bool) if active is None else np.array(active),
      train,
      VALIDATION,
    )
    states.append(state)
    metrics.append(numbers)
  return jax.device_get(states), jax.device_get(metrics)


@pytest.fixture(scope="module")
def trained():
  """Three epochs of BEAN-1."""
  return run()


def pick(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    actual,
    expected,
  )


@jax.jit
def step_by_hand(variables, opt_state, images, labels, weights, strength):
  """One step of BEAN-1 in the authors' units, by the tensor of differences."""

  def loss_fn(params):
    (logits, hidden), batch_stats = NETWORK.apply(
      variables._replace(params=params), images, None
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    loss = jnp.sum(losses * weights) / jnp.sum(weights)
    wiring = jnp.abs(jnp.tanh(params["fc2"]["kernel"]))
    rows = hidden["fc2"]
    distances = (rows[:, :, None] - rows[:, None, :]) ** 2
    penalty = jnp.mean((wiring @ wiring.T)[None] * distances, axis=(1, 2))
    penalty = jnp.sum(penalty * weights) / jnp.sum(weights)
    return loss + strength * penalty, (loss, batch_stats)

  (objective, (loss, batch_stats)), grads = jax.value_and_grad(
    loss_fn, has_aux=True
  )(variables.params)
  updates, opt_state = optax.adam(LEARNING_RATE).update(grads, opt_state)
  params = optax.apply_updates(variables.params, updates)
  return networks.Variables(params, batch_stats), opt_state, objective, loss


def epoch_by_hand(variables, opt_state, *, seed, strength, epoch):
  key = jax.random.fold_in(jax.random.key(seed), training.SHUFFLE)
  order = jax.random.permutation(jax.random.fold_in(key, epoch), NUM_IMAGES)
  # Filled up with the first images, which count in the statistics alone.
  order = np.concatenate([order, order[:1]])
  objectives, losses = [], []
  for start in range(0, NUM_IMAGES, 8):
    rows = order[start : start + 8]
    weights = (np.arange(start, start + 8) < NUM_IMAGES).astype(np.float32)
    variables, opt_state, objective, loss = step_by_hand(
      variables,
      opt_state,
      TRAIN.inputs[rows],
      TRAIN.labels[rows],
      weights,
      strength,
    )
    objectives.append(objective)
    losses.append(loss)
  return variables, opt_state, np.mean(objectives), np.mean(losses)


def accuracy(variables):
  logits, _ = NETWORK.evaluate(variables, VALIDATION.inputs)
  return int(np.sum(np.argmax(logits, axis=1) == VALIDATION.labels))


def test_equals_training_by_hand(trained):
  states, metrics = trained
  np.testing.assert_array_equal(states[-1].failed_step, -1)
  for member, (seed, strength) in enumerate(zip(SEEDS, STRENGTHS, strict=True)):
    variables = pick(states[0].variables, member)
    opt_state = optax.adam(LEARNING_RATE).init(variables.params)
    correct = []
    for epoch in range(3):
      variables, opt_state, objective, loss = epoch_by_hand(
        variables, opt_state, seed=seed, strength=strength, epoch=epoch
      )
      after = pick(states[epoch + 1], member)
      assert_close(after.variables, variables, rtol=1e-3, atol=1e-5)
      numbers = pick(metrics[epoch], member)
      np.testing.assert_allclose(numbers.objective, objective, rtol=1e-4)
      np.testing.assert_allclose(numbers.train_loss, loss, rtol=1e-4)
      correct.append(accuracy(after.variables))
      assert numbers.correct == correct[-1]
      best = int(np.argmax(correct))
      assert after.best_epoch == best + 1
      assert after.best_correct == correct[best]
      assert_equal(after.best, pick(states[best + 1].variables, member))


def test_seeds_decide_the_initial_parameters(trained):
  states, _ = trained
  key = jax.random.fold_in(jax.random.key(SEEDS[1]), training.INIT)
  assert_close(pick(states[0].variables, 1), NETWORK.init(key), rtol=1e-6)
  kernels = states[0].variables.params["fc1"]["kernel"]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_penalty_is_in_the_objective_alone(trained):
  _, metrics = trained
  for numbers in metrics:
    added = numbers.objective - numbers.train_loss
    assert np.all(added[:2] > 1e-4)
    assert abs(added[2]) < 1e-7


def test_members_may_be_at_different_epochs(trained):
  states, _ = trained
  init, run_epoch = compiled()
  keys = jax.vmap(jax.random.key)(jnp.array(SEEDS, jnp.uint32))
  mixed = jax.tree.map(
    lambda early, late: np.stack([early[0], late[1], early[2]]),
    states[0],
    states[2],
  )
  state, _ = run_epoch(
    mixed,
    np.array([0, 2, 0], np.int32),
    keys,
    make_hparams(STRENGTHS),
    np.ones(3, bool),
    TRAIN,
    VALIDATION,
  )
  for member, epochs in enumerate((1, 3, 1)):
    assert_equal(pick(state, member), pick(states[epochs], member))


def test_who_is_not_active_stands_still(trained):
  states, _ = trained
  still, _ = run(num_epochs=1, active=(True, False, True))
  assert_equal(pick(still[1], 1), pick(states[0], 1))
  for member in (0, 2):
    assert_equal(pick(still[1], member), pick(states[1], member))


@pytest.mark.parametrize("strength", (np.inf, np.nan, 1e38))
def test_failed_member_keeps_what_it_had(strength, trained):
  states, _ = trained
  failed, metrics = run(num_epochs=1, strengths=(0.3, strength, 0.0), first=5)
  np.testing.assert_array_equal(failed[1].failed_step, (-1, 5 * STEPS, -1))
  expected = pick(failed[0], 1)._replace(failed_step=np.int32(5 * STEPS))
  assert_equal(pick(failed[1], 1), expected)
  assert failed[1].best_epoch[1] == 0
  assert np.all(failed[1].best_epoch[[0, 2]] == 6)
  healthy, _ = run(num_epochs=1, first=5)
  for member in (0, 2):
    assert_equal(pick(failed[1], member), pick(healthy[1], member))


@pytest.mark.slow
def test_failure_within_an_epoch_has_its_step():
  """An image that only one step meets: the middle one of seed 0."""
  key = jax.random.fold_in(jax.random.key(0), training.SHUFFLE)
  order = jax.random.permutation(jax.random.fold_in(key, 0), NUM_IMAGES)

  def poisoned(setting):
    def apply(variables, images, dropout):
      (logits, hidden), batch_stats = NETWORK.apply(variables, images, dropout)
      met = jnp.any(images[:, 0, 0, 0] == 255)
      return (logits + jnp.where(met, jnp.nan, 0.0), hidden), batch_stats

    setting = setting._replace(network=NETWORK._replace(apply=apply))
    return compiled_init(), jax.jit(full_training.make_run_epoch(setting))

  images = TRAIN.inputs.at[:, 0, 0, 0].set(0)
  images = images.at[order[11], 0, 0, 0].set(255)
  states, _ = run(
    programs=poisoned(full_training.Setting(NETWORK, "vanilla", batch_size=8)),
    num_epochs=1,
    train=TRAIN._replace(inputs=images),
  )
  assert states[1].failed_step[0] == 1
  assert_equal(pick(states[1].variables, 0), pick(states[0].variables, 0))


@pytest.mark.parametrize(
  "method", ("vanilla", "bean2", "weight_decay", "dropout", "group_lasso")
)
@pytest.mark.slow
def test_methods_need_not_know_of_batch_statistics(method, trained):
  strengths = (0.1, 0.5, 0.0)
  states, metrics = run(
    programs=compiled(method), strengths=strengths, num_epochs=1
  )
  np.testing.assert_array_equal(states[1].failed_step, -1)
  added = metrics[0].objective - metrics[0].train_loss
  if method in ("vanilla", "dropout"):
    np.testing.assert_array_equal(added, 0)
  else:
    assert np.all(added[:2] > 1e-4)
  # Without a strength, all are the same.
  expected = pick(trained[0][1].variables, 2)
  assert_close(pick(states[1].variables, 2), expected, rtol=1e-3, atol=1e-5)
  assert np.any(states[1].variables.batch_stats["norm"]["mean"] != 0)


@pytest.mark.slow
def test_networks_without_batch_statistics():
  """The same as `training` gives, whose members have images of their own."""
  network = networks.from_model(tiny.MODEL)
  setting = full_training.Setting(network, "bean1", batch_size=10)
  programs = (
    jax.jit(full_training.make_init(setting)),
    jax.jit(full_training.make_run_epoch(setting)),
  )
  states, metrics = run(programs=programs, num_epochs=2)
  recipe = methods.recipe("bean1", tiny.MODEL, methods.Options())
  keys = jax.vmap(jax.random.key)(jnp.array(SEEDS, jnp.uint32))
  train = training.Samples(
    jnp.stack([tiny.MODEL.prepare(TRAIN.inputs)] * 3),
    jnp.stack([TRAIN.labels] * 3),
  )
  hparams = make_hparams(STRENGTHS)
  state, expected = jax.jit(
    training.make_run_epochs(recipe, batch_size=10, num_epochs=2)
  )(
    training.make_init(recipe)(keys, hparams),
    0,
    keys,
    hparams,
    train,
    VALIDATION,
  )
  assert_close(states[-1].variables.params, state.params)
  assert_close(states[-1].best.params, state.best_params)
  np.testing.assert_array_equal(states[-1].best_epoch, state.best_epoch)
  for epoch in range(2):
    np.testing.assert_allclose(
      metrics[epoch].train_loss, expected.train_loss[epoch], rtol=1e-5
    )
    np.testing.assert_allclose(
      metrics[epoch].correct / 20, expected.validation_accuracy[epoch]
    )


def test_count_correct_counts(trained):
  variables = trained[0][-1].variables
  classes = NETWORK.predict(variables, VALIDATION.inputs)
  count_correct = full_training.make_count_correct(NETWORK)
  for member in range(3):
    labels = classes[member].at[:3].add(1)
    correct = count_correct(variables, VALIDATION._replace(labels=labels))
    assert correct[member] == len(labels) - 3


@pytest.mark.slow
def test_all_images_in_a_step_each_epoch_with_changes_of_its_own(trained):
  """Augmentation is all that tells one epoch from another here."""
  programs = compiled(batch_size=0, flip=True, crop=True)
  states, metrics = run(programs=programs, num_epochs=2)
  np.testing.assert_array_equal(states[-1].opt_state[0].count, 2)
  again, _ = run(programs=programs, num_epochs=1, first=1)
  difference = (
    again[1].variables.params["fc1"]["kernel"]
    - states[1].variables.params["fc1"]["kernel"]
  )
  assert np.abs(difference).max() > 1e-3
  # Validation images are not changed.
  for member in range(3):
    variables = pick(states[2].variables, member)
    assert metrics[1].correct[member] == accuracy(variables)


class TestAugment:
  IMAGES = jnp.asarray(
    np.random.default_rng(0).integers(1, 256, (200, 6, 5, 3), np.uint8)
  )

  def augmented(self, seed=0, **augmentation):
    images = jax.jit(full_training.augment, static_argnums=1)(
      self.IMAGES,
      full_training.Augmentation(**augmentation),
      jax.random.key(seed),
    )
    assert images.shape == self.IMAGES.shape
    assert images.dtype == jnp.uint8
    return np.asarray(images)

  def test_nothing(self):
    np.testing.assert_array_equal(self.augmented(), self.IMAGES)

  def test_flip_mirrors_about_half_of_them(self):
    images, originals = self.augmented(flip=True), np.asarray(self.IMAGES)
    same = np.all(images == originals, axis=(1, 2, 3))
    mirrored = np.all(images == originals[:, :, ::-1], axis=(1, 2, 3))
    np.testing.assert_array_equal(same, ~mirrored)
    assert 70 < mirrored.sum() < 130
    assert np.any(self.augmented(1, flip=True) != images)

  def test_crop_shifts_each_by_up_to_4_pixels(self):
    images = self.augmented(crop=True)
    padded = np.pad(self.IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = [
      [
        (row, column)
        for row in range(9)
        for column in range(9)
        if np.array_equal(
          padded[index, row : row + 6, column : column + 5], images[index]
        )
      ]
      for index in range(200)
    ]
    assert all(len(found) == 1 for found in shifts)
    for axis in (0, 1):
      assert {found[0][axis] for found in shifts} == set(range(9))


@pytest.mark.parametrize(
  "losses,patience,expected",
  (
    ([4, 3, 2, 1], 2, False),
    ([1, 1, 1], 2, True),
    ([1, 1], 2, False),
    ([9, 1, 1, 1], 2, True),
    ([1, 0.991, 0.991], 2, True),
    ([1, 0.99, 0.98], 2, False),
    # A new low that is followed by a step upwards is one.
    ([1, 0.9, 3], 2, False),
    ([1, 3, 0.9], 2, False),
    ([1, 3, 2], 2, True),
    # The lowest of all counts, however long ago it was.
    ([1, 3, 3, 3, 2], 2, True),
    ([1, 1], 1, True),
    ([1, 1, 1, 1], 0, False),
    ([], 1, False),
    ([1, np.nan, 1], 2, False),
  ),
)
def test_has_converged(losses, patience, expected):
  actual = full_training.has_converged(
    losses, patience=patience, tolerance=0.01
  )
  assert actual is expected


def test_negative_batch_size_is_refused():
  with pytest.raises(ValueError, match="at least 0, got -1"):
    full_training.make_run_epoch(
      full_training.Setting(NETWORK, "vanilla", batch_size=-1)
    )


def test_examples_of_docstrings():
  assert doctest.testmod(full_training).failed == 0


@pytest.mark.slow
def test_resnet18_takes_a_step_on_a_cpu():
  network = networks.make("resnet18", bfloat16=True)
  setting = full_training.Setting(
    network,
    "bean1",
    batch_size=4,
    augmentation=full_training.Augmentation(flip=True, crop=True),
  )
  programs = (
    jax.jit(full_training.make_init(setting)),
    jax.jit(full_training.make_run_epoch(setting)),
  )
  states, metrics = run(
    programs=programs,
    seeds=(0,),
    strengths=(3.0,),
    num_epochs=2,
    train=take(DIGITS.train, 8),
  )
  np.testing.assert_array_equal(states[-1].failed_step, -1)
  assert metrics[1].objective < metrics[0].objective
  params = pick(states[0].variables.params, 0)
  penalty = bean_jax.layer_penalty(
    network.evaluate(pick(states[0].variables, 0), TRAIN.inputs)[1]["head"],
    params["head"]["kernel"],
  )
  assert penalty > 0
  for before, after in zip(
    jax.tree.leaves(states[0].variables),
    jax.tree.leaves(states[-1].variables),
    strict=True,
  ):
    assert after.dtype == np.float32
    assert np.any(before != after)
