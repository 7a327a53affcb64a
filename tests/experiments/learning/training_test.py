"""Tests of experiments.learning.training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import datasets
from experiments.architectures import models
from experiments.learning import methods, training
from tests.experiments import tiny

# Programs are compared to the bit and to the fifth digit.
pytestmark = pytest.mark.optimized

SEEDS = (0, 1, 2)
STRENGTHS = (0.3, 3.0, 0.0)
NUM_SAMPLES = 10
OPTIONS = methods.Options()
DIGITS = tiny.load_digits(20)
VALIDATION = training.Samples(
  jnp.asarray(DIGITS.validation.images), jnp.asarray(DIGITS.validation.labels)
)


@functools.cache
def make_program(
  name, batch_size, num_epochs, model=tiny.MODEL, validate_every=1
):
  """One compiled program for all tests that run it."""
  loss = POISONS.get(name)
  if loss is None:
    recipe = methods.recipe(name, model, OPTIONS)
  else:
    recipe = training.Recipe(model, loss)
  return jax.jit(
    training.make_run_epochs(
      recipe,
      batch_size=batch_size,
      num_epochs=num_epochs,
      validate_every=validate_every,
    )
  )


def _poison(value):
  """Makes a member's loss `value` once it meets image number `strength`."""

  def loss(hparams):
    loss_fn = training.cross_entropy(tiny.MODEL)

    def poisoned_fn(params, samples, mask, key):
      loss, aux = loss_fn(params, samples, mask, key)
      met = samples.inputs[:, 0] == hparams.strength
      return loss + jnp.where(jnp.any(met), value, 0.0), aux

    return poisoned_fn

  return loss


def make_init(model=tiny.MODEL):
  return training.make_init(methods.recipe("vanilla", model, OPTIONS))


POISONS = {"poison_inf": _poison(jnp.inf), "poison_nan": _poison(jnp.nan)}
HARMLESS = 255.0


def make_keys(seeds):
  return jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))


def make_hparams(strengths, learning_rate=5e-3):
  return training.Hparams(
    jnp.full(len(strengths), learning_rate, jnp.float32),
    jnp.array(strengths, jnp.float32),
  )


def draw(seeds, model=tiny.MODEL):
  """The shots of each seed, as inputs of the network."""
  rows = [
    datasets.draw_shots(DIGITS.train.labels, num_shots=1, seed=seed)
    for seed in seeds
  ]
  images = [model.prepare(jnp.asarray(DIGITS.train.images[r])) for r in rows]
  labels = jnp.asarray(DIGITS.train.labels[np.stack(rows)])
  return training.Samples(jnp.stack(images), labels)


def number(train):
  """Writes its number into the first pixel of every image."""
  rows = jnp.arange(NUM_SAMPLES, dtype=jnp.uint8)[None, :]
  return train._replace(inputs=train.inputs.at[..., 0].set(rows))


def run(
  program, *, seeds=SEEDS, hparams=None, train=None, model=tiny.MODEL, epochs=0
):
  """Trains a population from its beginning, as if after some epochs."""
  hparams = make_hparams(STRENGTHS) if hparams is None else hparams
  train = draw(seeds, model) if train is None else train
  keys = make_keys(seeds)
  state = make_init(model)(keys, hparams)
  state, metrics = program(state, epochs, keys, hparams, train, VALIDATION)
  return jax.device_get(state), jax.device_get(metrics)


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


def differs(actual, expected):
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  return all(np.any(a != b) for a, b in pairs)


@functools.cache
def make_loss(name):
  """The loss of a method, as `tiny.make_step` takes it."""
  recipe = methods.recipe(name, tiny.MODEL, OPTIONS)

  def unmasked_fn(params, samples, strength):
    loss_fn = recipe.loss(training.Hparams(0.0, strength))
    loss, aux = loss_fn(params, samples, None, jax.random.key(0))
    return loss, aux.data_loss

  return unmasked_fn


