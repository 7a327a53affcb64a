"""What the numbers of a seed depend on beside a script's flags.

JAX takes options from environment variables (JAX_ENABLE_X64, ...). Some of
them decide which numbers a key gives, in which precision the rest is computed,
or in which order: `PINNED` has the values that the scripts were made for, and
every script computes with these, whatever the environment says. Options that
are not there leave the numbers as they are: they say where, what is printed,
what is checked and what is kept.

Options of XLA and of a GPU's libraries cannot be pinned, since which there are
depends on the release and the device. They change last bits at most; records
name them.
"""

import os
from typing import Any

import jax

PINNED: dict[str, Any] = {
  # Keys: with "rbg" those under `jax.vmap` are not even independent.
  "jax_default_prng_impl": "threefry2x32",
  "jax_threefry_partitionable": True,
  "jax_random_seed_offset": 0,
  "jax_high_dynamic_range_gumbel": False,
  "jax_enable_custom_prng": False,
  # Precision. TensorFloat-32, a GPU's default, is too coarse for these small
  # products.
  "jax_default_matmul_precision": "highest",
  "jax_enable_x64": False,
  "jax_numpy_dtype_promotion": "standard",
  "jax_numpy_rank_promotion": "allow",
  "jax_allow_f16_reductions": True,
  # Orders of the same sums.
  "jax_disable_jit": False,
  "jax_disable_most_optimizations": False,
  "jax_optimization_level": "UNKNOWN",
  "jax_exec_time_optimization_effort": 0.0,
  "jax_memory_fitting_level": "O2",
  "jax_memory_fitting_effort": 0.0,
  "jax_softmax_custom_jvp": False,
  "jax_use_direct_linearize": True,
  "jax_scan3": False,
  # With which programs fail, or are not run.
  "jax_use_shardy_partitioner": True,
  "jax_default_device": None,
  "jax_no_tracing": False,
  "jax_no_execution": False,
  "jax_transfer_guard": None,
  # Checks within compiled programs, which raise instead of leaving a member
  # out whose loss is not finite.
  "jax_error_checking_behavior_nan": "ignore",
  "jax_error_checking_behavior_divide": "ignore",
  "jax_error_checking_behavior_oob": "ignore",
}

# Environment variables that may change last bits.
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def pin() -> list[str]:
  """Sets the options; returns the variables that asked for something else."""
  overruled = []
  for name, value in PINNED.items():
    # Another release of JAX may not have it.
    if jax.config.values.get(name, value) != value:
      jax.config.update(name, value)
      if name.upper() in os.environ:
        overruled.append(name.upper())
  return overruled


def in_use() -> dict[str, Any]:
  """Returns the options of `PINNED`, and of `VARIABLES` those that are set."""
  options = jax.config.values
  variables = {name: os.environ.get(name, "").strip() for name in VARIABLES}
  return {name: options[name] for name in PINNED if name in options} | {
    name: text for name, text in variables.items() if text
  }
