"""Stopping in good order: SIGTERM asks for it, a second one insists.

A scheduler that takes a machine back sends SIGTERM and some time later kills. A
script that got it finishes what is running now, a chunk of simulations or an
epoch, keeps the result and ends with exit status 0. A second SIGTERM, some time
later, or Ctrl-C ends the process at once; what was kept before stays.

Signals are heard by a thread of their own, because Python calls handlers in the
main thread, which may wait for a compiled program for minutes.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import socket
import sys
import threading
import time

# How long Ctrl-C may take to unwind before the process is ended without.
PATIENCE_SECONDS = 3.0
# A request that comes sooner is the first one once more: GNU timeout signals
# its child and then its group, a scheduler several processes at once, of which
# each passes it on.
AGAIN_SECONDS = 2.0

_requested_at: float | None = None


class Stopped(Exception):
  """Work ended early because that was asked for; what was done is kept."""


def request() -> None:
  """Asks the work of this process to stop in good order."""
  global _requested_at
  if _requested_at is None:
    _requested_at = time.monotonic()


def stop_requested() -> bool:
  """Tells whether work should stop at the next good place."""
  return _requested_at is not None


@contextlib.contextmanager
def handled() -> Iterator[None]:
  """Hears SIGTERM and Ctrl-C while its block runs.

  No request outlives the block, and what signals did before is put back. In
  another thread than the main one, where Python allows no handlers, the block
  runs without.
  """
  global _requested_at
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  left = threading.Event()
  thread = threading.Thread(target=_listen, args=(reader, left), daemon=True)
  old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  # The thread does everything; this only keeps SIGTERM from killing.
  old_handler = signal.signal(signal.SIGTERM, lambda *_: None)
  thread.start()
  try:
    yield
  finally:
    left.set()
    signal.signal(signal.SIGTERM, old_handler)
    signal.set_wakeup_fd(old_fd)
    writer.close()
    thread.join()
    reader.close()
    _requested_at = None


def _listen(reader: socket.socket, left: threading.Event) -> None:
  """Acts on every signal, whose numbers Python writes to the other end."""
  while number := reader.recv(1):
    if number[0] == signal.SIGINT:
      # Usually KeyboardInterrupt does all: it puts the terminal right, too.
      if not left.wait(PATIENCE_SECONDS):
        _end(signal.SIGINT)
    elif number[0] == signal.SIGTERM:
      if _requested_at is None:
        request()
        _tell(
          "stopping as soon as what runs now is done; again after "
          f"{AGAIN_SECONDS:g} s to end at once"
        )
      elif time.monotonic() - _requested_at > AGAIN_SECONDS:
        _end(signal.SIGTERM)


def _end(number: int) -> None:
  _tell("ended at once; finished simulations are kept")
  os._exit(128 + number)


def _tell(text: str) -> None:
  print(f"\n{text}", file=sys.stderr, flush=True)
