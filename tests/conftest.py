"""Settings of every test: two CPU devices, and JAX's check of reused keys."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# After the platform, which JAX reads once.
import jax

jax.config.update("jax_debug_key_reuse", True)
# Populations are spread over devices, however many cores there are.
jax.config.update("jax_num_cpu_devices", 2)
