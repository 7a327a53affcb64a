"""Checkpoints as what is looked at: a dense layer and what enters it."""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.command import parsing
from experiments.learning import learner, methods
from experiments.records import checkpoints, trained

# Images that a network is evaluated on at once.
_BLOCK = 500


class Source(NamedTuple):
  """A checkpoint of a finished simulation.

  Attributes:
    path: The file.
    digest: SHA-256 of its content.
    config: What the network was trained with.
    validation_accuracy: Of the epoch that is kept as best, as a fraction.
  """

  path: pathlib.Path
  digest: str
  config: dict[str, Any]
  validation_accuracy: float


class Layer(NamedTuple):
  """A dense layer of a network and what enters it.

  Attributes:
    name: Name of the layer.
    activations: What enters it for the test images [S, N].
    labels: Classes of those images [S].
    num_classes: How many classes there are.
    dense: Kernel [N, M] and bias [M] of the layer, then of all dense layers
      after it, with ReLU between them, down to the logits.
  """

  name: str
  activations: np.ndarray
  labels: np.ndarray
  num_classes: int
  dense: tuple[tuple[np.ndarray, np.ndarray], ...]

  @property
  def kernel(self) -> np.ndarray:
    """Outgoing weights of the neurons [N, M]."""
    return self.dense[0][0]


def strength(config: Mapping[str, Any]) -> float:
  """Returns the hyper-parameter of its method, 0 where there is none."""
  hparam = methods.METHODS[config["method"]].hparam
  return float(config[hparam]) if hparam else 0.0


def setting(config: Mapping[str, Any]) -> str:
  """Returns what simulations must share to be compared, for file names.

  Args:
    config: The configuration of a checkpoint.

  Returns:
    Such as "mnist-mlp500" or "mnist-lenet5-10shot".
  """
  few = [f"{config['shots']}shot"] if config.get("shots") else []
  return "-".join([config["dataset"], trained.name_of(config), *few])


def find(
  directory: pathlib.Path, names: Sequence[str] | None = None
) -> tuple[list[Source], list[str]]:
  """Lists the finished simulations of a folder.

  Args:
    directory: Folder of checkpoints.
    names: Methods to take; all by default.

  Returns:
    The simulations by setting, method (in the order of `methods.METHODS`),
    strength and seed; and a line about each that was left out.

  Raises:
    parsing.ConfigError: If there is no such folder, or no simulation in it.
    checkpoints.CheckpointError: If a file cannot be used.
  """
  if not directory.is_dir():
    raise parsing.ConfigError(
      f"--checkpoint_dir: {directory} is no folder; experiments.full_data "
      "writes checkpoints into checkpoints in its --output_dir"
    )
  found, left_out = [], []
  for path in sorted(directory.glob("*.npz")):
    checkpoint = checkpoints.load(path)
    _check_config(path, checkpoint.config)
    if names is not None and checkpoint.config["method"] not in names:
      continue
    if reason := _unfinished(checkpoint):
      left_out.append(f"{path.name}: {reason}, left out")
      continue
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    accuracy = float(checkpoint.metrics["validation_accuracy"])
    found.append(Source(path, digest, checkpoint.config, accuracy))
  if not found:
    wanted = f" of {', '.join(names)}" if names is not None else ""
    raise parsing.ConfigError(
      f"--checkpoint_dir: expected checkpoints of finished simulations{wanted} "
      f"in {directory}, got none ({len(left_out)} left out); "
      "experiments.full_data makes them"
    )
  _check_distinct(found)
  order = list(methods.METHODS)
  found.sort(
    key=lambda source: (
      setting(source.config),
      order.index(source.config["method"]),
      strength(source.config),
      source.config["seed"],
    )
  )
  return found, left_out


def _check_distinct(found: Sequence[Source]) -> None:
  seen: dict[tuple, Source] = {}
  for source in found:
    config = source.config
    name = (
      setting(config),
      config["method"],
      strength(config),
      config["seed"],
    )
    other = seen.setdefault(name, source)
    if other is not source:
      raise parsing.ConfigError(
        f"--checkpoint_dir: {other.path.name} and {source.path.name} are of "
        "the same method, strength and seed, but trained otherwise; look at "
        "them in folders of their own"
      )


