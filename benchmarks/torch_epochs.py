"""An epoch in PyTorch: LeNet-5, and ResNet-18 as for CIFAR-10.

Needs the extra `bench`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import problems, torch_lenet5
from experiments.learning.learner import Samples

PyTree = Any


class Block(nn.Module):
  """A residual block of `experiments.architectures.resnet18`."""

  def __init__(self, inputs: int, features: int, stride: int):
    """Creates the layers.

    Args:
      inputs: Channels that come.
      features: Channels that go.
      stride: Of the first convolution.
    """
    super().__init__()
    self.conv1 = _conv(inputs, features, 3, stride)
    self.norm1 = nn.BatchNorm2d(features)
    self.conv2 = _conv(features, features, 3, 1)
    self.norm2 = nn.BatchNorm2d(features)
    self.shortcut = self.shortcut_norm = None
    if stride > 1 or inputs != features:
      self.shortcut = _conv(inputs, features, 1, stride)
      self.shortcut_norm = nn.BatchNorm2d(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Returns activations of activations."""
    shortcut = x
    if self.shortcut is not None:
      shortcut = self.shortcut_norm(self.shortcut(x))
    x = torch.relu(self.norm1(self.conv1(x)))
    return torch.relu(self.norm2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
  """The network of `experiments.architectures.resnet18.ResNet18`."""

  def __init__(self):
    """Creates the layers."""
    super().__init__()
    self.conv = _conv(3, 64, 3, 1)
    self.norm = nn.BatchNorm2d(64)
    inputs = 64
    for stage, features in enumerate((64, 128, 256, 512)):
      for index in range(2):
        stride = 2 if stage > 0 and index == 0 else 1
        name = f"block{stage + 1}{'ab'[index]}"
        self.add_module(name, Block(inputs, features, stride))
        inputs = features
    self.head = nn.Linear(512, 10)

  def forward(
    self, images: torch.Tensor
  ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Returns logits and the inputs of the dense layer of [n, 3, h, w]."""
    x = torch.relu(self.norm(self.conv(images)))
    for name, block in self.named_children():
      if name.startswith("block"):
        x = block(x)
    x = x.mean((2, 3))
    return self.head(x), (x,)


def _conv(inputs: int, features: int, size: int, stride: int) -> nn.Conv2d:
  return nn.Conv2d(
    inputs, features, size, stride, padding=size // 2, bias=False
  )


def loss_and_gradients(
  network: str,
  params: PyTree,
  samples: Samples,
  order: int,
  strength: float,
) -> tuple[np.ndarray, PyTree]:
  """Computes the loss of a batch and its gradients, as in training.

  Args:
    network: "lenet5" or "resnet18".
    params: Parameters in JAX's form.
    samples: The batch.
    order: Of BEAN; 0 without it.
    strength: Of BEAN, in the units of the authors' code.

  Returns:
    The loss, and gradients in JAX's form.
  """
  made = _make(network, params)
  loss = _loss(made, *_data(network, samples), order, strength)
  loss.backward()
  gradients = {name: p.grad for name, p in made.named_parameters()}
  if network == "lenet5":
    return torch_lenet5.to_numpy(loss), torch_lenet5.from_torch(gradients)
  tree: dict[str, Any] = {}
  for name, gradient in gradients.items():
    *path, kind = name.split(".")
    place = tree
    for part in path:
      place = place.setdefault(part, {})
    array = torch_lenet5.to_numpy(gradient)
    place[_kind(path[-1], kind)] = array.transpose(_axes(array, to_jax=True))
  return torch_lenet5.to_numpy(loss), tree


def make_epoch(
  network: str,
  params: PyTree,
  samples: Samples,
  batch_size: int,
  order: int,
  strength: float,
) -> Callable[[], None]:
  """Makes the function that trains one network for an epoch.

  Args:
    network: As in `loss_and_gradients`.
    params: Parameters to begin with.
    samples: All samples, which lie on the device as bytes.
    batch_size: Samples in a step.
    order: Of BEAN, by the tensor [N, N, S]; 0 without it.
    strength: Of BEAN.
  """
  made = _make(network, params)
  optimizer = torch.optim.Adam(
    made.parameters(), lr=problems.LEARNING_RATE, fused=True
  )
  device = torch_lenet5.device()
  images = torch.tensor(samples.inputs.transpose(0, 3, 1, 2).copy()).to(device)
  labels = torch.tensor(samples.labels.astype(np.int64)).to(device)

  def run() -> None:
    for rows in torch.randperm(len(labels), device=device).split(batch_size):
      batch = _scaled(network, images[rows])
      loss = _loss(made, batch, labels[rows], order, strength)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      optimizer.step()
    # Everything is done when the last loss is here.
    loss.item()

  return run


def _loss(
  network: nn.Module,
  images: torch.Tensor,
  labels: torch.Tensor,
  order: int,
  strength: float,
) -> torch.Tensor:
  logits, hidden = network(images)
  loss = functional.cross_entropy(logits, labels)
  if order:
    dense = [m for m in network.modules() if isinstance(m, nn.Linear)]
    for neurons, layer in zip(hidden, dense, strict=True):
      penalty = torch_lenet5.pairwise(neurons, layer.weight, order)
      loss = loss + strength * penalty
  return loss


def _data(network: str, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
  device = torch_lenet5.device()
  images = torch.tensor(samples.inputs.transpose(0, 3, 1, 2).copy())
  labels = torch.tensor(samples.labels.astype(np.int64))
  return _scaled(network, images.to(device)), labels.to(device)


def _scaled(network: str, images: torch.Tensor) -> torch.Tensor:
  images = images.to(torch.float32)
  return images / 255 if network == "lenet5" else images / 127.5 - 1


def _make(network: str, params: PyTree) -> nn.Module:
  if network == "lenet5":
    stacked = {
      layer: {kind: np.asarray(leaf)[None] for kind, leaf in leaves.items()}
      for layer, leaves in params.items()
    }
    return torch_lenet5.to_torch(stacked, 0)
  made = ResNet18()
  for name, parameter in made.named_parameters():
    *path, kind = name.split(".")
    leaf = params
    for part in path:
      leaf = leaf[part]
    array = np.asarray(leaf[_kind(path[-1], kind)])
    with torch.no_grad():
      parameter.copy_(
        torch.tensor(array.transpose(_axes(array, to_jax=False)).copy())
      )
  return made.to(torch_lenet5.device())


def _kind(layer: str, kind: str) -> str:
  """Returns what Flax calls a parameter of a layer."""
  if kind == "bias":
    return "bias"
  return "scale" if "norm" in layer else "kernel"


def _axes(array: np.ndarray, *, to_jax: bool) -> tuple[int, ...]:
  if array.ndim == 4:
    return (2, 3, 1, 0) if to_jax else (3, 2, 0, 1)
  return (1, 0) if array.ndim == 2 else (0,)
