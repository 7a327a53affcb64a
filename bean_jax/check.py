r"""Tells whether BEAN is computed correctly here, by this jax on this device.

Releases of jaxlib have computed wrong numbers without a word. The command
`python -m bean_jax.check` compares values and gradients with the definition, in
float64 with NumPy:

.. math::
  L_c = \frac{1}{S N^2} \sum_s \sum_{ij} A_{ij}\, d(h_{si}, h_{sj})

and gradients over two devices with those of one. It prints versions, device,
and one line a check with the largest relative error, in a few seconds. The exit
status is 0 if all checks pass, 1 if not, and 2 if JAX finds no device.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
import numpy as np

import bean_jax

Layer = tuple[np.ndarray, np.ndarray]

# More than jaxlib 0.10.2 computes rightly on a CPU, in float32.
_NUM_ROWS = 32_770
# Sizes S, N, M for which different closed forms are the cheapest.
_SIZES = ((1, 40, 2), (100, 84, 10), (100, 4, 60))
_YNN_OFF = "--xla_cpu_experimental_ynn_fusion_type="


class Release(NamedTuple):
  """Releases of jaxlib that compute wrong numbers.

  Attributes:
    versions: Of jaxlib.
    platform: Of JAX, such as "cpu".
    device: What the kind of device contains; "" for all of the platform.
    issue: Where it was reported.
    cure: What to do.
    flag: Of XLA, which cures it too; "" if there is none.
  """

  versions: tuple[str, ...]
  platform: str
  device: str
  issue: str
  cure: str
  flag: str = ""


class Line(NamedTuple):
  """What one check found.

  Attributes:
    passed: Whether all is well.
    name: Of the check.
    text: The error that was found, and what to do about it if it is too large.
  """

  passed: bool
  name: str
  text: str


WRONG_RELEASES = (
  Release(
    versions=("0.10.2",),
    platform="cpu",
    device="",
    issue="https://github.com/jax-ml/jax/issues/39103",
    cure=(
      "pip install 'jax>=0.10,!=0.10.2', or set the environment variable "
      f"XLA_FLAGS={_YNN_OFF}"
    ),
    flag=_YNN_OFF,
  ),
  Release(
    versions=("0.11.0", "0.11.1"),
    platform="gpu",
    device="RTX A6000",
    issue="https://github.com/jax-ml/jax/issues/40633",
    cure="pip install another release of jax[cuda13]",
  ),
)


def run() -> list[Line]:
  """Makes all checks on JAX's default device.

  Returns:
    One line a check, in a fixed order; a check that raises has failed.
  """
  checks: dict[str, tuple[float, Callable[[], list[float]]]] = {
    f"BEAN-{order}, {distance}": (
      1e-4,
      functools.partial(_penalties, order, distance),
    )
    for distance in ("squared", "absolute")
    for order in (1, 2)
  }
  of_dtype = functools.partial(_errors, _draw(20, 12, 5))
  checks |= {
    "bfloat16": (2e-2, lambda: of_dtype(dtype=jnp.bfloat16)),
    "float16": (2e-2, lambda: of_dtype(dtype=jnp.float16)),
    "float64": (1e-7, lambda: of_dtype(dtype=np.float64, order=2)),
    "mask of real samples": (1e-5, _masked),
    "layers that are found": (1e-4, _found),
    "jax.shard_map over two devices": (1e-4, _over_devices),
    f"{_NUM_ROWS} samples": (1e-4, lambda: _many(False)),
    f"{_NUM_ROWS} members": (1e-4, lambda: _many(True)),
  }
  # NumPy's numbers are handed to JAX here, and JAX's to NumPy.
  with jax.transfer_guard("allow"):
    return [release(), *(_line(name, *checks[name]) for name in checks)]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints versions, device and one line a check.

  Args:
    argv: Arguments after the name of the program; by default those of the
      process. There are none but --help.

  Returns:
    0 if all checks pass, 1 if not, 2 if there is no device to check.
  """
  argparse.ArgumentParser(
    prog="python -m bean_jax.check",
    description=(
      "Tells whether BEAN is computed correctly here, by this jax on this "
      "device; takes a few seconds. Exit status: 0 if so, 1 if not, 2 if JAX "
      "finds no device."
    ),
  ).parse_args(argv)
  # Two devices, unless the user said how many, or JAX has looked for them.
  is_said = "xla_force_host_platform_device_count" in os.environ.get(
    "XLA_FLAGS", ""
  )
  if not is_said and jax.config.values["jax_num_cpu_devices"] < 1:
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", 2)
  try:
    device = jax.devices()[0]
  except (AssertionError, RuntimeError) as missing:  # As JAX reports it.
    print(
      "expected a device, but JAX finds none with JAX_PLATFORMS="
      f"{jax.config.values['jax_platforms'] or ''}: {_first_line(missing)}; "
      "unset JAX_PLATFORMS to take what there is, or install what JAX needs, "
      "such as jax[cuda13]",
      file=sys.stderr,
    )
    return 2
  print(
    f"bean_jax {bean_jax.__version__}, jax {jax.__version__}, jaxlib "
    f"{_jaxlib_version()}, numpy {np.__version__}, Python "
    f"{platform.python_version()}, {platform.system()} {platform.machine()}\n"
    f"device: {device.platform} ({device.device_kind})",
    flush=True,
  )
  lines = run()
  width = max(len(line.name) for line in lines)
  for line in lines:
    mark = "ok  " if line.passed else "FAIL"
    print(f"{mark}  {line.name:{width}}  {line.text}")
  num_failed = sum(not line.passed for line in lines)
  if not num_failed:
    print(f"all {len(lines)} checks passed: BEAN is computed correctly here")
    return 0
  settings = [
    f"{name}={value}"
    for name, value in sorted(os.environ.items())
    if name.startswith(("JAX_", "XLA_FLAGS")) and name != "JAX_PLATFORMS"
  ]
  advice = "do not trust what this installation computes"
  if settings:
    advice = f"check again without {' '.join(settings)}, which may be the cause"
  print(
    f"{num_failed} of {len(lines)} checks failed: {advice}; else try another "
    "release of jax"
  )
  return 1


