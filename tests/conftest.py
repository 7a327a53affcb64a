"""Settings of every test: the CPU, and JAX's check of reused keys."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# After the platform, which JAX reads once.
import jax

jax.config.update("jax_debug_key_reuse", True)
