"""Runs under settings that an environment may have for other programs.

Each is to give the bits of a run without, or one line that says what to change.
"""

import jax
import matplotlib
import pytest

from benchmarks import profile_step, run as benchmarks_run, same_training
from experiments import few_shot, report
from experiments.architectures import networks
from experiments.command import parsing
from experiments.machine import devices, jax_options
from experiments.records import results
from experiments.tables import figures
from tests.experiments import in_process, tiny
from tests.faults import here

# Some of the options are those of the compiler.
pytestmark = pytest.mark.optimized

ARGS = (
  "--model=mlp500",
  "--methods=vanilla,bean1,dropout",
  "--alphas=0.5",
  "--shots=1",
  "--seeds=2",
  "--epochs=2",
)
# By name of the option, values that are not those of `PINNED`.
UNUSUAL = {
  "jax_default_prng_impl": ("rbg", "unsafe_rbg"),
  "jax_threefry_partitionable": (False,),
  "jax_random_seed_offset": (5,),
  "jax_high_dynamic_range_gumbel": (True,),
  "jax_enable_custom_prng": (True,),
  "jax_default_matmul_precision": ("bfloat16",),
  "jax_enable_x64": (True,),
  "jax_numpy_dtype_promotion": ("strict",),
  "jax_numpy_rank_promotion": ("raise",),
  "jax_allow_f16_reductions": (False,),
  "jax_disable_jit": (True,),
  "jax_disable_most_optimizations": (True,),
  "jax_optimization_level": ("O0",),
  "jax_exec_time_optimization_effort": (-1.0,),
  "jax_memory_fitting_level": ("O0",),
  "jax_memory_fitting_effort": (1.0,),
  "jax_softmax_custom_jvp": (True,),
  "jax_use_direct_linearize": (False,),
  "jax_scan3": (True,),
  "jax_use_shardy_partitioner": (False,),
  "jax_default_device": ("gpu",),
  "jax_no_tracing": (True,),
  "jax_no_execution": (True,),
  "jax_transfer_guard": ("disallow",),
  "jax_error_checking_behavior_nan": ("raise",),
  "jax_error_checking_behavior_divide": ("raise",),
  "jax_error_checking_behavior_oob": ("raise",),
}
# What scripts choose themselves, or refuse: which devices, and how many.
CHOSEN = {
  "jax_enable_preemption_service",
  "jax_num_cpu_devices",
  "jax_platform_name",
  "jax_platforms",
}
# What leaves the numbers as they are, tried one by one with few_shot.
_HARMLESS = """
# What is printed, logged and dumped.
jax_captured_constants_report_frames jax_captured_constants_warn_bytes
jax_check_proxy_envs jax_compiler_detailed_logging_min_ops
jax_debug_log_modules jax_distributed_debug jax_dump_ir_modes jax_dump_ir_to
jax_explain_cache_misses jax_hlo_source_file_canonicalization_regex
jax_include_debug_info_in_dumps jax_include_full_tracebacks_in_locations
jax_log_checkpoint_residuals jax_log_compiles jax_logging_level
jax_pallas_verbose_errors jax_pprint_use_color jax_send_traceback_to_runtime
jax_source_url_schema jax_traceback_filtering jax_traceback_in_locations_limit
jax_tracer_error_num_traceback_frames
# What is checked: a finding ends the script, as who asks for it wants.
check_vma jax_array_garbage_collection_guard jax_check_static_indices
jax_check_tracer_leaks jax_debug_infs jax_debug_key_reuse jax_debug_nans
jax_disable_bwd_checks jax_disable_vmap_shmap_error
jax_disallow_mesh_context_manager jax_enable_checks
jax_experimental_unsafe_xla_runtime_errors jax_explicit_x64_dtypes
jax_legacy_prng_key jax_mutable_array_checks jax_pallas_enable_debug_checks
jax_thread_guard jax_transfer_guard_device_to_device
jax_transfer_guard_device_to_host jax_transfer_guard_host_to_device
# Where compiled programs are kept, and by what they are known.
jax_compilation_cache_check_contents jax_compilation_cache_dir
jax_compilation_cache_expect_pgle
jax_compilation_cache_include_metadata_in_key jax_compilation_cache_max_size
jax_enable_compilation_cache jax_enable_pgle
jax_persistent_cache_enable_xla_caches
jax_persistent_cache_min_compile_time_secs
jax_persistent_cache_min_entry_size_bytes jax_pgle_aggregation_percentile
jax_pgle_profiling_runs jax_raise_persistent_cache_errors
jax_remove_custom_partitioning_ptr_from_cache_key
jax_share_binary_between_hosts jax_share_binary_between_hosts_timeout_ms
jax_xla_profile_version
# How a program is written down before it is compiled.
eager_constant_folding jax_auto_pcast jax_compiler_enable_remat_pass
jax_custom_vjp3 jax_embedded_constants_max_bytes jax_refs_to_pins
jax_remove_size_one_mesh_axis_from_type jax_threefry_gpu_kernel_lowering
jax_use_simplified_jaxpr_constants
# How devices and processes are found and talk.
jax_backend_target jax_cpu_collectives_implementation
jax_cpu_enable_async_dispatch jax_cpu_get_global_topology_timeout_minutes
jax_cpu_get_local_topology_timeout_minutes
jax_cross_host_transfer_socket_address jax_cross_host_transfer_timeout_seconds
jax_cross_host_transfer_transfer_size jax_cross_host_transport_addresses
jax_cuda_visible_devices jax_enable_recoverability
jax_force_dcn_cross_host_transfers jax_mock_gpu_topology
jax_oneapi_visible_devices jax_pjrt_client_create_options
jax_rocm_visible_devices jax_sort_devices_by_process_index jax_xla_backend
mock_num_gpu_processes
# Of operations that are not used here: export, sparse arrays, eigenvalues,
# ragged products, kernels of Pallas (whose options are there once it is
# imported, as other tests do).
jax2tf_associative_scan_reductions jax2tf_default_native_serialization
jax_bcoo_cusparse_lowering jax_export_calling_convention_version
jax_export_ignore_forward_compatibility jax_mosaic_allow_hlo
jax_pallas_use_mosaic_gpu jax_ragged_dot_use_gpu_pallas_triton_lowering
jax_ragged_dot_use_ragged_dot_instruction jax_serialization_version
jax_use_magma
"""
HARMLESS = {
  name
  for line in _HARMLESS.splitlines()
  if not line.startswith("#")
  for name in line.split()
}