def release() -> Line:
  """Looks for this jaxlib among those that are known to be wrong.

  Returns:
    A line that says so, with the cure.
  """
  version, device = _jaxlib_version(), jax.devices()[0]
  here = f"jaxlib {version} on a {device.platform}"
  for wrong in WRONG_RELEASES:
    if (
      version in wrong.versions
      and device.platform == wrong.platform
      and wrong.device in device.device_kind
    ):
      cured = wrong.flag in os.environ.get("XLA_FLAGS", "").split()
      cure = "cured by XLA_FLAGS" if cured else wrong.cure
      text = f"{here} computes wrong numbers ({wrong.issue}): {cure}"
      return Line(cured, "release", text)
  return Line(True, "release", f"{here} is not known to be wrong")


def _jaxlib_version() -> str:
  return importlib.metadata.version("jaxlib")


def _first_line(error: Exception) -> str:
  return str(error).strip().partition("\n")[0]


def _line(name: str, allowed: float, check: Callable[[], list[float]]) -> Line:
  """Makes a check; one that breaks must not hide the others."""
  try:
    errors = check()
  except Exception as broken:  # Whatever a broken installation raises.
    text = f"{type(broken).__name__}: {_first_line(broken)}"
    return Line(False, name, text)
  if not errors:
    return Line(True, name, "not checked: there is one device only")
  error = float(np.max(errors))
  text = f"relative error {error:.0e} (at most {allowed:.0e})"
  # So that NaN fails.
  return Line(error <= allowed, name, text)


def _draw(num_samples: int, num_neurons: int, num_next: int) -> Layer:
  """Returns activations around 1, without ties, and weights away from 0."""
  rng = np.random.default_rng((num_samples, num_neurons, num_next))
  jitter = rng.uniform(0.0, 0.5, size=(num_samples, num_neurons))
  levels = rng.permuted(np.arange(num_neurons) + jitter, axis=1) / num_neurons
  kernel = rng.uniform(0.1, 1.0, size=(num_neurons, num_next))
  kernel *= rng.choice([-1.0, 1.0], size=kernel.shape)
  return 0.5 + levels, kernel


def _definition(
  layer: Sequence[np.ndarray], order: int = 1, distance: str = "squared"
) -> np.ndarray:
  """Returns L_c, term by term, of activations [..., S, N] and a kernel."""
  activations, kernel = layer
  strength = np.abs(np.tanh(kernel))
  correlation = (strength @ strength.T / strength.shape[1]) ** order
  differences = activations[..., :, None] - activations[..., None, :]
  distances = differences**2 if distance == "squared" else np.abs(differences)
  return np.asarray(np.mean(correlation * distances, axis=(-3, -2, -1)))


def _as(dtype: DTypeLike, layer: Layer) -> list[np.ndarray]:
  return [array.astype(dtype) for array in layer]


def _relative(ours: ArrayLike, expected: ArrayLike) -> float:
  ours = np.asarray(ours, np.float64)
  return float(np.max(np.abs(ours - expected) / np.abs(expected)))


def _penalties(order: int, distance: str) -> list[float]:
  """Compares values and gradients, also of nearly co-active neurons."""
  errors = []
  for size in _SIZES:
    activations, kernel = _draw(*size)
    if size == _SIZES[1]:
      # Where training leads, and where TensorFloat-32 would be 11 % off.
      activations = 1 + 0.01 * activations
    errors += _errors((activations, kernel), order=order, distance=distance)
  return errors


