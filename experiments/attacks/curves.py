"""Accuracy of a population under attacks of every strength."""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments.architectures.networks import Network, Variables
from experiments.attacks import gradient_sign
from experiments.attacks.gradient_sign import Robustness
from experiments.machine import devices
from experiments.population import groups

ATTACKS = {
  "fgsm": gradient_sign.fgsm,
  "pgd": gradient_sign.pgd,
  "pgd_random": gradient_sign.pgd,
}
# Those that begin at random.
RANDOM = ("pgd_random",)
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
  decide where random attacks begin.

  Returns:
    Accuracies [members, epsilons] by the name of the attack, and
    `zero_gradients` [members], the share of images without a gradient.
  """
  num_devices = devices.mesh().size
  size = min(gradient_sign.BLOCK, len(images.labels))
  width = num_devices * groups.fast_width(size)
  # Every device needs as many: the last is repeated.
  missing = -len(members) % num_devices
  members = [*members, *[members[-1]] * missing]
  seeds = [*seeds, *[0] * missing]
  parts = [
    _attack(
      network,
      members[first : first + width],
      images,
      epsilons,
      seeds[first : first + width],
    )
    for first in range(0, len(members), width)
  ]
  return {
    name: np.concatenate([part[name] for part in parts])[
      : len(members) - missing
    ]
    for name in parts[0]
  }


def _attack(
  network: Network,
  members: Sequence[Variables],
  images: datasets.Split,
  epsilons: Sequence[float],
  seeds: Sequence[int],
) -> dict[str, np.ndarray]:
  variables = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  variables, placed_seeds = devices.place(
    (variables, jnp.array(seeds, jnp.uint32)), devices.MEMBERS
  )
  shared = devices.place(tuple(images), devices.SHARED)
  found: dict[str, np.ndarray] = {}
  for name in ATTACKS:
    outcomes = [
      jax.device_get(
        # Within no change all attacks are the same.
        _program(network, name if epsilon else "fgsm")(
          variables, placed_seeds, *shared, np.float32(epsilon)
        )
      )
      for epsilon in epsilons
    ]
    found[name] = np.stack([one.accuracy for one in outcomes], axis=1)
    found["zero_gradients"] = outcomes[0].zero_gradients
  return found


@functools.cache
def _program(network: Network, name: str) -> Callable[..., Robustness]:
  """Compiles an attack of any epsilon."""

  def run(
    variables: Variables,
    seeds: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    epsilon: jax.Array,
  ) -> Robustness:
    keys = None
    if name in RANDOM:
      keys = jax.vmap(
        lambda seed: jax.random.fold_in(jax.random.key(seed), START)
      )(seeds)
    attack = functools.partial(ATTACKS[name], epsilon=epsilon)
    return gradient_sign.evaluate(
      network, variables, images, labels, attack, keys
    )

  return devices.spread(
    run,
    takes=(*[devices.MEMBERS] * 2, *[devices.SHARED] * 3),
    gives=devices.MEMBERS,
  )
