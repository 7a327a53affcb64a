"""Inference, one dense layer, and its penalty in PyTorch (extra `bench`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import torch_lenet5

PyTree = Any


def make_logits(
  params: PyTree, images: np.ndarray
) -> Callable[[int, int], torch.Tensor]:
  """Makes the function that evaluates networks one by one.

  Args:
    params: Parameters of `models.LeNet5`, stacked over members.
    images: uint8 [n, 28, 28, 1].

  Returns:
    A function of (number of networks, images at a time) that returns logits
    [networks, n, 10].
  """
  num_members = len(params["conv1"]["bias"])
  networks = [torch_lenet5.to_torch(params, i) for i in range(num_members)]
  data = torch.tensor(images[:, None, :, :, 0]).to(torch_lenet5.device())
  data = data.to(torch.float32) / 255

  def logits(num_networks: int, batch_size: int) -> torch.Tensor:
    with torch.inference_mode():
      return torch.stack(
        [
          torch.cat([network(part)[0] for part in data.split(batch_size)])
          for network in networks[:num_networks]
        ]
      )

  return logits


def make_penalty(
  activations: np.ndarray, kernel: np.ndarray, order: int
) -> Callable[[], tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
  """Makes the function that takes the penalty's value and gradients.

  Args:
    activations: [S, N].
    kernel: [N, M].
    order: 1 or 2.

  Returns:
    A function that returns the penalty in closed form, in the paper's units,
    and its gradients by activations and kernel.
  """
  hidden, weight = _leaves(activations, kernel)
  scale = float(kernel.shape[1]) ** -order

  def run() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    value = scale * torch_lenet5.closed_form(hidden, weight.t(), order)
    gradients = torch.autograd.grad(value, (hidden, weight))
    _wait()
    return value, gradients

  return run


def make_dense(
  activations: np.ndarray, kernel: np.ndarray
) -> Callable[[], tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
  """Makes the function that goes through a dense layer and back.

  Args:
    activations: [S, N].
    kernel: [N, M].

  Returns:
    A function that returns the output, and the gradients of half of its square.
  """
  hidden, weight = _leaves(activations, kernel)

  def run() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    output = hidden @ weight
    gradients = torch.autograd.grad(
      output, (hidden, weight), grad_outputs=output.detach()
    )
    _wait()
    return output, gradients

  return run


def _leaves(*arrays: np.ndarray) -> list[torch.Tensor]:
  device = torch_lenet5.device()
  return [torch.tensor(a).to(device).requires_grad_() for a in arrays]


def _wait() -> None:
  if torch_lenet5.device().type == "cuda":
    torch.cuda.synchronize()
