"""Tests of experiments.population.program, and of the learners it maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.architectures.networks import Variables
from experiments.learning import descent, learner as learners, methods
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Batch, Shots, Whole
from experiments.machine import devices
from experiments.population import program
from tests.experiments import members, tiny
from tests.experiments.members import assert_close, assert_equal, pick

# Several programs are compared to the bit.
pytestmark = pytest.mark.optimized

SEEDS = (0, 1, 2, 3)
STRENGTHS = (0.3, 3.0, 0.0, 1.0)
KEYS = members.keys_of(*SEEDS)
LEARNING_RATE = 5e-3
NUM_SAMPLES = 10
DIGITS = tiny.load_digits(20)
VALIDATION = Samples(*DIGITS.validation)
# A network for each stream: one is given prepared images, the other keeps
# statistics of its batches.
NETWORKS = {Shots(1): tiny.NETWORK, Whole(): tiny.NORMED}
STREAMS = pytest.mark.parametrize(
  "stream", NETWORKS, ids=("of its own", "shared")
)


def make_learner(
  name, stream, *, epochs=4, batch_size=4, every=1, network=None, **options
):
  return methods.learner(
    name,
    network or NETWORKS[stream],
    stream,
    Schedule(epochs, batch_size, every),
    methods.Options(**options),
  )


def draw(stream, seeds=SEEDS):
  """Ten images of each member, or for all."""
  own = Shots(1).load(DIGITS, seeds)
  return own if isinstance(stream, Shots) else pick(own, 0)


def make_hparams(strengths=STRENGTHS, learning_rate=LEARNING_RATE):
  return Hparams(
    jnp.full(len(strengths), learning_rate, jnp.float32),
    jnp.array(strengths, jnp.float32),
  )


def run(
  learner, stream, *, laps=(4,), seeds=SEEDS, hparams=None, data=None, **other
):
  """Trains members in calls of so many laps; carries and joined curves."""
  return members.train(
    learner,
    stream,
    draw(stream, seeds) if data is None else data,
    VALIDATION,
    seeds=seeds,
    hparams=hparams or make_hparams(),
    laps=laps,
    **other,
  )


@functools.cache
def trained(stream):
  """BEAN-1 for four epochs, one after the other."""
  return run(make_learner("bean1", stream), stream, laps=(1,) * 4)


@functools.cache
def make_step(name, stream):
  """One step of Adam; methods_test has what it descends."""
  objective_fn = make_learner(name, stream).objective
  grad_fn = jax.value_and_grad(objective_fn, has_aux=True)

  def step(variables, opt_state, samples, mask, strength):
    batch = Batch(samples, mask, jax.random.key(0))
    (objective, aux), grads = grad_fn(
      *variables, batch, Hparams(LEARNING_RATE, strength)
    )
    updates, opt_state = optax.adam(LEARNING_RATE).update(grads, opt_state)
    params = optax.apply_updates(variables.params, updates)
    losses = objective, aux.data_loss
    return Variables(params, aux.batch_stats), opt_state, losses

  return jax.jit(step)


def by_hand(name, stream, samples, *, seed, strength, batch_size):
  """Yields a member's variables and losses after each epoch, step by step."""
  key, network = jax.random.key(seed), NETWORKS[stream]
  variables = network.init(jax.random.fold_in(key, learners.INIT))
  opt_state = optax.adam(0.0).init(variables.params)
  samples = samples._replace(inputs=network.prepare(samples.inputs))
  size = batch_size or NUM_SAMPLES
  order_key = jax.random.fold_in(key, learners.SHUFFLE)
  for epoch in range(4):
    rows = np.asarray(
      jax.random.permutation(jax.random.fold_in(order_key, epoch), NUM_SAMPLES)
    )
    # Filled up with the first images, which count in statistics alone.
    filled = np.concatenate([rows, rows[: -NUM_SAMPLES % size]])
    losses = []
    for start in range(0, NUM_SAMPLES, size):
      mask = np.arange(start, start + size) < NUM_SAMPLES
      batch = pick(samples, filled[start : start + size])
      variables, opt_state, both = make_step(name, stream)(
        variables, opt_state, batch, mask, strength
      )
      losses.append(both)
    yield variables, np.mean(losses, axis=0)


def correct_of(network, variables):
  logits, _ = network.evaluate(variables, VALIDATION.inputs)
  return np.sum(np.argmax(logits, axis=1) == VALIDATION.labels)


