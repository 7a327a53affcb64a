"""Accuracy of a population under attacks of every strength."""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.architectures.networks import Network, Variables
from experiments.attacks import gradient_sign
from experiments.attacks.gradient_sign import Robustness
from experiments.machine import devices
from experiments.population import groups


class Attack(NamedTuple):
  """How an attack goes through the box."""

  num_steps: int
  step_size: float | None = None  # None: epsilon, as far as a corner.
  random: bool = False  # Whether it starts at a random place.


ATTACKS = {
  "fgsm": Attack(1),
  "pgd": Attack(40, 0.01),
  "pgd_random": Attack(40, 0.01, random=True),
}
# Purpose of a member's key, far from those of `learner`.
START = 3001


def measure(
  network: Network,
  members: Sequence[Variables],
  images: datasets.Split,
  *,
  epsilons: Sequence[float],
  seeds: Sequence[int],
) -> dict[str, np.ndarray]:
  """Attacks the members of a population, spread over all devices.

  Epsilons are the largest changes of a pixel, from 0 to 1; seeds, one a member,
  decide where random attacks begin. Returns accuracies [members, epsilons] by
  attack, and `zero_gradients` [members], shares of images without a gradient.
  """
  count, num_devices = len(members), devices.mesh().size
  size = min(gradient_sign.BLOCK, len(images.labels))
  width = num_devices * groups.fast_width(size)
  shared = devices.place(tuple(images), devices.SHARED)
  # Every device needs as many: the last is repeated.
  order = np.minimum(np.arange(count + -count % num_devices), count - 1)
  found = {name: np.empty((count, len(epsilons))) for name in ATTACKS}
  found["zero_gradients"] = np.empty(count)
  for first in range(0, count, width):
    rows = order[first : first + width]
    variables, placed_seeds = devices.place(
      (
        jax.tree.map(lambda *x: np.stack(x), *(members[i] for i in rows)),
        jnp.array([seeds[i] for i in rows], jnp.uint32),
      ),
      devices.MEMBERS,
    )
    for name, (place, epsilon) in itertools.product(
      ATTACKS, enumerate(epsilons)
    ):
      # Within no change all attacks are the same.
      attack = ATTACKS[name if epsilon else "fgsm"]
      size = epsilon if attack.step_size is None else attack.step_size
      outcome = _program(network)(
        variables,
        placed_seeds,
        *shared,
        *(np.float32(epsilon), np.float32(size)),
        *(np.int32(attack.num_steps), np.bool_(attack.random)),
      )
      found[name][rows, place] = outcome.accuracy
      found["zero_gradients"][rows] = outcome.zero_gradients
  return found


@functools.cache
def _program(network: Network) -> Callable[..., Robustness]:
  """Compiles all attacks, of any epsilon: they differ in numbers alone."""

  def run(
    variables: Variables,
    seeds: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    epsilon: jax.Array,
    step_size: jax.Array,
    num_steps: jax.Array,
    random: jax.Array,
  ) -> Robustness:
    keys = jax.vmap(
      lambda seed: jax.random.fold_in(jax.random.key(seed), START)
    )(seeds)
    attack = functools.partial(
      gradient_sign.pgd,
      epsilon=epsilon,
      step_size=step_size,
      num_steps=num_steps,
      random=random,
    )
    return gradient_sign.evaluate(
      network, variables, images, labels, keys, attack
    )

  return devices.spread(
    run,
    takes=(*[devices.MEMBERS] * 2, *[devices.SHARED] * 6),
    gives=devices.MEMBERS,
  )
