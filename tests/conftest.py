"""Settings of every test: the CPU, and JAX's strictest checks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# After the platform, which JAX reads once.
import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
