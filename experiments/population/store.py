"""Members as files: from these every run goes on after a kill.

A member has one checkpoint, written from time to time and once more when it is
done. Where trained networks are wanted, it lies in the run's folder of
checkpoints and stays. Otherwise it lies in `partial/CELL-DIGEST` beside the
cell's record, without the networks once it is done, and goes when the record is
written. That digest stands for everything that the last bits depend on: members
of another version, device or width of chunks are in another folder, and are
never mixed with these.

A width, here, is of a chunk: the members that a device trains at once.
"""

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.architectures.networks import Variables
from experiments.learning.learner import State
from experiments.machine import notices
from experiments.population import cells
from experiments.population.cells import Cell, Config, Member
from experiments.population.program import Carry
from experiments.records import checkpoints, results

Metrics = dict[str, np.ndarray]

PARTIAL = "partial"
# Of `results.environment`: what the numbers of a member are made with.
_MADE_WITH = ("versions", "device", "git", "settings")


class Store(NamedTuple):
  """Where the members of a run are kept.

  Attributes:
    config: The run.
    environment: What members are made with, as `results.environment` gives it.
  """

  config: Config
  environment: Mapping[str, Any]


def folder(store: Store, cell: Cell, width: int) -> pathlib.Path:
  """Names the folder of a cell's members, which need not exist."""
  config = store.config
  if config.checkpoint_dir is not None:
    return config.checkpoint_dir
  fields = cells.cell_config(config, cell)
  del fields["seeds"]
  made_with = {name: store.environment[name] for name in _MADE_WITH}
  # Members are the same on any number of devices.
  made_with["device"] = {**made_with["device"], "count": None}
  digest = results.config_digest(
    {"config": fields, "width": width, **made_with}
  )
  stem = cells.cell_path(config, cell).stem
  return config.output_dir / PARTIAL / f"{stem}-{digest[:16]}"


def path(store: Store, member: Member, width: int) -> pathlib.Path:
  """Names the file of a member's checkpoint."""
  name = _file_name(store.config, member)
  return folder(store, member.cell, width) / name


def _file_name(config: Config, member: Member) -> str:
  return f"{cells.cell_path(config, member.cell).stem}-seed{member.seed:d}.npz"


def find(store: Store, member: Member, width: int) -> Metrics | None:
  """Reads the metrics of a member, None if it has no checkpoint."""
  checkpoint = checkpoints.find(
    path(store, member, width), cells.member_config(store.config, member)
  )
  return None if checkpoint is None else checkpoint.metrics


def make_look(store: Store) -> Callable[[Member, int], Metrics | None]:
  """Makes a `find` that reads a file only when it has changed.

  Checkpoints of large networks take long to read.
  """
  seen: dict[Member, int] = {}

  def look(member: Member, width: int) -> Metrics | None:
    file = path(store, member, width)
    changed = file.stat().st_mtime_ns if file.exists() else 0
    if changed == seen.get(member, 0):
      return None
    seen[member] = changed
    return find(store, member, width)

  return look


def prepare(store: Store, cell: Cell, width: int) -> None:
  """Makes room for a cell's members, before the first is trained.

  Members that are there are removed if the run does not resume; those that were
  made otherwise are told of.
  """
  if store.config.checkpoint_dir is not None:
    return
  own = folder(store, cell, width)
  if not store.config.resume:
    discard(store, cell, width)
  stem = cells.cell_path(store.config, cell).stem
  digest = "[0-9a-f]" * 16
  if others := sorted(set(own.parent.glob(f"{stem}-{digest}")) - {own}):
    notices.warn(
      f"{', '.join(map(str, others))}: members of another version, device, "
      "configuration or --members_per_chunk; not used"
    )


def save(
  store: Store, member: Member, width: int, carry: Carry, metrics: Metrics
) -> None:
  """Writes the checkpoint of a member, what it carries in NumPy arrays.

  Of a member that is done only its networks are kept, and those only where they
  are wanted.
  """
  is_wanted = store.config.checkpoint_dir is not None
  done = is_done(metrics)
  last, best = carry.state.variables, carry.best
  if done and not is_wanted:
    last = best = Variables({}, {})
  file = path(store, member, width)
  if not is_wanted:
    results.prepare_directory(file.parent)
  checkpoints.save(
    file,
    checkpoints.Checkpoint(
      config=cells.member_config(store.config, member),
      environment=dict(store.environment),
      last=last,
      best=best,
      metrics=metrics,
      memory={} if done else carry.state.memory,
    ),
  )


def restore(
  store: Store, member: Member, width: int, template: Carry
) -> tuple[Carry, Metrics]:
  """Reads what a member in training carries, like a template, and metrics."""
  file = path(store, member, width)
  checkpoint = checkpoints.load(file)
  metrics = checkpoint.metrics
  read = functools.partial(checkpoints.restore, file)
  carry = Carry(
    state=State(
      read(checkpoint.last, template.state.variables),
      read(checkpoint.memory, template.state.memory),
    ),
    failed_step=metrics["failed_step"],
    best=read(checkpoint.best, template.best),
    best_correct=metrics["best_correct"],
    best_epoch=metrics["best_epoch"],
  )
  return carry, metrics


def is_done(metrics: Metrics | None) -> bool:
  """Tells whether nothing is left to do with a member."""
  return metrics is not None and "test_accuracy" in metrics


def has_networks(config: Config, cell: Cell) -> bool:
  """Tells whether the networks of a cell that must be kept are there."""
  if config.checkpoint_dir is None or not config.needs_networks:
    return True
  members = (Member(cell, seed) for seed in config.protocol.seeds)
  names = (_file_name(config, member) for member in members)
  return all((config.checkpoint_dir / name).exists() for name in names)


def discard(store: Store, cell: Cell, width: int) -> None:
  """Removes the members of a cell whose record is written, unless wanted.

  What cannot be removed is left, and so is what was damaged and renamed.
  """
  if store.config.checkpoint_dir is not None:
    return
  directory = folder(store, cell, width)
  try:
    for file in directory.iterdir():
      if ".damaged" not in file.name:
        file.unlink()
    directory.rmdir()
    directory.parent.rmdir()
  except OSError:
    # Other cells have members there, or there was none.
    return
