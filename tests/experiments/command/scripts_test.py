"""Tests of experiments.command.scripts."""

import logging
import os
import re
import signal
import subprocess
import sys

from absl import flags
import jax
import pytest

from experiments import datasets
from experiments.command import parsing, scripts
from experiments.machine import interruption
from experiments.records import results
from tests.experiments import in_process
from tests.faults import here

KEPT = "finished cells are kept, the same command goes on from there"


@pytest.fixture(autouse=True)
def _settings():
  with in_process.kept_settings():
    yield


def test_works_under_its_settings(monkeypatch, capsys):
  seen = []
  monkeypatch.setattr(
    scripts.devices, "use_all_cores", lambda: seen.append("devices")
  )

  def work():
    seen.append(jax.config.jax_default_matmul_precision)
    seen.append(logging.getLogger("jax").level)

  assert jax.config.jax_default_matmul_precision != "highest"
  assert scripts.run(["script"], work) == 0
  # Once a device is asked for, there can be no more of them.
  assert seen == ["devices", "highest", logging.WARNING]
  assert capsys.readouterr() == ("", "")


def fails(error):
  def work():
    raise error

  return work


@pytest.mark.parametrize(
  "error,status,line",
  (
    (parsing.ConfigError("it is wrong"), 2, "error: it is wrong\n"),
    (datasets.DatasetError("it is wrong"), 2, "error: it is wrong\n"),
    (results.ResultError("it is wrong"), 2, "error: it is wrong\n"),
    (KeyboardInterrupt(), 130, f"\nstopped; {KEPT}\n"),
    (interruption.Stopped(), 0, f"stopped as asked; {KEPT}\n"),
  ),
)
def test_ends_in_good_order(error, status, line, capsys):
  assert scripts.run(["script"], fails(error), flags.FlagValues()) == status
  assert capsys.readouterr() == ("", line)


def test_unexpected_argument(capsys):
  assert scripts.run(["script", "mnist", "x"], fails(AssertionError)) == 2
  assert capsys.readouterr() == (
    "",
    "error: unexpected argument 'mnist'; options begin with --, see --help\n",
  )


# A traceback is what a report of a bug needs.
@pytest.mark.parametrize("error", (ValueError, OSError, MemoryError))
def test_errors_of_the_program_are_not_hidden(error):
  with pytest.raises(error, match="a bug"):
    scripts.run(["script"], fails(error("a bug")))


def test_sigterm_is_heard_where_work_asks():
  seen = []

  def work():
    seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  assert scripts.run(["script"], work, flags.FlagValues()) == 0
  assert scripts.run(["script"], work) == 0
  assert seen[0] != before
  assert seen[1] == before == signal.getsignal(signal.SIGTERM)


class TestWrongReleases:
  """tests/bean_jax/check_test.py has what they are."""

  def test_refused_with_the_cure_and_cured(self, monkeypatch, capsys):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(
      scripts.importlib.metadata, "version", lambda package: "0.10.2"
    )
    assert scripts.run(["script"], fails(AssertionError)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
      "error: jaxlib 0.10.2 on a cpu computes wrong numbers"
    )
    assert "pip install 'jax>=0.10,!=0.10.2'" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    ran = []
    assert scripts.run(["script"], lambda: ran.append(1)) == 0
    assert ran == [1]
    assert capsys.readouterr() == ("", "")

  def test_others_wait_for_no_device(self, monkeypatch):
    monkeypatch.setattr(jax, "devices", None)
    assert scripts.run(["script"], lambda: None) == 0


def test_one_line():
  error = ValueError("\u00e9 \U0001f642\n\t\x1b[2J\0\udc80\u2028")
  expected = "\u00e9 \U0001f642\\n\\t\\x1b[2J\\x00\\udc80\\u2028"
  assert scripts.one_line(error) == expected