def _check_config(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  problem = None
  hparam = None
  if config.get("method") in methods.METHODS:
    hparam = methods.METHODS[config["method"]].hparam
  for field in ("dataset", "method", "seed", *([hparam] if hparam else [])):
    if field not in config:
      problem = f"expected {field} in its configuration, got {sorted(config)}"
  if not problem and config["method"] not in methods.METHODS:
    problem = f"unknown method {config['method']!r}"
  name = trained.name_of(config)
  if not problem and name not in networks.NAMES:
    problem = f"expected a model of {networks.NAMES}, got {name!r}"
  if problem:
    raise checkpoints.CheckpointError(
      f"{path}: {problem}; move this file away or choose another folder"
    )


def _unfinished(checkpoint: checkpoints.Checkpoint) -> str | None:
  if checkpoint.metrics.get("failed_step", -1) >= 0:
    return "met a non-finite loss"
  if "validation_accuracy" not in checkpoint.metrics:
    return "still in training"
  return None


def layer_name(network: networks.Network, name: str | None) -> str:
  """Checks the name of a layer.

  Args:
    network: The network that it belongs to.
    name: The name; None for the last dense layer.

  Returns:
    The name.

  Raises:
    parsing.ConfigError: If the network has no such layer.
  """
  if name is None:
    return network.layers[-1]
  if name not in network.layers:
    raise parsing.ConfigError(
      f"--layer: expected one of {', '.join(network.layers)}, dense layers "
      f"that neurons enter, got {name!r}"
    )
  return name


def trained_and_untrained(
  source: Source,
  dataset: datasets.Dataset,
  name: str | None,
  *,
  which: str = "best",
) -> tuple[Layer, Layer]:
  """Reads a layer of a trained network, and of the same before training.

  Args:
    source: The checkpoint.
    dataset: The images that it was trained on; those of the test are used.
    name: Layer; None for the last dense one.
    which: "best" or "last", the epoch.

  Returns:
    The layer of the trained network, and that of its initial parameters.

  Raises:
    checkpoints.CheckpointError: If the file cannot be used, or holds another
      network than its configuration says.
    datasets.DatasetError: If a class has no test images.
    parsing.ConfigError: If the network has no such layer.
  """
  check_classes(dataset)
  checkpoint = checkpoints.load(source.path, config=source.config)
  network, variables = trained.load(
    source.path, checkpoint, dataset.test.images.shape[1:], which=which
  )
  name = layer_name(network, name)
  key = jax.random.key(source.config["seed"])
  untrained = network.init(jax.random.fold_in(key, learner.INIT))
  return (
    _layer(network, variables, dataset, name),
    _layer(network, untrained, dataset, name),
  )


def check_classes(dataset: datasets.Dataset) -> None:
  """Raises a `datasets.DatasetError` if a class has no test images."""
  counts = np.bincount(dataset.test.labels, minlength=dataset.num_classes)
  if missing := np.flatnonzero(counts == 0).tolist():
    raise datasets.DatasetError(
      f"{dataset.name}: expected test images of all {dataset.num_classes} "
      f"classes, got none of class {', '.join(map(str, missing))}; prepare the "
      "dataset again"
    )


def _layer(
  network: networks.Network,
  variables: networks.Variables,
  dataset: datasets.Dataset,
  name: str,
) -> Layer:
  following = network.layers[network.layers.index(name) :]
  params = jax.device_get(variables.params)
  return Layer(
    name=name,
    activations=activations(network, variables, dataset.test.images, name),
    labels=dataset.test.labels,
    num_classes=dataset.num_classes,
    dense=tuple(
      (params[layer]["kernel"], params[layer]["bias"]) for layer in following
    ),
  )


@functools.cache
def _evaluate(
  network: networks.Network, name: str
) -> Callable[[networks.Variables, jax.Array], jax.Array]:
  return jax.jit(
    lambda variables, images: network.evaluate(variables, images)[1][name]
  )


def activations(
  network: networks.Network,
  variables: networks.Variables,
  images: np.ndarray,
  name: str,
) -> np.ndarray:
  """Returns what enters a layer, of blocks of images.

  Args:
    network: The network.
    variables: Its variables.
    images: Images uint8 [S, height, width, channels].
    name: Of a dense layer that neurons enter.

  Returns:
    Activations [S, N].
  """
  num_images = len(images)
  size = min(_BLOCK, num_images)
  padding = [(0, -num_images % size)] + [(0, 0)] * (images.ndim - 1)
  blocks = np.split(np.pad(images, padding), -(-num_images // size))
  rows = [
    np.asarray(_evaluate(network, name)(variables, jnp.asarray(block)))
    for block in blocks
  ]
  return np.concatenate(rows)[:num_images]
