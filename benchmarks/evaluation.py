"""A population's classes of shared images: ours beside PyTorch's."""

from collections.abc import Iterator

import numpy as np

from benchmarks import agreement, cases, floors, problems, timing
from experiments.architectures.networks import Variables
from experiments.machine import devices

# Activations of fewer images stay in cache, more make fewer calls.
PEER_BATCHES = (500, 100)


def run(options: cases.Settings) -> cases.Case:
  """Times the classification of shared images by all members."""
  num_members, num_images = (2, 100) if options.quick else (20, 10_000)
  params = problems.draw(num_members, 1).params
  images = problems.draw_images(num_images)
  work = floors.evaluation(num_members, num_images)
  predict = devices.spread(
    problems.LENET5.predict,
    takes=(devices.MEMBERS, devices.SHARED),
    gives=devices.MEMBERS,
  )
  on_device = (
    devices.place(Variables(params, {}), devices.MEMBERS),
    devices.place(images, devices.SHARED),
  )
  contenders = [
    timing.Contender(
      "bean_jax, all at once",
      lambda: predict(*on_device).block_until_ready(),
      work=work,
    )
  ]
  if options.torch:
    classes = np.asarray(predict(*on_device))
    contenders += _peers(params, images, classes, work)
  case = cases.measure(
    options,
    contenders,
    title=f"Classes of {num_images} shared images by {num_members} LeNet-5",
    unit="s for all members and images",
  )
  if options.torch:
    peer = min(case.rows[1:], key=lambda row: row["median"])["name"]
    timing.add_ratios(
      case.rows, "faster_than_peer", lambda row: peer, faster=True
    )
  return case


def check_classes(name: str, classes: np.ndarray, logits: np.ndarray) -> None:
  """Checks that classes are those of the greatest logits, up to rounding.

  Args:
    name: Of the contender, for the error.
    classes: [members, n].
    logits: [members, n, 10] of another.

  Raises:
    agreement.DisagreementError: If they are not.

  Example:
    >>> logits = np.array([[[1.0, 1.00001, 0.0], [3.0, 2.0, 1.0]]])
    >>> check_classes("it", np.array([[0, 0]]), logits)
  """
  picked = np.take_along_axis(logits, classes[:, :, None], axis=2)[:, :, 0]
  missing = logits.max(axis=2) - picked
  allowed = agreement.RTOL * np.abs(logits).max()
  if not np.all(missing <= allowed):
    raise agreement.DisagreementError(
      f"{name}: {1 - np.mean(missing <= allowed):.2%} of the classes differ"
    )


def _peers(
  params: problems.PyTree,
  images: np.ndarray,
  classes: np.ndarray,
  work: floors.Work,
) -> Iterator[timing.Contender]:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_networks, torch_trainers

  logits = torch_trainers.make_logits(params, images)
  for batch_size in PEER_BATCHES:

    def classify(
      num_members: int = len(classes), batch_size: int = batch_size
    ) -> np.ndarray:
      return torch_networks.to_numpy(logits(num_members, batch_size).argmax(2))

    name = f"PyTorch, one by one, batch {batch_size}"
    found = torch_networks.to_numpy(logits(len(classes), batch_size))
    check_classes(name, classes, found)
    yield torch_trainers.with_best_threads(
      timing.Contender(name, classify, work=work),
      lambda classify=classify: classify(1),
    )
