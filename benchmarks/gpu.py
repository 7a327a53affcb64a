"""Cases that make sense on a GPU only: great populations and wide layers."""

from collections.abc import Callable

from benchmarks import (
  cases,
  growth,
  penalties,
  problems,
  settings,
  steps,
  timing,
  trainers,
)


def members(batch_size: int, options: settings.Settings) -> cases.Case:
  """Times a BEAN-1 step of more and more members, beside PyTorch's.

  Args:
    batch_size: Images of each member in a step.
    options: Of the run.

  Raises:
    agreement.DisagreementError: If PyTorch computes something else.
  """
  counts = (1, 20, 200, 2000) if batch_size == 1 else (1, 20, 200)
  if options.quick:
    counts, batch_size = (1, 2), min(batch_size, 4)
  contenders: list[timing.Contender] = []
  for count in counts:
    num_steps = 2 if options.quick else {1: 50}.get(batch_size, 5)
    problem = problems.draw(count, num_steps * batch_size)
    routes = _routes(count, batch_size, num_steps, options)
    for made in steps.checked_contenders(
      routes, ["bean1"], problem, batch_size=batch_size
    ):
      fields = {"series": made.fields["route"], "x": count, "members": count}
      contenders.append(
        made._replace(
          name=f"{made.name}, {count}", fields={**made.fields, **fields}
        )
      )
  case = growth.measure(
    options,
    contenders,
    title=f"BEAN-1 step of LeNet-5 against members, batch {batch_size}",
    unit="s per step of all members",
    x_label="members",
  )
  for row in case.rows:
    row["members_times_steps_per_second"] = row["members"] / row["median"]
  return case


def _routes(
  count: int, batch_size: int, num_steps: int, options: settings.Settings
) -> list[steps.Route]:
  """Returns ours, and those of the peers that are worth it."""
  ours = steps.Route(
    "bean_jax, all at once",
    ("bean1",),
    trainers.population(count),
    trainers.loss_and_gradients,
    num_steps,
  )
  peers = steps.peers(batch_size, options)
  if count > 200:
    return [ours]
  if count > 1:
    # One by one, the time of many is that of one, so many times over.
    peers = [route for route in peers if route.torch and route.probe is None]
  return [ours, *peers]


def penalty(width: int) -> Callable[[settings.Settings], cases.Case]:
  """Makes the case of a layer's penalty, N = M, of 512 samples.

  Args:
    width: N and M.
  """

  def case(options: settings.Settings) -> cases.Case:
    layer = (8, 32, 32) if options.quick else (512, width, width)
    return penalties.run(options, layer)

  return case
