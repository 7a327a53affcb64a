"""Files that are cut off, altered or foreign: set aside, and made again."""

import concurrent.futures
import json
import threading

import hypothesis
from hypothesis import strategies as st
import pytest

import bean_jax
from experiments.population import store as stores
from experiments.records import archives, checkpoints, files, results
from tests.experiments import in_process
from tests.faults import here

pytestmark = pytest.mark.usefixtures("tiny_networks")

RECORDS = {
  "few_shot": "digits-1shot-bean1-alpha1.json",
  "table1": "evaluation/digits-1shot-vanilla.json",
  "full_data": "digits-lenet5-bean1-alpha1.json",
}
CHECKPOINT = "checkpoints/digits-lenet5-bean1-alpha1-seed1.npz"


def flipped(data):
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGE = {
  "flipped": flipped,
  "cut": lambda data: data[: len(data) // 3],
  "empty": lambda data: b"",
  "longer": lambda data: data + b"x",
  "foreign": lambda data: b'{"loss": 1}',
  "binary": lambda data: b"\x89PNG\r\n\x1a\n\0\xff",
}
SLOW = pytest.mark.slow
# One script's records are quick.
PLACES = [
  ("few_shot", RECORDS["few_shot"]),
  *(pytest.param(n, RECORDS[n], marks=SLOW) for n in ("table1", "full_data")),
  pytest.param("full_data", CHECKPOINT, marks=SLOW),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name,place", PLACES)
def test_set_aside_and_made_again(name, place, damage, copy):
  folder = copy(name)
  path = folder / place
  before, expected = in_process.contents(folder), in_process.numbers_of(path)
  bad = DAMAGE[damage](path.read_bytes())
  path.write_bytes(bad)
  if path.suffix == ".npz":
    # Without its record, the cell is taken from its checkpoints.
    (folder / RECORDS[name]).unlink()
  status, _, err = here.run(name, folder)
  assert status == 0
  assert err.startswith(f"warning: {path}: ")
  assert err.endswith(f"; renamed to {path.name}.damaged, not used\n")
  assert err.count("\n") == 1
  after = in_process.contents(folder)
  assert after.pop(f"{place}.damaged") == bad
  assert in_process.numbers_of(path) == expected
  assert after.keys() == before.keys()
  remade = {place, RECORDS[name]}
  same = {
    other
    for other in before
    if other not in remade and other.endswith((".json", ".npz"))
  }
  assert same
  for other in same:
    assert after[other] == before[other]
  # The next time there is nothing to say.
  here.done(name, folder)


def test_each_damaged_file_has_a_name_of_its_own(tmp_path, capsys):
  path = tmp_path / "cell.json"
  ends = ("", ".2", ".3")
  for text in ends:
    path.write_text(text)
    assert results.find(path, {}) is None
  assert capsys.readouterr().err.count("\n") == 3
  for end in ends:
    assert path.with_name(f"{path.name}.damaged{end}").read_text() == end


@pytest.mark.parametrize("name,place", PLACES)
def test_what_was_made_otherwise_stays_where_it_is(
  name, place, copy, monkeypatch
):
  folder = copy(name)
  if place == CHECKPOINT:
    for record in folder.glob("*.json"):
      record.unlink()
  before = in_process.contents(folder)

  def refused(*args):
    err = here.refused(name, folder, *args)
    assert in_process.contents(folder) == before
    return err

  message = "made with another configuration (epochs: expected 4, got 2"
  assert message in refused("--epochs=4")
  if place != CHECKPOINT:
    with monkeypatch.context() as patch:
      patch.setattr(results, "SCHEMA", 2)
      assert "expected schema 2, got 1" in refused()
  monkeypatch.setattr(bean_jax, "__version__", "9.0")
  message = ", this is 9.0; move this file away or choose another folder"
  assert message in refused()


def test_folder_that_refuses_the_renaming(copy, monkeypatch):
  folder = copy("few_shot")
  path = folder / RECORDS["few_shot"]
  path.write_text("altered")
  before = in_process.contents(folder)

  def refuse(path):
    raise OSError(30, "Read-only file system", str(path))

  monkeypatch.setattr(files, "set_aside", refuse)
  err = here.refused("few_shot", folder)
  assert str(path) in err
  assert "could not be renamed: Read-only file system" in err
  assert in_process.contents(folder) == before


def test_two_processes_that_find_the_same_damage(tmp_path, capsys):
  path = tmp_path / "cell.json"
  path.write_text("altered")
  start = threading.Barrier(8)

  def find(_):
    start.wait()
    return results.find(path, {})

  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    assert list(threads.map(find, range(8))) == [None] * 8
  (aside,) = tmp_path.iterdir()
  assert aside.read_text() == "altered"
  assert aside.name.startswith("cell.json.damaged")
  assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("damage", ("flipped", "foreign"))
def test_members_of_a_cell_that_is_not_whole_yet(damage, tmp_path, monkeypatch):
  args = ("--methods=vanilla", "--seeds=6", "--members_per_chunk=1")
  with monkeypatch.context() as patch:
    patch.setattr(stores, "discard", lambda *_: None)
    here.done("few_shot", tmp_path, *args)
  (record,) = tmp_path.glob("*.json")
  expected = in_process.numbers_of(record)
  record.unlink()
  first, *others = sorted(tmp_path.glob("partial/*/*.npz"))
  assert others
  bad = DAMAGE[damage](first.read_bytes())
  first.write_bytes(bad)
  status, _, err = here.run("few_shot", tmp_path, *args)
  assert status == 0
  assert err.startswith(f"warning: {first}: ")
  assert err.count("\n") == 1
  assert in_process.numbers_of(record) == expected
  # The members go once the record is there, but not what was damaged.
  assert first.with_name(f"{first.name}.damaged").read_bytes() == bad
  assert len(in_process.contents(tmp_path / "partial")) == 1


SETTINGS = hypothesis.settings(
  max_examples=60, deadline=None, database=None, derandomize=True
)


# A file whose checksum fits says nothing about who made it.


@pytest.mark.slow
@SETTINGS
@hypothesis.given(data=st.data())
def test_foreign_checkpoints_with_a_checksum(finished, data):
  original = (finished("full_data") / CHECKPOINT).read_bytes()[:-64]
  place = data.draw(st.integers(0, len(original) - 1))
  new = data.draw(st.binary(min_size=1, max_size=8))
  content = archives.sign(original[:place] + new + original[place + len(new) :])
  message, kinds = "network.npz: ", set()
  try:
    metrics = checkpoints._parse("network.npz", content).metrics
    # Numbers may differ, but numbers they are.
    kinds = {array.dtype.kind for array in metrics.values()}
  except results.ResultError as error:
    message = str(error)
  assert kinds <= set("biuf")
  assert message.startswith("network.npz: ")
  assert "\n" not in message


@SETTINGS
@hypothesis.given(
  st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
      st.lists(inner, max_size=4)
      | st.dictionaries(
        st.sampled_from(
          ("schema", "config", "versions", "seeds", "metrics", "git", "x")
        ),
        inner,
        max_size=7,
      )
    ),
  )
)
def test_foreign_records_with_a_checksum(tmp_path_factory, value):
  fields = dict(value) if isinstance(value, dict) else {"x": value}
  fields["schema"] = 1
  try:
    fields["checksum"] = results._digest(fields)
  except ValueError:  # JSON has no NaN.
    hypothesis.reject()
  path = tmp_path_factory.mktemp("foreign") / "cell.json"
  path.write_text(json.dumps(fields))
  with pytest.raises(results.DamagedError) as caught:
    results.read(path)
  assert "\n" not in str(caught.value)
