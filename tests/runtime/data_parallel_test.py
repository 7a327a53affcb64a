"""Devices that share each batch train as one device does, but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.architectures import networks, resnet18
from experiments.learning import methods
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Augmentation, Whole
from experiments.machine import devices
from tests.experiments import full_data_test, members, tiny
from tests.experiments.population import simulations_test as tests

STRENGTHS = (0.5, 10.0)
DIGITS = datasets.load("digits")
TINY_SHARED = networks.from_linen(
  tiny.NormedModule(axis_name=devices.AXIS),
  (28, 28, 1),
  ("fc2",),
  has_stats=True,
)


@pytest.fixture(autouse=True, scope="module")
def _precision():
  assert devices.mesh().size == 2
  with jax.default_matmul_precision("highest"):
    yield


def samples(split, number, shape=(28, 28, 1)):
  images = split.images[:number, : shape[0], : shape[1]]
  return Samples(
    np.broadcast_to(images, (number, *shape)), split.labels[:number]
  )


def run_epochs(network, method, stream, batch_size, train, validation, epochs):
  """Trains two members; their last state and the metrics of every epoch."""
  learner = methods.learner(
    method, network, stream, Schedule(epochs, batch_size), methods.Options()
  )
  (_, carry), metrics = members.train(
    *(learner, stream, train, validation),
    seeds=(3, 0),
    hparams=Hparams(jnp.full(2, 2e-2), jnp.array(STRENGTHS)),
    laps=(epochs,),
  )
  return carry, metrics


def check(both, method, *, num_train, batch_size, shape=(28, 28, 1), **options):
  """Compares one network by itself with its like that shares batches."""
  train = samples(DIGITS.train, num_train, shape)
  validation = samples(DIGITS.validation, 24, shape)
  augmentation = Augmentation(**options.get("augmentation", {}))
  (carry, metrics), (shared_carry, shared) = (
    run_epochs(
      network,
      method,
      Whole(augmentation, num_shards),
      batch_size,
      train,
      validation,
      options.get("num_epochs", 2),
    )
    for network, num_shards in zip(both, (1, 2), strict=True)
  )
  np.testing.assert_array_equal(shared_carry.failed_step, -1)
  for name in ("objective", "train_loss"):
    np.testing.assert_allclose(shared[name], metrics[name], rtol=1e-4)
  # One image that is as good as undecided.
  np.testing.assert_allclose(shared["correct"], metrics["correct"], atol=1)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    shared_carry.state.variables,
    carry.state.variables,
  )


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
    (tiny.NORMED, TINY_SHARED),
    method,
    num_train=num_train,
    batch_size=8,
    augmentation={"flip": True, "crop": True},
  )


@pytest.mark.slow
def test_statistics_are_those_of_the_whole_batch():
  """Otherwise each device would have normalized by its own half."""
  with pytest.raises(AssertionError):
    check((tiny.NORMED, tiny.NORMED), "vanilla", num_train=16, batch_size=8)


@pytest.mark.slow
def test_a_step_of_resnet18_equals_that_of_one_device():
  both = [
    networks.from_linen(
      resnet18.ResNet18(num_features=(4, 4), axis_name=axis_name),
      (16, 16, 3),
      ("head",),
      has_stats=True,
    )
    for axis_name in (None, devices.AXIS)
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
  """BatchNorm of the real one asks for it, wherever it is traced."""
  shared = networks.make(
    networks.Spec("resnet18"), (32, 32, 3), axis_name=devices.AXIS
  )
  variables = jax.eval_shape(shared.init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
  with pytest.raises(NameError, match=devices.AXIS):
    jax.eval_shape(shared.apply, variables, images, None)


@pytest.mark.slow
class TestRun:
  """Whole simulations, from their checkpoints on."""

  @pytest.fixture(autouse=True)
  def _network(self, monkeypatch):
    def make(spec, image_shape, *, axis_name):
      return tiny.NORMED if axis_name is None else TINY_SHARED

    monkeypatch.setattr(networks, "make", make)

  def test_run(self, tmp_path):
    def run(name, num_shards):
      stream = Whole(num_shards=num_shards, patience=0)
      planned = tests.make_cells("whole", stream=stream, epochs=3)
      if name == "resumed":
        with pytest.raises(tests.Killed):
          tests.run(tmp_path / name, "whole", planned, tick=tests.kill_at(5))
      return list(tests.run(tmp_path / name, "whole", planned).values())

    shared = run("shared", 2)
    for one, two in zip(run("plain", 1), shared, strict=True):
      assert two.members_per_chunk == 1
      for name, options in (
        ("objective_curve", {"rtol": 1e-3}),
        # One image that is as good as undecided.
        ("validation_accuracy_curve", {"atol": 1.01 / 49}),
        ("test_accuracy", {"atol": 1.01 / 79}),
        ("test_accuracy_last", {"atol": 1.01 / 79}),
      ):
        np.testing.assert_allclose(
          two.metrics[name], one.metrics[name], **options
        )
    tests.assert_same(
      dict(enumerate(run("resumed", 2))), dict(enumerate(shared))
    )


class TestFlags:
  def test_parsed(self):
    shared = full_data_test.parse("--data_parallel").cells[0].stream
    assert shared.num_shards == devices.mesh().size == 2
    assert full_data_test.parse().cells[0].stream.num_shards == 1

  @pytest.mark.parametrize(
    "args,message",
    (
      (["--batch_size=51"], "Vanilla: a batch of 51 images cannot be shared"),
      # All 797 training images, as they are fewer; and what a method takes at
      # least.
      (["--batch_size=1000"], "a batch of 797 images cannot be shared by 2 "),
      (["--batch_size=0"], "a batch of 797 images cannot be shared by 2 "),
      (["--methods=odd"], "Odd: a batch of 101 images cannot be shared by 2"),
      (["--methods=vanilla,decov"], "--data_parallel: decov needs "),
    ),
  )
  def test_refused(self, args, message, tmp_path, monkeypatch):
    odd = methods.METHODS["vanilla"]._replace(title="Odd", batch=101)
    monkeypatch.setitem(methods.METHODS, "odd", odd)
    monkeypatch.setattr(methods, "OF_ANY_SIZE", (*methods.OF_ANY_SIZE, "odd"))
    err = full_data_test.refused(
      "--data_parallel", *args, f"--output_dir={tmp_path / 'out'}"
    )
    assert message in err
    assert not (tmp_path / "out").exists()

  def test_methods_that_are_no_sum_over_samples_are_known(self):
    """Whoever adds one has to say so."""
    needing = {n for n, m in methods.METHODS.items() if m.whole_batch}
    # Those with a network of their own do without.
    own = {n for n, m in methods.METHODS.items() if m.network}
    assert needing - own == {"decov", "pc_fixed", "pc_strict"}
    assert own <= needing
