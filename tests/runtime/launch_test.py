"""Tests of the scripts in launch/."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest

from experiments import few_shot, full_data, study, table1
from experiments.records import results
from tests.experiments import in_process
from tests.runtime import processes

LAUNCH = in_process.ROOT / "launch"
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
      cwd=in_process.ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return launch


@pytest.mark.parametrize("name", ("local_gpus.sh", "slurm.sh"))
def test_flags_and_scripts_exist(name):
  text = (LAUNCH / name).read_text()
  command = text[text.rindex("-m ") :]
  for script in (few_shot, table1, full_data, study):
    assert script.__name__.removeprefix("experiments.") in text
    for flag in re.findall(r"--(\w+)", command):
      assert flag in script.FLAGS


@pytest.mark.parametrize(
  "name,args",
  (
    ("slurm.sh", ()),
    ("local_gpus.sh", ()),
    ("local_gpus.sh", ("x", "few_shot")),
    ("local_gpus.sh", ("0", "few_shot")),
    ("gpu_campaign.sh", ()),
    ("gpu_campaign.sh", ("--help",)),
    ("gpu_campaign.sh", ("a", "b")),
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

  @pytest.mark.parametrize(
    "number,end,expected",
    (
      (signal.SIGTERM, "trap 'kill $!; exit 0' TERM; sleep 60 & wait", 0),
      (signal.SIGTERM, "trap 'kill $!; exit 3' TERM; sleep 60 & wait", 3),
      (signal.SIGINT, "exec sleep 60", 130),
      # By none, and one of its processes failed.
      (None, "exit $((id * 2))", 2),
    ),
  )
  def test_exit_status(self, number, end, expected, launch, tmp_path):
    process = launch("local_gpus.sh", "3", "few_shot", end=end)
    if number is not None:
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


class TestGpuCampaign:
  STEPS = ("checks", "benchmarks", "golden", "table1", "imitation", "resnet18")

  def campaign(self, folder, **environment):
    """Runs it with a home and a folder of temporary files that stay empty."""
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME")
    environment |= dict.fromkeys(names, str(outside))
    finished = subprocess.run(
      ["bash", LAUNCH / "gpu_campaign.sh", folder / "out put"],
      env={**os.environ, "CAMPAIGN_TINY": "1", **environment},
      capture_output=True,
      text=True,
      check=False,
      timeout=1500,
    )
    assert finished.stderr == ""
    assert not list(outside.iterdir())
    return finished.returncode, finished.stdout

  @pytest.mark.slow
  def test_goes_on_until_all_is_there(self, tmp_path):
    status, text = self.campaign(tmp_path, CAMPAIGN_SECONDS="0.2")
    assert status == 0
    assert text.count("not finished") == len(self.STEPS)
    status, text = self.campaign(tmp_path)
    assert status == 0, text
    started = re.findall(r"\] (\w+): ", text)
    assert started == list(self.STEPS)
    out = tmp_path / "out put"
    files = sorted(path.name for path in out.iterdir() if path.is_file())
    assert files == sorted(
      ["campaign.log", *(f"{name}.tar.gz" for name in self.STEPS)]
    )
    held = {}
    for name in self.STEPS:
      with tarfile.open(out / f"{name}.tar.gz") as archive:
        held[name] = {path.rpartition("/")[2] for path in archive.getnames()}
    assert "digits-1shot-vanilla.json" in held["table1"]
    assert "digits-mlp500-bean1-alpha3.json" in held["resnet18"]
    assert "gpu-quick.json" in held["benchmarks"]
    assert any("-jax" in name for name in held["golden"])
    assert not any(name.endswith(".npz") for name in held["resnet18"])
    # Elsewhere, with what was brought along and nothing else.
    shutil.rmtree(out / "work")
    (tmp_path / "elsewhere").mkdir()
    out.rename(tmp_path / "elsewhere" / "out put")
    assert self.campaign(tmp_path / "elsewhere") == (0, "")

  @pytest.mark.slow
  def test_a_step_that_fails_does_not_stop_the_others(self, tmp_path):
    status, text = self.campaign(tmp_path, JAX_PLATFORMS="nonsense")
    assert status == 1
    assert text.count("failed with status") == len(self.STEPS)
