"""Tests of experiments.tables.versions."""

import jax

from experiments.records import results
from experiments.tables import versions


def test_several_versions_are_counted():
  releases = {"a": "0.10.1", "b": "0.10.1", "c": "0.11.2", "d": "0.11.2"}
  records = [{"versions": {"jax": "0.10.1"}}]
  for name in "abbcd":
    git = {"commit": name * 10, "dirty": name == "b"}
    made_by = {"python": "3.11.7", "jax": releases[name]}
    records.append({"git": git, "versions": made_by})
  assert versions.mixed(records) == (
    "Made by different versions: commit bbbbbbb with changes (2 cells),"
    " unknown (1), aaaaaaa (1), 2 more; jax 0.10.1 (4 cells), 0.11.2 (2);"
    " python 3.11.7 (5 cells), none (1)."
  )
  assert versions.mixed(records[:1] * 3) == ""


def test_other_versions_are_named_in_a_line(capsys, monkeypatch):
  git = {"commit": "a" * 40, "dirty": False}
  monkeypatch.setattr(results, "_git", lambda root: git)
  ours, other = (results.environment() for _ in range(2))
  # The present version goes without saying.
  versions.tell([ours] * 2)
  versions.tell([])
  assert capsys.readouterr() == ("", "")
  other["versions"]["jax"] = "0.9.0"
  other["git"] = {"commit": "b" * 40, "dirty": True}
  versions.tell([ours, other, ours])
  assert capsys.readouterr() == (
    "",
    "warning: 1 of 3 cells were made by other versions and are used: commit"
    " bbbbbbb with changes (1 cell), now aaaaaaa; jax 0.9.0 (1 cell), now"
    f" {jax.__version__}\n",
  )
