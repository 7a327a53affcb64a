"""Time against size: members of a population, widths, and batches."""

from collections.abc import Sequence
from typing import Any

from benchmarks import cases, floors, penalties, problems, steps, timing
from experiments.learning import methods

# Beyond it, order 2 takes minutes: its work grows with the cube of the width.
WIDEST_ORDER_2 = 4096


def members(options: cases.Settings) -> cases.Case:
  """Times a step of more and more members that are trained at once."""
  counts = (1, 2) if options.quick else (1, 5, 20, 80, 320)
  num_steps = 2 if options.quick else 50
  contenders = [
    _step(method, count, 1, num_steps, x=count, members=count)
    for method in ("vanilla", "bean1")
    for count in counts
  ]
  return _against_members(
    options,
    contenders,
    "Step time against members trained at once, LeNet-5, batch 1",
  )


def members_beside_peers(
  batch_size: int, options: cases.Settings
) -> cases.Case:
  """Times a BEAN-1 step of more and more members, beside PyTorch's."""
  counts = (1, 20, 200, 2000) if batch_size == 1 else (1, 20, 200)
  num_steps = 50 if batch_size == 1 else 5
  if options.quick:
    counts, num_steps, batch_size = (1, 2), 2, min(batch_size, 4)
  contenders = []
  for count in counts:
    routes = [steps.ours("bean_jax, all at once", num_steps, count)]
    peers = steps.peers(batch_size, options)
    if count == 1:
      routes += peers
    elif count <= 200:
      # One by one, the time of many is that of one, so many times over.
      routes += [peer for peer in peers if peer.torch and peer.probe is None]
    problem = problems.draw(count, num_steps * batch_size)
    for made in steps.checked_contenders(
      routes, ["bean1"], problem, batch_size
    ):
      fields = {"series": made.fields["route"], "x": count, "members": count}
      contenders.append(
        made._replace(
          name=f"{made.name}, {count}", fields={**made.fields, **fields}
        )
      )
  title = f"BEAN-1 step of LeNet-5 against members, batch {batch_size}"
  return _against_members(options, contenders, title)


def _against_members(
  options: cases.Settings, contenders: Sequence[timing.Contender], title: str
) -> cases.Case:
  case = cases.measure(
    options,
    contenders,
    title=title,
    unit="s per step of all members",
    x_label="members",
  )
  for row in case.rows:
    row["members_times_steps_per_second"] = row["members"] / row["median"]
  return case


def widths(options: cases.Settings) -> cases.Case:
  """Times the penalty of wider and wider layers, N = M, of 64 samples."""
  sizes = (8, 16) if options.quick else (64, 256, 1024, 2048, 4096, 8192)
  num_samples = 4 if options.quick else 64
  contenders = []
  for width in sizes:
    orders = (1, 2) if width <= WIDEST_ORDER_2 else (1,)
    contenders += _layer((num_samples, width, width), width, orders)
  return cases.measure(
    options,
    contenders,
    title=f"Penalty: value and gradient against width N = M, S = {num_samples}",
    unit="s",
    x_label="width",
  )


def batches(options: cases.Settings) -> cases.Case:
  """Times the penalty of a layer, N = M = 1024, for more and more samples."""
  width = 16 if options.quick else 1024
  contenders = []
  for num_samples in _batch_sizes(options):
    contenders += _layer((num_samples, width, width), num_samples, (1, 2))
  return cases.measure(
    options,
    contenders,
    title=f"Penalty: value and gradient against samples, N = M = {width}",
    unit="s",
    x_label="samples",
  )


def step_batches(options: cases.Settings) -> cases.Case:
  """Times a step of one member with larger and larger batches."""
  contenders = [
    _step(method, 1, size, 2 if options.quick else max(2, 128 // size), x=size)
    for method in ("vanilla", "bean1", "bean2")
    for size in _batch_sizes(options)
  ]
  return cases.measure(
    options,
    contenders,
    title="Step time against batch, one LeNet-5",
    unit="s per step",
    x_label="images in a batch",
  )


def _batch_sizes(options: cases.Settings) -> Sequence[int]:
  return (1, 4) if options.quick else (1, 4, 16, 64, 256, 1024)


def _step(
  method: str,
  num_members: int,
  batch_size: int,
  num_steps: int,
  **fields: Any,
) -> timing.Contender:
  problem = problems.draw(num_members, num_steps * batch_size)
  name = f"{num_members} LeNet-5, batch {batch_size}"
  route = steps.ours(name, num_steps, num_members)
  made = steps.contender(route, method, problem, batch_size)
  title = methods.METHODS[method].title
  return made._replace(fields={**made.fields, "series": title, **fields})


def _layer(
  layer: tuple[int, int, int], x: int, orders: Sequence[int]
) -> list[timing.Contender]:
  arguments = penalties.draw(*layer)
  programs = [(penalties.DENSE, penalties.dense, floors.dense(*layer))]
  for order in orders:
    name = penalties.name_of(order, "squared")
    function = penalties.value_and_gradients(order, "squared")
    programs.append((name, function, floors.penalty(*layer, order)))
  return [
    penalties.contender(
      f"{name}, {x}", function, arguments, work, series=name, x=x
    )
    for name, function, work in programs
  ]
