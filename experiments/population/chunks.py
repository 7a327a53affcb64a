"""Chunks: members that are trained side by side, from their files to their end.

A member is trained for all its laps, or until it has failed or converged, and
then stands still until the others of its chunk are done.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learning.learner import Hparams, Samples
from experiments.machine import interruption
from experiments.population import program, store as stores
from experiments.population.cells import Member
from experiments.population.groups import Group
from experiments.population.store import Metrics, Store

PyTree = Any


def train(
  chunk: list[Member],
  group: Group,
  store: Store,
  *,
  found: Mapping[Member, Metrics],
  kept: Collection[Member],
  tick: Callable[[Member, int, Metrics], None],
) -> dict[Member, Metrics]:
  """Trains members to their end; returns what they gave.

  Args:
    chunk: Members of the group, at most its width.
    group: What trains them.
    store: Where they are kept, from time to time.
    found: What the store has of those that were in training before.
    kept: Members that are kept when they are done, too.
    tick: Told after each call of a member, by how many laps fewer it is still
      to be trained, and its metrics.
  """
  keys, hparams, raw, data = _arguments(chunk, group)
  carry, progress = _begin(
    chunk, group, store, found, group.programs.init(keys, hparams, raw)
  )

  def save(places: Iterable[int]) -> None:
    host = jax.device_get(carry) if places else None
    for place in places:
      member, width = chunk[place], group.width_per_device
      stores.save(store, member, width, _pick(host, place), progress[place])

  saved, changed = time.monotonic(), set()
  while any(left := [_laps_left(group, metrics) for metrics in progress]):
    if interruption.stop_requested():
      save(changed)
      raise interruption.Stopped
    started = time.monotonic()
    first, active = _next_lap(progress, np.array(left))
    carry, curves = group.programs.run(
      carry,
      np.int32(first),
      keys,
      hparams,
      np.pad(active, (0, group.width - len(chunk))),
      data,
      group.validation,
    )
    numbers = _numbers(carry, curves, group)
    seconds = (time.monotonic() - started) / np.count_nonzero(active)
    for place in np.flatnonzero(active):
      progress[place] = _extended(progress[place], numbers, place, seconds)
      more = _laps_left(group, progress[place])
      tick(chunk[place], left[place] - more, progress[place])
      changed.add(place)
    if time.monotonic() - saved >= store.config.checkpoint_seconds:
      save(changed)
      saved, changed = time.monotonic(), set()
  progress = _tested(group, carry, progress, keys, hparams, raw)
  save([place for place, member in enumerate(chunk) if member in kept])
  return dict(zip(chunk, progress, strict=True))


def _next_lap(
  progress: Sequence[Metrics], left: np.ndarray
) -> tuple[int, np.ndarray]:
  """Returns the lap that is next, and whose it is.

  Who is ahead, as after another run, waits for the others.
  """
  laps = np.array([len(metrics["objective_curve"]) for metrics in progress])
  first = min(laps[left > 0])
  return first, (left > 0) & (laps == first)


def _laps_left(group: Group, metrics: Metrics) -> int:
  """Returns for how many laps a member may still be trained."""
  if metrics["failed_step"] >= 0 or _has_converged(group, metrics):
    return 0
  return group.learner.num_laps - len(metrics["objective_curve"])


def _has_converged(group: Group, metrics: Metrics) -> bool:
  objectives = metrics["objective_curve"][group.learner.first_objective :]
  return group.stream.has_converged(objectives)


def _arguments(
  chunk: list[Member], group: Group
) -> tuple[jax.Array, Hparams, Samples, Samples]:
  """Returns keys, hyper-parameters and data of a chunk, as it was and prepared.

  The last member is repeated to the width of a chunk, so that all chunks run
  the same program: results do not depend on how members were dealt out.
  """
  filled = chunk + chunk[-1:] * (group.width - len(chunk))
  seeds = [member.seed for member in filled]
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = Hparams(
    *(
      jnp.array([getattr(m.cell, name) for m in filled], jnp.float32)
      for name in Hparams._fields
    )
  )
  return *group.place((keys, hparams)), *group.load(seeds)


def _begin(
  chunk: list[Member],
  group: Group,
  store: Store,
  found: Mapping[Member, Metrics],
  carry: program.Carry,
) -> tuple[program.Carry, list[Metrics]]:
  """Returns what a chunk carries, where its members had stopped."""
  nothing = {
    "objective_curve": np.zeros(0),
    "best_correct": np.int32(-1),
    "best_epoch": np.int32(0),
    "failed_step": np.int32(-1),
    "seconds": np.float64(0),
  }
  progress = [nothing] * len(chunk)
  places = [place for place, member in enumerate(chunk) if member in found]
  if not places:
    return carry, progress
  host = jax.tree.map(np.array, jax.device_get(carry))
  for place in places:
    restored, progress[place] = stores.restore(
      store, chunk[place], group.width_per_device, _pick(host, place)
    )
    jax.tree.map(
      lambda leaf, value, i=place: leaf.__setitem__(i, value), host, restored
    )
  return group.place(host), progress


def _numbers(
  carry: program.Carry, curves: Mapping[str, jax.Array], group: Group
) -> dict[str, np.ndarray]:
  """Returns what the host has to know of a call, [members] or [members, laps].

  Curves have `_curve` at the end of their names.
  """
  names = ("best_correct", "best_epoch", "failed_step")
  numbers = {name: getattr(carry, name) for name in names}
  numbers, curves = jax.device_get((numbers, curves))
  correct = curves.pop("correct")
  num_validation = len(group.dataset.validation.labels)
  curves["validation_accuracy"] = np.where(
    correct < 0, np.nan, correct / num_validation
  )
  curves = {f"{k}_curve": v.T.astype(np.float64) for k, v in curves.items()}
  return {**curves, **numbers}


def _extended(
  metrics: Metrics, numbers: Metrics, place: int, seconds: float
) -> Metrics:
  """Returns the metrics of a member after some more laps."""
  own = {
    name: np.append(metrics.get(name, []), values[place])
    if name.endswith("_curve")
    else values[place]
    for name, values in numbers.items()
  }
  return {**own, "seconds": metrics["seconds"] + seconds}


def _tested(
  group: Group,
  carry: program.Carry,
  progress: list[Metrics],
  keys: jax.Array,
  hparams: Hparams,
  data: Samples,
) -> list[Metrics]:
  """Adds what is known of members at their end, the test above all."""
  count, test = group.programs.count, group.test
  best, last = (
    count(variables, test, keys, hparams, np.int32(0))
    for variables in (carry.best, carry.state.variables)
  )
  rivals = {}
  if group.learner.rivals:
    rivals = group.programs.count_rivals(data, test)
  best, last, rivals = jax.device_get((best, last, rivals))
  num_test = len(group.dataset.test.labels)
  num_validation = len(group.dataset.validation.labels)
  tested = []
  for place, metrics in enumerate(progress):
    curve = metrics["validation_accuracy_curve"]
    accuracies = {
      "test_accuracy": best[place] / num_test,
      "test_accuracy_last": last[place] / num_test,
      "validation_accuracy": metrics["best_correct"] / num_validation,
      "validation_accuracy_last": curve[-1],
    }
    if metrics["failed_step"] >= 0:
      accuracies = dict.fromkeys(accuracies, np.nan)
    accuracies |= {
      f"test_accuracy_{name}": count[place] / num_test
      for name, count in rivals.items()
    }
    tested.append(
      {
        **metrics,
        **{name: np.float64(value) for name, value in accuracies.items()},
        "epochs": np.int32(len(curve) * group.learner.epochs),
        "converged": np.int32(_has_converged(group, metrics)),
      }
    )
  return tested


def _pick(tree: PyTree, place: int) -> PyTree:
  """Returns one member of arrays [members, ...]."""
  return jax.tree.map(lambda leaf: leaf[place], tree)
