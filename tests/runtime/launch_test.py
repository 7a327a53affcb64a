"""Tests of the scripts in launch/."""

import os
import re
import signal
import subprocess
import sys

import pytest

from experiments import few_shot, full_data, study, table1
from experiments.records import results
from tests.runtime import processes

LAUNCH = processes.ROOT / "launch"
NAMES = ("local_gpus.sh", "slurm.sh")
# Says how it was started, and ends as it is told.
FAKE_PYTHON = """#!/bin/bash
if [[ $1 == -c ]]; then exec {python} "$@"; fi
id=$(grep -oP -- '--process_id=\\K[0-9]+' <<< "$*" || true)
echo "$*" > {folder}/args$id
echo "${{CUDA_VISIBLE_DEVICES-unset}}" > {folder}/gpu$id
{end}
"""


@pytest.fixture
def launch(tmp_path):
  """Starts a script of launch/ with a python, and an srun, that are not."""

  def launch(name, *args, end="", **environment):
    for command, text in (
      ("python", FAKE_PYTHON),
      ("srun", '#!/bin/bash\necho "$*" > {folder}/called\n'),
    ):
      path = tmp_path / command
      path.write_text(
        text.format(python=sys.executable, folder=tmp_path, end=end)
      )
      path.chmod(0o755)
    environment = {**os.environ, **environment}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    return subprocess.Popen(
      # Tests that run in the background of a shell ignore Ctrl-C, and would
      # hand that on.
      ["env", "--default-signal=INT", "bash", LAUNCH / name, *args],
      cwd=processes.ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return launch


@pytest.mark.parametrize("name", NAMES)
class TestText:
  def test_parses(self, name):
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)

  def test_flags_and_scripts_exist(self, name):
    text = (LAUNCH / name).read_text()
    for script in (few_shot, table1, full_data, study):
      assert script.__name__.removeprefix("experiments.") in text
      command = text[text.rindex("-m ") :]
      for flag in re.findall(r"--(\w+)", command):
        assert flag in script.FLAGS
    for flag in re.findall(r"^# .* --(\w+)=", text, re.MULTILINE):
      assert flag in few_shot.FLAGS or "gpus-per-node" in text


@pytest.mark.parametrize(
  "name,args",
  (
    ("slurm.sh", ()),
    ("local_gpus.sh", ()),
    ("local_gpus.sh", ("x", "few_shot")),
    ("local_gpus.sh", ("0", "few_shot")),
  ),
)
def test_usage(name, args, launch):
  process = launch(name, *args)
  out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (2, "")
  assert err.startswith("usage: ")
  assert err.count("\n") == 1


class TestSlurm:
  def test_command(self, launch, tmp_path):
    process = launch("slurm.sh", "table1", "--shots=1,5", "--output_dir=a b")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert (tmp_path / "called").read_text() == (
      "--kill-on-bad-exit=1 python -u -m experiments.table1 --distributed "
      "--shots=1,5 --output_dir=a b\n"
    )

  def test_sigterm_comes_before_the_time_limit(self):
    text = (LAUNCH / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
    assert options["signal"] == "TERM@300"
    assert options["dependency"] == "singleton"
    assert options["ntasks-per-node"] == options["gpus-per-node"]


class TestLocalGpus:
  def read(self, tmp_path, name):
    return [(tmp_path / f"{name}{i}").read_text().rstrip() for i in range(3)]

  @pytest.mark.parametrize(
    "visible,expected",
    (("4,0,2,7", ["4", "0", "2"]), ("", ["", "", ""])),
  )
  def test_a_process_for_each(self, visible, expected, launch, tmp_path):
    process = launch(
      "local_gpus.sh",
      *("3", "few_shot", "--output_dir=a b"),
      CUDA_VISIBLE_DEVICES=visible,
    )
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert self.read(tmp_path, "gpu") == expected
    args = self.read(tmp_path, "args")
    ports = {re.search(r"localhost:(\d+)", text)[1] for text in args}
    assert len(ports) == 1
    for number, text in enumerate(args):
      assert text == (
        "-u -m experiments.few_shot "
        f"--coordinator_address=localhost:{next(iter(ports))} "
        f"--num_processes=3 --process_id={number} --output_dir=a b"
      )

  def test_exit_status(self, launch):
    process = launch("local_gpus.sh", "3", "few_shot", end="exit $((id * 2))")
    process.communicate(timeout=60)
    assert process.returncode == 2

  @pytest.mark.parametrize(
    "number,end,expected",
    (
      (signal.SIGTERM, "trap 'kill $!; exit 0' TERM; sleep 60 & wait", 0),
      (signal.SIGTERM, "trap 'kill $!; exit 3' TERM; sleep 60 & wait", 3),
      (signal.SIGINT, "exec sleep 60", 130),
    ),
  )
  def test_signals(self, number, end, expected, launch, tmp_path):
    process = launch("local_gpus.sh", "3", "few_shot", end=f"{end}")
    processes.wait_for(tmp_path, "gpu?", [process], number=3, seconds=60)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == expected

  @pytest.mark.slow
  def test_it_trains(self, launch, tmp_path):
    process = launch(
      "local_gpus.sh",
      *("2", "few_shot", "--model=mlp500", "--methods=vanilla", "--shots=1"),
      *("--seeds=4", "--epochs=2", "--members_per_chunk=1"),
      f"--output_dir={tmp_path / 'out'}",
      end=f'exec {sys.executable} "$@"',
      LAUNCH_CORES="1",
      CUDA_VISIBLE_DEVICES="",
      JAX_PLATFORMS="cpu",
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    (record,) = results.load_all(tmp_path / "out").values()
    assert record["seeds"] == [0, 1, 2, 3]
    # A core each, which is two devices.
    assert record["device"]["count"] == 4
    assert "1-shot Vanilla: test " in out
