"""The penalty of one wide layer: its time and memory beside a dense layer's."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax
from benchmarks import agreement, cases, floors, timing
from experiments.machine import devices

DENSE = "h W, forward and backward"
FORMS = tuple(
  (order, distance) for distance in ("squared", "absolute") for order in (1, 2)
)


def shape(width: int, options: cases.Settings) -> tuple[int, int, int]:
  """Returns samples S, neurons N and neurons of the next layer M."""
  return (8, 32, 32) if options.quick else (512, width, width)


def run(width: int, options: cases.Settings) -> cases.Case:
  """Times the penalty with the squared distance and its gradients, N = M."""
  layer = shape(width, options)
  arguments = draw(*layer)
  programs = [(DENSE, dense, 0, floors.dense(*layer))]
  for order in (1, 2):
    function = value_and_gradients(order, "squared")
    work = floors.penalty(*layer, order)
    programs.append((name_of(order, "squared"), function, order, work))
  contenders = []
  for name, function, order, work in programs:
    contenders.append(contender(name, function, arguments, work))
    if options.torch:
      expected = jax.jit(function)(*arguments)
      contenders.append(_peer(name, arguments, order, work, expected))
  case = cases.measure(
    options, contenders, title=_title("Penalty of a layer", layer), unit="s"
  )
  timing.add_ratios(case.rows, "times_dense", lambda row: DENSE)
  timing.add_ratios(
    case.rows,
    "faster_than_peer",
    lambda row: f"PyTorch, {row['name']}",
    faster=True,
  )
  return case


def memory(options: cases.Settings) -> cases.Case:
  """Counts the temporaries of the compiled penalties; nothing is run."""
  layer = num_samples, num_neurons, num_next = shape(4096, options)
  functions = {DENSE: dense}
  functions |= {name_of(*form): value_and_gradients(*form) for form in FORMS}
  counts = {
    name: temp_bytes(
      function, (num_samples, num_neurons), (num_neurons, num_next)
    )
    for name, function in functions.items()
  }
  # What the authors' expression makes, once.
  counts["the tensor [S, N, N]"] = floors.FLOAT * num_samples * num_neurons**2
  rows = [{"name": name, "temp_bytes": n} for name, n in counts.items()]
  title = _title("Temporaries of the penalty", layer)
  return cases.Case(title, "bytes", rows)


def temp_bytes(function: Callable[..., Any], *shapes: tuple[int, ...]) -> int:
  """Returns the bytes of temporaries of a compiled function of float32."""
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
  """Returns h W of [S, N] and [N, M], and the gradients of half its square."""
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


def _title(what: str, layer: tuple[int, int, int]) -> str:
  num_samples, num_neurons, num_next = layer
  return (
    f"{what}: value and gradient, S = {num_samples}, N = {num_neurons}, "
    f"M = {num_next}"
  )


def _peer(
  name: str,
  arguments: tuple[np.ndarray, np.ndarray],
  order: int,
  work: floors.Work,
  expected: Any,
) -> timing.Contender:
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_networks, torch_trainers

  function = torch_trainers.make_layer(*arguments, order)
  got = jax.tree.map(torch_networks.to_numpy, function())
  agreement.check(f"PyTorch, {name}", got, expected)
  run = torch_trainers.with_threads(function, devices.num_cores())
  return timing.Contender(f"PyTorch, {name}", run, work=work)