# Four images in a step leave two for the last: a mask hides the others.
@STREAMS
@pytest.mark.parametrize(
  "name,batch_size",
  (
    ("bean1", 4),
    pytest.param("vanilla", 1, marks=pytest.mark.slow),
    pytest.param("bean2", 0, marks=pytest.mark.slow),
  ),
)
def test_equals_training_by_hand(name, batch_size, stream):
  if (name, batch_size) == ("bean1", 4):
    carries, metrics = trained(stream)
  else:
    learner = make_learner(name, stream, batch_size=batch_size)
    carries, metrics = run(learner, stream, laps=(1,) * 4)
  data = draw(stream)
  np.testing.assert_array_equal(carries[-1].failed_step, -1)
  for member, (seed, strength) in enumerate(zip(SEEDS, STRENGTHS, strict=True)):
    own = pick(data, member) if isinstance(stream, Shots) else data
    settings = {"seed": seed, "strength": strength, "batch_size": batch_size}
    epochs = by_hand(name, stream, own, **settings)
    correct = []
    for epoch, (variables, losses) in enumerate(epochs):
      after = pick(carries[epoch + 1], member)
      assert_close(after.state.variables, variables, rtol=1e-3, atol=1e-5)
      np.testing.assert_allclose(
        [metrics[n][epoch, member] for n in ("objective", "train_loss")],
        losses,
        rtol=1e-4,
      )
      correct.append(correct_of(NETWORKS[stream], after.state.variables))
      assert metrics["correct"][epoch, member] == correct[-1]
      best = int(np.argmax(correct))
      assert after.best_epoch == best + 1
      assert after.best_correct == correct[best]
      assert_equal(after.best, pick(carries[best + 1].state.variables, member))


@STREAMS
def test_calls_make_a_whole(stream):
  carries, metrics = trained(stream)
  (_, _, last), joined = run(make_learner("bean1", stream), stream, laps=(2, 2))
  assert_equal((last, joined), (carries[-1], metrics))


def test_members_depend_on_their_seed_alone():
  """To the bit, on whichever device and in whatever place."""
  assert devices.mesh().size == 2
  stream = Shots(1)
  carries, metrics = trained(stream)
  order = np.array((3, 0, 2, 1))
  (_, last), others = run(
    make_learner("bean1", stream),
    stream,
    seeds=tuple(SEEDS[place] for place in order),
    hparams=pick(make_hparams(), order),
  )
  assert_equal(last, pick(carries[-1], order))
  assert_equal(others, jax.tree.map(lambda leaf: leaf[:, order], metrics))
  assert len(np.unique(metrics["train_loss"])) == metrics["train_loss"].size


def test_equal_arguments_give_the_same_programs_which_consume_the_carry():
  stream = Shots(1)
  learner = make_learner("bean1", stream)
  made = program.make(learner, stream, 1)
  assert program.make(make_learner("bean1", stream), stream, 1) is made
  other = make_learner("bean1", stream, gamma=2.0)
  for changed, laps in ((learner, 2), (other, 1)):
    assert program.make(changed, stream, laps) is not made
  # Whatever is lowered, descent starts, prepares and counts in the same way.
  changed = program.make(other, stream, 1)
  assert changed.run is not made.run
  for name in ("init", "prepare", "count"):
    assert getattr(changed, name) is getattr(made, name)
  keys, hparams, data = KEYS, make_hparams(), draw(stream)
  carry = made.init(keys, hparams, data)
  active, prepared = np.ones(4, bool), made.prepare(data)
  made.run(carry, np.int32(0), keys, hparams, active, prepared, VALIDATION)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))


@STREAMS
def test_who_is_not_active_stands_still(stream):
  carries, _ = trained(stream)
  learner = make_learner("bean1", stream)
  (begun, still), _ = run(
    learner, stream, laps=(1,), active=(True, False, True, True)
  )
  assert_equal(pick(still, 1), pick(begun, 1))
  others = np.array((0, 2, 3))
  assert_equal(pick(still, others), pick(carries[1], others))


# Members fail by their strength, or, with an enormous rate, by their gradient.
@STREAMS
@pytest.mark.parametrize(
  "strength",
  (
    np.inf,
    pytest.param(1e38, marks=pytest.mark.slow),
  ),
)
def test_failed_member_stands_still_and_the_others_go_on(strength, stream):
  carries, metrics = trained(stream)
  learner = make_learner("bean1", stream)
  (begun, last), curves = run(
    learner, stream, hparams=make_hparams((0.3, strength, 0.0, 1.0))
  )
  expected = pick(begun, 1)._replace(failed_step=last.failed_step[1])
  assert_equal(pick(last, 1), expected)
  # 1e38 times a penalty below 1 is finite for a while.
  assert last.failed_step[1] == 0 or (strength == 1e38)
  assert 0 <= last.failed_step[1] < 3
  np.testing.assert_array_equal(curves["correct"][:, 1], -1)
  others = np.array((0, 2, 3))
  assert_equal(pick(last, others), pick(carries[-1], others))
  for name, curve in curves.items():
    np.testing.assert_array_equal(curve[:, others], metrics[name][:, others])


@pytest.mark.parametrize(
  "objectives,leaf,expected",
  (
    ((1, 2, 3), 1.0, -1),
    ((1, np.nan, np.inf), 1.0, 8),
    # A gradient may overflow where no loss tells.
    ((1, 2, 3), np.inf, 9),
  ),
)
def test_first_failure(objectives, leaf, expected):
  variables = Variables({"fc": {"kernel": jnp.array([0.0, leaf])}}, {})
  steps = jnp.array([7, 8, 9])
  found = learners.first_failure(jnp.float32(objectives), variables, steps)
  assert found == expected


