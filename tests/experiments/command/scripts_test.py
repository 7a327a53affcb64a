"""Tests of experiments.command.scripts."""

import logging
import pathlib
import subprocess
import sys

from absl import flags
import jax
import pytest

from experiments import datasets
from experiments.command import parsing, scripts
from experiments.records import results
from tests.experiments import in_process

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _settings():
  with in_process.kept_settings():
    yield


def test_works_under_its_settings(capsys):
  seen = []

  def work():
    seen.append(jax.config.jax_default_matmul_precision)
    seen.append(logging.getLogger("jax").level)

  assert jax.config.jax_default_matmul_precision != "highest"
  assert scripts.run(["script"], work) == 0
  assert seen == ["highest", logging.WARNING]
  assert capsys.readouterr() == ("", "")


def test_devices_are_chosen_before_the_work(monkeypatch):
  calls = []
  monkeypatch.setattr(
    scripts.devices, "use_all_cores", lambda: calls.append("devices")
  )
  scripts.run(["script"], lambda: calls.append("work"))
  assert calls == ["devices", "work"]


@pytest.mark.parametrize(
  "error", (parsing.ConfigError, datasets.DatasetError, results.ResultError)
)
def test_errors_of_the_user_are_a_line(error, capsys):
  def work():
    raise error("what was wrong")

  assert scripts.run(["script"], work) == 2
  assert capsys.readouterr() == ("", "error: what was wrong\n")


def test_unexpected_argument(capsys):
  ran = []
  assert scripts.run(["script", "mnist", "x"], lambda: ran.append(1)) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err == (
    "error: unexpected argument 'mnist'; options begin with --, see --help\n"
  )
  assert ran == []


def test_interrupt(capsys):
  def work():
    raise KeyboardInterrupt

  assert scripts.run(["script"], work) == 130
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("\nstopped; ")
  assert err.count("\n") == 2


# A traceback is what a report of a bug needs.
@pytest.mark.parametrize("error", (ValueError, OSError, MemoryError))
def test_errors_of_the_program_are_not_hidden(error):
  def work():
    raise error("a bug")

  with pytest.raises(error, match="a bug"):
    scripts.run(["script"], work)


class TestWrongReleases:
  """tests/bean_jax/check_test.py has what they are."""

  @pytest.fixture
  def pretend(self, monkeypatch):
    """Makes the installed jaxlib another one."""

    def pretend(version):
      monkeypatch.delenv("XLA_FLAGS", raising=False)
      monkeypatch.setattr(
        scripts.importlib.metadata, "version", lambda package: version
      )

    return pretend

  def test_refused_with_the_cure(self, pretend, capsys):
    pretend("0.10.2")
    ran = []
    assert scripts.run(["script"], lambda: ran.append(1)) == 2
    out, err = capsys.readouterr()
    assert (out, ran) == ("", [])
    assert err.startswith(
      "error: jaxlib 0.10.2 on a cpu computes wrong numbers"
    )
    assert "pip install 'jax>=0.10,!=0.10.2'" in err
    assert err.count("\n") == 1

  def test_cured_by_the_flag(self, pretend, monkeypatch, capsys):
    pretend("0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    ran = []
    assert scripts.run(["script"], lambda: ran.append(1)) == 0
    assert ran == [1]
    assert capsys.readouterr() == ("", "")

  def test_others_wait_for_no_device(self, monkeypatch):
    monkeypatch.setattr(jax, "devices", None)
    assert scripts.run(["script"], lambda: None) == 0


@pytest.mark.parametrize(
  "text,line",
  (
    ("é ü \U0001f642 a b", "é ü \U0001f642 a b"),
    ("a\nb\tc", "a\\nb\\tc"),
    ("\x1b[2J\0\udc80", "\\x1b[2J\\x00\\udc80"),
    ("\u2028", "\\u2028"),
  ),
)
def test_one_line(text, line):
  assert scripts.one_line(ValueError(text)) == line
  assert len(line.splitlines()) == 1


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

  @pytest.mark.parametrize(
    "args,seen",
    (
      ((), ([], 1)),
      (("--number=5",), ([], 5)),
      (("--number", "5", "mnist"), (["mnist"], 5)),
    ),
  )
  def test_flags_and_the_rest_reach_main(self, args, seen, start):
    assert start(*args) == (7, [seen], "", "")

  @pytest.mark.parametrize("arg", ("--number=x", "--numbers=1", "--number"))
  def test_what_cannot_be_parsed_is_a_line(self, arg, start):
    status, seen, out, err = start(arg)
    assert (status, seen, out) == (2, [], "")
    assert err.startswith("error: ")
    assert err.endswith("see --help\n")
    assert err.count("\n") == 1
    assert "number" in err

  @pytest.mark.parametrize("arg", ("--nodeterministic=1", "--nodeterministic="))
  def test_a_flag_that_takes_no_value(self, arg, start):
    status, seen, out, err = start(arg)
    assert (status, seen, out) == (2, [], "")
    assert err.startswith(f"error: {arg} does not take an argument; see ")
    assert err.count("\n") == 1

  @pytest.mark.parametrize(
    "content,expected",
    (
      (b"\xff--number=1\n", "expected a text in UTF-8"),
      (None, "Unable to open"),
    ),
  )
  def test_flagfile(self, content, expected, start, tmp_path):
    path = tmp_path / "flags"
    if content is not None:
      path.write_bytes(content)
    status, seen, out, err = start(f"--flagfile={path}")
    assert (status, seen, out) == (2, [], "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1

  @pytest.mark.parametrize("arg", ("--help", "-h", "--helpshort"))
  def test_help(self, arg, start):
    status, seen, out, err = start("--number=5", arg)
    assert (status, seen, err) == (0, [], "")
    assert "--number: how many" in out


SCRIPTS = [
  f"{path.parent.name}/{path.name}"
  for folder in ("experiments", "benchmarks")
  for path in sorted((ROOT / folder).glob("*.py"))
  if "scripts.start(" in path.read_text()
]


def test_scripts_are_found():
  assert {"experiments/few_shot.py", "benchmarks/run.py"} < set(SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS)
def test_started_by_its_path(path, tmp_path):
  process = subprocess.run(
    [sys.executable, ROOT / path, "--help"],
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
