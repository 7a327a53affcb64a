"""The penalty of one wide layer: its time and memory beside a dense layer's."""

from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax
from benchmarks import agreement, cases, floors, settings, timing
from experiments.machine import devices

DENSE = "h W, forward and backward"
TORCH_DENSE = "PyTorch, h W, forward and backward"
FORMS = tuple(
  (order, distance) for distance in ("squared", "absolute") for order in (1, 2)
)


def shape(options: settings.Settings) -> tuple[int, int, int]:
  """Returns samples S, neurons N and neurons of the next layer M."""
  return (8, 32, 32) if options.quick else (512, 4096, 4096)


def run(
  options: settings.Settings, layer: tuple[int, int, int] | None = None
) -> cases.Case:
  """Times value and gradient of the penalty.

  Args:
    options: Of the run.
    layer: S, N and M, if not those of `shape`.

  Raises:
    agreement.DisagreementError: If PyTorch computes something else.
  """
  num_samples, num_neurons, num_next = layer = layer or shape(options)
  contenders = list(_contenders(layer, options))
  rates = floors.measure(quick=options.quick)
  timings = timing.alternate(contenders, repeats=options.repeats)
  rows = [timing.row(c, timings[c.name], rates) for c in contenders]
  for row in rows:
    mine = timings[row["name"]]
    row["times_dense"] = timing.ratio(mine, timings[DENSE])
    peer = f"PyTorch, {row['name']}"
    if peer in timings:
      row["faster_than_peer"] = timing.ratio(timings[peer], mine)
  return cases.Case(
    title=(
      f"Penalty of a layer: value and gradient, S = {num_samples}, "
      f"N = {num_neurons}, M = {num_next}"
    ),
    unit="s",
    rates=rates,
    rows=rows,
  )


def memory(options: settings.Settings) -> cases.Case:
  """Counts the temporaries of the compiled penalties; nothing is run."""
  num_samples, num_neurons, num_next = shape(options)
  rows = []
  for name, function in (
    (DENSE, dense),
    *(
      (name_of(order, distance), value_and_gradients(order, distance))
      for order, distance in FORMS
    ),
  ):
    rows.append(
      {
        "name": name,
        "temp_bytes": temp_bytes(
          function, (num_samples, num_neurons), (num_neurons, num_next)
        ),
      }
    )
  # What the authors' expression makes, once.
  pairwise = floors.FLOAT * num_samples * num_neurons**2
  rows.append({"name": "the tensor [S, N, N]", "temp_bytes": pairwise})
  return cases.Case(
    title=(
      f"Temporaries of the penalty: value and gradient, S = {num_samples}, "
      f"N = {num_neurons}, M = {num_next}"
    ),
    unit="bytes",
    rows=rows,
  )


def temp_bytes(function: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
  """Compiles a function of float32 arrays and returns its temporaries' bytes.

  Args:
    function: It.
    *shapes: Of its arguments.
  """
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def name_of(order: int, distance: str) -> str:
  """Returns the name of a form of the penalty."""
  return f"BEAN-{order}, {distance} distance"


def value_and_gradients(order: int, distance: str) -> Callable[..., Any]:
  """Returns the penalty of (activations, kernel) with both gradients."""
  penalty = functools.partial(
    bean_jax.layer_penalty, order=order, distance=distance
  )
  return jax.value_and_grad(penalty, argnums=(0, 1))


def dense(
  activations: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Returns h W, and the gradients of half of its square.

  Args:
    activations: h [S, N].
    kernel: W [N, M].
  """
  multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  output, pullback = jax.vjp(multiply, activations, kernel)
  return output, pullback(output)


def draw(num_samples: int, num_neurons: int, num_next: int) -> tuple[Any, Any]:
  """Draws activations [S, N] and a kernel [N, M], as after initialization."""
  generator = np.random.default_rng(0)
  hidden = generator.standard_normal((num_samples, num_neurons), np.float32)
  kernel = generator.standard_normal((num_neurons, num_next), np.float32)
  return np.maximum(hidden, 0), kernel / np.float32(num_neurons**0.5)


def contender(
  name: str,
  function: Callable[..., Any],
  arguments: tuple[Any, Any],
  work: floors.Work | None,
  **fields: Any,
) -> timing.Contender:
  """Makes a contender of a function of JAX arrays."""
  arguments = jax.tree.map(jnp.asarray, arguments)
  program = jax.jit(function)
  return timing.Contender(
    name,
    lambda: jax.block_until_ready(program(*arguments)),
    work=work,
    fields=fields,
  )


def _contenders(
  layer: tuple[int, int, int], options: settings.Settings
) -> Iterator[timing.Contender]:
  arguments = draw(*layer)
  yield contender(DENSE, dense, arguments, floors.dense(*layer))
  for order, distance in FORMS:
    if distance == "absolute" and not options.absolute:
      continue
    name = name_of(order, distance)
    function = value_and_gradients(order, distance)
    squared = distance == "squared"
    work = floors.penalty(*layer, order) if squared else None
    yield contender(name, function, arguments, work)
    if squared and options.torch:
      expected = jax.jit(function)(*arguments)
      yield _torch_penalty(name, arguments, order, work, expected)
  if options.torch:
    yield _torch_dense(arguments, floors.dense(*layer))


def _torch_penalty(
  name: str,
  arguments: tuple[np.ndarray, np.ndarray],
  order: int,
  work: floors.Work,
  expected: Any,
) -> timing.Contender:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_layers

  return _torch_contender(
    f"PyTorch, {name}",
    torch_layers.make_penalty(*arguments, order),
    work,
    expected,
  )


def _torch_dense(
  arguments: tuple[np.ndarray, np.ndarray], work: floors.Work
) -> timing.Contender:
  from benchmarks import torch_layers

  return _torch_contender(
    TORCH_DENSE,
    torch_layers.make_dense(*arguments),
    work,
    jax.jit(dense)(*arguments),
  )


def _torch_contender(
  name: str, function: Callable[[], Any], work: floors.Work, expected: Any
) -> timing.Contender:
  from benchmarks import torch_lenet5, torch_trainers

  got = jax.tree.map(torch_lenet5.to_numpy, function())
  agreement.check(name, got, expected)
  run = torch_trainers.with_threads(function, devices.num_cores())
  return timing.Contender(name, run, work=work)
