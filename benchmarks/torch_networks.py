"""LeNet-5, ResNet-18 and BEAN in PyTorch, and parameters to and from JAX's.

Needs the extra `bench`.
"""

import functools
import operator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PyTree = Any

# The convolutions of PyTorch would use TensorFloat-32 on a GPU.
torch.backends.cudnn.allow_tf32 = False


def device() -> torch.device:
  """Returns the GPU if this PyTorch has one, else the CPU."""
  return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LeNet5(nn.Module):
  """The network of `experiments.architectures.models.LeNet5`."""

  def __init__(self):
    """Creates the layers."""
    super().__init__()
    self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
    self.conv2 = nn.Conv2d(6, 16, 5)
    self.fc1 = nn.Linear(400, 120)
    self.fc2 = nn.Linear(120, 84)
    self.fc3 = nn.Linear(84, 10)

  def forward(
    self, images: torch.Tensor
  ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Returns logits and the inputs of dense layers of [n, 1, 28, 28]."""
    x = functional.max_pool2d(torch.relu(self.conv1(images)), 2)
    x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
    first = x.flatten(1)
    second = torch.relu(self.fc1(first))
    third = torch.relu(self.fc2(second))
    return self.fc3(third), (first, second, third)


class Block(nn.Module):
  """A residual block of `experiments.architectures.resnet18`."""

  def __init__(self, inputs: int, features: int, stride: int):
    """Creates the layers, from so many channels to so many."""
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


def dense_weights(network: nn.Module) -> list[torch.Tensor]:
  """Returns the weights that the inputs of dense layers enter, in order."""
  return [m.weight for m in network.modules() if isinstance(m, nn.Linear)]


def pairwise(
  hidden: torch.Tensor, weight: torch.Tensor, order: int
) -> torch.Tensor:
  """Computes BEAN as the authors published it, with a tensor [N, N, S].

  Args:
    hidden: Activations [S, N].
    weight: Of the layer that they enter, [M, N].
    order: 1 or 2.

  Returns:
    The penalty in the units of the authors' code.
  """
  strength = torch.abs(torch.tanh(weight.t()))
  wiring = (strength @ strength.t()) ** order
  by_neuron = hidden.t()
  difference = by_neuron.unsqueeze(1) - by_neuron.unsqueeze(0)
  return torch.mean(wiring * difference.pow(2).mean(2))


def closed_form(
  hidden: torch.Tensor, weight: torch.Tensor, order: int
) -> torch.Tensor:
  """Computes the same without that tensor, as bean_jax does."""
  num_samples, num_neurons = hidden.shape
  centred = hidden - hidden.mean(1, keepdim=True).detach()
  strength = torch.abs(torch.tanh(weight.t()))
  if order == 1:
    degree = strength @ strength.sum(0)
    attraction = (centred @ strength).pow(2).sum()
  else:
    wiring = (strength @ strength.t()).pow(2)
    degree = wiring.sum(1)
    attraction = (wiring * (centred.t() @ centred)).sum()
  energy = (degree * centred.pow(2).sum(0)).sum() - attraction
  return 2 * energy / (num_samples * num_neurons**2)


# Of convolutions, dense layers and vectors, from JAX's form and back.
_FROM_JAX = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
_TO_JAX = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def to_torch(network: nn.Module, params: PyTree) -> nn.Module:
  """Gives a network parameters in JAX's form, and moves it to the device."""
  for name, parameter in network.named_parameters():
    *path, kind = _path(name)
    array = np.asarray(functools.reduce(operator.getitem, path, params)[kind])
    if path == ["fc1"] and kind == "kernel":
      # Its inputs are flattened from [16, 5, 5] here.
      array = array.reshape(5, 5, 16, 120).transpose(2, 0, 1, 3)
      array = array.reshape(400, 120)
    array = array.transpose(_FROM_JAX[array.ndim])
    parameter.data = torch.tensor(array.copy())
  return network.to(device())


def from_torch(tensors: dict[str, torch.Tensor]) -> PyTree:
  """Turns parameters, or gradients, by their names into JAX's form."""
  params: dict[str, Any] = {}
  for name, tensor in tensors.items():
    *path, kind = _path(name)
    array = to_numpy(tensor)
    array = array.transpose(_TO_JAX[array.ndim])
    if name == "fc1.weight":
      array = array.reshape(16, 5, 5, 120).transpose(1, 2, 0, 3)
      array = array.reshape(400, 120)
    place = params
    for part in path:
      place = place.setdefault(part, {})
    place[kind] = array
  return params


def _path(name: str) -> list[str]:
  """Returns where Flax has a parameter: block1a.norm1.weight is a scale."""
  *path, kind = name.split(".")
  if kind == "weight":
    kind = "scale" if "norm" in path[-1] else "kernel"
  return [*path, kind]


def lenet5s(params: PyTree) -> list[LeNet5]:
  """Makes a network of each member from parameters [members, ...]."""
  num_members = len(params["conv1"]["bias"])
  return [
    to_torch(
      LeNet5(),
      {
        layer: {kind: leaf[member] for kind, leaf in leaves.items()}
        for layer, leaves in params.items()
      },
    )
    for member in range(num_members)
  ]


def to_images(images: np.ndarray) -> torch.Tensor:
  """Moves images [..., h, w, c] to the device, as bytes [..., c, h, w]."""
  return torch.tensor(np.moveaxis(images, -1, -3).copy()).to(device())


def to_labels(labels: np.ndarray) -> torch.Tensor:
  """Moves labels to the device."""
  return torch.tensor(labels.astype(np.int64)).to(device())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
  """Copies a tensor to the host, out of any graph."""
  return tensor.detach().cpu().numpy()
