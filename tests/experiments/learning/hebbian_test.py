"""Tests of experiments.learning.hebbian and the methods made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.learning import hebbian, methods
from experiments.learning.hebbian import Rule
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.options import Options
from experiments.learning.streams import Shots, Whole
from tests.experiments import members, tiny

GENERATOR = np.random.default_rng(0)
NUM_UNITS = 24
KERNEL = GENERATOR.normal(size=(5, NUM_UNITS)) / 4
BIAS = GENERATOR.normal(size=NUM_UNITS) / 10
INPUTS = GENERATOR.uniform(size=(8, 5))
SAMPLES = Samples(*map(jnp.asarray, tiny.load_few_digits().train))
NAMES = [name for name in methods.METHODS if name.startswith("hebbian")]


def learn_by_hand(cost, *, competition, nonnegative):
  """A step of the hidden layer, image by image, in float64; kappa is 0.5."""
  moved, wins_of, active_share = KERNEL.copy(), np.zeros(NUM_UNITS), 0.0
  for image in INPUTS:
    drives = image @ KERNEL + BIAS
    active = np.flatnonzero(drives > 0)
    active_share += len(active) / NUM_UNITS / 8
    target = (image - cost) / max(np.sqrt(np.sum(image**2)), 1)
    # Two of 24 have the largest drive.
    for i in np.argsort(-drives)[:2] if competition else active:
      wins_of[i] += 1 / 8
      moved[:, i] += 0.1 * (target - KERNEL[:, i]) / 8
  bias = BIAS + 0.5 * (0.1 - wins_of + 0.1 - active_share)
  return np.maximum(moved, 0) if nonnegative else moved, bias


@pytest.mark.parametrize(
  "competition,nonnegative", ((True, True), (True, False), (False, True))
)
def test_hidden_layer_is_that_of_the_definition(competition, nonnegative):
  choices = {"competition": competition, "nonnegative": nonnegative}
  rule = Rule(bias_rate=0.5, **choices)
  with jax.enable_x64(True):

    @jax.jit
    def run(kernel, bias, inputs, mask=None, cost=0.3):
      layer = {"kernel": kernel, "bias": bias}
      layer = hebbian.learn_hidden(rule, layer, inputs, mask, cost)
      return layer["kernel"], layer["bias"]

    def assert_close(found, cost=0.3):
      expected = learn_by_hand(cost, **choices)
      np.testing.assert_allclose(found[0], expected[0], atol=1e-12)
      np.testing.assert_allclose(found[1], expected[1], atol=1e-12)

    # Images that are masked out do not act.
    mask = np.array([1, 1, 0, 1, 1, 1, 1, 1, 1, 0], bool)
    inputs = np.insert(INPUTS, [2, 8], 7.0, axis=0)
    assert_close(run(KERNEL, BIAS, inputs, mask))
    # Neither the order of images nor that of units matters.
    kernel, bias = run(KERNEL[:, ::-1], BIAS[::-1], INPUTS[::-1])
    assert_close((kernel[:, ::-1], bias[::-1]))
    # Members have costs of their own.
    together = jax.vmap(lambda cost: run(KERNEL, BIAS, INPUTS, None, cost))(
      np.array([0.0, 0.3])
    )
    for place, cost in enumerate((0.0, 0.3)):
      assert_close([leaf[place] for leaf in together], cost)


def test_a_unit_comes_to_its_image_less_the_cost():
  image = np.array([[0.9, 0.2, 0.0, 0.8]])
  layer = {"kernel": jnp.full((4, 1), 0.5), "bias": jnp.zeros(1)}
  for _ in range(200):
    layer = hebbian.learn_hidden(Rule(bias_rate=0.0), layer, image, None, 0.3)
  expected = np.maximum(image[0] - 0.3, 0) / np.linalg.norm(image)
  np.testing.assert_allclose(layer["kernel"][:, 0], expected, atol=1e-6)


def test_perturbation_is_the_gradient_on_average():
  params = {"kernel": GENERATOR.normal(size=(3, 2)), "bias": np.ones(2)}

  def loss_fn(params):
    logits = INPUTS[:, :3] @ params["kernel"] + params["bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.arange(8) % 2
    )
    # Slopes of the cross-entropy alone have the sum 0.
    return jnp.mean(losses) + 0.3 * jnp.sum(params["bias"])

  def estimate(key):
    return hebbian.perturbation_gradient(loss_fn, params, key, size=0.01)

  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 2000)
    means = jax.device_get(jax.jit(jax.vmap(estimate))(keys))
    expected = jax.device_get(jax.grad(loss_fn)(params))
  norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(expected)))
  # Five standard errors, and what is left of sigma^2.
  error = 5 * norm / (32 * 2000) ** 0.5 + 1e-4
  for name, slope in expected.items():
    assert np.max(np.abs(slope)) > 2 * error
    np.testing.assert_allclose(means[name].mean(axis=0), slope, atol=error)


def train(name, rates=(5e-3, 5e-3), costs=(0.1, 0.0), num_laps=3):
  schedule = Schedule(num_laps * 10, 25, 10)
  made = methods.METHODS[name].make(
    tiny.NETWORK, Whole(), schedule, methods.Options()
  )
  hparams = Hparams(jnp.array(rates), jnp.array(costs))
  states, reports = members.train_pair(made, hparams, SAMPLES, num_laps)
  return states[-1].variables.params, reports


@pytest.mark.parametrize(
  "name",
  (NAMES[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])),
)
def test_choices_are_what_they_say(name):
  params, reports = train(name)
  losses = [np.asarray(report.metrics["train_loss"]) for report in reports]
  assert np.all(losses[-1] < losses[0])
  kernels = [params[layer]["kernel"] for layer in ("fc1", "fc2")]
  signed = [np.any(kernel < 0) for kernel in kernels]
  assert signed == [name == "hebbian_signed"] * 2
  assert np.any(params["fc1"]["bias"]) == (name != "hebbian_unbiased")
  # The cost is a member's own.
  assert not np.array_equal(*kernels[0])


def test_read_out_by_its_gradient_is_descent():
  """A step of all images, against Adam on the cross-entropy by hand."""
  rule = Rule(size=0.0, nonnegative=False)
  made = hebbian.make_learner(
    tiny.NETWORK, Shots(6), Schedule(1, 0), Options(), rule
  )
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
  _, (report,) = train("hebbian", rates=(np.inf, 5e-3), num_laps=1)
  assert report.failed_step[0] >= 0
  assert report.failed_step[1] == -1
