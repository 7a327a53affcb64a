"""Tests of experiments.learning.hebbian and the methods made of it."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.learning import hebbian, learner, methods
from experiments.learning.hebbian import Settings
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Shots, Whole
from tests.experiments import tiny

GENERATOR = np.random.default_rng(0)
KERNEL = GENERATOR.normal(size=(5, 6)) / 4
INPUTS = GENERATOR.uniform(size=(8, 5))
DIGITS = tiny.load_few_digits()
SAMPLES = Samples(
  jnp.asarray(DIGITS.train.images), jnp.asarray(DIGITS.train.labels)
)
NAMES = [name for name in methods.METHODS if name.startswith("hebbian")]


def learn_by_hand(kernel, bias, inputs, cost, *, competition, nonnegative):
  """A step of the hidden layer, image by image, in float64.

  Of share 0.34, eta 0.2 and kappa 0.5.
  """
  num_inputs, num_units = kernel.shape
  number = max(1, round(0.34 * num_units))
  moved, new_bias = kernel.copy(), bias.copy()
  active_share, wins_of = 0.0, np.zeros(num_units)
  for image in inputs:
    drives = [
      sum(image[j] * kernel[j, i] for j in range(num_inputs)) + bias[i]
      for i in range(num_units)
    ]
    active = [i for i in range(num_units) if drives[i] > 0]
    active_share += len(active) / num_units / len(inputs)
    ranked = sorted(range(num_units), key=lambda i, d=drives: -d[i])
    for i in ranked[:number] if competition else active:
      wins_of[i] += 1 / len(inputs)
      for j in range(num_inputs):
        target = (image[j] - cost) / max(np.sqrt(np.sum(image**2)), 1)
        moved[j, i] += 0.2 * (target - kernel[j, i]) / len(inputs)
  for i in range(num_units):
    new_bias[i] += 0.5 * (0.34 - wins_of[i] + 0.34 - active_share)
  return np.maximum(moved, 0) if nonnegative else moved, new_bias


@pytest.mark.parametrize("competition", (True, False))
@pytest.mark.parametrize("nonnegative", (True, False))
def test_hidden_layer_is_that_of_the_definition(competition, nonnegative):
  choices = {"competition": competition, "nonnegative": nonnegative}
  settings = Settings(share=0.34, rate=0.2, bias_rate=0.5, **choices)
  bias = GENERATOR.normal(size=6) / 10
  expected = learn_by_hand(KERNEL, bias, INPUTS, 0.3, **choices)
  with jax.enable_x64(True):

    @jax.jit
    def run(kernel, bias, inputs, mask=None, cost=0.3):
      layer = {"kernel": kernel, "bias": bias}
      layer = hebbian._learn_hidden(settings, layer, inputs, mask, cost)
      return layer["kernel"], layer["bias"]

    for mask, inputs in (
      (None, INPUTS),
      # Images that are masked out do not act.
      (
        np.array([1, 1, 0, 1, 1, 1, 1, 1, 1, 0], bool),
        np.insert(INPUTS, [2, 8], 7.0, axis=0),
      ),
    ):
      found = run(KERNEL, bias, inputs, mask)
      np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
      np.testing.assert_allclose(found[1], expected[1], atol=1e-12)
    # Neither the order of images nor that of units matters.
    units = np.array([3, 1, 5, 0, 2, 4])
    found = run(KERNEL[:, units], bias[units], INPUTS[::-1])
    np.testing.assert_allclose(found[0], expected[0][:, units], atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1][units], atol=1e-12)
    # Members have costs of their own.
    costs = np.array([0.0, 0.3])
    together = jax.vmap(lambda cost: run(KERNEL, bias, INPUTS, None, cost))(
      costs
    )
    np.testing.assert_allclose(together[0][1], expected[0], atol=1e-12)
    free = learn_by_hand(KERNEL, bias, INPUTS, 0.0, **choices)[0]
    np.testing.assert_allclose(together[0][0], free, atol=1e-12)


def test_a_unit_comes_to_its_image_less_the_cost():
  image = np.array([[0.9, 0.2, 0.0, 0.8]])
  kernel, wins = jnp.full((4, 1), 0.5), jnp.ones((1, 1))
  for _ in range(200):
    change = hebbian.hebbian_change(kernel, image, wins, cost=0.3)
    kernel = jnp.maximum(kernel + 0.1 * change, 0)
  expected = np.maximum(image[0] - 0.3, 0) / np.linalg.norm(image)
  np.testing.assert_allclose(kernel[:, 0], expected, atol=1e-6)


class TestPerturbation:
  PARAMS = {"kernel": GENERATOR.normal(size=(3, 2)), "bias": np.ones(2)}

  def loss(self, params):
    logits = INPUTS[:, :3] @ params["kernel"] + params["bias"]
    labels = jnp.arange(8) % 2
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  def estimate(self, key, loss=None):
    return hebbian.perturbation_gradient(
      loss or self.loss, self.PARAMS, key, size=0.01
    )

  def test_it_is_the_gradient_on_average(self):
    with jax.enable_x64(True):
      keys = jax.random.split(jax.random.key(0), 2000)
      means = jax.device_get(jax.jit(jax.vmap(self.estimate))(keys))
      expected = jax.device_get(jax.grad(self.loss)(self.PARAMS))
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(expected)))
    # Five standard errors, and what is left of sigma^2.
    error = 5 * norm / (32 * 2000) ** 0.5 + 1e-4
    for name, slope in expected.items():
      assert np.max(np.abs(slope)) > 2 * error
      np.testing.assert_allclose(means[name].mean(axis=0), slope, atol=error)

  def test_it_is_that_of_the_definition(self):
    """Of a linear loss: the mean of xi (xi . g), draw by draw."""
    slopes = jax.tree.map(lambda leaf: leaf + 1, self.PARAMS)

    def loss(params):
      products = jax.tree.map(lambda a, b: jnp.sum(a * b), params, slopes)
      return products["kernel"] + products["bias"]

    with jax.enable_x64(True):
      found = self.estimate(jax.random.key(5), loss)
      bits = np.asarray(jax.random.bits(jax.random.key(5), (8,), np.uint32))
    flat = np.concatenate([slopes["bias"], slopes["kernel"].ravel()])
    expected = np.zeros(8)
    for place in range(32):
      signs = np.array([1.0 if bit >> place & 1 else -1.0 for bit in bits])
      expected += signs * (signs @ flat) / 32
    np.testing.assert_allclose(found["bias"], expected[:2], atol=1e-9)
    np.testing.assert_allclose(
      found["kernel"], expected[2:].reshape(3, 2), atol=1e-9
    )


def train(name, rates=(5e-3, 5e-3), costs=(0.1, 0.0), num_laps=3):
  schedule = Schedule(num_laps * 10, 25, 10)
  made = methods.METHODS[name].make(
    tiny.NETWORK, Whole(), schedule, methods.Options()
  )
  keys = jax.vmap(jax.random.key)(jnp.array([3, 3], jnp.uint32))
  hparams = Hparams(jnp.array(rates), jnp.array(costs))
  state = jax.vmap(made.init, (0, 0, None))(keys, hparams, SAMPLES)
  run = jax.jit(jax.vmap(made.lap, (0, None, 0, 0, None)))
  states, reports = [state], []
  for number in range(num_laps):
    state, report = run(states[-1], jnp.int32(number), keys, hparams, SAMPLES)
    states.append(state)
    reports.append(report)
  return made, keys, hparams, states, reports


@pytest.mark.parametrize(
  "name",
  (NAMES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])),
)
def test_choices_are_what_they_say(name):
  made, keys, hparams, states, reports = train(name)
  losses = [np.asarray(report.metrics["train_loss"]) for report in reports]
  assert np.all(losses[-1] < losses[0])
  params = states[-1].variables.params
  kernels = [params[layer]["kernel"] for layer in ("fc1", "fc2")]
  signed = [np.any(kernel < 0) for kernel in kernels]
  assert signed == [name == "hebbian_signed"] * 2
  assert np.any(params["fc1"]["bias"]) == (name != "hebbian_unbiased")
  # The cost is a member's own.
  assert not np.array_equal(*kernels[0])
  # One by one as together.
  first = jax.tree.map(lambda leaf: leaf[0], (states[0], keys, hparams))
  state, _ = jax.jit(made.lap)(first[0], jnp.int32(0), *first[1:], SAMPLES)
  for one, both in zip(
    *map(jax.tree.leaves, (state.variables, states[1].variables)), strict=True
  ):
    np.testing.assert_allclose(one, both[0], atol=1e-4)


def test_read_out_by_its_gradient_is_descent():
  """A step of all images, against Adam on the cross-entropy by hand."""
  settings = Settings(size=0.0, nonnegative=False)
  made = hebbian.make_learner(tiny.NETWORK, Shots(6), Schedule(1, 0), settings)
  hparams = Hparams(jnp.float32(0.01), jnp.float32(0.1))
  state = made.init(jax.random.key(0), hparams, SAMPLES)
  data = made.prepare(SAMPLES)
  found, report = jax.jit(made.lap)(
    state, jnp.int32(0), jax.random.key(0), hparams, data
  )
  params = state.variables.params

  def loss_fn(readout):
    both = {"fc1": params["fc1"], "fc2": readout}
    variables = state.variables._replace(params=both)
    (logits, _), _ = tiny.NETWORK.apply(variables, data.inputs)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, data.labels)
    )

  loss, grads = jax.value_and_grad(loss_fn)(params["fc2"])
  np.testing.assert_allclose(report.metrics["train_loss"], loss, rtol=1e-5)
  for name, old in params["fc2"].items():
    # Adam's first step.
    expected = old - 0.01 * grads[name] / (np.abs(grads[name]) + 1e-8)
    moved = found.variables.params["fc2"][name]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_member_that_diverges_is_told():
  *_, reports = train("hebbian", rates=(np.inf, 5e-3), num_laps=1)
  failed = np.asarray(reports[0].failed_step)
  assert failed[0] >= 0
  assert failed[1] == -1


@pytest.mark.parametrize(
  "change,message",
  (
    ({"share": 0.0}, "share: expected a number above 0, at most 1, got 0.0"),
    ({"share": 1.1}, "share: .* got 1.1"),
    ({"rate": -0.1}, "rate: expected a finite number from 0, got -0.1"),
    ({"rate": float("nan")}, "rate: .* got nan"),
    ({"bias_rate": float("inf")}, "bias_rate: .* got inf"),
    ({"size": -1.0}, "size: .* got -1.0"),
  ),
)
def test_what_makes_no_sense_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    hebbian.make_learner(
      tiny.NETWORK, Shots(1), learner.Schedule(1), Settings(**change)
    )


def test_examples_of_docstrings():
  assert doctest.testmod(hebbian).failed == 0
