"""A population's classes of shared images: ours beside PyTorch's."""

import numpy as np

from benchmarks import agreement, cases, floors, problems, settings, timing
from experiments.architectures.networks import Variables
from experiments.machine import devices

# Activations of fewer images stay in cache, more make fewer calls.
PEER_BATCHES = (500, 100)


def run(options: settings.Settings) -> cases.Case:
  """Times the classification of shared images by all members.

  Args:
    options: Of the run.

  Raises:
    agreement.DisagreementError: If the classes differ.
  """
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
  rates = floors.measure(quick=options.quick)
  timings = timing.alternate(contenders, repeats=options.repeats)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  if options.torch:
    peer = min(rows[1:], key=lambda row: row["median"])["name"]
    for row in rows:
      row["peer"] = peer
      row["faster_than_peer"] = timing.ratio(
        timings[peer], timings[row["name"]]
      )
  return cases.Case(
    title=f"Classes of {num_images} shared images by {num_members} LeNet-5",
    unit="s for all members and images",
    rates=rates,
    rows=rows,
  )


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
) -> list[timing.Contender]:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_layers, torch_lenet5, torch_trainers

  logits = torch_layers.make_logits(params, images)
  num_members = len(classes)
  contenders = []
  for batch_size in PEER_BATCHES:
    name = f"PyTorch, one by one, batch {batch_size}"
    found = logits(num_members, batch_size)
    check_classes(name, classes, torch_lenet5.to_numpy(found))

    def classify(batch_size: int = batch_size) -> np.ndarray:
      found = logits(num_members, batch_size)
      return torch_lenet5.to_numpy(found.argmax(2))

    contenders.append(
      torch_trainers.contender(
        name,
        classify,
        probe=lambda batch_size=batch_size: logits(1, batch_size),
        work=work,
      )
    )
  return contenders