def train(directory):
  """Runs few_shot; what it wrote to standard error, and its records."""
  status, _, err = in_process.run(few_shot, *ARGS, f"--output_dir={directory}")
  assert status == 0
  return err, results.load_all(directory)


def numbers(records):
  """All of the records but for what differs from run to run."""
  return {
    name: {k: v for k, v in record.items() if k not in ("seconds", "checksum")}
    for name, record in records.items()
  }


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
  monkeypatch.setattr(networks, "make", lambda *_, **__: tiny.NETWORK)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks, "make", lambda *_, **__: tiny.NETWORK)
    err, records = train(tmp_path_factory.mktemp("plain"))
  assert err == ""
  return numbers(records)


def test_every_pinned_option_is_tried():
  assert UNUSUAL.keys() == jax_options.PINNED.keys()


def test_every_option_of_jax_is_decided():
  """One that is new is to be tried, and put into one of these."""
  decided = jax_options.PINNED.keys() | CHOSEN | HARMLESS
  assert jax.config.values.keys() - decided == set()
  assert not jax_options.PINNED.keys() & (CHOSEN | HARMLESS)


@pytest.mark.parametrize(
  "name,value",
  [(name, value) for name, values in UNUSUAL.items() for value in values],
)
def test_options_of_jax(name, value, plain, tmp_path):
  with in_process.kept_settings():
    jax.config.update(name, value)
    err, records = train(tmp_path)
  assert numbers(records) == plain
  assert err == ""


