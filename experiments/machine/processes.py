"""The other processes of a run, if there are any, as `jax.distributed` says.

Members of a population need nothing of each other, so processes exchange no
arrays, only files; and, through JAX's key-value store, a few words.
"""

from collections.abc import Callable, Iterator
import json
import time
from typing import Any

# The key-value store of `jax.distributed` has no public face.
from jax._src import distributed as jax_distributed

from experiments.machine import interruption, notices

START_SECONDS = 300
POLL_SECONDS = 0.5
# After so long, somebody who waits says for what.
PATIENCE_SECONDS = 600.0

# Where the first process says what it runs with.
START = "bean_jax/start"


def client() -> Any:
  """Returns JAX's client of the key-value store, None for one process."""
  return jax_distributed.global_state.client


def share() -> tuple[int, int]:
  """Returns the number of this process and how many there are."""
  state = jax_distributed.global_state
  return (state.process_id, state.num_processes) if client() else (0, 1)


def is_first() -> bool:
  """Tells whether this process puts results together and prints them."""
  return share()[0] == 0


def agreed(name: str, make: Callable[[], Any]) -> Any:
  """Returns what all processes must have alike.

  One process alone makes it; of several, the first says it at its start, as a
  field of `START`.
  """
  if client() is None:
    return make()
  start = client().blocking_key_value_get(START, START_SECONDS * 1000)
  return json.loads(start)[name]


def waiting(what: str) -> Iterator[None]:
  """Yields again and again, until its caller has seen what it waits for.

  Raises:
    interruption.Stopped: If a stop is requested.
  """
  started, told = time.monotonic(), False
  while True:
    yield
    if interruption.stop_requested():
      raise interruption.Stopped
    if time.monotonic() - started > PATIENCE_SECONDS and not told:
      told = True
      notices.warn(
        f"waiting for {what}; --output_dir has to be a folder that all "
        "processes share"
      )
    time.sleep(POLL_SECONDS)