def by_hand(member, *, name, batch_size, num_steps, train=None):
  """Parameters after each step of a member, and the losses."""
  key = jax.random.key(SEEDS[member])
  return tiny.train_by_hand(
    tiny.make_step(make_loss(name), 5e-3),
    tiny.MODEL.init(jax.random.fold_in(key, training.INIT)),
    jax.random.fold_in(key, training.SHUFFLE),
    pick(draw(SEEDS) if train is None else train, member),
    strength=STRENGTHS[member],
    batch_size=batch_size,
    num_steps=num_steps,
  )


def accuracy_of(params):
  logits, _ = tiny.MODEL.apply(params, tiny.MODEL.prepare(VALIDATION.inputs))
  return np.mean(np.argmax(logits, axis=1) == VALIDATION.labels)


# Four images in a step leave two for the last: a mask hides the others.
@pytest.mark.parametrize(
  "name,batch_size,steps",
  (("vanilla", 4, 3), ("bean1", 4, 3), ("bean1", 1, 10), ("bean1", 0, 1)),
)
def test_equals_training_by_hand(name, batch_size, steps):
  state, metrics = run(make_program(name, batch_size, 4))
  assert metrics.train_loss.shape == (4, len(SEEDS))
  assert metrics.validation_accuracy.shape == (4, len(SEEDS))
  np.testing.assert_array_equal(state.failed_step, -1)
  for member in range(len(SEEDS)):
    history, losses = by_hand(
      member,
      name=name,
      batch_size=batch_size or NUM_SAMPLES,
      num_steps=4 * steps,
    )
    after_epochs = history[steps - 1 :: steps]
    accuracies = [accuracy_of(params) for params in after_epochs]
    assert_close(pick(state.params, member), after_epochs[-1])
    np.testing.assert_allclose(
      metrics.train_loss[:, member],
      losses.reshape(4, steps).mean(axis=1),
      rtol=1e-5,
    )
    np.testing.assert_allclose(
      metrics.validation_accuracy[:, member], accuracies, rtol=1e-6
    )
    best = int(np.argmax(accuracies))
    assert state.best_epoch[member] == best + 1
    assert state.best_correct[member] == round(
      accuracies[best] * len(VALIDATION.labels)
    )
    assert_close(pick(state.best_params, member), after_epochs[best])


def test_bean_changes_training_but_for_strength_0():
  plain, _ = run(make_program("vanilla", 4, 4))
  bean, _ = run(make_program("bean1", 4, 4))
  changes = [
    max(
      np.abs(a - b).max()
      for a, b in zip(
        jax.tree.leaves(pick(bean.params, member)),
        jax.tree.leaves(pick(plain.params, member)),
        strict=True,
      )
    )
    for member in range(len(SEEDS))
  ]
  assert STRENGTHS[2] == 0
  assert changes[2] < 1e-6
  assert min(changes[:2]) > 1e-3


def test_all_samples_in_a_step():
  expected = run(make_program("bean1", 0, 4))
  assert_equal(run(make_program("bean1", NUM_SAMPLES + 1, 4)), expected)
  state, _ = expected
  np.testing.assert_array_equal(state.opt_state[0].count, 4)


def test_same_seed_same_result_other_seed_another():
  program = make_program("bean1", 4, 4)
  first = run(program)
  assert_equal(run(program), first)
  hparams = make_hparams((1.0,) * 3)
  same = pick(draw(SEEDS), jnp.array([0, 0, 0]))
  state, _ = run(program, seeds=(0, 1, 0), hparams=hparams, train=same)
  assert_equal(pick(state.params, 0), pick(state.params, 2))
  assert differs(pick(state.params, 0), pick(state.params, 1))


def test_members_do_not_depend_on_their_company():
  program = make_program("bean1", 4, 4)
  state, metrics = run(program)
  for members in ((2, 0, 1), (1,)):
    others, other_metrics = run(
      program,
      seeds=[SEEDS[member] for member in members],
      hparams=make_hparams([STRENGTHS[member] for member in members]),
    )
    members = np.array(members)
    assert_close(others, pick(state, members), rtol=1e-4, atol=1e-5)
    assert_close(
      other_metrics,
      jax.tree.map(lambda leaf, m=members: leaf[:, m], metrics),
    )