def test_failure_has_its_step():
  """A member that image k poisons fails where k stands in the order."""
  first = 9

  def poison(activity, strength):
    pixels = jnp.round(255 * activity.hidden["fc1"][:, 0])
    return jnp.where(jnp.any(pixels == strength), jnp.nan, 0.0)

  network = tiny.NETWORK._replace(layers=("fc1", "fc2"))
  stream = Shots(1)
  learner = descent.make_learner(
    network, stream, Schedule(20, 4), methods.Options(), penalty=poison
  )
  data = draw(stream)
  images = data.inputs.copy()
  images[:, :, 0, 0, 0] = np.arange(NUM_SAMPLES)
  (_, last), _ = run(
    learner,
    stream,
    laps=(1,),
    first=first,
    data=data._replace(inputs=images),
    hparams=make_hparams((7, 3, 255, 0)),
  )
  for member, number in ((0, 7), (1, 3), (3, 0)):
    key = jax.random.fold_in(jax.random.key(SEEDS[member]), learners.SHUFFLE)
    order = jax.random.permutation(jax.random.fold_in(key, first), NUM_SAMPLES)
    place = int(np.argmax(np.asarray(order) == number))
    assert last.failed_step[member] == 3 * first + place // 4
  assert last.failed_step[2] == -1


def test_first_of_the_best_laps_is_kept():
  stream = Shots(1)
  carries, metrics = run(
    make_learner("vanilla", stream, epochs=12), stream, laps=(1,) * 12
  )
  correct = metrics["correct"]
  best = correct.argmax(axis=0)
  # Otherwise the test would say nothing of ties, nor of a best before the end.
  assert np.any((correct == correct.max(axis=0)).sum(axis=0) > 1)
  assert np.any(best < 11)
  np.testing.assert_array_equal(carries[-1].best_epoch, best + 1)
  for member in range(len(SEEDS)):
    kept = pick(carries[best[member] + 1].state.variables, member)
    assert_equal(pick(carries[-1].best, member), kept)


@pytest.mark.slow
@STREAMS
def test_seldom_validation_changes_nothing_but_what_is_chosen_from(stream):
  often, curves = trained(stream)
  learner = make_learner("bean1", stream, every=2)
  assert (learner.num_laps, learner.epochs) == (2, 2)
  (_, last), seldom = run(learner, stream, laps=(2,))
  assert_close(last.state, often[-1].state, rtol=1e-5)
  np.testing.assert_array_equal(seldom["correct"], curves["correct"][1::2])
  for name in ("train_loss", "objective"):
    means = curves[name].reshape(2, 2, -1).mean(axis=1)
    np.testing.assert_allclose(seldom[name], means, rtol=1e-5)
  best = seldom["correct"].argmax(axis=0)
  np.testing.assert_array_equal(last.best_epoch, 2 * (best + 1))


@STREAMS
def test_count_counts(stream):
  learner = make_learner("vanilla", stream)
  variables = trained(stream)[0][-1].state.variables
  classes = NETWORKS[stream].predict(variables, VALIDATION.inputs)
  count = program.make(learner, stream, 1).count
  for member in range(len(SEEDS)):
    labels = np.asarray(classes[member].at[:3].add(1))
    samples = VALIDATION._replace(labels=labels)
    correct = count(variables, samples, KEYS, make_hparams(), np.int32(0))
    assert correct[member] == len(labels) - 3


def test_dropout_at_evaluation():
  """Drawn by a member's key and the occasion, at its own rate."""
  stream = Shots(1)
  variables = trained(stream)[0][-1].state.variables

  def count(rates, occasion, **options):
    learner = make_learner("dropout", stream, **options)
    return np.asarray(
      program.make(learner, stream, 1).count(
        variables, VALIDATION, KEYS, make_hparams(rates), np.int32(occasion)
      )
    )

  rates = (0.0, 0.9, 0.9, 0.9)
  plain = count(rates, 0)
  kept = count(rates, 0, dropout_at_eval=True)
  assert kept[0] == plain[0]
  assert np.any(kept != plain)
  np.testing.assert_array_equal(count(rates, 0, dropout_at_eval=True), kept)
  assert np.any(count(rates, 1, dropout_at_eval=True) != kept)


def test_mean_over_real_samples_and_its_gradient():
  objective = make_learner("bean1", Shots(1)).objective
  params = tiny.NETWORK.init(jax.random.key(0)).params
  samples = Shots(1).prepare(tiny.NETWORK, pick(draw(Shots(1)), 0))
  mask = jnp.arange(NUM_SAMPLES) < 7
  key, hparams = jax.random.key(0), Hparams(0.0, 1.0)
  grad_fn = jax.value_and_grad(objective, has_aux=True)
  actual = grad_fn(params, {}, Batch(samples, mask, key), hparams)
  real = Batch(pick(samples, slice(7)), None, key)
  expected = grad_fn(params, {}, real, hparams)
  assert_close(actual, expected, rtol=1e-5)
  weighted = grad_fn(params, {}, real._replace(weight=0.25), hparams)
  assert_close(
    weighted, jax.tree.map(lambda leaf: leaf / 4, expected), rtol=1e-6
  )
