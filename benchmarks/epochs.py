"""An epoch of a whole dataset: LeNet-5 and ResNet-18, beside PyTorch's.

The images are drawn at random, of the sizes of MNIST and CIFAR-10; that costs
the same, and needs no data. All of an epoch is timed: the order of the images,
picking them, every step, and nothing else but a validation of ten images.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks import agreement, cases, problems, timing
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Whole
from experiments.machine import devices
from experiments.population import program

BATCH_SIZE = 100


def lenet5(num_images: int, options: cases.Settings) -> cases.Case:
  """Times an epoch of so many gray images, of one network and of more."""
  counts = (1, 2) if options.quick else (1, 5, 20)
  shape = (200 if options.quick else num_images, 28, 28, 1)
  return _case("lenet5", shape, counts, ("vanilla", "bean1", "bean2"), options)


def resnet18(options: cases.Settings) -> cases.Case:
  """Times an epoch of 50,000 color images with and without BEAN."""
  shape = (4 if options.quick else 50_000, 32, 32, 3)
  return _case("resnet18", shape, (1,), ("vanilla", "bean1"), options)


def _case(
  name: str,
  shape: tuple[int, ...],
  counts: Sequence[int],
  names: Sequence[str],
  options: cases.Settings,
) -> cases.Case:
  """Times a network on images [n, height, width, channels]."""
  num_images, *image_shape = shape
  batch_size = min(BATCH_SIZE, num_images)
  network = networks.make(networks.Spec(name), tuple(image_shape))
  samples = Samples(
    np.random.default_rng(0).integers(0, 256, shape, np.uint8),
    np.random.default_rng(1).integers(0, 10, num_images, np.int32),
  )
  contenders = []
  for method in names:
    for count in counts:
      contenders.append(
        timing.Contender(
          _name(method, count),
          _ours(network, method, samples, batch_size, count),
          fields={"method": method, "members": count},
        )
      )
    if options.torch:
      contenders.append(_peer(name, network, method, samples, batch_size))
  case = cases.measure(
    options,
    contenders,
    title=f"An epoch of {num_images} images, {name}, batch {batch_size}",
    unit="s for all members",
  )
  for row in case.rows:
    row["images_per_second"] = row["members"] * num_images / row["median"]
  timing.add_ratios(
    case.rows,
    "times_own_plain_step",
    lambda row: row["name"].replace(
      methods.METHODS[row["method"]].title, methods.METHODS["vanilla"].title, 1
    ),
  )
  return case


def _name(method: str, count: int) -> str:
  return f"{methods.METHODS[method].title}: bean_jax, {count} of them"


def _ours(
  network: networks.Network,
  method: str,
  samples: Samples,
  batch_size: int,
  num_members: int,
) -> Callable[[], None]:
  """Returns what trains all members for an epoch; the next call goes on."""
  stream = Whole()
  learner = problems.learner(network, method, Schedule(1, batch_size), stream)
  programs = program.make(learner, stream, 1)
  num_devices = devices.mesh().size
  width = num_devices * -(-num_members // num_devices)
  keys, hparams, active = devices.place(
    (
      problems.keys_of(width),
      problems.hparams(width, problems.STRENGTHS[method]),
      np.ones(width, bool),
    ),
    devices.MEMBERS,
  )
  train, few = devices.place(
    (samples, jax.tree.map(lambda leaf: leaf[:10], samples)), devices.SHARED
  )
  carry = programs.init(keys, hparams, train)

  def run() -> None:
    nonlocal carry
    carry, metrics = programs.run(
      carry, np.int32(0), keys, hparams, active, train, few
    )
    jax.block_until_ready(metrics)

  return run


def _peer(
  name: str,
  network: networks.Network,
  method: str,
  samples: Samples,
  batch_size: int,
) -> timing.Contender:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_trainers

  title = methods.METHODS[method].title
  batch = jax.tree.map(lambda leaf: leaf[:batch_size], samples)
  variables = network.init(jax.random.key(0))
  prepared = batch._replace(inputs=network.prepare(batch.inputs))
  hparams = Hparams(problems.LEARNING_RATE, problems.STRENGTHS[method])
  ours = problems.loss_and_gradients(network, method, variables.batch_stats)
  arguments = name, variables.params, method
  agreement.check(
    f"{title}: PyTorch: loss and gradients of {name}",
    torch_trainers.batch_loss_and_gradients(*arguments, batch),
    jax.jit(ours)(variables.params, prepared, hparams),
  )
  peer = f"{title}: PyTorch, one of them"
  if problems.ORDERS[method]:
    peer += ", [N, N, S] penalty"
  run = torch_trainers.make_epoch(*arguments, samples, batch_size)
  return timing.Contender(peer, run, fields={"method": method, "members": 1})
