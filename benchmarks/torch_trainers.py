"""The same training in PyTorch, as its best user would write it.

Needs the extra `bench`. Trainers are as in `trainers`; the images are tensors
in float32 on the device from the start, so that no time goes into loading.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import time
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import problems, timing, torch_networks
from benchmarks.trainers import Trainer
from experiments.learning.learner import Samples
from experiments.machine import devices

PyTree = Any

Penalty = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
# Maps (network, images, labels) to (loss, cross-entropy), and leaves what the
# parameters learn from in their gradients.
Gradient = Callable[
  [nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]


def make_loss(
  method: str, penalty: Penalty | None, alpha: float
) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
  """Makes the loss of a method, with BEAN by `penalty` where it has it.

  Returns:
    A function of (network, weights of dense layers, images, labels) that
    returns (loss, cross-entropy).
  """
  order = problems.ORDERS[method]

  def loss_fn(
    network: Callable,
    weights: Sequence[torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    logits, hidden = network(images)
    loss = data_loss = functional.cross_entropy(logits, labels)
    if order:
      for neurons, weight in zip(hidden, weights, strict=True):
        loss = loss + alpha * penalty(neurons, weight, order)
    return loss, data_loss

  return loss_fn


def backpropagation(
  method: str, penalty: Penalty | None, alpha: float
) -> Gradient:
  """Makes the gradient of the loss of a method."""
  loss_fn = make_loss(method, penalty, alpha)

  def gradient(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch_networks.dense_weights(network)
    loss, data_loss = loss_fn(network, weights, images, labels)
    network.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach(), data_loss.detach()

  return gradient


def descend(
  network: nn.Module,
  optimizer: torch.optim.Optimizer,
  gradient: Gradient,
  images: torch.Tensor,
  labels: torch.Tensor,
  batches: Iterable[Any],
) -> Iterator[torch.Tensor]:
  """Makes a step with each batch of rows; yields its cross-entropy."""
  for rows in batches:
    _, loss = gradient(network, images[rows], labels[rows])
    optimizer.step()
    yield loss


def adam(params: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
  """Returns the optimizer of every trainer."""
  return torch.optim.Adam(params, lr=problems.LEARNING_RATE, fused=True)


def images_and_labels(
  problem: problems.Problem,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns a problem's images, from 0 to 1, and labels on the device."""
  images = torch_networks.to_images(problem.images).to(torch.float32) / 255
  return images, torch_networks.to_labels(problem.labels)


def _slices(
  num_images: int, batch_size: int, num_steps: int
) -> Iterator[slice]:
  """Yields the rows of each step, through the images again and again."""
  for index in range(num_steps):
    start = index * batch_size % num_images
    yield slice(start, start + batch_size)


def train_one_by_one(
  problem: problems.Problem,
  gradient: Gradient,
  batch_size: int,
  num_steps: int,
) -> Callable[[], np.ndarray]:
  """Makes what trains member after member, as a trainer does."""
  networks = torch_networks.lenet5s(problem.params)
  optimizers = [adam(network.parameters()) for network in networks]
  images, labels = images_and_labels(problem)

  def run() -> np.ndarray:
    losses = []
    for member, (network, optimizer) in enumerate(
      zip(networks, optimizers, strict=True)
    ):
      losses += descend(
        network,
        optimizer,
        gradient,
        images[member],
        labels[member],
        _slices(images.shape[1], batch_size, num_steps),
      )
    losses = torch_networks.to_numpy(torch.stack(losses))
    return losses.reshape(len(networks), num_steps).T

  return run


def updates(
  problem: problems.Problem,
  gradient: Gradient,
  dtype: torch.dtype = torch.float32,
) -> tuple[np.ndarray, PyTree]:
  """Computes losses [members] on all images, and gradients like the params."""
  images, labels = images_and_labels(problem)
  losses, grads = [], []
  for member, network in enumerate(torch_networks.lenet5s(problem.params)):
    network.to(dtype)
    loss, _ = gradient(network, images[member].to(dtype), labels[member])
    losses.append(torch_networks.to_numpy(loss))
    grads.append(gradients_of(network))
  return np.stack(losses), jax.tree.map(lambda *g: np.stack(g), *grads)


