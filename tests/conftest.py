"""Settings of every test: two CPU devices, and JAX's check of reused keys."""

from collections.abc import Iterator
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# After the platform, which JAX reads once.
import jax
import pytest

jax.config.update("jax_debug_key_reuse", True)
# Populations are spread over devices, however many cores there are.
jax.config.update("jax_num_cpu_devices", 2)


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
