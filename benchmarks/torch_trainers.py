"""The same training in PyTorch, as its best user would write it.

Needs the extra `bench`. Trainers are as in `trainers`; the images are tensors
in float32 on the device from the start, so that no time goes into loading.
"""

from collections.abc import Callable, Sequence
import time
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks import floors, problems, timing, torch_lenet5
from experiments.machine import devices

PyTree = Any

Penalty = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def one_by_one(penalty: Penalty | None) -> Callable[..., Callable]:
  """Makes the trainer that goes seed after seed.

  Args:
    penalty: How BEAN is computed; None where it is not.
  """

  def trainer(
    problem: problems.Problem, method: str, batch_size: int, num_steps: int
  ) -> Callable[[], np.ndarray]:
    num_members, num_images = problem.labels.shape
    networks = [
      torch_lenet5.to_torch(problem.params, i) for i in range(num_members)
    ]
    optimizers = [adam(list(network.parameters())) for network in networks]
    images, labels = images_and_labels(problem)
    loss_fn = make_loss(method, penalty, problems.STRENGTHS[method])

    def run() -> np.ndarray:
      losses = []
      for member, optimizer in enumerate(optimizers):
        network = networks[member]
        for index in range(num_steps):
          start = index * batch_size % num_images
          rows = slice(start, start + batch_size)
          loss, data_loss = loss_fn(
            network,
            dense_weights(network),
            images[member, rows],
            labels[member, rows],
          )
          optimizer.zero_grad(set_to_none=True)
          loss.backward()
          optimizer.step()
          losses.append(data_loss.detach())
      return (
        torch_lenet5.to_numpy(torch.stack(losses))
        .reshape(num_members, num_steps)
        .T
      )

    return run

  return trainer


def vectorized(
  problem: problems.Problem, method: str, batch_size: int, num_steps: int
) -> Callable[[], np.ndarray]:
  """Trains all seeds at once by torch.func.vmap, BEAN in closed form.

  Adam works element by element, so that one of parameters stacked over members
  is that of every member.
  """
  num_images = problem.labels.shape[1]
  params = _stacked(problem)
  optimizer = adam(list(params.values()))
  images, labels = images_and_labels(problem)
  gradients = _make_vectorized_gradients(method, problems.STRENGTHS[method])

  def run() -> np.ndarray:
    losses = []
    for index in range(num_steps):
      start = index * batch_size % num_images
      rows = slice(start, start + batch_size)
      # Inside of no_grad, or autograd would record it all once more.
      with torch.no_grad():
        grads, (_, data_losses) = gradients(
          params, images[:, rows], labels[:, rows]
        )
      for name, parameter in params.items():
        parameter.grad = grads[name]
      optimizer.step()
      losses.append(data_losses)
    return torch_lenet5.to_numpy(torch.stack(losses))

  return run


def loss_and_gradients(
  problem: problems.Problem,
  method: str,
  strength: float,
  penalty: Penalty | None,
) -> tuple[np.ndarray, PyTree]:
  """Computes the loss on all images and its gradients, seed after seed.

  Args:
    problem: Networks and images.
    method: Name in `methods.METHODS`.
    strength: Of BEAN.
    penalty: How BEAN is computed.

  Returns:
    Losses [members], and gradients in the form of `problem.params`.
  """
  loss_fn = make_loss(method, penalty, strength)
  images, labels = images_and_labels(problem)
  losses, grads = [], []
  for member in range(len(problem.labels)):
    network = torch_lenet5.to_torch(problem.params, member)
    loss, _ = loss_fn(
      network, dense_weights(network), images[member], labels[member]
    )
    loss.backward()
    losses.append(torch_lenet5.to_numpy(loss))
    grads.append(
      torch_lenet5.from_torch(
        {n: p.grad for n, p in network.named_parameters()}
      )
    )
  return np.stack(losses), jax.tree.map(lambda *g: np.stack(g), *grads)


def vectorized_loss_and_gradients(
  problem: problems.Problem, method: str, strength: float
) -> tuple[np.ndarray, PyTree]:
  """Computes the same by torch.func.vmap."""
  with torch.no_grad():
    grads, (losses, _) = _make_vectorized_gradients(method, strength)(
      _stacked(problem), *images_and_labels(problem)
    )
  members = [
    torch_lenet5.from_torch({name: grad[i] for name, grad in grads.items()})
    for i in range(len(problem.labels))
  ]
  return torch_lenet5.to_numpy(losses), jax.tree.map(
    lambda *g: np.stack(g), *members
  )


def best_num_threads(run: Callable[[], Any]) -> int:
  """Returns with how many threads a function is faster: one, or one a core.

  Small operations are often faster without the others.

  Args:
    run: The function; it is called a few times.
  """
  counts = sorted({1, devices.num_cores()})
  if len(counts) == 1 or torch_lenet5.device().type != "cpu":
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


def contender(
  name: str,
  run: Callable[[], Any],
  *,
  probe: Callable[[], Any],
  work: floors.Work,
) -> timing.Contender:
  """Makes a contender that runs with as many threads as are fastest.

  Args:
    name: Its name.
    run: What is timed.
    probe: A small part of it, by which the threads are chosen.
    work: Of `run`.
  """
  threads = best_num_threads(probe)
  run = with_threads(run, threads)
  return timing.Contender(name, run, work=work, fields={"threads": threads})


def adam(params: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
  """Returns the optimizer of every trainer."""
  return torch.optim.Adam(params, lr=problems.LEARNING_RATE, fused=True)


def images_and_labels(
  problem: problems.Problem,
) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns a problem's images, from 0 to 1, and labels on the device."""
  images = torch.tensor(problem.images[:, :, None, :, :, 0]).to(
    torch_lenet5.device()
  )
  labels = torch.tensor(problem.labels.astype(np.int64)).to(
    torch_lenet5.device()
  )
  return images.to(torch.float32) / 255, labels


def dense_weights(network: torch_lenet5.LeNet5) -> tuple[torch.Tensor, ...]:
  """Returns the weights that the inputs of dense layers enter, in order."""
  return network.fc1.weight, network.fc2.weight, network.fc3.weight


def make_loss(
  method: str, penalty: Penalty | None, alpha: float
) -> Callable[..., tuple]:
  """Makes the loss of a method.

  Args:
    method: Name in `methods.METHODS`.
    penalty: How BEAN is computed; None where it is not.
    alpha: Strength of BEAN.

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


def _stacked(problem: problems.Problem) -> dict[str, torch.Tensor]:
  networks = [
    torch_lenet5.to_torch(problem.params, i) for i in range(len(problem.labels))
  ]
  params, _ = torch.func.stack_module_state(networks)
  return {name: tensor.detach() for name, tensor in params.items()}


def _make_vectorized_gradients(
  method: str, alpha: float
) -> Callable[..., tuple]:
  """Returns a function of (params, images, labels), all stacked."""
  network = torch_lenet5.LeNet5().to(torch_lenet5.device())
  loss_fn = make_loss(method, torch_lenet5.closed_form, alpha)

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