def test_stretches_make_a_whole():
  whole_state, whole_metrics = run(make_program("bean1", 4, 4))
  program = make_program("bean1", 4, 2)
  keys, hparams = make_keys(SEEDS), make_hparams(STRENGTHS)
  state = make_init()(keys, hparams)
  curves = []
  for epoch in (0, 2):
    state, metrics = program(
      state, jnp.int32(epoch), keys, hparams, draw(SEEDS), VALIDATION
    )
    curves.append(metrics)
  assert_equal(state, whole_state)
  joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *curves)
  assert_equal(joined, whole_metrics)


# A member that image k poisons fails where k stands in the order.
@functools.cache
def positions(seed, epoch, batch_size=1):
  """Steps in which the images of a seed's epoch come."""
  numbers = range(NUM_SAMPLES)
  state, _ = run(
    make_program("poison_inf", batch_size, 1),
    seeds=[seed] * NUM_SAMPLES,
    hparams=make_hparams(numbers),
    train=number(draw([0] * NUM_SAMPLES)),
    epochs=epoch,
  )
  return state.failed_step


def test_an_epoch_takes_every_sample_once():
  for seed in (0, 1):
    for epoch in (0, 1, 5):
      steps = np.sort(positions(seed, epoch))
      np.testing.assert_array_equal(
        steps, NUM_SAMPLES * epoch + np.arange(NUM_SAMPLES)
      )
  for epoch in (0, 1):
    counts = np.bincount(positions(0, epoch, 4) - 3 * epoch)
    np.testing.assert_array_equal(counts, (4, 4, 2))


def test_the_key_and_the_epoch_decide_the_order():
  orders = [
    tuple(positions(seed, epoch) - NUM_SAMPLES * epoch)
    for seed in (0, 1)
    for epoch in (0, 1, 5)
  ]
  assert len(set(orders)) == len(orders)
  key = jax.random.fold_in(jax.random.key(1), training.SHUFFLE)
  order = jax.random.permutation(jax.random.fold_in(key, 5), NUM_SAMPLES)
  np.testing.assert_array_equal(np.argsort(order), orders[-1])


@pytest.mark.parametrize("poison", POISONS)
def test_failed_member_stands_still_and_the_others_go_on(poison):
  program = make_program(poison, 1, 4)
  train = number(draw(SEEDS))

  def run_with(strengths):
    return run(program, hparams=make_hparams(strengths), train=train)

  healthy, metrics = run_with((HARMLESS,) * 3)
  np.testing.assert_array_equal(healthy.failed_step, -1)
  state, other_metrics = run_with((HARMLESS, 7.0, HARMLESS))
  np.testing.assert_array_equal(state.failed_step[[0, 2]], -1)
  for member in (0, 2):
    assert_equal(pick(state, member), pick(healthy, member))
    assert_equal(
      jax.tree.map(lambda leaf, m=member: leaf[:, m], other_metrics),
      jax.tree.map(lambda leaf, m=member: leaf[:, m], metrics),
    )
  step = positions(SEEDS[1], 0)[7]
  assert 0 < step < NUM_SAMPLES - 1
  assert state.failed_step[1] == step
  assert state.opt_state[0].count[1] == step
  history, _ = by_hand(
    1, name="vanilla", batch_size=1, num_steps=step, train=train
  )
  assert_close(pick(state.params, 1), history[-1])


def test_failure_in_a_later_epoch_has_its_global_step():
  strengths = (HARMLESS, 7.0, HARMLESS)
  state, _ = run(
    make_program("poison_nan", 1, 4),
    hparams=make_hparams(strengths),
    train=number(draw(SEEDS)),
    epochs=9,
  )
  assert state.failed_step[1] == positions(SEEDS[1], 9)[7] > 9 * NUM_SAMPLES


