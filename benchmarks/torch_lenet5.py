"""LeNet-5 and BEAN in PyTorch, and parameters to and from JAX's form.

Needs the extra `bench`.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

PyTree = Any

# The convolutions of PyTorch would use TensorFloat-32 on a GPU.
torch.backends.cudnn.allow_tf32 = False


def device() -> torch.device:
  """Returns the GPU if this PyTorch has one, else the CPU."""
  return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LeNet5(torch.nn.Module):
  """The network of `experiments.architectures.models.LeNet5`."""

  def __init__(self):
    """Creates the layers."""
    super().__init__()
    self.conv1 = torch.nn.Conv2d(1, 6, 5, padding=2)
    self.conv2 = torch.nn.Conv2d(6, 16, 5)
    self.fc1 = torch.nn.Linear(400, 120)
    self.fc2 = torch.nn.Linear(120, 84)
    self.fc3 = torch.nn.Linear(84, 10)

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


def to_torch(params: PyTree, member: int) -> LeNet5:
  """Makes the network of one member from stacked parameters in JAX's form."""
  network = LeNet5().to(device())
  arrays = {}
  for layer, leaves in params.items():
    kernel, bias = leaves["kernel"][member], leaves["bias"][member]
    if layer == "fc1":  # Its inputs are flattened from [16, 5, 5] here.
      kernel = kernel.reshape(5, 5, 16, 120).transpose(2, 0, 1, 3)
      kernel = kernel.reshape(400, 120)
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    arrays[f"{layer}.weight"] = torch.tensor(kernel.transpose(axes).copy())
    arrays[f"{layer}.bias"] = torch.tensor(np.array(bias))
  network.load_state_dict(arrays)
  return network


def from_torch(tensors: dict[str, torch.Tensor]) -> PyTree:
  """Turns parameters (or gradients) of one network into JAX's form."""
  params: dict[str, dict[str, np.ndarray]] = {}
  for name, tensor in tensors.items():
    layer, kind = name.split(".")
    array = to_numpy(tensor)
    if kind == "weight":
      kind = "kernel"
      axes = (2, 3, 1, 0) if array.ndim == 4 else (1, 0)
      array = array.transpose(axes)
    if name == "fc1.weight":
      array = array.reshape(16, 5, 5, 120).transpose(1, 2, 0, 3)
      array = array.reshape(400, 120)
    params.setdefault(layer, {})[kind] = array
  return params


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
  """Copies a tensor to the host, out of any graph."""
  return tensor.detach().cpu().numpy()
