"""Settings of the library's tests: strict ranks."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict_rank_promotion():
  with jax.numpy_rank_promotion("raise"):
    yield
