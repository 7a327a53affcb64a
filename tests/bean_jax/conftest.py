"""Settings of the library's tests: strict ranks, and quick compilation."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_rank_promotion():
  with jax.numpy_rank_promotion("raise"):
    yield


@pytest.fixture(autouse=True)
def _quick_compilation(request):
  """Compiles with few optimizations: most of a test's time is compilation."""
  is_quick = request.node.get_closest_marker("optimized") is None
  jax.config.update("jax_disable_most_optimizations", is_quick)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