@pytest.mark.slow
def test_environment_of_a_process(tmp_path):
  """The same where modules are imported under the options."""
  environment = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DISABLE_JIT": "1",
  }
  args = (*ARGS, "--methods=bean1", "--epochs=1")
  plain = in_process.as_user(few_shot, *args, f"--output_dir={tmp_path}/plain")
  given = in_process.as_user(
    few_shot,
    *args,
    f"--output_dir={tmp_path}/given",
    environment=environment,
  )
  assert (plain.returncode, plain.stderr) == (0, "")
  assert given.returncode == 0, given.stderr
  assert given.stderr.startswith("warning: JAX_")
  assert given.stderr.count("\n") == 1
  for name in environment:
    assert name in given.stderr
  first, second = (
    numbers(results.load_all(tmp_path / name)) for name in ("plain", "given")
  )
  assert first == second


def test_flags_of_xla_are_named(tmp_path, plain, monkeypatch):
  for record in plain.values():
    assert record["settings"] == jax_options.PINNED
  train(tmp_path / "before")
  monkeypatch.setenv("XLA_FLAGS", " --xla_cpu_enable_fast_math=false ")
  err, _ = train(tmp_path / "before")
  assert err == (
    "warning: 3 of 3 cells were made by other versions and are used: "
    "XLA_FLAGS none (3 cells), now --xla_cpu_enable_fast_math=false\n"
  )
  _, records = train(tmp_path / "after")
  for record in records.values():
    assert record["settings"] == jax_options.PINNED | {
      "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"
    }


@pytest.mark.parametrize("named", ("cuda", "no_such_kind"))
def test_devices_that_are_not_there(named, tmp_path, monkeypatch):
  def fail():
    raise AssertionError if named == "cuda" else RuntimeError("no\nsuch")

  monkeypatch.setattr(devices.jax, "devices", fail)
  with in_process.kept_settings():
    jax.config.update("jax_platforms", named)
    error = in_process.refused(
      few_shot, *ARGS, f"--output_dir={tmp_path / 'new'}"
    )
  assert error.startswith(f"error: JAX_PLATFORMS={named}: JAX finds no such ")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "script",
  (*here.ALL.values(), report, benchmarks_run, profile_step, same_training),
  ids=lambda script: script.__name__,
)
def test_every_script_pins_the_options(script, monkeypatch):
  def seen():
    raise parsing.ConfigError("seen")

  monkeypatch.setattr(jax_options, "pin", seen)
  with pytest.raises(parsing.ConfigError, match="seen"):
    script.main(["script"])


FIGURES = ("accuracy_against_shots.png", "learning_curves_1shot.png")


def test_settings_of_matplotlib(tmp_path):
  plain, given = tmp_path / "plain", tmp_path / "given"
  train(plain)
  with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "red"}):
    err, _ = train(given)
  assert err == ""
  for name in FIGURES:
    assert (given / name).read_bytes() == (plain / name).read_bytes()


def test_a_figure_that_fails_costs_no_number(tmp_path, monkeypatch):
  def fail(path, *args, **kwargs):
    raise RuntimeError("latex could not be found\nin PATH")

  monkeypatch.setattr(figures, "accuracy_against_shots", fail)
  status, out, err = in_process.run(few_shot, *ARGS, f"--output_dir={tmp_path}")
  table = (tmp_path / "table.md").read_text()
  assert status == 0
  assert "BEAN-1" in table
  assert table in out
  assert err == (
    f"warning: {tmp_path / FIGURES[0]}: could not be drawn (RuntimeError: "
    "latex could not be found)\n"
  )
  # The others are drawn.
  assert (tmp_path / FIGURES[1]).exists()