def gradients_of(network: nn.Module) -> PyTree:
  """Returns the gradients that a network's parameters have, in JAX's form."""
  return torch_networks.from_torch(
    {name: p.grad for name, p in network.named_parameters()}
  )


def one_by_one(penalty: Penalty | None) -> Trainer:
  """Makes the trainer that goes seed after seed, with BEAN by `penalty`."""

  def trainer(
    problem: problems.Problem, method: str, batch_size: int, num_steps: int
  ) -> Callable[[], np.ndarray]:
    gradient = backpropagation(method, penalty, problems.STRENGTHS[method])
    return train_one_by_one(problem, gradient, batch_size, num_steps)

  return trainer


def loss_and_gradients(
  penalty: Penalty | None,
) -> Callable[..., tuple[np.ndarray, PyTree]]:
  """Makes the function of (problem, method, strength) of `steps.Route`."""
  return lambda problem, method, strength: updates(
    problem, backpropagation(method, penalty, strength)
  )


def vectorized(
  problem: problems.Problem, method: str, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
  """Trains all seeds at once by torch.func.vmap, BEAN in closed form.

  Adam works element by element, so that one of parameters stacked over members
  is that of every member.
  """
  params = _stacked(problem)
  optimizer = adam(params.values())
  images, labels = images_and_labels(problem)
  gradients = _make_vectorized_gradients(method, problems.STRENGTHS[method])

  def run() -> np.ndarray:
    losses = []
    for rows in _slices(images.shape[1], batch_size, num_steps):
      # Inside of no_grad, or autograd would record it all once more.
      with torch.no_grad():
        grads, (_, data_losses) = gradients(
          params, images[:, rows], labels[:, rows]
        )
      for name, parameter in params.items():
        parameter.grad = grads[name]
      optimizer.step()
      losses.append(data_losses)
    return torch_networks.to_numpy(torch.stack(losses))

  return run


def vectorized_loss_and_gradients(
  problem: problems.Problem, method: str, strength: float
) -> tuple[np.ndarray, PyTree]:
  """Computes losses and gradients by torch.func.vmap."""
  with torch.no_grad():
    grads, (losses, _) = _make_vectorized_gradients(method, strength)(
      _stacked(problem), *images_and_labels(problem)
    )
  members = [
    torch_networks.from_torch({name: grad[i] for name, grad in grads.items()})
    for i in range(len(problem.labels))
  ]
  return torch_networks.to_numpy(losses), jax.tree.map(
    lambda *g: np.stack(g), *members
  )


def _stacked(problem: problems.Problem) -> dict[str, torch.Tensor]:
  networks = torch_networks.lenet5s(problem.params)
  params, _ = torch.func.stack_module_state(networks)
  return {name: tensor.detach() for name, tensor in params.items()}


def _make_vectorized_gradients(
  method: str, alpha: float
) -> Callable[..., tuple]:
  """Returns a function of (params, images, labels), all stacked."""
  network = torch_networks.LeNet5().to(torch_networks.device())
  loss_fn = make_loss(method, torch_networks.closed_form, alpha)

  def of_member(
    params: dict[str, torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    weights = [params[f"fc{layer}.weight"] for layer in (1, 2, 3)]
    return loss_fn(
      lambda x: torch.func.functional_call(network, params, (x,)),
      weights,
      images,
      labels,
    )

  return torch.func.vmap(torch.func.grad_and_value(of_member, has_aux=True))


def _for_dataset(
  name: str, params: PyTree, method: str
) -> tuple[nn.Module, Gradient]:
  """Makes "lenet5" or "resnet18", and its gradient by images as bytes."""
  makers = {
    "lenet5": torch_networks.LeNet5,
    "resnet18": torch_networks.ResNet18,
  }
  network = torch_networks.to_torch(makers[name](), params)
  penalty, alpha = torch_networks.pairwise, problems.STRENGTHS[method]
  gradient = backpropagation(method, penalty, alpha)

  def by_bytes(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.to(next(network.parameters()).dtype)
    images = images / 255 if name == "lenet5" else images / 127.5 - 1
    return gradient(network, images, labels)

  return network, by_bytes


def batch_loss_and_gradients(
  name: str, params: PyTree, method: str, samples: Samples
) -> tuple[np.ndarray, PyTree]:
  """Computes the loss of a batch of a dataset and its gradients, in float64.

  PyTorch's gradients of ResNet-18 in float32 are wrong by up to 18 % of the
  largest of a kernel for four images, on a CPU.
  """
  network, gradient = _for_dataset(name, params, method)
  images = torch_networks.to_images(samples.inputs)
  loss, _ = gradient(
    network.double(), images, torch_networks.to_labels(samples.labels)
  )
  return torch_networks.to_numpy(loss), gradients_of(network)


def make_epoch(
  name: str, params: PyTree, method: str, samples: Samples, batch_size: int
) -> Callable[[], None]:
  """Makes what trains a network on a dataset for an epoch, BEAN as published.

  All samples lie on the device, the images as bytes.
  """
  network, gradient = _for_dataset(name, params, method)
  optimizer = adam(network.parameters())
  images = torch_networks.to_images(samples.inputs)
  labels = torch_networks.to_labels(samples.labels)

  def run() -> None:
    order = torch.randperm(len(labels), device=labels.device)
    batches = order.split(batch_size)
    for loss in descend(network, optimizer, gradient, images, labels, batches):
      last = loss
    # Everything is done when the last loss is here.
    last.item()

  return run


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
  networks = torch_networks.lenet5s(params)
  data = torch_networks.to_images(images).to(torch.float32) / 255

  def logits(num_networks: int, batch_size: int) -> torch.Tensor:
    with torch.inference_mode():
      return torch.stack(
        [
          torch.cat([network(part)[0] for part in data.split(batch_size)])
          for network in networks[:num_networks]
        ]
      )

  return logits


def make_layer(
  activations: np.ndarray, kernel: np.ndarray, order: int
) -> Callable[[], tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
  """Makes what `penalties` times of one layer, with gradients by both.

  Args:
    activations: h [S, N].
    kernel: W [N, M].
    order: Of the penalty in closed form and the paper's units; with 0 it is
      h W, with the gradients of half of its square.
  """
  hidden, weight = (
    torch.tensor(a).to(torch_networks.device()).requires_grad_()
    for a in (activations, kernel)
  )
  scale = float(kernel.shape[1]) ** -order

  def run() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    if order:
      value = scale * torch_networks.closed_form(hidden, weight.t(), order)
      by_value = None
    else:
      value = hidden @ weight
      by_value = value.detach()
    gradients = torch.autograd.grad(value, (hidden, weight), by_value)
    if value.device.type == "cuda":
      torch.cuda.synchronize()
    return value, gradients

  return run


def with_best_threads(
  contender: timing.Contender, probe: Callable[[], Any]
) -> timing.Contender:
  """Lets a contender run with the threads with which `probe` is fastest."""
  threads = best_num_threads(probe)
  return contender._replace(
    run=with_threads(contender.run, threads),
    fields={**contender.fields, "threads": threads},
  )


def best_num_threads(run: Callable[[], Any]) -> int:
  """Returns with how many threads a function is faster: one, or one a core.

  Small operations are often faster without the others.
  """
  counts = sorted({1, devices.num_cores()})
  if len(counts) == 1 or torch_networks.device().type != "cpu":
    return counts[-1]
  times: dict[int, list[float]] = {count: [] for count in counts}
  # In turns, and the first round only warms.
  for _ in range(3):
    for count, seconds in times.items():
      started = time.perf_counter()
      with_threads(run, count)()
      seconds.append(time.perf_counter() - started)
  return min(counts, key=lambda count: min(times[count][1:]))


def with_threads(run: Callable[[], Any], count: int) -> Callable[[], Any]:
  """Lets a function run with so many of PyTorch's threads."""

  def run_with_threads() -> Any:
    torch.set_num_threads(count)
    return run()

  return run_with_threads