def _errors(
  layer: Layer,
  *,
  order: int = 1,
  distance: str = "squared",
  dtype: DTypeLike = np.float32,
) -> list[float]:
  """Returns the errors of the value and of both gradients, compiled.

  A gradient is compared with the slope of the definition, in a direction in
  which none of its entries cancel another.
  """
  arrays = _as(dtype, layer)
  exact = [array.astype(np.float64) for array in arrays]
  penalty_fn = functools.partial(
    bean_jax.layer_penalty, order=order, distance=distance
  )
  with jax.enable_x64(jax.config.read("jax_enable_x64") or dtype == np.float64):
    value_and_grad = jax.jit(jax.value_and_grad(penalty_fn, argnums=(0, 1)))
    value, gradients = value_and_grad(*arrays)
  errors = [_relative(value, _definition(exact, order, distance))]
  rng = np.random.default_rng(0)
  for place, gradient in enumerate(gradients):
    gradient = np.asarray(gradient, np.float64)
    direction = rng.uniform(0.5, 1.5, gradient.shape) * np.sign(gradient)
    ends = []
    for step in (1e-6, -1e-6):
      moved = list(exact)
      moved[place] = exact[place] + step * direction
      ends.append(_definition(moved, order, distance))
    slope = (ends[0] - ends[1]) / 2e-6
    errors.append(_relative(np.sum(gradient * direction), slope))
  return errors


def _masked() -> list[float]:
  """Compares a batch of [4, 5] samples, some masked, with the real ones."""
  layer = _draw(20, 12, 5)
  where = np.arange(20) % 3 > 0
  activations, kernel = _as(np.float32, layer)
  ours = jax.jit(bean_jax.layer_penalty)(
    activations.reshape(4, 5, 12), kernel, where=where.reshape(4, 5)
  )
  return [_relative(ours, _definition((layer[0][where], layer[1])))]


def _found() -> list[float]:
  """Compares what BEAN adds to a loss with two layers, rematerialized."""
  hidden, kernel = _draw(20, 5, 5)
  kernels = np.stack([kernel, kernel.T]) / 2
  params = {"slope": np.ones((1, 1)), "kernels": kernels}
  params = {name: leaf.astype(np.float32) for name, leaf in params.items()}

  @jax.checkpoint
  def step(hidden: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
    return jnp.tanh(hidden @ kernel), None

  def loss_fn(params: Any, inputs: jax.Array) -> jax.Array:
    start = inputs * params["slope"]
    return jnp.mean(jax.lax.scan(step, start, params["kernels"])[0])

  bean_loss_fn = jax.jit(bean_jax.regularize(loss_fn, alpha=3.0, order=2))
  ours = bean_loss_fn(params, hidden.astype(np.float32))
  penalty = np.zeros(())
  for kernel in kernels:
    penalty += _definition((hidden, kernel), 2)
    hidden = np.tanh(hidden @ kernel)
  return [_relative(ours, np.mean(hidden) + 3 * penalty)]


def _over_devices() -> list[float]:
  """Compares gradients of two devices, half of the samples each, with one's."""
  devices = _devices()
  if len(devices) < 2:
    return []
  half, whole = jax.P("half"), jax.P()

  # The one form in which neurons are ranked, by each device for itself.
  def penalty_fn(*layer: jax.Array) -> jax.Array:
    return bean_jax.layer_penalty(*layer, distance="absolute")

  sharded_fn = jax.shard_map(
    lambda *layer: jax.lax.pmean(penalty_fn(*layer), "half"),
    mesh=jax.sharding.Mesh(np.array(devices[:2]), ("half",)),
    in_specs=(half, whole),
    out_specs=whole,
  )
  layer = _as(np.float32, _draw(20, 40, 2))
  ours, expected = (
    np.asarray(jax.jit(jax.grad(function, argnums=1))(*layer))
    for function in (sharded_fn, penalty_fn)
  )
  # Entry by entry: their sums may be right where each is another neuron's.
  return [float(np.max(np.abs(ours - expected)) / np.max(np.abs(expected)))]


def _devices() -> list[jax.Device]:
  """Returns the devices of the default kind, or of the CPU if that is one."""
  devices = jax.local_devices()
  if len(devices) == 1:
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave it out.
      devices = jax.local_devices(backend="cpu")
  return devices


def _many(of_members: bool) -> list[float]:
  """Compares a penalty of many samples, or as many of one sample each."""
  rows, kernel = _draw(_NUM_ROWS, 4, 3)
  penalty_fn = bean_jax.layer_penalty
  if of_members:
    rows, penalty_fn = rows[:, None], jax.vmap(penalty_fn, in_axes=(0, None))
  ours = jax.jit(penalty_fn)(*_as(np.float32, (rows, kernel)))
  return [_relative(ours, _definition((rows, kernel)))]


if __name__ == "__main__":
  sys.exit(main())
