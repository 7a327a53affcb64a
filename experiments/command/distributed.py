"""Several processes, on one machine or many, that share the work of a run.

Members of a population need nothing of each other. So processes exchange no
arrays: each trains its own share of the chunks on its own devices and leaves
the results in --output_dir, which all must see; process 0 puts them together.
`jax.distributed` says who is who, passes on a request to stop, and ends all
when one of them dies. Nothing can then wait for an array that never comes, and
the same command, with as many processes or another number, goes on from the
files.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import re
import sys
import threading
from typing import Any

from absl import flags
import jax

from experiments.command import parsing
from experiments.machine import devices, interruption, processes
from experiments.records import results

# A process that has not been heard of for so long is dead.
HEARTBEAT_SECONDS = 30
# At the end all wait for who still trains its last chunk.
END_SECONDS = 24 * 60 * 60

_STOP = "bean_jax/stop/requested"

# Flags that may differ from process to process.
_OWN_FLAGS = {"process_id", "data_dir"}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of runs with several processes."""
  flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port of process 0, for a run of several processes that share "
    "--output_dir; needs --num_processes and --process_id",
    flag_values=values,
  )
  for name, text in (
    ("num_processes", "processes of the run"),
    ("process_id", "number of this process, from 0"),
  ):
    flags.DEFINE_integer(name, None, text, flag_values=values)
  flags.DEFINE_bool(
    "distributed",
    False,
    "run as one of several processes that Slurm, Open MPI or a cloud TPU has "
    "started, and find the others by their environment",
    flag_values=values,
  )


@contextlib.contextmanager
def joined(values: flags.FlagValues | None) -> Iterator[None]:
  """Makes this process one of several while its block runs, if flags say so.

  Scripts without flags, or without those of `define_flags`, are one process.

  Raises:
    parsing.ConfigError: If the flags make no sense, or differ from those of
      process 0, or the other processes do not come.
  """
  has_flags = values is not None and "coordinator_address" in values
  chosen = _parse(values) if has_flags else None
  if chosen is None:
    yield
    return
  _initialize(chosen)
  over = threading.Event()
  watch = threading.Thread(target=_watch, args=(over,), daemon=True)
  watch.start()
  try:
    _compare(values)
    yield
  except KeyboardInterrupt:
    # Not in good order: the others see that this process is gone.
    print("\nended at once; finished simulations are kept", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
  except BaseException:
    # Whatever it was, the others must not wait for this process.
    interruption.request()
    processes.client().key_value_set(_STOP, "1", allow_overwrite=True)
    raise
  finally:
    over.set()
    watch.join()
    jax.distributed.shutdown()


def _parse(values: flags.FlagValues) -> dict[str, Any] | None:
  """Returns arguments of `jax.distributed.initialize`, None for one process."""
  names = ("coordinator_address", "num_processes", "process_id")
  given = {name: values[name].value for name in names}
  if all(value is None for value in given.values()):
    return {} if values["distributed"].value else None
  for name, value in given.items():
    if value is None:
      raise parsing.ConfigError(
        f"--{name}: expected with --"
        + " and --".join(other for other in names if given[other] is not None)
      )
  parsing.number("num_processes", given["num_processes"], low=1)
  parsing.number(
    "process_id", given["process_id"], low=0, below=given["num_processes"]
  )
  address = given["coordinator_address"]
  port = re.fullmatch(r"[^\s/]+:(\d{1,5})", address)
  if port is None or not 0 < int(port[1]) < 65536:
    raise parsing.ConfigError(
      f"--coordinator_address: expected host:port, got {address!r}"
    )
  return given


def _initialize(chosen: dict[str, Any]) -> None:
  # It would take SIGTERM away from `interruption`.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **chosen,
      initialization_timeout=processes.START_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=END_SECONDS,
    )
  except ValueError as error:
    raise parsing.ConfigError(
      "--distributed: found no job of Slurm, Open MPI or a cloud TPU here; "
      "give --coordinator_address, --num_processes and --process_id"
    ) from error
  except RuntimeError as error:
    reason = str(error).partition("\n")[0]
    raise parsing.ConfigError(
      f"--coordinator_address: the processes did not find each other ({reason})"
    ) from error


def _compare(values: flags.FlagValues) -> None:
  """Refuses processes whose numbers would not belong together."""
  devices.refuse_missing()
  mine = {
    "flags": {
      name: value
      for name, value in values.flag_values_dict().items()
      if name not in _OWN_FLAGS
    },
    "environment": results.environment(),
    "devices": jax.local_device_count(),
  }
  client = processes.client()
  if processes.is_first():
    client.key_value_set(processes.START, json.dumps(mine))
  theirs = {name: processes.agreed(name, lambda: None) for name in mine}
  mine = json.loads(json.dumps(mine))
  for name, value in mine["flags"].items():
    _check_equal(f"--{name}", value, theirs["flags"].get(name))
  _check_equal("devices of a process", mine["devices"], theirs["devices"])
  for name in ("versions", "device", "settings"):
    _check_equal(name, mine["environment"][name], theirs["environment"][name])
  if "resume" in values and not values["resume"].value:
    raise parsing.ConfigError(
      "--noresume: several processes cannot tell old results from each "
      "other's; choose a new --output_dir"
    )


def _check_equal(name: str, mine: Any, theirs: Any) -> None:
  if mine != theirs:
    raise parsing.ConfigError(
      f"{name}: expected the same in all processes, got {theirs!r} in process "
      f"0 and {mine!r} in process {processes.share()[0]}"
    )


def _watch(over: threading.Event) -> None:
  """Passes a request to stop on, from this process and to it."""
  client = processes.client()
  # Where process 0 is gone, JAX ends this process, with a message.
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    while not over.wait(processes.POLL_SECONDS):
      if interruption.stop_requested():
        client.key_value_set(_STOP, "1", allow_overwrite=True)
        return
      # Asking for the key itself, which is not there, would be an error.
      if client.key_value_dir_get(os.path.dirname(_STOP)):
        interruption.request()
