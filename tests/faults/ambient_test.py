"""Runs under settings that an environment may have for other programs.

Each is to give the bits of a run without, or one line that says what to change.
"""

import jax
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
  *here.SMALL["few_shot"],
  *("--methods=vanilla,bean1,dropout", "--alphas=0.5"),
)
# By name of the option, a value that is not that of `PINNED`.
UNUSUAL = {
  "jax_default_prng_impl": "rbg",
  "jax_threefry_partitionable": False,
  "jax_random_seed_offset": 5,
  "jax_high_dynamic_range_gumbel": True,
  "jax_enable_custom_prng": True,
  "jax_default_matmul_precision": "bfloat16",
  "jax_enable_x64": True,
  "jax_numpy_dtype_promotion": "strict",
  "jax_numpy_rank_promotion": "raise",
  "jax_allow_f16_reductions": False,
  "jax_disable_jit": True,
  "jax_disable_most_optimizations": True,
  "jax_optimization_level": "O0",
  "jax_exec_time_optimization_effort": -1.0,
  "jax_memory_fitting_level": "O0",
  "jax_memory_fitting_effort": 1.0,
  "jax_softmax_custom_jvp": True,
  "jax_use_direct_linearize": False,
  "jax_scan3": True,
  "jax_use_shardy_partitioner": False,
  "jax_default_device": "gpu",
  "jax_no_tracing": True,
  "jax_no_execution": True,
  "jax_transfer_guard": "disallow",
  "jax_error_checking_behavior_nan": "raise",
  "jax_error_checking_behavior_divide": "raise",
  "jax_error_checking_behavior_oob": "raise",
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


@pytest.mark.slow
@pytest.mark.parametrize("name,value", UNUSUAL.items())
def test_options_of_jax(name, value, plain, tmp_path):
  with in_process.kept_settings():
    jax.config.update(name, value)
    err, records = train(tmp_path)
  assert numbers(records) == plain
  assert err == ""


@pytest.mark.slow
def test_environment_of_a_process(tmp_path):
  """The same where modules are imported under the options."""
  names = ("enable_x64", "numpy_dtype_promotion", "default_prng_impl")
  environment = {
    f"JAX_{name.upper()}": str(UNUSUAL[f"jax_{name}"]) for name in names
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


@pytest.mark.slow
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


@pytest.mark.slow
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
