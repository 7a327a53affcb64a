"""Sweeps that are killed a few times; `kill_sweep` itself kills more often."""

import subprocess
import sys

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


# Writes two files, with a pause after the first in which kills fall.
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


def make_record(tmp_path, number):
  """The text of a record with this accuracy."""
  path = tmp_path / "record"
  record = {"experiment": "test", "seconds": 1, "git": None, "seeds": [0]}
  record |= {"config": {}, "versions": {}, "device": {}}
  results.write(path, record | {"metrics": {"accuracy": [number]}})
  return path.read_text()


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
  first, second = (make_record(tmp_path, number) for number in (0.1, 0.2))
  (tmp_path / "record").unlink()
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


def test_members_may_go_once_there_is_their_record():
  for name, record, is_lost in (
    ("a.json", None, True),
    ("partial/a-b-0123/seed0.json", None, True),
    ("partial/a-b-0123/seed0.json", "a.json", True),
    ("partial/a-b-0123/seed0.json", "a-b.json", False),
    ("checkpoints/a-b-seed0.npz", "a-b.json", True),
  ):
    after = {record: b""} if record else {}
    assert kill_sweep.lost({name: b""}, after) == [f"{name} is lost"] * is_lost
