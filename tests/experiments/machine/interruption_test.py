"""Tests of experiments.machine.interruption."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.machine import interruption
from tests.experiments import in_process

UNTIL_ASKED = "while not interruption.stop_requested(): time.sleep(0.01)"
# Waits in C for minutes and lets other threads run, as a compiled program does.
BUSY = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'


def start(work, *before):
  """Starts a process that does some work with its signals handled."""
  program = f"""
import hashlib, threading, time
from experiments.machine import interruption
with interruption.handled():
  # By another thread, when this one is at work.
  threading.Timer(0.5, lambda: print("ready", flush=True)).start()
  {work}
print("left", flush=True)
"""
  process = subprocess.Popen(
    [*before, sys.executable, "-c", program],
    cwd=in_process.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "ready\n"
  return process


def wait_for_line(process):
  """Waits until a signal has been answered; the line that says how."""
  assert process.stderr.readline() == "\n"
  return process.stderr.readline()


def test_sigterm_asks():
  process = start(UNTIL_ASKED)
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (0, "left\n")
  assert err.startswith("\nstopping as soon as ")
  assert err.count("\n") == 2


def test_a_later_sigterm_ends_at_once_what_is_being_computed():
  process = start(BUSY)
  process.send_signal(signal.SIGTERM)
  assert wait_for_line(process).startswith("stopping as soon as ")
  # As GNU timeout does, which is no second request.
  process.send_signal(signal.SIGTERM)
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(interruption.AGAIN_SECONDS + 0.5)
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=10)
  assert (process.returncode, out) == (128 + signal.SIGTERM, "")
  assert err.startswith("\nended at once; ")


def test_interrupt_ends_what_is_being_computed():
  process = start(BUSY)
  process.send_signal(signal.SIGINT)
  started = time.monotonic()
  out, err = process.communicate(timeout=30)
  assert time.monotonic() - started < interruption.PATIENCE_SECONDS + 5
  assert (process.returncode, out) == (128 + signal.SIGINT, "")
  assert err.startswith("\nended at once; ")


def test_interrupt_is_an_exception_as_ever():
  def work():
    with interruption.handled():
      signal.raise_signal(signal.SIGINT)
      time.sleep(10)

  with pytest.raises(KeyboardInterrupt):
    work()


def test_everything_is_put_back(capfd):
  before = signal.getsignal(signal.SIGTERM), threading.active_count()
  for _ in range(2):
    with interruption.handled():
      assert not interruption.stop_requested()
      signal.raise_signal(signal.SIGTERM)
      deadline = time.monotonic() + 10
      while not interruption.stop_requested():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not interruption.stop_requested()
  after = signal.getsignal(signal.SIGTERM), threading.active_count()
  assert after == before
  assert signal.set_wakeup_fd(-1) == -1
  assert capfd.readouterr().err.count("stopping as soon as") == 2


def test_other_threads_may_run_it():
  seen = []

  def work():
    with interruption.handled():
      seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


def test_a_request_of_another_process_and_its_signal(capfd):
  """Each of several processes is signalled, and hears of the others'."""
  with interruption.handled():
    interruption.request()
    signal.raise_signal(signal.SIGTERM)
    # Ended at once, this process would not come so far.
    time.sleep(0.2)
    assert interruption.stop_requested()
  assert not interruption.stop_requested()
  assert capfd.readouterr().err == ""


@pytest.mark.skipif(not shutil.which("timeout"), reason="needs GNU timeout")
def test_gnu_timeout():
  """It signals the process, and at once its whole group."""
  before = ("timeout", "--preserve-status", "2.5")
  process = start(f"{UNTIL_ASKED}\n  time.sleep(0.5)", *before)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (0, "left\n")
  assert err.count("stopping as soon as ") == 1
