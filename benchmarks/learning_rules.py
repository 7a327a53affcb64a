"""Learning rules that are no backpropagation: ours beside PyTorch's."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import agreement, cases, floors, problems, timing, trainers
from experiments.learning import chains
from experiments.learning.competing_units import Rule, compete
from experiments.learning.learner import Samples
from experiments.learning.streams import Batch
from experiments.machine import devices

PyTree = Any

METHOD = "pc_fixed"
# Of the hidden units: those of the paper for 2,000 of them on MNIST.
RULE = {"norm": 3.0, "rank": 7, "inhibition": 0.4}
RATE = 0.04


def predictive_coding(options: cases.Settings) -> cases.Case:
  """Times an optimizer step of a population by FixedPred, of 20 sweeps."""
  num_members, num_steps, batch_size, widths = 20, 5, 100, (10, 2, 1)
  if options.quick:
    num_members, num_steps, batch_size, widths = 2, 2, 4, (2,)
  problem = problems.draw(num_members, num_steps * batch_size)
  work = floors.training_step(num_members, batch_size, 0)
  contenders = [
    timing.Contender(
      f"bean_jax, {width} at once",
      trainers.population(width)(problem, METHOD, batch_size, num_steps),
      num_steps,
      work,
    )
    for width in widths
  ]
  if options.torch:
    contenders += _predictive_peers(problem, batch_size, work)
  case = cases.measure(
    options,
    contenders,
    title=f"One step of predictive coding (FixedPred), {num_members} LeNet-5, "
    f"batch {batch_size}",
    unit="s per step of all members",
  )
  peer = "PyTorch, one by one, as Torch2PC"
  timing.add_ratios(
    case.rows, "faster_than_peer", lambda row: peer, faster=True
  )
  return case


def predictive_updates(problem: problems.Problem) -> tuple[jax.Array, PyTree]:
  """Computes losses [members] and what `predictive_coding` learns from."""
  gradient = chains.predictive_gradient(problems.LENET5, "fixed")

  def of_member(params: PyTree, samples: Samples, hparams: Any) -> tuple:
    batch = Batch(samples, None, jax.random.key(0))
    (loss, _), grads = gradient(params, {}, batch, hparams)
    return loss, grads

  return jax.jit(jax.vmap(of_member))(
    problem.params,
    problems.samples(problem),
    problems.hparams(len(problem.labels), problems.STRENGTHS[METHOD]),
  )


def predictive_peer_updates(
  problem: problems.Problem, gradient: Callable[..., Any]
) -> tuple[np.ndarray, PyTree]:
  """Computes the same by a rule of `torch_rules.PREDICTIVE`.

  In float64: errors that are differences of beliefs have the rounding errors of
  those, which are larger by orders of magnitude.
  """
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_trainers

  return torch_trainers.updates(problem, gradient, torch_trainers.torch.float64)


def _predictive_peers(
  problem: problems.Problem, batch_size: int, work: floors.Work
) -> Iterator[timing.Contender]:
  from benchmarks import torch_rules, torch_trainers

  few = problem.members(0, 2).first_images(batch_size)
  # The same batch three times, since ours takes images in another order.
  losses = trainers.population(2)(few, METHOD, batch_size, 3)()
  expected = predictive_updates(few)
  for name, gradient in torch_rules.PREDICTIVE.items():
    agreement.check(
      f"{name}: updates",
      predictive_peer_updates(few, gradient),
      expected,
    )
    agreement.check(
      f"{name}: losses of three steps",
      torch_trainers.train_one_by_one(few, gradient, batch_size, 3)(),
      losses,
    )
    run, probe = (
      torch_trainers.train_one_by_one(part, gradient, batch_size, 1)
      for part in (problem, problem.members(0, 1))
    )
    yield torch_trainers.with_best_threads(
      timing.Contender(name, run, work=work), probe
    )


def competition(options: cases.Settings) -> cases.Case:
  """Times an epoch of Krotov and Hopfield's 2,000 competing hidden units."""
  num_units, num_images, batch_size, counts = 2000, 10_000, 100, (1, 20)
  if options.quick:
    num_units, num_images, batch_size, counts = 16, 40, 10, (1, 2)
  weights, images = draw_units(max(counts), num_units, num_images)
  batches = images.reshape(-1, batch_size, images.shape[1])
  contenders = []
  for count in counts:
    # Weights are read and written in every step.
    numbers = count * num_units * images.shape[1]
    work = floors.Work(
      4 * num_images * numbers,
      2 * floors.FLOAT * len(batches) * numbers,
      floors.FLOAT * numbers,
    )
    peer = f"PyTorch, {count} of them, one by one"
    contenders.append(
      timing.Contender(
        f"bean_jax, {count} of them",
        make_epoch(weights[:count], batches),
        work=work,
        fields={"peer": peer},
      )
    )
    if options.torch:
      contenders.append(_competing_peer(peer, weights[:count], batches, work))
  case = cases.measure(
    options,
    contenders,
    title=f"An epoch of {num_units} competing hidden units, {num_images} "
    f"images, batch {batch_size}",
    unit="s for all members",
  )
  timing.add_ratios(
    case.rows, "faster_than_peer", lambda row: row["peer"], faster=True
  )
  return case


