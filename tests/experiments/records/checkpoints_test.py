"""Tests of experiments.records.checkpoints; results_test has failed writes."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from experiments.architectures.networks import Variables
from experiments.records import archives, checkpoints

VERSIONS = {"jax": "0.10.1", "bean_jax": bean_jax.__version__}
CONFIG = {"model": "tiny", "alpha": 0.1, "seed": 3, "sizes": [1, 2]}


def make_variables(seed):
  kernel, bias = np.split(
    np.random.default_rng(seed).normal(size=(4, 2)).astype(np.float32), [3]
  )
  params = {"fc1": {"kernel": kernel}, "fc2": {"bias": bias[0]}}
  return Variables(params, {"norm": {"mean": np.arange(2, dtype=np.float32)}})


def make_checkpoint(**changes):
  variables = make_variables(0)
  (adam, *rest) = optax.adam(0.1).init(
    jax.tree.map(jnp.asarray, variables.params)
  )
  # Shapes alone would not tell its moments apart.
  adam = adam._replace(nu=jax.tree.map(lambda leaf: leaf + 2, adam.nu))
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
    "memory": (adam, *rest),
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


def refused(path, read=checkpoints.load, **kwargs):
  """The line that says why a file is not used, which stays as it is."""
  before = path.read_bytes()
  with pytest.raises(checkpoints.CheckpointError) as caught:
    read(path, **kwargs)
  assert path.read_bytes() == before
  message = str(caught.value)
  assert message.startswith(str(path))
  assert "\n" not in message
  return message


def test_everything_comes_back(path, tmp_path):
  loaded, saved = checkpoints.load(path), make_checkpoint()
  assert loaded[:2] == saved[:2]
  assert_same(loaded[2:5], saved[2:5])
  shapes = jax.eval_shape(lambda: saved.memory)
  memory = checkpoints.restore(path, loaded.memory, shapes)
  assert_same(memory, saved.memory)
  # What was loaded can be saved again, and equal checkpoints are equal files,
  # be they of NumPy or of JAX.
  other = tmp_path / "other.npz"
  last = jax.tree.map(jnp.asarray, saved.last)
  for same in (loaded, saved._replace(last=last)):
    checkpoints.save(other, same)
    assert other.read_bytes() == path.read_bytes()
  # Neither statistics nor memory need be there.
  plain = Variables(make_variables(0).params, {})
  checkpoints.save(other, make_checkpoint(last=plain, memory={}))
  assert_same(checkpoints.load(other).last, plain)
  assert checkpoints.load(other).memory == {}


def test_numpy_alone_can_read_it(path):
  with np.load(path, allow_pickle=False) as archive:
    kernel = archive["best/params/fc1/kernel"]
  assert_same(kernel, make_variables(1).params["fc1"]["kernel"])


def test_altered_and_truncated_files_are_refused(path):
  content = path.read_bytes()
  size = len(content)
  bad = [content[:length] for length in (*range(0, size, 499), size - 1)]
  bad.append(content + b"\n")
  for place in (*range(0, size - 100, 41), *range(size - 100, size)):
    altered = bytearray(content)
    altered[place] ^= 1 << place % 8
    bad.append(altered)
  for data in bad:
    path.write_bytes(data)
    assert "cut off or altered, or no checkpoint" in refused(path)


def archive(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def header(text):
  return archive(header=np.frombuffer(text, np.uint8))


@pytest.mark.parametrize(
  "content,message",
  (
    (b"PK", "foreign"),
    (archive(kernel=np.ones(3)), "foreign"),
    (archive(header=np.array([{"schema": 1}], dtype=object)), "foreign"),
    (header(b"nonsense"), "foreign"),
    (header(b'{"schema": 1}'), "foreign"),
    (header(b'{"schema":2,"config":{},"environment":{}}'), "schema 1, got 2"),
  ),
)
def test_foreign_files_are_refused(content, message, path):
  path.write_bytes(content)
  assert "no checkpoint" in refused(path)
  # With its digest, so that only what it says can be wrong.
  path.write_bytes(archives.sign(content))
  assert message in refused(path)


def test_another_configuration_is_refused(path):
  assert checkpoints.load(path, config={"model": "tiny"}).config == CONFIG
  message = refused(path, config={"model": "lenet5", "alpha": 0.1})
  assert 'model: expected "lenet5", got "tiny"' in message
  assert "alpha" not in message
  assert "shots: expected 1, got nothing" in refused(path, config={"shots": 1})


def test_find_wants_the_whole_configuration(path, tmp_path):
  found = checkpoints.find(path, {**CONFIG, "sizes": (1, 2)})
  assert_same(found[2:], checkpoints.load(path)[2:])
  less = {name: CONFIG[name] for name in ("model", "seed", "sizes")}
  for config, message in (
    ({**CONFIG, "seed": 4}, "seed: expected 4, got 3"),
    ({**CONFIG, "crop": True}, "crop: expected true, got nothing"),
    (less, "alpha: expected nothing, got 0.1"),
  ):
    assert message in refused(path, checkpoints.find, config=config)
  assert checkpoints.find(tmp_path / "none.npz", CONFIG) is None


def test_find_refuses_what_was_made_otherwise(path):
  """Whatever a foreign one has in place of versions; results_test has more."""
  checkpoints.save(path, make_checkpoint(environment={"versions": 3}))
  message = "made by bean_jax None, this is"
  assert message in refused(path, checkpoints.find, config=CONFIG)
  environment = {"versions": VERSIONS, "settings": 3}
  checkpoints.save(path, make_checkpoint(environment=environment))
  assert checkpoints.find(path, CONFIG) is not None


def test_files_that_cannot_be_read_are_one_line(tmp_path):
  for path in (tmp_path / "none.npz", tmp_path):
    with pytest.raises(checkpoints.CheckpointError) as caught:
      checkpoints.load(path)
    assert str(caught.value).startswith(f"{path}: cannot be read (")
  with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
    checkpoints.find(tmp_path, CONFIG)


FLOAT = np.dtype(np.float32)
KERNEL = {"kernel": jax.ShapeDtypeStruct((3, 2), FLOAT)}
BIAS, PAIR = {"bias": np.zeros(3, FLOAT)}, np.zeros(2, FLOAT)


@pytest.mark.parametrize(
  "part,other,message",
  (
    ("batch_stats", {}, "batch_stats/norm/mean to be absent, got float32"),
    (
      *("params", {"fc1": KERNEL, "fc2": BIAS}),
      "params/fc2/bias to be float32 [3], got float32 [2]",
    ),
    (
      *("batch_stats", {"norm": {"mean": np.zeros(2)}}),
      "float64 [2], got float32 [2]",
    ),
    (
      *("batch_stats", {"norm": {"mean": PAIR, "var": PAIR}}),
      "norm/var to be float32 [2], got none: of another network",
    ),
  ),
)
def test_arrays_of_another_network_are_refused(part, other, message, path):
  template = make_variables(0)._replace(**{part: other})

  def restore(path):
    checkpoints.restore(path, checkpoints.load(path).last, template)

  assert message in refused(path, restore)


def test_only_numbers_are_saved(tmp_path):
  path = tmp_path / "network.npz"
  for array in (np.array([None]), np.array(["text"])):
    with pytest.raises(ValueError, match="metrics/x: expected numbers"):
      checkpoints.save(path, make_checkpoint(metrics={"x": array}))
  with pytest.raises(ValueError, match="Out of range float"):
    checkpoints.save(path, make_checkpoint(config={"alpha": float("nan")}))
  assert not path.exists()
