"""The least time that a job can take: what it must compute and move.

Work is counted by hand: floating-point operations of the matrix products
(2 for a multiply-add) and bytes that enter or leave memory once, in float32.
What is left out (activation functions, pooling, tanh, the optimizer's
arithmetic) makes a floor lower, never higher. Rates are measured where the job
runs: a square matrix product, and copies of several sizes, because what stays
in a cache moves faster. The floor is the longer of the two times, as if
computing and moving overlapped perfectly.
"""

from collections.abc import Callable
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

FLOAT = 4  # Bytes.

# Operations of LeNet-5's layers, forward, for one image.
_CONV1 = 2 * 28 * 28 * 25 * 6
_CONV2 = 2 * 10 * 10 * 150 * 16
DENSE = ((400, 120), (120, 84), (84, 10))
LENET5_FORWARD = _CONV1 + _CONV2 + sum(2 * n * m for n, m in DENSE)
# For the parameters once more, for the inputs of all layers but the first.
LENET5_BACKWARD = 2 * LENET5_FORWARD - _CONV1
LENET5_PARAMS = 61706


class Work(NamedTuple):
  """What a job must do.

  Attributes:
    flops: Floating-point operations.
    num_bytes: Bytes read and written.
    working_set: Bytes that it comes back to, which decides the cache.
  """

  flops: float
  num_bytes: float
  working_set: float


class Rates(NamedTuple):
  """What a machine does in a second.

  Attributes:
    flops: Floating-point operations of a matrix product in float32.
    copies: Pairs (bytes of an array, bytes read and written in a second), by
      size.
  """

  flops: float
  copies: tuple[tuple[int, float], ...]


def measure(*, quick: bool = False) -> Rates:
  """Measures JAX's default device; with `quick` the rates mean nothing."""
  size = 128 if quick else 2048
  matrix = jnp.full((size, size), 0.5, jnp.float32)
  multiply = jax.jit(
    functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  )
  flops = 2 * size**3 / _best(lambda: multiply(matrix, matrix))
  copies = []
  for megabytes in (1,) if quick else (1, 16, 64, 512):
    count = megabytes * 2**20 // FLOAT
    # Into the same memory, without page faults.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    holder = [jnp.zeros(count, jnp.float32)]

    def copy(holder=holder, add=add) -> jax.Array:
      holder[0] = add(holder[0])
      return holder[0]

    copies.append((count * FLOAT, 2 * count * FLOAT / _best(copy)))
  return Rates(flops, tuple(copies))


def seconds(work: Work, rates: Rates) -> float:
  """Computes the least time of a job.

  Example:
    >>> rates = Rates(100.0, ((8, 50.0), (64, 10.0)))
    >>> seconds(Work(flops=100, num_bytes=5, working_set=8), rates)
    1.0
    >>> seconds(Work(flops=100, num_bytes=20, working_set=100), rates)
    2.0
  """
  # The greatest size that is not beyond the working set, or a greater one that
  # was faster (small copies are short beside their call), so that a floor is
  # never too high.
  least = max(
    (size for size, _ in rates.copies if size <= work.working_set), default=0
  )
  rate = max(rate for size, rate in rates.copies if size >= least)
  return max(work.flops / rates.flops, work.num_bytes / rate)


def training_step(num_members: int, batch_size: int, order: int) -> Work:
  """Counts an optimizer step of LeNet-5.

  Adam reads and writes parameters and two moments; gradients need not leave
  the cache. Images are bytes. Order 0 is without BEAN.

  Example:
    >>> training_step(1, 1, 0)
    Work(flops=2263920, num_bytes=1481728, working_set=740472)
  """
  flops = batch_size * (LENET5_FORWARD + LENET5_BACKWARD)
  if order:
    flops += sum(penalty(batch_size, n, m, order).flops for n, m in DENSE)
  state = 3 * LENET5_PARAMS * FLOAT
  return Work(
    num_members * flops,
    num_members * (2 * state + batch_size * 28 * 28),
    num_members * state,
  )


def evaluation(num_members: int, num_images: int) -> Work:
  """Counts the classification of shared images by LeNet-5."""
  num_bytes = num_members * LENET5_PARAMS * FLOAT + num_images * 28 * 28
  return Work(num_members * num_images * LENET5_FORWARD, num_bytes, num_bytes)


def dense(num_samples: int, num_neurons: int, num_next: int) -> Work:
  """Counts h W, and the products of its output's gradient with both."""
  num_bytes = FLOAT * (
    2 * num_samples * num_neurons
    + 2 * num_neurons * num_next
    + 2 * num_samples * num_next
  )
  flops = 3 * 2 * num_samples * num_neurons * num_next
  return Work(flops, num_bytes, num_bytes)


def penalty(
  num_samples: int, num_neurons: int, num_next: int, order: int
) -> Work:
  """Counts value and gradient of the penalty with the squared distance.

  Order 1 takes the products h F and F (F^T 1) and the gradients of both.
  Order 2 takes the cheaper of two ways: by pairs F F^T and h^T h, and a product
  with each of the two for the gradients; by features F^T diag(t) F, and F times
  that, for each sample and two more vectors t. Of a symmetric product, half is
  counted.
  """
  weights = num_neurons * num_next
  num_bytes = 2 * FLOAT * (num_samples * num_neurons + weights)
  if order == 1:
    return Work(6 * (num_samples + 1) * weights, num_bytes, num_bytes)
  by_pairs = 3 * num_neurons**2 * (num_next + num_samples)
  by_features = 3 * weights * num_next * (num_samples + 2)
  return Work(min(by_pairs, by_features), num_bytes, num_bytes)


def _best(run: Callable[[], jax.Array], tries: int = 8) -> float:
  run().block_until_ready()
  times = []
  for _ in range(tries):
    started = time.perf_counter()
    run().block_until_ready()
    times.append(time.perf_counter() - started)
  return min(times)
