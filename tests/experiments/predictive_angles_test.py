"""Tests of experiments.predictive_angles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from experiments import predictive_angles
from experiments.architectures import networks
from experiments.learning.learner import Samples
from experiments.records import results
from tests.experiments import in_process

# Three layers: fc1, fc2, fc3.
NETWORK = networks.make(networks.Spec("mlp300_100"))
LAYERS = ("fc1", "fc2", "fc3")


@functools.cache
def population():
  """Parameters and samples of two members."""
  keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
  images = np.random.default_rng(0).integers(0, 256, (2, 5, 28, 28, 1))
  samples = Samples(images.astype(np.uint8), np.arange(10).reshape(2, 5))
  return jax.vmap(NETWORK.init)(keys).params, samples


def measure(rule, step_size, num_sweeps):
  """By layer, relative errors and angles [members]."""
  rates = jnp.float32(step_size), jnp.int32(num_sweeps)
  return predictive_angles.measure(NETWORK, rule, *population(), *rates)


def norms():
  """The size of the true gradient of each layer [members, layers]."""
  params, samples = population()

  def loss_fn(params, images, labels):
    (logits, _), _ = NETWORK.apply(
      networks.Variables(params, {}), NETWORK.prepare(images), None
    )
    logs = jax.nn.log_softmax(logits)
    return -jnp.mean(logs[jnp.arange(len(labels)), labels])

  grads = jax.vmap(jax.grad(loss_fn))(params, *samples)
  size = jax.vmap(optax.tree.norm)
  return np.stack([np.float64(size(grads[name])) for name in LAYERS], axis=1)


def test_sweeps_that_do_not_reach_the_first_layer():
  """Which then learns nothing."""
  error, angle = measure("fixed", 1.0, 2)["fc1"]
  np.testing.assert_array_equal(error, 1)
  assert np.isnan(angle).all()


@pytest.mark.parametrize("step_size,num_sweeps", ((0.1, 4), (0.3, 20)))
def test_fixed_predictions_shorten_the_gradient_of_each_layer(
  step_size, num_sweeps
):
  """By the probability of as many successes as there are layers above."""
  found = measure("fixed", step_size, num_sweeps)
  shares = scipy.stats.binom.sf([1, 0, -1], num_sweeps - 1, step_size)
  for name, share in zip(LAYERS, shares, strict=True):
    error, angle = found[name]
    np.testing.assert_allclose(error, 1 - share, atol=1e-5)
    np.testing.assert_allclose(angle, 0, atol=1e-3)
  true = norms()
  cosine = (true**2 @ shares) / (
    np.linalg.norm(true, axis=1) * np.linalg.norm(true * shares, axis=1)
  )
  expected = np.rad2deg(np.arccos(cosine))
  assert expected.min() > 0.1
  np.testing.assert_allclose(found["all"][1], expected, rtol=1e-3)


def test_strict_rule_keeps_an_angle():
  own, mean = (measure(rule, 0.1, 200) for rule in ("strict", "strict_mean"))
  for name, (_, angle) in mean.items():
    assert np.all(angle > 0.01)
    # Beliefs move less where a batch shares its loss.
    assert np.all(own[name][1] > 2 * angle)


def test_small_angles_keep_their_digits():
  true = jnp.array([1.0, 0.0])
  error, angle = predictive_angles.distances(jnp.array([1.0, 1e-5]), true)
  np.testing.assert_allclose(np.deg2rad(angle), 1e-5, rtol=1e-4)
  np.testing.assert_allclose(error, 1e-5, rtol=1e-4)
  assert float(predictive_angles.distances(-true, true)[1]) == 180


@pytest.mark.slow
def test_script_measures_once_and_draws(tmp_path, monkeypatch):
  less = ("--seeds=2", "--shots=1", "--step_sizes=1")
  less += (f"--output_dir={tmp_path}",)
  args = (*less, "--sweeps=4,1")
  out = in_process.done(predictive_angles, *args)
  row = next(line for line in out.splitlines() if "FixedPred" in line)
  # After one sweep only the last layer learns; after four all do, exactly.
  assert row.split("|")[4].strip() == "0.00 [0.00, 0.00]"
  assert float(row.split("|")[3].split()[0]) > 1
  stem = "digits-1shot-predictive_angles"
  ends = ("-fixed.png", "-strict.png", "-strict_mean.png", ".json", ".md")
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == [stem + end for end in ends]
  record = results.read(tmp_path / f"{stem}.json")
  assert np.shape(record["metrics"]["strict_angle"]) == (2, 1, 2, 6)
  monkeypatch.setattr(predictive_angles, "measure_all", None)
  assert in_process.run(predictive_angles, *args)[:2] == (0, out)
  message = in_process.refused(predictive_angles, *less)
  assert "sweeps: expected [1, 2, 3" in message
