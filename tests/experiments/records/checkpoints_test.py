"""Tests of experiments.records.checkpoints."""

import hashlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from experiments.architectures.networks import Variables
from experiments.records import checkpoints, files, results

VERSIONS = {"jax": "0.10.1", "bean_jax": bean_jax.__version__}
CONFIG = {"model": "tiny", "alpha": 0.1, "seed": 3, "sizes": [1, 2]}


def make_variables(seed):
  generator = np.random.default_rng(seed)
  return Variables(
    params={
      "fc1": {"kernel": generator.normal(size=(3, 2)).astype(np.float32)},
      "fc2": {"bias": generator.normal(size=2).astype(np.float32)},
    },
    batch_stats={"norm": {"mean": np.arange(2, dtype=np.float32)}},
  )


def make_checkpoint(**changes):
  variables = make_variables(0)
  fields = {
    "config": CONFIG,
    "environment": {"versions": VERSIONS, "git": None},
    "last": variables,
    "best": make_variables(1),
    "metrics": {
      "curve": np.array([0.5, np.nan, 0.1]),
      "best_epoch": np.int32(2),
      "seconds": np.float64(1 / 3),
    },
    "memory": optax.adam(0.1).init(jax.tree.map(jnp.asarray, variables.params)),
  }
  return checkpoints.Checkpoint(**{**fields, **changes})


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "network.npz"
  checkpoints.save(path, make_checkpoint())
  return path


