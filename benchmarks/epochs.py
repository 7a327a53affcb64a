"""An epoch of a whole dataset: LeNet-5 and ResNet-18, beside PyTorch's.

The images are drawn at random, of the sizes of MNIST and CIFAR-10; that costs
the same, and needs no data. All of an epoch is timed: the order of the images,
picking them, every step, and nothing else but a validation of ten images.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import agreement, cases, floors, problems, settings, timing
from experiments.architectures import networks
from experiments.learning import methods
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Whole
from experiments.machine import devices
from experiments.population import program

PyTree = Any

BATCH_SIZE = 100


class Job(NamedTuple):
  """What is trained.

  Attributes:
    network: Name in `networks.NAMES`.
    image_shape: Height, width and channels.
    num_images: Images in an epoch.
    num_members: Networks that ours trains at once.
  """

  network: str
  image_shape: tuple[int, int, int]
  num_images: int
  num_members: int


def lenet5(num_images: int, options: settings.Settings) -> cases.Case:
  """Times an epoch of gray images, of one network and of more.

  Args:
    num_images: Images in the epoch.
    options: Of the run.

  Raises:
    agreement.DisagreementError: If PyTorch computes something else.
  """
  counts = (1, 5, 20)
  if options.quick:
    num_images, counts = 200, (1, 2)
  jobs = [Job("lenet5", (28, 28, 1), num_images, count) for count in counts]
  return _case(jobs, options, ("vanilla", "bean1", "bean2"))


def resnet18(options: settings.Settings) -> cases.Case:
  """Times an epoch of 50,000 color images with and without BEAN.

  Args:
    options: Of the run.

  Raises:
    agreement.DisagreementError: If PyTorch computes something else.
  """
  num_images = 4 if options.quick else 50_000
  job = Job("resnet18", (32, 32, 3), num_images, 1)
  return _case([job], options, ("vanilla", "bean1"))


def _case(
  jobs: list[Job], options: settings.Settings, names: tuple[str, ...]
) -> cases.Case:
  batch_size = min(BATCH_SIZE, jobs[0].num_images)
  images = np.random.default_rng(0).integers(
    0, 256, (jobs[0].num_images, *jobs[0].image_shape), np.uint8
  )
  labels = np.random.default_rng(1).integers(
    0, 10, jobs[0].num_images, np.int32
  )
  samples = Samples(images, labels)
  contenders = []
  for name in names:
    title = methods.METHODS[name].title
    for job in jobs:
      contenders.append(
        timing.Contender(
          f"{title}: bean_jax, {job.num_members} of them",
          _ours(job, name, samples, batch_size),
          fields={"method": name, "members": job.num_members},
        )
      )
    if options.torch:
      contenders += _peers(jobs[0], name, samples, batch_size)
  timings = timing.alternate(contenders, repeats=options.repeats)
  rates = floors.measure(quick=options.quick)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  for row in rows:
    row["images_per_second"] = (
      row["members"] * jobs[0].num_images / row["median"]
    )
    plain = row["name"].replace(
      methods.METHODS[row["method"]].title, methods.METHODS["vanilla"].title, 1
    )
    if plain in timings:
      row["times_own_plain_step"] = timing.ratio(
        timings[row["name"]], timings[plain]
      )
  return cases.Case(
    title=f"An epoch of {jobs[0].num_images} images, {jobs[0].network}, "
    f"batch {batch_size}",
    unit="s for all members",
    rates=rates,
    rows=rows,
  )


@functools.cache
def _network(job: Job) -> networks.Network:
  return networks.make(networks.Spec(job.network), job.image_shape)


def _ours(
  job: Job, method: str, samples: Samples, batch_size: int
) -> Callable[[], None]:
  """Returns what trains all members for an epoch; the next call goes on."""
  stream = Whole()
  learner = problems.learner(
    _network(job), method, Schedule(1, batch_size), stream
  )
  programs = program.make(learner, stream, 1)
  num_devices = devices.mesh().size
  width = num_devices * -(-job.num_members // num_devices)
  keys, hparams, active = devices.place(
    (
      problems.keys_of(width),
      problems.hparams(width, problems.STRENGTHS[method]),
      np.ones(width, bool),
    ),
    devices.MEMBERS,
  )
  train = devices.place(samples, devices.SHARED)
  few = devices.place(
    jax.tree.map(lambda leaf: leaf[:10], samples), devices.SHARED
  )
  carry = programs.init(keys, hparams, train)

  def run() -> None:
    nonlocal carry
    carry, metrics = programs.run(
      carry, np.int32(0), keys, hparams, active, train, few
    )
    jax.block_until_ready(metrics)

  return run


def _peers(
  job: Job, method: str, samples: Samples, batch_size: int
) -> list[timing.Contender]:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_epochs

  title = methods.METHODS[method].title
  order = problems.ORDERS[method]
  strength = problems.STRENGTHS[method]
  batch = jax.tree.map(lambda leaf: leaf[:batch_size], samples)
  variables = _network(job).init(jax.random.key(0))
  agreement.check(
    f"{title}: PyTorch: loss and gradients of {job.network}",
    torch_epochs.loss_and_gradients(
      job.network, variables.params, batch, order, strength
    ),
    loss_and_gradients(_network(job), variables, batch, method),
    # Twenty BatchNorms amplify rounding; in float64 both agree to 1e-6.
    rtol=1e-2 if job.network == "resnet18" else agreement.RTOL,
  )
  run = torch_epochs.make_epoch(
    job.network, variables.params, samples, batch_size, order, strength
  )
  name = f"{title}: PyTorch, one of them"
  if order:
    name += ", [N, N, S] penalty"
  return [timing.Contender(name, run, fields={"method": method, "members": 1})]


def loss_and_gradients(
  network: networks.Network,
  variables: networks.Variables,
  samples: Samples,
  method: str,
) -> tuple[jax.Array, PyTree]:
  """Computes what the first step descends, and its gradients.

  Args:
    network: The network.
    variables: Its parameters and batch statistics.
    samples: A batch.
    method: Name in `methods.METHODS`.

  Returns:
    The loss, and gradients in the form of the parameters.
  """
  hparams = Hparams(problems.LEARNING_RATE, problems.STRENGTHS[method])
  prepared = samples._replace(inputs=network.prepare(samples.inputs))
  return jax.jit(
    problems.loss_and_gradients(network, method, variables.batch_stats)
  )(variables.params, prepared, hparams)