def test_infinite_strength_fails_at_once():
  program = make_program("bean1", 4, 4)
  hparams = make_hparams((0.3, np.inf, np.nan))
  beginning = make_init()(make_keys(SEEDS), hparams)
  beginning = jax.device_get(beginning)
  state, metrics = run(program, hparams=hparams)
  np.testing.assert_array_equal(state.failed_step, (-1, 0, 0))
  for member in (1, 2):
    assert_equal(pick(state.params, member), pick(beginning.params, member))
    assert_equal(
      pick(state.opt_state, member), pick(beginning.opt_state, member)
    )
  healthy, _ = run(program)
  assert_equal(pick(state, 0), pick(healthy, 0))
  assert np.all(np.isfinite(metrics.train_loss))


def test_exploding_member_is_frozen():
  hparams = make_hparams(STRENGTHS)._replace(
    learning_rate=jnp.array([5e-3, 3e38, 5e-3])
  )
  state, metrics = run(make_program("vanilla", 4, 4), hparams=hparams)
  failed_step = state.failed_step[1]
  assert failed_step > 0
  np.testing.assert_array_equal(state.failed_step[[0, 2]], -1)
  assert state.opt_state[0].count[1] == failed_step
  assert np.all(np.isfinite(metrics.train_loss[:, [0, 2]]))
  healthy, _ = run(make_program("vanilla", 4, 4))
  for member in (0, 2):
    assert_equal(pick(state, member), pick(healthy, member))


def test_first_of_the_best_epochs_is_kept():
  num_epochs = 12
  keys, hparams = make_keys(SEEDS), make_hparams(STRENGTHS)
  program = make_program("vanilla", 4, 1)
  state = make_init()(keys, hparams)
  np.testing.assert_array_equal(state.best_epoch, 0)
  np.testing.assert_array_equal(state.best_correct, -1)
  snapshots, accuracies = [], []
  for epoch in range(num_epochs):
    state, metrics = program(
      state, epoch, keys, hparams, draw(SEEDS), VALIDATION
    )
    snapshots.append(jax.device_get(state.params))
    accuracies.append(metrics.validation_accuracy[0])
  accuracies = np.array(accuracies)
  best = accuracies.argmax(axis=0)
  # Otherwise the test would say nothing of ties, nor of a best before the end.
  assert np.any((accuracies == accuracies.max(axis=0)).sum(axis=0) > 1)
  assert np.any(best < num_epochs - 1)
  np.testing.assert_array_equal(state.best_epoch, best + 1)
  count_correct = training.make_count_correct(tiny.MODEL)
  np.testing.assert_array_equal(
    count_correct(state.best_params, VALIDATION), state.best_correct
  )
  for member in range(len(SEEDS)):
    assert_equal(
      pick(state.best_params, member), pick(snapshots[best[member]], member)
    )


def test_count_correct_counts():
  params = pick(
    make_init()(make_keys(SEEDS), make_hparams(STRENGTHS)).params,
    jnp.array([0, 1, 2]),
  )
  classes = tiny.MODEL.predict(params, VALIDATION.inputs)
  for member in range(len(SEEDS)):
    labels = classes[member].at[:3].add(1)
    correct = training.make_count_correct(tiny.MODEL)(
      params, VALIDATION._replace(labels=labels)
    )
    assert correct[member] == len(labels) - 3


def test_mean_over_real_samples_and_its_gradient():
  loss_fn = training.cross_entropy(tiny.MODEL)
  params = tiny.MODEL.init(jax.random.key(0))
  samples = pick(draw(SEEDS), 0)
  mask = jnp.arange(NUM_SAMPLES) < 7
  real = jax.tree.map(lambda leaf: leaf[:7], samples)
  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  key = jax.random.key(0)
  (loss, aux), grads = grad_fn(params, samples, mask, key)
  (expected, _), expected_grads = grad_fn(params, real, None, key)
  assert_close((loss, grads), (expected, expected_grads), rtol=1e-5)
  assert_equal(aux.mask, mask)
  assert aux.data_loss == loss
  assert set(aux.hidden) == {"fc2"}


