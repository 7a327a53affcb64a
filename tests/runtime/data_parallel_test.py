"""Devices that share each batch train as one device does, but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks, resnet18
from experiments.learning import devices, full_training, methods, training
from experiments.learning.full_training import Augmentation
from experiments.records import checkpoints
from experiments.runs import full_simulations
from tests.experiments import full_data_test, tiny_network
from tests.experiments.runs import full_simulations_test

STRENGTHS = (0.5, 10.0)
DIGITS = datasets.load("digits")
TINY_SHARED = networks.from_linen(
  tiny_network.TinyModule(axis_name=devices.BATCH_AXIS), (28, 28, 1), ("fc2",)
)


@pytest.fixture(autouse=True, scope="module")
def _precision():
  assert devices.mesh().size == 2
  with jax.default_matmul_precision("highest"):
    yield


def samples(split, number, shape=(28, 28, 1)):
  images = split.images[:number, : shape[0], : shape[1]]
  return training.Samples(
    jnp.asarray(np.broadcast_to(images, (number, *shape))),
    jnp.asarray(split.labels[:number]),
  )


def run_epochs(setting, train, validation, *, num_epochs=2):
  """Trains two members; their last state and the metrics of every epoch."""
  program = full_simulations.make_program(setting)
  keys = jax.vmap(jax.random.key)(jnp.array([3, 0]))
  hparams = training.Hparams(jnp.full(2, 2e-2), jnp.array(STRENGTHS))
  state = program.init(keys, hparams)
  history = []
  for epoch in range(num_epochs):
    state, metrics = program.run_epoch(
      state,
      np.full(2, epoch, np.int32),
      keys,
      hparams,
      np.ones(2, bool),
      train,
      validation,
    )
    history.append(jax.device_get(metrics))
  return jax.device_get(state), history


def check(
  networks_, method, *, num_train, batch_size, shape=(28, 28, 1), **options
):
  """Compares one network by itself with its like that shares batches."""
  train = samples(DIGITS.train, num_train, shape)
  validation = samples(DIGITS.validation, 24, shape)
  (state, history), (shared_state, shared_history) = (
    run_epochs(
      full_training.Setting(
        network,
        method,
        batch_size=batch_size,
        augmentation=Augmentation(**options.get("augmentation", {})),
        num_shards=num_shards,
      ),
      train,
      validation,
      num_epochs=options.get("num_epochs", 2),
    )
    for network, num_shards in zip(networks_, (1, 2), strict=True)
  )
  np.testing.assert_array_equal(shared_state.failed_step, -1)
  for metrics, shared in zip(history, shared_history, strict=True):
    np.testing.assert_allclose(shared.objective, metrics.objective, rtol=1e-4)
    np.testing.assert_allclose(shared.train_loss, metrics.train_loss, rtol=1e-4)
    # One image that is as good as undecided.
    np.testing.assert_allclose(shared.correct, metrics.correct, atol=1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    shared_state.variables,
    state.variables,
  )
  return state


# The last batch has one of eight images, so that one device has none; five; and
# all.
@pytest.mark.parametrize(
  "num_train,method",
  (
    (17, "bean1"),
    pytest.param(21, "bean1", marks=pytest.mark.slow),
    pytest.param(16, "l1", marks=pytest.mark.slow),
  ),
)
def test_epochs_equal_those_of_one_device(num_train, method):
  check(
    (tiny_network.NETWORK, TINY_SHARED),
    method,
    num_train=num_train,
    batch_size=8,
    augmentation={"flip": True, "crop": True},
  )


@pytest.mark.slow
def test_statistics_are_those_of_the_whole_batch():
  """Otherwise each device would have normalized by its own half."""
  with pytest.raises(AssertionError):
    check(
      (tiny_network.NETWORK, tiny_network.NETWORK),
      "vanilla",
      num_train=16,
      batch_size=8,
    )


@pytest.mark.slow
def test_a_step_of_resnet18_equals_that_of_one_device():
  both = [
    networks.from_linen(
      resnet18.ResNet18(num_features=(4, 4), axis_name=axis_name),
      (16, 16, 3),
      ("head",),
    )
    for axis_name in (None, devices.BATCH_AXIS)
  ]
  check(
    both,
    "bean1",
    num_train=8,
    batch_size=8,
    shape=(16, 16, 3),
    num_epochs=1,
  )


def test_networks_know_the_axis():
  plain = networks.make("resnet18", (32, 32, 3))
  shared = networks.make("resnet18", (32, 32, 3), axis_name=devices.BATCH_AXIS)
  variables = jax.eval_shape(plain.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
  jax.eval_shape(plain.apply, variables, images, None)
  # Both are evaluated, and initialized, wherever that is.
  jax.eval_shape(shared.evaluate, variables, images)
  assert jax.eval_shape(shared.init, jax.random.key(0)) == variables
  with pytest.raises(NameError, match=devices.BATCH_AXIS):
    jax.eval_shape(shared.apply, variables, images, None)


def test_batches_that_cannot_be_shared():
  setting = full_training.Setting(
    TINY_SHARED, "vanilla", batch_size=7, num_shards=2
  )
  with pytest.raises(ValueError, match="multiple of the 2 devices"):
    full_training.make_run_epoch(setting)


class TestRun:
  """Whole simulations, from their checkpoints on."""

  @pytest.fixture(autouse=True)
  def _network(self, monkeypatch):
    def make(name, image_shape, *, bfloat16, axis_name):
      return tiny_network.NETWORK if axis_name is None else TINY_SHARED

    monkeypatch.setattr(full_simulations.networks, "make", make)
    # No multiple of the devices.
    digits = full_simulations_test.DIGITS
    monkeypatch.setattr(
      full_simulations_test,
      "DIGITS",
      digits._replace(
        test=datasets.Split(digits.test.images[:79], digits.test.labels[:79]),
        validation=datasets.Split(
          digits.validation.images[:49], digits.validation.labels[:49]
        ),
      ),
    )

  @pytest.mark.slow
  def test_run(self, tmp_path):
    tests = full_simulations_test
    protocol = tests.PROTOCOL._replace(epochs=3)
    shared = protocol._replace(data_parallel=True)
    folders = [tmp_path / name for name in ("plain", "shared", "resumed")]
    for folder in folders:
      folder.mkdir()
    plain = tests.run(folders[0], protocol=protocol)
    outcomes = tests.run(folders[1], protocol=shared)
    assert list(outcomes) == list(plain)
    for cell, outcome in outcomes.items():
      assert outcome.members_per_chunk == 1
      for name in ("objective_curve", "validation_accuracy_curve"):
        np.testing.assert_allclose(
          outcome.metrics[name],
          plain[cell].metrics[name],
          rtol=1e-3,
          atol=1.01 / 49 if "accuracy" in name else 0,
        )
      for name in ("test_accuracy", "test_accuracy_last"):
        np.testing.assert_allclose(
          outcome.metrics[name], plain[cell].metrics[name], atol=1.01 / 79
        )
    with pytest.raises(tests.Stop):
      tests.run(folders[2], protocol=shared, tick=tests.stop_at(5))
    resumed = tests.run(folders[2], protocol=shared)
    tests.assert_same_outcomes(resumed, outcomes)
    for path in folders[1].iterdir():
      assert checkpoints.load(path).last.params.keys() == {"fc1", "fc2", "norm"}


class TestFlags:
  def test_parsed(self):
    protocol = full_data_test.parse("--data_parallel").protocol
    assert protocol.data_parallel
    assert not full_data_test.parse().protocol.data_parallel

  @pytest.mark.parametrize(
    "args,message",
    (
      (["--batch_size=51"], "--batch_size: expected a multiple of the 2 "),
      (["--batch_size=0"], "--batch_size: expected a multiple of the 2 "),
      (["--methods=vanilla,decov"], "--data_parallel: decov takes "),
    ),
  )
  def test_refused(self, args, message, tmp_path):
    err = full_data_test.refused(
      "--data_parallel", *args, f"--output_dir={tmp_path / 'out'}"
    )
    assert message in err
    assert not (tmp_path / "out").exists()

  def test_methods_that_are_no_sum_over_samples_are_known(self):
    """Whoever adds one has to refuse it with --data_parallel."""
    assert set(methods.DESCENDED) - {"decov"} <= {
      *("vanilla", "vanilla10", "dropout", "weight_decay", "l1"),
      *("group_lasso", "bean1", "bean2", "bean1_frozen", "bean2_frozen"),
      *("bean1_random", "bean1_constant", "mean_square", "bean1_dropout"),
      *("bean2_dropout", "bean1_constant_dropout"),
    }, methods.DESCENDED