def assert_same(actual, expected):
  """The same arrays to the bit, of the same types, in the same structure."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)

  def same(a, b):
    assert a.dtype == np.asarray(b).dtype
    np.testing.assert_array_equal(a, b)

  jax.tree.map(same, actual, expected)


def assert_same_checkpoint(actual, expected):
  assert actual[:2] == expected[:2]
  assert_same(actual[2:], expected[2:])


def refused(path, **kwargs):
  """The line that says why a file is not used, which stays as it is."""
  before = path.read_bytes()
  with pytest.raises(checkpoints.CheckpointError) as caught:
    checkpoints.load(path, **kwargs)
  assert path.read_bytes() == before
  message = str(caught.value)
  assert message.startswith(str(path))
  assert "\n" not in message
  return message


def sign(content):
  """Content with its digest, so that only what it says can be wrong."""
  return content + hashlib.sha256(content).hexdigest().encode()


def test_everything_comes_back(path, tmp_path):
  loaded, saved = checkpoints.load(path), make_checkpoint()
  assert loaded.config == CONFIG
  assert loaded.environment == saved.environment
  assert_same(loaded.last, saved.last)
  assert_same(loaded.best, saved.best)
  assert_same(loaded.metrics, saved.metrics)
  memory = checkpoints.restore(path, loaded.memory, saved.memory)
  assert_same(memory, saved.memory)
  # What was loaded can be saved again.
  other = tmp_path / "other.npz"
  checkpoints.save(other, loaded)
  assert_same_checkpoint(checkpoints.load(other), loaded)
  # Equal checkpoints are equal files, be they of NumPy or of JAX.
  last = jax.tree.map(jnp.asarray, saved.last)
  checkpoints.save(other, saved._replace(last=last))
  assert other.read_bytes() == path.read_bytes()


def test_neither_statistics_nor_memory_need_be_there(tmp_path):
  path = tmp_path / "network.npz"
  plain = Variables(make_variables(0).params, {})
  checkpoints.save(path, make_checkpoint(last=plain, best=plain, memory={}))
  loaded = checkpoints.load(path)
  assert_same(loaded.last, plain)
  assert loaded.memory == {}


def test_numpy_alone_can_read_it(path):
  with np.load(path, allow_pickle=False) as archive:
    np.testing.assert_array_equal(
      archive["best/params/fc1/kernel"],
      make_variables(1).params["fc1"]["kernel"],
    )


def test_altered_and_truncated_files_are_refused(path):
  content = path.read_bytes()
  size = len(content)
  bad = [content[:length] for length in (*range(0, size, 97), size - 1)]
  bad.append(content + b"\n")
  for place in (*range(0, size - 100, 3), *range(size - 100, size)):
    altered = bytearray(content)
    altered[place] ^= 1 << place % 8
    bad.append(altered)
  for data in bad:
    path.write_bytes(data)
    assert "cut off, altered or no checkpoint" in refused(path)


def test_foreign_files_are_refused(path):
  buffer = io.BytesIO()
  np.savez(buffer, kernel=np.ones(3))
  array = io.BytesIO()
  np.save(array, np.ones(3))
  pickled = io.BytesIO()
  np.savez(pickled, header=np.array([{"schema": 1}], dtype=object))
  contents = (b"", b"PK", buffer.getvalue(), array.getvalue())
  for content in (*contents, pickled.getvalue()):
    path.write_bytes(content)
    assert "no checkpoint" in refused(path)
    path.write_bytes(sign(content))
    assert "foreign" in refused(path)


@pytest.mark.parametrize(
  "text,message",
  (
    ("nonsense", "foreign"),
    ("[1]", "foreign"),
    ('{"schema": 1}', "foreign"),
    ('{"schema": 2, "config": {}, "environment": {}}', "schema 1, got 2"),
  ),
)
def test_other_headers_are_refused(text, message, path):
  buffer = io.BytesIO()
  np.savez(buffer, header=np.frombuffer(text.encode(), np.uint8))
  path.write_bytes(sign(buffer.getvalue()))
  assert message in refused(path)


def test_another_configuration_is_refused(path):
  assert checkpoints.load(path, config={"model": "tiny"}).config == CONFIG
  message = refused(path, config={"model": "lenet5", "alpha": 0.1})
  assert 'model: expected "lenet5", got "tiny"' in message
  assert "alpha" not in message
  assert "shots: expected 1, got nothing" in refused(path, config={"shots": 1})


def test_find_wants_the_whole_configuration(path, tmp_path):
  assert_same_checkpoint(
    checkpoints.find(path, {**CONFIG, "sizes": (1, 2)}), checkpoints.load(path)
  )
  for config, message in (
    ({**CONFIG, "seed": 4}, "seed: expected 4, got 3"),
    ({**CONFIG, "crop": True}, "crop: expected true, got nothing"),
    (
      {"model": "tiny", "seed": 3, "sizes": [1, 2]},
      "expected nothing, got 0.1",
    ),
  ):
    with pytest.raises(checkpoints.CheckpointError, match=message):
      checkpoints.find(path, config)
  assert checkpoints.find(tmp_path / "none.npz", CONFIG) is None


NOW = results.environment()


@pytest.mark.parametrize(
  "environment,message",
  (
    ({"versions": {"bean_jax": "0.0.1"}}, "made by bean_jax 0.0.1, this is"),
    ({"versions": {}}, "made by bean_jax None, this is"),
    ({"versions": 3}, "made by bean_jax None, this is"),
    ({}, "made by bean_jax None, this is"),
    (
      NOW | {"settings": {"jax_threefry_partitionable": False}},
      "made with jax_threefry_partitionable=False, this is True",
    ),
    (NOW | {"settings": 3}, None),
  ),
)
def test_find_refuses_what_was_made_otherwise(environment, message, path):
  checkpoints.save(path, make_checkpoint(environment=environment))
  before = path.read_bytes()
  if message is None:
    assert checkpoints.find(path, CONFIG) is not None
  else:
    with pytest.raises(checkpoints.CheckpointError, match=message):
      checkpoints.find(path, CONFIG)
  assert path.read_bytes() == before


def test_files_that_cannot_be_read_are_one_line(tmp_path):
  for path in (tmp_path / "none.npz", tmp_path):
    with pytest.raises(results.ResultError, match="cannot be read") as caught:
      checkpoints.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
  with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
    checkpoints.find(tmp_path, CONFIG)


@pytest.mark.parametrize(
  "changes,message",
  (
    (
      {"params": {"fc1": {"kernel": (2, 2)}}, "batch_stats": {}},
      "batch_stats/norm/mean to be absent, got float32",
    ),
    (
      {"params": {"fc1": {"kernel": (3, 2)}, "fc2": {"bias": (3,)}}},
      r"params/fc2/bias to be float32 \[3\], got float32 \[2\]",
    ),
    (
      {"batch_stats": {"norm": {"mean": np.zeros(2)}}},
      r"float64 \[2\], got float32 \[2\]",
    ),
    (
      {"batch_stats": {"norm": {"mean": np.zeros(2), "var": np.zeros(2)}}},
      "of another network",
    ),
  ),
)
def test_arrays_of_another_network_are_refused(changes, message, path):
  changes = jax.tree.map(
    lambda leaf: np.zeros(leaf, np.float32) if type(leaf) is tuple else leaf,
    changes,
    is_leaf=lambda leaf: type(leaf) is tuple,
  )
  template = make_variables(0)._replace(**changes)
  loaded = checkpoints.load(path)
  with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
    checkpoints.restore(path, loaded.last, template)
  assert str(caught.value).startswith(str(path))


def test_restored_arrays_keep_their_places(path):
  # Shapes alone would not tell the moments of Adam apart.
  state = make_checkpoint().memory
  first, rest = state[0], state[1:]
  first = first._replace(
    mu=jax.tree.map(lambda leaf: leaf + 1, first.mu),
    nu=jax.tree.map(lambda leaf: leaf + 2, first.nu),
  )
  checkpoints.save(path, make_checkpoint(memory=(first, *rest)))
  shapes = jax.eval_shape(lambda: state)
  loaded = checkpoints.load(path).memory
  assert_same(checkpoints.restore(path, loaded, shapes), (first, *rest))


def test_only_numbers_are_saved(tmp_path):
  path = tmp_path / "network.npz"
  for array in (np.array([None]), np.array(["text"])):
    with pytest.raises(ValueError, match="metrics/x: expected numbers"):
      checkpoints.save(path, make_checkpoint(metrics={"x": array}))
  with pytest.raises(ValueError, match="Out of range float"):
    checkpoints.save(path, make_checkpoint(config={"alpha": float("nan")}))
  assert not path.exists()


def test_failed_write_leaves_the_old_checkpoint(path, monkeypatch):
  before = path.read_bytes()

  def full_disk(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(results.ResultError, match="No space left") as caught:
      checkpoints.save(path, make_checkpoint(metrics={"x": np.ones(3)}))
  assert str(path) in str(caught.value)
  assert path.read_bytes() == before
  assert [p.name for p in path.parent.iterdir()] == [path.name]
