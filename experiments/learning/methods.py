"""The compared methods: a row of a table each.

To add a method, add an entry to `METHODS`, or to one of its two parts; flags,
cells, tables and figures follow. Any function that makes a `Learner` will do.
"""

from collections.abc import Mapping
import functools
from typing import Any

from experiments.architectures.networks import Network
from experiments.learning import rule_rows, table1_rows
from experiments.learning.learner import Learner, Schedule
from experiments.learning.method import Method as Method
from experiments.learning.options import Options as Options
from experiments.learning.streams import Stream

METHODS = {**table1_rows.ROWS, **rule_rows.ROWS}
TABLE1 = tuple(table1_rows.ROWS)
# Those that learn from a training set of any size.
OF_ANY_SIZE = tuple(name for name, m in METHODS.items() if not m.shots_alone)


def strength(config: Mapping[str, Any]) -> float:
  """Returns the hyper-parameter of its method, 0 where there is none."""
  hparam = METHODS[config["method"]].hparam
  return float(config[hparam]) if hparam else 0.0


@functools.cache
def learner(
  name: str,
  network: Network,
  stream: Stream,
  schedule: Schedule,
  options: Options,
) -> Learner:
  """Makes how a method trains a member, one object for equal arguments.

  The schedule is what `schedule` returned for it.
  """
  return METHODS[name].make(network, stream, schedule, options)


def schedule(name: str, planned: Schedule, options: Options) -> Schedule:
  """Returns how a method is trained in a run that plans so for all.

  With larger batches and more epochs if the method needs that, or at its own
  pace.
  """
  method = METHODS[name]
  if method.pace is not None:
    return method.pace(options)
  if not 0 < planned.batch_size < method.batch:
    return planned
  factor = -(-method.batch // planned.batch_size)
  return planned._replace(
    batch_size=method.batch,
    epochs=factor * planned.epochs,
    validate_every=factor * planned.validate_every,
  )


def cost(
  name: str, planned: Schedule, options: Options, num_samples: int
) -> int:
  """Estimates the work of one member, in images that pass forward.

  A step of what `schedule` returned goes forward and backward, and through all
  parameters. Validation comes on top.
  """
  method = METHODS[name]
  if method.cost is not None:
    return method.cost(options, num_samples)
  num_steps = planned.epochs * planned.steps(num_samples)
  return num_steps * (3 * planned.size(num_samples) + method.step_cost)
