"""What learns: the interface between ways of learning and populations.

A learner trains one member: one simulation, of a key, hyper-parameters and
data. It is pure functions, and knows nothing of other members, devices or
files; `experiments.population` maps it over members. Between two validations
it trains for a lap, which may be an epoch, several, or whatever else it takes.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.architectures.networks import Network, Variables

PyTree = Any

# Purposes of a member's key, so that no stream depends on another's length.
INIT, SHUFFLE, NOISE, EVALUATION = range(4)


class Hparams(NamedTuple):
  """Numbers that may differ from member to member.

  Attributes:
    learning_rate: Of the optimizer.
    strength: The method's hyper-parameter, such as alpha.
  """

  learning_rate: jax.Array
  strength: jax.Array


class Samples(NamedTuple):
  """Inputs [n, ...] of a network and labels [n]."""

  inputs: jax.Array
  labels: jax.Array


class State(NamedTuple):
  """What a member carries from lap to lap.

  Attributes:
    variables: Of its network.
    memory: All else, such as the state of an optimizer.
  """

  variables: Variables
  memory: PyTree


class Report(NamedTuple):
  """What a lap gave.

  Attributes:
    metrics: Scalars by name. `objective` is what the learner lowers, by which
      it is told whether it has converged; `train_loss` the cross-entropy.
    failed_step: Step, counted from the beginning of training, in which it
      failed; -1 if it did not. The member then stands still, as it was before
      the lap.
  """

  metrics: Mapping[str, jax.Array]
  failed_step: jax.Array


class Learner(NamedTuple):
  """A way to train one member.

  Learners may share functions, which then compile once for all of them.

  Attributes:
    init: Maps (key, hparams, data) to a `State`.
    lap: Maps (state, number of the lap from 0, key, hparams, data) to (state,
      `Report`).
    predict: Maps (variables, images, keys, hparams, occasion) to classes
      [members, n]: of all members, and images that they share. The occasion is
      the epoch, or 0 for the final test.
    num_laps: Laps of a whole training.
    epochs: Epochs of a lap.
    prepare: Maps a member's data to the form that `lap` takes, once.
    rivals: What else is tested of a member: functions of (data, images) that
      return classes, by name.
    objective: Maps (params, batch statistics, `streams.Batch`, hparams) to
      (what a step lowers, `descent.Aux`), to be looked at from outside.
    first_objective: First lap whose objective tells whether a member has
      converged, as where others lower none.
  """

  init: Callable[[jax.Array, Hparams, Samples], State]
  lap: Callable[..., tuple[State, Report]]
  predict: Callable[..., jax.Array]
  num_laps: int
  epochs: int
  prepare: Callable[[Samples], Samples] = lambda data: data
  rivals: tuple[tuple[str, Callable[..., jax.Array]], ...] = ()
  objective: Callable[..., tuple[jax.Array, Any]] | None = None
  first_objective: int = 0


class Schedule(NamedTuple):
  """How long a member is trained, and in which steps.

  Attributes:
    epochs: Passes over its images.
    batch_size: Images in a step; 0, or more than there are, means all.
    validate_every: Epochs from one validation to the next, a lap; a divisor of
      all.
  """

  epochs: int
  batch_size: int = 1
  validate_every: int = 1

  def size(self, num_samples: int) -> int:
    """Returns how many of so many images a step takes."""
    return min(self.batch_size or num_samples, num_samples)

  def steps(self, num_samples: int) -> int:
    """Returns how many steps an epoch of so many images has."""
    return -(-num_samples // self.size(num_samples))


def first_failure(
  objectives: jax.Array, variables: Variables, steps: jax.Array
) -> jax.Array:
  """Returns the step in which a lap failed, -1 if it did not.

  It is that of the first objective that is not finite, of objectives and steps
  [n]; else the last one, if then a variable is not: a gradient may overflow
  where no loss tells.
  """
  bad = ~jnp.isfinite(objectives)
  finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), variables)
  broken = ~jnp.stack(jax.tree.leaves(finite)).all()
  # As a part of the reduction over steps XLA computes it once, and not anew for
  # every array of a member.
  bad = bad.at[-1].set(bad[-1] | broken)
  return jnp.where(jnp.any(bad), steps[jnp.argmax(bad)], -1)


@functools.cache
def plain_predict(network: Network) -> Callable[..., jax.Array]:
  """Makes `Learner.predict` of a network that is evaluated as it is."""
  return lambda variables, images, *_: network.predict(variables, images)