@pytest.mark.parametrize(
  "batch_size,num_epochs,validate_every,got",
  ((-1, 1, 1, "-1"), (1, 0, 1, "0 and 1"), (1, 4, 3, "4 and 3")),
)
def test_wrong_sizes_are_refused(batch_size, num_epochs, validate_every, got):
  with pytest.raises(ValueError, match=f"got {got}$"):
    make_program(
      "vanilla", batch_size, num_epochs, validate_every=validate_every
    )


def test_seldom_validation_changes_nothing_but_what_is_chosen_from():
  often_state, often = run(make_program("bean1", 4, 4))
  state, seldom = run(make_program("bean1", 4, 4, validate_every=2))
  assert_equal(state.params, often_state.params)
  np.testing.assert_array_equal(
    seldom.validation_accuracy, often.validation_accuracy[1::2]
  )
  np.testing.assert_allclose(
    seldom.train_loss, often.train_loss.reshape(2, 2, -1).mean(1), rtol=1e-6
  )
  best = seldom.validation_accuracy.argmax(axis=0)
  np.testing.assert_array_equal(state.best_epoch, 2 * (best + 1))


def lenet5_loss(params, samples, strength):
  """BEAN-1's loss of LeNet-5 as a Linen module, in the authors' units."""
  images, labels = samples
  logits, hidden = models.LeNet5().apply({"params": params}, images)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  loss = data_loss = jnp.mean(losses)
  for layer, rows in hidden.items():
    weights = jnp.abs(jnp.tanh(params[layer]["kernel"]))
    distances = (rows[:, :, None] - rows[:, None, :]) ** 2
    loss += strength * jnp.mean((weights @ weights.T)[None] * distances)
  return loss, data_loss


def _init_lenet5(key):
  leaves = jax.eval_shape(models.LENET5.init, jax.random.key(0))
  return tiny.draw_params(key, jax.tree.map(lambda leaf: leaf.shape, leaves))


LENET5 = models.LENET5._replace(init=_init_lenet5)


@pytest.mark.slow
class TestLeNet5:
  """The network that the experiments train, BEAN's penalty included."""

  def test_equals_module_trained_by_hand(self):
    program = make_program("bean1", 5, 2, model=LENET5)
    seeds, hparams = (3, 4), make_hparams((1.0, 1.0), learning_rate=5e-4)
    keys = make_keys(seeds)
    beginning = make_init(LENET5)(keys, hparams).params
    rows = datasets.draw_shots(DIGITS.train.labels, num_shots=1, seed=4)
    history, losses = tiny.train_by_hand(
      tiny.make_step(lenet5_loss, 5e-4),
      pick(beginning, 1),
      jax.random.fold_in(jax.random.key(4), training.SHUFFLE),
      (
        jnp.asarray(DIGITS.train.images[rows]),
        jnp.asarray(DIGITS.train.labels[rows]),
      ),
      strength=1.0,
      batch_size=5,
      num_steps=4,
    )
    state, metrics = run(program, seeds=seeds, hparams=hparams, model=LENET5)
    np.testing.assert_allclose(
      metrics.train_loss[:, 1], losses.reshape(2, 2).mean(axis=1), rtol=1e-5
    )
    assert_close(pick(state.params, 1), history[-1], rtol=0, atol=2e-5)

  def test_learns(self):
    program = make_program("bean1", 5, 2, model=LENET5)
    keys, hparams = make_keys((0, 1)), make_hparams((1.0, 1.0), 2e-3)
    state = make_init(LENET5)(keys, hparams)
    train = draw((0, 1), LENET5)
    curves = []
    for epoch in range(0, 40, 2):
      state, metrics = program(state, epoch, keys, hparams, train, VALIDATION)
      curves.append(metrics)
    loss = np.concatenate([metrics.train_loss for metrics in curves])
    accuracy = curves[-1].validation_accuracy[-1]
    assert np.all(loss[-1] < 0.3 * loss[0])
    assert np.all(accuracy > 0.35)
