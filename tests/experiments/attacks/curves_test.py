"""Tests of experiments.attacks.curves."""

import functools

import jax
import numpy as np
import pytest

from experiments import datasets
from experiments.attacks import curves, gradient_sign
from experiments.population import groups
from tests.experiments import tiny

IMAGES = datasets.Split(*(a[:30] for a in tiny.load_few_digits().test))
EPSILONS = (0.0, 0.2, 0.9)
SEEDS = (7, 3, 5)


@pytest.fixture(scope="module")
def members():
  """Three, which do not fill two devices evenly."""
  made = [jax.device_get(tiny.NETWORK.init(jax.random.key(s))) for s in SEEDS]
  for variables in made:
    # With it one class wins, whatever the image.
    variables.params["fc2"]["bias"] = np.zeros(10, np.float32)
  return made


@pytest.fixture(scope="module")
def found(members):
  with pytest.MonkeyPatch.context() as patch:
    # More than one chunk.
    patch.setattr(groups, "fast_width", lambda size: 1)
    # After some steps the start matters to none of so few images.
    still = curves.Attack(0, 0.01, random=True)
    patch.setitem(curves.ATTACKS, "pgd_random", still)
    yield curves.measure(
      tiny.NETWORK, members, IMAGES, epsilons=EPSILONS, seeds=SEEDS
    )


# PGD as in the literature.
@pytest.mark.parametrize(
  "name,num_steps,step_size",
  (("fgsm", 1, None), ("pgd", 40, 0.01), ("pgd_random", 0, 0.01)),
)
def test_each_member_as_by_itself(name, num_steps, step_size, members, found):
  @jax.jit
  def alone(member, key, epsilon):
    return gradient_sign.evaluate(
      tiny.NETWORK,
      jax.tree.map(lambda leaf: leaf[None], member),
      *IMAGES,
      key[None],
      functools.partial(
        gradient_sign.pgd,
        epsilon=epsilon,
        num_steps=num_steps,
        step_size=step_size or epsilon,
        random=name == "pgd_random",
      ),
    ).accuracy[0]

  for index, member in enumerate(members):
    key = jax.random.fold_in(jax.random.key(SEEDS[index]), curves.START)
    np.testing.assert_allclose(
      found[name][index, 1:],
      [alone(member, key, epsilon) for epsilon in EPSILONS[1:]],
      atol=1e-6,
    )


def test_without_a_change_nobody_is_attacked(members, found):
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  right = tiny.NETWORK.predict(stacked, IMAGES.images) == IMAGES.labels
  for name in curves.ATTACKS:
    np.testing.assert_allclose(found[name][:, 0], right.mean(axis=1), atol=1e-6)
  np.testing.assert_array_equal(found["zero_gradients"], 0)
