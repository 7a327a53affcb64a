"""Checkpoints: a trained network, or one in training, in one file.

A checkpoint is a plain .npz file, which NumPy alone can read anywhere, without
pickle. Its arrays:

    header                   bytes of a JSON: schema, config, environment
    last/params/...          parameters after the last epoch, by layer and name
    last/batch_stats/...     running statistics of BatchNorm then, if any
    best/...                 both after the epoch of best validation accuracy
    metrics/...              numbers and learning curves
    memory/...               what else the learner carries, such as the state of
                             an optimizer, until training is over

The file ends with the SHA-256 of all bytes before (`archives`). It is written
whole or not at all. A file that is cut off, altered or foreign is never used
and never deleted: `load` raises `DamagedError`, and `find` renames it to
NAME.damaged, as if there were none. One of another schema or configuration
raises `CheckpointError`.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import types
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from experiments.architectures.networks import Variables
from experiments.records import archives, results

PyTree = Any
Path = str | os.PathLike[str]

SCHEMA = 1

_PARTS = ("last", "best", "metrics", "memory")


class CheckpointError(results.ResultError):
  """A checkpoint cannot be used; the text says why and what to do."""


class DamagedError(CheckpointError, results.DamagedError):
  """A checkpoint is cut off, altered or foreign."""


class Checkpoint(NamedTuple):
  """What a checkpoint holds, all arrays NumPy's."""

  # Everything that the training depends on, {field: value}.
  config: dict[str, Any]
  # What it was made with, as `results.environment` gives it.
  environment: dict[str, Any]
  last: Variables  # Variables after the last epoch.
  best: Variables  # Variables after the epoch of best validation accuracy.
  # Numbers [] and learning curves [epochs] by name.
  metrics: dict[str, np.ndarray]
  # What else the learner carries as {path: array}, to be given to `restore`;
  # empty once the training is over.
  memory: dict[str, np.ndarray]


def save(path: Path, checkpoint: Checkpoint) -> None:
  """Writes a checkpoint whole or not; its memory is any tree of arrays."""
  header = {
    "schema": SCHEMA,
    "config": checkpoint.config,
    "environment": checkpoint.environment,
  }
  text = json.dumps(header, sort_keys=True, allow_nan=False)
  arrays = {"header": np.frombuffer(text.encode(), np.uint8)}
  arrays |= _flatten({name: getattr(checkpoint, name) for name in _PARTS})
  results.write_bytes(path, archives.pack(arrays))


def load(
  path: Path, *, config: Mapping[str, Any] = types.MappingProxyType({})
) -> Checkpoint:
  """Reads a checkpoint after checking every byte.

  Raises:
    DamagedError: If the file is cut off, altered or foreign.
    CheckpointError: If it cannot be read, is of another schema, or its config
      has not the fields of `config`, such as {"model": "lenet5"}.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{os.fspath(path)}: cannot be read ({results.reason(error)}); give the"
      " path of a checkpoint"
    ) from error
  checkpoint = _parse(path, data)
  got = {k: v for k, v in checkpoint.config.items() if k in config}
  if difference := results.other_config(got, config):
    raise CheckpointError(results.advice(path, difference))
  return checkpoint


def find(path: Path, config: Mapping[str, Any]) -> Checkpoint | None:
  """Reads the checkpoint of a whole configuration; None where there is none.

  A damaged one is renamed.

  Raises:
    CheckpointError: If the file was made with another configuration, schema or
      release of bean_jax, or cannot be read.
  """
  if not os.path.lexists(path):
    return None
  try:
    checkpoint = load(path)
  except DamagedError as error:
    results.set_aside(path, error)
    return None
  except CheckpointError as error:
    # Gone since it was looked for: another process has set it aside.
    if isinstance(error.__cause__, FileNotFoundError):
      return None
    raise
  why = results.other_config(checkpoint.config, config)
  if why := why or results.other_numbers(checkpoint.environment):
    raise CheckpointError(results.advice(path, why))
  return checkpoint


def restore(path: Path, tree: PyTree, template: PyTree) -> PyTree:
  """Gives variables or a memory that were read the structure of a template.

  Raises:
    CheckpointError: If there are other arrays, or of other shapes or types, as
      those of another network are; it names the path.
  """
  arrays = _flatten(tree)
  leaves, structure = jax.tree_util.tree_flatten_with_path(template)
  expected = {_name(keys): _form(leaf) for keys, leaf in leaves}
  got = {name: _form(array) for name, array in arrays.items()}
  for name in sorted(expected.keys() | got.keys()):
    if expected.get(name) != got.get(name):
      why = (
        f"expected {name} to be {expected.get(name, 'absent')}, got "
        f"{got.get(name, 'none')}: of another network"
      )
      raise CheckpointError(results.advice(path, why))
  return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def _flatten(tree: PyTree) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {_name(keys): np.asarray(leaf) for keys, leaf in leaves}


def _name(keys: tuple) -> str:
  return jax.tree_util.keystr(keys, simple=True, separator="/")


def _form(array: Any) -> str:
  return f"{np.dtype(array.dtype)} {list(array.shape)}"


def _parse(path: Path, data: bytes) -> Checkpoint:
  try:
    arrays = archives.unpack(data)
  except ValueError as error:
    raise DamagedError(path, f"{error}, or no checkpoint") from error
  # What was made by others may have anything there.
  try:
    header = json.loads(arrays.pop("header").tobytes())
    parts: dict[str, dict] = {name: {} for name in _PARTS}
    for name, array in arrays.items():
      part, _, rest = name.partition("/")
      parts.setdefault(part, {})[rest] = array
    checkpoint = Checkpoint(
      dict(header["config"]),
      dict(header["environment"]),
      _variables(parts["last"]),
      _variables(parts["best"]),
      parts["metrics"],
      parts["memory"],
    )
  except Exception as error:
    raise DamagedError(path, "holds no checkpoint: foreign") from error
  if header["schema"] != SCHEMA:
    why = f"expected schema {SCHEMA}, got {header['schema']!r}"
    raise CheckpointError(results.advice(path, why))
  return checkpoint


def _variables(arrays: Mapping[str, np.ndarray]) -> Variables:
  """Returns {"params/fc1/kernel": array} as nested dicts."""
  tree = traverse_util.unflatten_dict(arrays, sep="/")
  return Variables(tree.get("params", {}), tree.get("batch_stats", {}))