class TestStart:
  """What a user's command line makes of a script."""

  @pytest.fixture
  def start(self, monkeypatch, capsys):
    """Starts a script; its exit status, what it saw, and what it printed."""
    # Other tests may have parsed absl's own flags, which scripts do not have.
    parsed = flags.FLAGS.is_parsed()
    flags.FLAGS.unparse_flags()

    def start(*args):
      values = flags.FlagValues()
      flags.DEFINE_integer("number", 1, "how many", flag_values=values)
      seen = []

      def main(argv):
        seen.append((argv[1:], values.number))
        return 7

      monkeypatch.setattr(sys, "argv", ["script", *args])
      with pytest.raises(SystemExit) as end:
        scripts.start(main, values)
      return end.value.code, seen, *capsys.readouterr()

    yield start
    flags.FLAGS.unparse_flags()
    if parsed:
      flags.FLAGS.mark_as_parsed()

  def test_flags_and_the_rest_reach_main(self, start):
    assert start() == (7, [([], 1)], "", "")
    assert start("--number", "5", "mnist") == (7, [(["mnist"], 5)], "", "")

  @pytest.mark.parametrize(
    "arg,line",
    (
      ("--number=x", "number"),
      ("--numbers=1", "number"),
      ("--number", "number"),
      ("--nodeterministic=1", "--nodeterministic=1 does not take an argument;"),
      ("--nodeterministic=", "--nodeterministic= does not take an argument;"),
      ("--flagfile={}/bytes", "expected a text in UTF-8"),
      ("--flagfile={}/none", "Unable to open"),
    ),
  )
  def test_what_cannot_be_parsed_is_a_line(self, arg, line, start, tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff--number=1\n")
    status, seen, out, err = start(arg.format(tmp_path))
    assert (status, seen, out) == (2, [], "")
    assert err.startswith("error: ")
    assert line in err
    assert err.endswith("see --help\n") or "flagfile" in arg
    assert err.count("\n") == 1

  def test_deterministic_leaves_other_flags_of_xla(self, start, monkeypatch):
    for given in ("--xla_other=1", ""):
      for arg, added in (
        ("--nodeterministic", ""),
        ("--deterministic", " --xla_gpu_deterministic_ops=true"),
      ):
        monkeypatch.setenv("XLA_FLAGS", given)
        assert start(arg)[0] == 7
        assert os.environ["XLA_FLAGS"] == (given + added).strip()

  @pytest.mark.parametrize("arg", ("--help", "-h", "--helpshort"))
  def test_help(self, arg, start):
    status, seen, out, err = start("--number=5", arg)
    assert (status, seen, err) == (0, [], "")
    assert "--number: how many" in out


SCRIPTS = [
  f"{path.parent.name}/{path.name}"
  for folder in ("experiments", "benchmarks")
  for path in sorted((in_process.ROOT / folder).glob("*.py"))
  if "scripts.start(" in path.read_text()
]
assert {"experiments/few_shot.py", "benchmarks/run.py"} < set(SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS)
def test_started_by_its_path(path, tmp_path):
  process = subprocess.run(
    [sys.executable, in_process.ROOT / path, "--help"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=60,
  )
  module = path.removesuffix(".py").replace("/", ".")
  assert (process.returncode, process.stdout) == (2, "")
  assert process.stderr == (
    "error: start it as a module, in the folder of this project: "
    f"python -m {module}\n"
  )


@pytest.mark.parametrize(
  "script,python",
  (
    (here.ALL["few_shot"], ()),
    # Without docstrings, too.
    pytest.param(here.ALL["few_shot"], ("-OO",), marks=pytest.mark.slow),
    *(
      pytest.param(script, (), marks=pytest.mark.slow)
      for name, script in here.ALL.items()
      if name != "few_shot"
    ),
  ),
)
def test_help_names_every_flag(script, python):
  done = in_process.as_user(script, "--helpshort", python=python)
  assert done.stderr == ""
  for flag in script.FLAGS.flags_by_module_dict()[script.__name__]:
    name = f"[no]{flag.name}" if flag.boolean else flag.name
    # A long list of values begins on a line of its own.
    assert re.search(rf"--{re.escape(name)}:\s", done.stdout)
  assert done.stdout.startswith(script.__doc__.partition("\n")[0])
  assert max(map(len, done.stdout.splitlines())) <= 80
