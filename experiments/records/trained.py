"""Trained networks out of their checkpoints, of few shots or whole datasets."""

from collections.abc import Mapping
import os
from typing import Any

import jax

from experiments.architectures import networks
from experiments.architectures.networks import Network, Variables
from experiments.records import checkpoints


def name_of(config: Mapping[str, Any]) -> str:
  """Returns which network a checkpoint's configuration is of."""
  # Of older few-shot simulations there was but one.
  return config.get("model", networks.Spec().name)


def network_of(
  path: str | os.PathLike[str],
  config: Mapping[str, Any],
  image_shape: tuple[int, int, int],
) -> Network:
  """Makes the network of a configuration for images [height, width, channels].

  Raises:
    checkpoints.CheckpointError: If it is unknown or does not take such images.
  """
  usual = networks.Spec()
  spec = networks.Spec(
    name_of(config),
    config.get("initializer", usual.initializer),
    config.get("bfloat16", usual.bfloat16),
  )
  try:
    return networks.make(spec, image_shape)
  except ValueError as error:
    raise checkpoints.CheckpointError(f"{os.fspath(path)}: {error}") from error


def load(
  path: str | os.PathLike[str],
  checkpoint: checkpoints.Checkpoint,
  image_shape: tuple[int, int, int],
  *,
  which: str = "best",
) -> tuple[Network, Variables]:
  """Makes a checkpoint's network, with variables of its best or last epoch.

  Raises:
    checkpoints.CheckpointError: If it is unknown, does not take such images or
      has other variables than the checkpoint.
  """
  network = network_of(path, checkpoint.config, image_shape)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  variables = checkpoints.restore(path, getattr(checkpoint, which), shapes)
  return network, variables
