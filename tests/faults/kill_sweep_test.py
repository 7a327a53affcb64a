"""Sweeps that are killed a few times; `kill_sweep` itself kills more often."""

import signal
import subprocess
import sys
import time

import pytest

from experiments.records import results
from tests.faults import kill_sweep


@pytest.mark.slow
@pytest.mark.parametrize("script", kill_sweep.SMALL)
def test_nothing_is_lost_in_five_kills(script, tmp_path):
  counts = kill_sweep.sweep(script, 5, seed=1, directory=tmp_path)
  assert counts.problems == []
  assert counts.kills == 5
  assert counts.sweeps >= 1


RECORD = {
  "experiment": "test",
  "config": {},
  "versions": {},
  "device": {},
  "git": None,
  "seconds": 1,
  "seeds": [0],
}


def fake(code):
  """Takes the place of a script: a program that gets its folder."""

  def start(script, folder):
    return subprocess.Popen(
      [sys.executable, "-c", code, str(folder)],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  return start


# Each writes two files, with a pause after the first in which kills fall.
SCRIPT = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for place, name in enumerate(("a.json", "b.json")):
  {condition}
  data = {data}
  temporary = folder / ".part"
  temporary.write_text(data)
  temporary.replace(folder / name)
  time.sleep(0.1)
"""
SKIP = "if (folder / name).exists(): continue"


def make_records(tmp_path):
  """The texts of two records that differ."""
  texts = []
  for number in (1, 2):
    path = tmp_path / f"record{number}"
    results.write(path, {**RECORD, "metrics": {"accuracy": [number / 10]}})
    texts.append(path.read_text())
    path.unlink()
  return texts


@pytest.mark.parametrize(
  "condition,data,problem",
  (
    (SKIP, "{first!r}", None),
    ("", "{first!r} + '\\n' * int(time.time() * 1000 % 997)", "written again"),
    (SKIP, "({first!r}, {second!r})[int(time.time() * 1000) % 2]", "differs"),
  ),
)
def test_what_is_lost_is_noticed(
  condition, data, problem, tmp_path, monkeypatch
):
  first, second = make_records(tmp_path)
  data = data.format(first=first, second=second)
  code = SCRIPT.format(condition=condition, data=data)
  monkeypatch.setattr(kill_sweep, "start", fake(code))
  counts = kill_sweep.sweep("few_shot", 8, seed=0, directory=tmp_path)
  assert counts.kills == 8
  assert counts.sweeps >= 1
  if problem is None:
    assert counts.problems == []
  else:
    assert any(problem in line for line in counts.problems)


@pytest.mark.parametrize(
  "name,record,problems",
  (
    ("a.json", None, ["a.json is lost"]),
    (
      "partial/a-b-0123/seed0.json",
      None,
      ["partial/a-b-0123/seed0.json is lost"],
    ),
    (
      "partial/a-b-0123/seed0.json",
      "a.json",
      ["partial/a-b-0123/seed0.json is lost"],
    ),
    ("partial/a-b-0123/seed0.json", "a-b.json", []),
    (
      "checkpoints/a-b-seed0.npz",
      "a-b.json",
      ["checkpoints/a-b-seed0.npz is lost"],
    ),
  ),
)
def test_members_may_go_once_there_is_their_record(name, record, problems):
  after = {record: b""} if record else {}
  assert kill_sweep.lost({name: b""}, after) == problems


def test_a_script_that_fails_is_noticed(tmp_path, monkeypatch):
  code = "import sys; sys.exit('error: no such dataset')"
  monkeypatch.setattr(kill_sweep, "start", fake(code))
  with pytest.raises(RuntimeError, match="exit status 1: error: no such"):
    kill_sweep.sweep("few_shot", 1, seed=0, directory=tmp_path)


def test_whole_process_groups_are_killed(tmp_path):
  file = tmp_path / "alive"
  code = (
    f"import subprocess; subprocess.run('sleep 1; touch {file}', shell=True)"
  )
  process = fake(code)("few_shot", tmp_path)
  assert kill_sweep.wait(process, 0.5)
  assert process.returncode == -signal.SIGKILL
  time.sleep(1)
  assert not file.exists()
