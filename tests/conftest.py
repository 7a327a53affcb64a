"""Settings of every test: two CPU devices, JAX's check of reused keys, and
quick compilation.
"""

from collections.abc import Iterator
import contextlib
import gc
import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# After the platform, which JAX reads once.
import jax
from jax._src import compiler
import pytest

# Scripts print as they do into a file, whatever the tests run in.
for _name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
  os.environ.pop(_name, None)

# Tracing makes many small objects, few of them garbage.
gc.set_threshold(50_000, 20, 100)

jax.config.update("jax_debug_key_reuse", True)
# The line of every operation, which nobody reads of these programs.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Populations are spread over devices, however many cores there are.
jax.config.update("jax_num_cpu_devices", 2)

_get_compile_options = compiler.get_compile_options


def _known(options: dict[str, Any]) -> dict[str, Any]:
  """Returns those options of the compiler that this release has."""
  nothing = jax.jit(lambda: 0).lower()
  known = {}
  for name, value in options.items():
    # No such option.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      nothing.compile({name: value})
      known[name] = value
  return known


_QUICK = _known(
  {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    # Parts are for many cores, and take twice as long on one.
    "xla_cpu_parallel_codegen_split_count": 1,
  }
)


def _get_quick_compile_options(
  *args: Any, env_options_overrides: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
  overrides = {**_QUICK, **(env_options_overrides or {})}
  return _get_compile_options(*args, env_options_overrides=overrides, **kwargs)


def pytest_runtest_protocol(item: pytest.Item) -> None:
  """Compiles quick tests quickly: compilation is most of their time.

  Options of JAX would not do: scripts set their own, and name those of XLA in
  their records. Programs of other processes are compiled as ever.
  """
  is_quick = not any(map(item.get_closest_marker, ("optimized", "slow")))
  compiler.get_compile_options = (
    _get_quick_compile_options if is_quick else _get_compile_options
  )


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_programs() -> Iterator[None]:
  """Frees compiled programs after each file of tests.

  Each holds memory maps; Linux gives a process 65,530, and the compiler crashes
  when the slow tests, all in one process, have taken them.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _settings_are_left_as_they_were() -> Iterator[None]:
  """Fails the file that changed JAX's settings for those that run after it."""
  before = jax.config.values
  yield
  assert jax.config.values == before
