"""Checkpoints as what is looked at: a dense layer and what enters it."""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

from absl import flags
import jax
import numpy as np

from experiments import datasets
from experiments.architectures import networks
from experiments.command import flag_groups, parsing
from experiments.learning import learner, methods
from experiments.records import checkpoints, results

# Images that a network is evaluated on at once.
_BLOCK = 500


class Source(NamedTuple):
  """A checkpoint of a finished simulation."""

  path: pathlib.Path
  digest: str  # SHA-256 of the file.
  config: dict[str, Any]  # What the network was trained with.
  validation_accuracy: float  # After the best epoch, as a fraction.


class Layer(NamedTuple):
  """A dense layer of a network and what enters it."""

  name: str
  activations: np.ndarray  # What enters it for the test images [S, N].
  labels: np.ndarray  # Classes of those images [S].
  num_classes: int
  # Kernel [N, M] and bias [M] of the layer, then of all dense layers after it,
  # with ReLU between them, down to the logits.
  dense: tuple[tuple[np.ndarray, np.ndarray], ...]

  @property
  def kernel(self) -> np.ndarray:
    """Outgoing weights of the neurons [N, M]."""
    return self.dense[0][0]


def define_flags(values: flags.FlagValues) -> None:
  """Defines --checkpoint_dir, --methods and --resume of what looks at them."""
  flag_groups.define_path(
    values,
    "checkpoint_dir",
    "outputs/full_data/checkpoints",
    "folder of the trained networks",
  )
  flags.DEFINE_list(
    "methods",
    None,
    "methods to take, comma-separated; by default all that there are "
    "checkpoints of",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "resume",
    True,
    "use the records that are there; --noresume measures all networks again "
    "and replaces their files",
    flag_values=values,
  )


def model_of(config: Mapping[str, Any]) -> str:
  """Returns which network a configuration is of."""
  # Of older few-shot simulations there was but one.
  return config.get("model", networks.Spec().name)


def setting(config: Mapping[str, Any]) -> str:
  """Names what simulations share to be compared, as "mnist-lenet5-10shot"."""
  few = [f"{config['shots']}shot"] if config.get("shots") else []
  return "-".join([config["dataset"], model_of(config), *few])


def find(
  directory: pathlib.Path, names: Sequence[str] | None = None
) -> list[Source]:
  """Lists the finished simulations of a folder, and prints what it leaves out.

  They come by setting, method (all, or those that are named; in the order of
  `methods.METHODS`), strength and seed, and must not differ in anything else.
  """
  if names is not None:
    parsing.names("methods", names, list(methods.METHODS))
  if not directory.is_dir():
    raise parsing.ConfigError(
      f"--checkpoint_dir: {directory} is no folder; experiments.full_data "
      "writes checkpoints into checkpoints in its --output_dir"
    )
  order = list(methods.METHODS)
  found: dict[tuple, Source] = {}
  left_out = 0
  for path in sorted(directory.glob("*.npz")):
    checkpoint = checkpoints.load(path)
    config, metrics = checkpoint.config, checkpoint.metrics
    _check_config(path, config)
    if names is not None and config["method"] not in names:
      continue
    has_failed = metrics.get("failed_step", -1) >= 0
    if has_failed or "validation_accuracy" not in metrics:
      why = "met a non-finite loss" if has_failed else "still in training"
      print(f"{path.name}: {why}, left out")
      left_out += 1
      continue
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    accuracy = float(metrics["validation_accuracy"])
    place = order.index(config["method"])
    key = setting(config), place, methods.strength(config), config["seed"]
    if key in found:
      raise parsing.ConfigError(
        f"--checkpoint_dir: {found[key].path.name} and {path.name} are of the "
        "same method, strength and seed, but trained otherwise; look at them "
        "in folders of their own"
      )
    found[key] = Source(path, digest, config, accuracy)
  if not found:
    wanted = f" of {', '.join(names)}" if names is not None else ""
    raise parsing.ConfigError(
      f"--checkpoint_dir: expected checkpoints of finished simulations{wanted} "
      f"in {directory}, got none ({left_out} left out); "
      "experiments.full_data makes them"
    )
  return [found[key] for key in sorted(found)]


def _check_config(path: pathlib.Path, config: Mapping[str, Any]) -> None:
  method = methods.METHODS.get(config.get("method", ""))
  fields = ["dataset", "method", "seed", "batch_size", "learning_rate"]
  if method and method.hparam:
    fields.append(method.hparam)
  missing = [field for field in fields if field not in config]
  name = model_of(config)
  if missing:
    problem = (
      f"expected {missing[0]} in its configuration, got {sorted(config)}"
    )
  elif method is None:
    problem = f"unknown method {config['method']!r}"
  elif name not in networks.NAMES:
    problem = f"expected a model of {networks.NAMES}, got {name!r}"
  else:
    return
  raise checkpoints.CheckpointError(results.advice(path, problem))


def layer_name(
  source: Source, dataset: datasets.Dataset, name: str | None
) -> str:
  """Checks the name of a layer; None is that of the last dense one."""
  network = _network(source, dataset)
  if name is None:
    return network.layers[-1]
  if name not in network.layers:
    raise parsing.ConfigError(
      f"--layer: expected one of {', '.join(network.layers)}, dense layers "
      f"that neurons enter, got {name!r}"
    )
  return name


def load(
  source: Source, dataset: datasets.Dataset, *, which: str = "best"
) -> tuple[networks.Network, networks.Variables]:
  """Reads a trained network, after its "best" or "last" epoch."""
  network = _network(source, dataset)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  checkpoint = checkpoints.load(source.path, config=source.config)
  variables = getattr(checkpoint, which)
  return network, checkpoints.restore(source.path, variables, shapes)


def _network(source: Source, dataset: datasets.Dataset) -> networks.Network:
  usual, config = networks.Spec(), source.config
  spec = networks.Spec(
    model_of(config),
    config.get("initializer", usual.initializer),
    config.get("bfloat16", usual.bfloat16),
  )
  try:
    return networks.make(spec, dataset.test.images.shape[1:])
  except ValueError as error:
    raise checkpoints.CheckpointError(f"{source.path}: {error}") from error


def trained_and_untrained(
  source: Source, dataset: datasets.Dataset, name: str, *, which: str = "best"
) -> tuple[Layer, Layer]:
  """Reads a layer of a trained network, and of the same before training."""
  network, variables = load(source, dataset, which=which)
  key = jax.random.key(source.config["seed"])
  untrained = network.init(jax.random.fold_in(key, learner.INIT))
  following = network.layers[network.layers.index(name) :]

  def layer_of(variables: networks.Variables) -> Layer:
    params = jax.device_get(variables.params)
    return Layer(
      name=name,
      activations=activations(network, variables, dataset.test.images, name),
      labels=dataset.test.labels,
      num_classes=dataset.num_classes,
      dense=tuple((params[x]["kernel"], params[x]["bias"]) for x in following),
    )

  return layer_of(variables), layer_of(untrained)


def activations(
  network: networks.Network,
  variables: networks.Variables,
  images: np.ndarray,
  name: str,
) -> np.ndarray:
  """Returns what enters a layer [S, N], by blocks of images [S, ...] uint8."""
  blocks = [
    _enter(network, name, variables, images[start : start + _BLOCK])
    for start in range(0, len(images), _BLOCK)
  ]
  return np.concatenate(blocks)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _enter(
  network: networks.Network,
  name: str,
  variables: networks.Variables,
  images: jax.Array,
) -> jax.Array:
  return network.evaluate(variables, images)[1][name]
