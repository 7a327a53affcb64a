"""Predictive coding and competing hidden units in PyTorch.

As their users write them, with Python's loops. Needs the extra `bench`.
"""

from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import problems, torch_lenet5, torch_trainers

PyTree = Any
# Maps (chain, images, labels) to the loss, and sets the parameters' gradients.
Gradient = Callable[[nn.Sequential, torch.Tensor, torch.Tensor], torch.Tensor]

STEP_SIZE = problems.STRENGTHS["pc_fixed"]
NUM_SWEEPS = 20


def to_chain(network: torch_lenet5.LeNet5) -> nn.Sequential:
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
  chain: nn.Sequential,
  images: torch.Tensor,
  labels: torch.Tensor,
  *,
  lowest: int = 0,
) -> torch.Tensor:
  """Computes FixedPred in sweeps.

  Every product with a Jacobian passes forward anew, by
  `torch.autograd.functional.vjp`.

  Args:
    chain: The layers.
    images: The batch.
    labels: Its classes.
    lowest: The least layer whose inputs have beliefs. Torch2PC moves those of
      the images too, from which nothing is learned; 1 leaves them out.
  """
  predictions, loss = _forward(chain, images, labels)
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
  return loss.detach()


def in_closed_form(
  chain: nn.Sequential, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
  """Computes the same as bean_jax does: a share of backpropagation a layer."""
  _, loss = _forward(chain, images, labels)
  for parameter in chain.parameters():
    parameter.grad = None
  loss.backward()
  for layer, share in zip(chain, _shares(len(chain)), strict=True):
    for parameter in layer.parameters():
      parameter.grad *= share
  return loss.detach()


PREDICTIVE: dict[str, Gradient] = {
  "PyTorch, one by one, as Torch2PC": by_sweeps,
  "PyTorch, one by one, no beliefs of images": functools.partial(
    by_sweeps, lowest=1
  ),
  "PyTorch, one by one, closed form": in_closed_form,
}


def updates(
  problem: problems.Problem, gradient: Gradient
) -> tuple[np.ndarray, PyTree]:
  """Computes losses [members] and gradients in the form of `problem.params`.

  In float64: errors that are differences of beliefs have the rounding errors of
  those, which are larger by orders of magnitude.

  Args:
    problem: Networks and images, all of which make the batch.
    gradient: The rule.
  """
  images, labels = torch_trainers.images_and_labels(problem)
  losses, grads = [], []
  for member, network in enumerate(_networks(problem)):
    chain = to_chain(network.double())
    loss = gradient(chain, images[member].double(), labels[member])
    losses.append(torch_lenet5.to_numpy(loss))
    grads.append(
      torch_lenet5.from_torch(
        {name: p.grad for name, p in network.named_parameters()}
      )
    )
  return np.stack(losses), jax.tree.map(lambda *g: np.stack(g), *grads)


def predictive_steps(
  problem: problems.Problem, gradient: Gradient, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
  """Makes what trains network after network; the next call goes on.

  Args:
    problem: Networks and images.
    gradient: The rule.
    batch_size: Images in a step.
    num_steps: Steps of Adam in a call.

  Returns:
    A function that returns losses [num_steps, members].
  """
  members = [
    (to_chain(network), torch_trainers.adam(list(network.parameters())))
    for network in _networks(problem)
  ]
  images, labels = torch_trainers.images_and_labels(problem)

  def run() -> np.ndarray:
    losses = []
    for member, (chain, optimizer) in enumerate(members):
      for index in range(num_steps):
        start = index * batch_size % images.shape[1]
        rows = slice(start, start + batch_size)
        losses.append(
          gradient(chain, images[member, rows], labels[member, rows])
        )
        optimizer.step()
    return (
      torch_lenet5.to_numpy(torch.stack(losses))
      .reshape(len(members), num_steps)
      .T
    )

  return run


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
    A function that trains all members, goes on at the next call, and returns
    the weights.
  """
  device = torch_lenet5.device()
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
    return np.stack([torch_lenet5.to_numpy(member) for member in members])

  return run


def _networks(problem: problems.Problem) -> Iterator[torch_lenet5.LeNet5]:
  for member in range(len(problem.labels)):
    yield torch_lenet5.to_torch(problem.params, member)


def _forward(
  chain: nn.Sequential, images: torch.Tensor, labels: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
  """Returns the inputs of all layers and the outputs of the last, and loss."""
  predictions = [images]
  for layer in chain:
    predictions.append(layer(predictions[-1]))
  return predictions, functional.cross_entropy(predictions[-1], labels)


def _shares(num_layers: int) -> list[float]:
  """Returns what FixedPred leaves of each layer's gradient, first to last."""
  shares = [0.0] * (num_layers - 1) + [1.0]
  for _ in range(1, NUM_SWEEPS):
    shares = [
      own + STEP_SIZE * (above - own)
      for own, above in zip(shares, [*shares[1:], 1.0], strict=True)
    ]
  return shares