def draw_units(
  num_members: int, num_units: int, num_images: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws weights [members, units, 784] and images [n, 784] from 0 to 1."""
  shape = (num_members, num_units, 784)
  weights = np.random.default_rng(0).standard_normal(shape, np.float32)
  images = problems.draw_images(num_images).reshape(num_images, -1)
  return weights, images.astype(np.float32) / 255


def make_epoch(
  weights: np.ndarray, batches: np.ndarray
) -> Callable[[], jax.Array]:
  """Makes what trains all members for an epoch and returns their weights.

  The next call goes on.

  Args:
    weights: To begin with [members, units, pixels].
    batches: Images of all members, [batches, batch, pixels] from 0 to 1.
  """

  def step(weights: jax.Array, batch: jax.Array) -> tuple[jax.Array, None]:
    norm, rank, inhibition = RULE.values()
    rule = Rule(norm, rank)
    return compete(weights, batch, rule, RATE, inhibition=inhibition), None

  def epoch(weights: jax.Array, batches: jax.Array) -> jax.Array:
    return jax.vmap(lambda one: jax.lax.scan(step, one, batches)[0])(weights)

  if len(weights) % devices.mesh().size:
    # On one device, which shares out its matrix products over cores.
    run = jax.jit(epoch, donate_argnums=0)
    state, data = jnp.asarray(weights), jnp.asarray(batches)
  else:
    run = devices.spread(
      epoch,
      takes=(devices.MEMBERS, devices.SHARED),
      gives=devices.MEMBERS,
      donate=(0,),
    )
    state = devices.place(weights, devices.MEMBERS)
    data = devices.place(batches, devices.SHARED)

  def run_epoch() -> jax.Array:
    nonlocal state
    state = run(state, data)
    return state.block_until_ready()

  return run_epoch


def _competing_peer(
  name: str, weights: np.ndarray, batches: np.ndarray, work: floors.Work
) -> timing.Contender:
  from benchmarks import torch_rules, torch_trainers

  first, few = weights[:1], batches[:3]
  agreement.check(
    f"{name}: updates",
    torch_rules.competing_epoch(first, few, RATE, **RULE)() - first,
    np.asarray(make_epoch(first, few)()) - first,
  )
  run, probe = (
    torch_rules.competing_epoch(*part, RATE, **RULE)
    for part in ((weights, batches), (first, batches[:10]))
  )
  made = timing.Contender(name, run, work=work, fields={"peer": name})
  return torch_trainers.with_best_threads(made, probe)
