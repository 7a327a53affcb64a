"""Predictive coding and competing hidden units in PyTorch.

As their users write them, with Python's loops. Needs the extra `bench`.
"""

from collections.abc import Callable
import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import problems, torch_networks

STEP_SIZE = problems.STRENGTHS["pc_fixed"]
NUM_SWEEPS = 20


def to_chain(network: torch_networks.LeNet5) -> nn.Sequential:
  """Returns LeNet-5 as layers of predictive coding, cut as ours is."""
  return nn.Sequential(
    nn.Sequential(
      network.conv1,
      nn.ReLU(),
      nn.MaxPool2d(2),
      network.conv2,
      nn.ReLU(),
      nn.MaxPool2d(2),
      nn.Flatten(),
    ),
    nn.Sequential(network.fc1, nn.ReLU()),
    nn.Sequential(network.fc2, nn.ReLU()),
    nn.Sequential(network.fc3),
  )


def by_sweeps(
  network: torch_networks.LeNet5,
  images: torch.Tensor,
  labels: torch.Tensor,
  *,
  lowest: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Leaves the gradients of FixedPred, in sweeps; returns the loss twice.

  Every product with a Jacobian passes forward anew, by
  `torch.autograd.functional.vjp`. Inputs of layers from `lowest` on have
  beliefs: Torch2PC moves those of the images too, from which nothing is
  learned; 1 leaves them out.
  """
  chain = to_chain(network)
  predictions = [images]
  for layer in chain:
    predictions.append(layer(predictions[-1]))
  loss = functional.cross_entropy(predictions[-1], labels)
  (top,) = torch.autograd.grad(loss, predictions[-1])
  fixed = [prediction.detach() for prediction in predictions]
  beliefs, errors = list(fixed), [*fixed[:-1], top]
  for _ in range(NUM_SWEEPS):
    for place in reversed(range(lowest, len(chain))):
      errors[place] = fixed[place] - beliefs[place]
      _, pulled = torch.autograd.functional.vjp(
        chain[place], fixed[place], errors[place + 1]
      )
      beliefs[place] = beliefs[place] + STEP_SIZE * (errors[place] - pulled)
  for layer, outputs, error in zip(
    chain, predictions[1:], errors[1:], strict=True
  ):
    params = list(layer.parameters())
    grads = torch.autograd.grad(outputs, params, error, retain_graph=True)
    for parameter, grad in zip(params, grads, strict=True):
      parameter.grad = grad
  return loss.detach(), loss.detach()


def in_closed_form(
  network: torch_networks.LeNet5, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """Does the same as bean_jax does: a share of backpropagation a layer."""
  chain = to_chain(network)
  loss = functional.cross_entropy(chain(images), labels)
  network.zero_grad(set_to_none=True)
  loss.backward()
  for layer, share in zip(chain, _shares(len(chain)), strict=True):
    for parameter in layer.parameters():
      parameter.grad *= share
  return loss.detach(), loss.detach()


def _shares(num_layers: int) -> list[float]:
  """Returns what FixedPred leaves of each layer's gradient, first to last."""
  shares = [0.0] * (num_layers - 1) + [1.0]
  for _ in range(1, NUM_SWEEPS):
    shares = [
      own + STEP_SIZE * (above - own)
      for own, above in zip(shares, [*shares[1:], 1.0], strict=True)
    ]
  return shares


# By name, a `torch_trainers.Gradient`.
PREDICTIVE = {
  "PyTorch, one by one, as Torch2PC": by_sweeps,
  "PyTorch, one by one, no beliefs of images": functools.partial(
    by_sweeps, lowest=1
  ),
  "PyTorch, one by one, closed form": in_closed_form,
}


def competing_epoch(
  weights: np.ndarray,
  batches: np.ndarray,
  rate: float,
  *,
  norm: float,
  rank: int,
  inhibition: float,
) -> Callable[[], np.ndarray]:
  """Makes what trains units for an epoch, in the way of the published notebook.

  Args:
    weights: Of one member after another, [members, units, pixels].
    batches: Images [batches, batch, pixels] from 0 to 1.
    rate: Largest change in a step.
    norm: p.
    rank: k.
    inhibition: Delta.

  Returns:
    A function that trains all members and returns the weights; the next call
    goes on.
  """
  device = torch_networks.device()
  members = [torch.tensor(member).to(device) for member in weights]
  data = torch.tensor(batches).to(device)
  columns = torch.arange(data.shape[1], device=device)

  def step(weights: torch.Tensor, batch: torch.Tensor) -> None:
    powers = torch.sign(weights) * torch.abs(weights) ** (norm - 1)
    currents = powers @ batch.T
    order = torch.argsort(currents, dim=0)
    moved = torch.zeros_like(currents)
    moved[order[-1], columns] = 1.0
    moved[order[-rank], columns] = -inhibition
    scale = torch.sum(moved * currents, dim=1)
    change = moved @ batch - scale[:, None] * weights
    weights += rate * change / torch.clamp(change.abs().max(), min=1e-30)

  def run() -> np.ndarray:
    for member in members:
      for batch in data:
        step(member, batch)
    return np.stack([torch_networks.to_numpy(member) for member in members])

  return run
