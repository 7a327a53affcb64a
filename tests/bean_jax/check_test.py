"""The check of an installation: what it says, and that it can say no."""

import functools
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

import bean_jax
from bean_jax import check

pytestmark = pytest.mark.optimized

NUM_CHECKS = 13


def _run_python(*arguments, **environment):
  return subprocess.run(
    [sys.executable, "-W", "error", *arguments],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
    env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
  )


def _scaled(penalty):
  return lambda *args, **kwargs: 1.001 * penalty(*args, **kwargs)


def _scaled_if_compiled(penalty):
  def wrong(activations, *args, **kwargs):
    factor = 1.001 if isinstance(activations, jax.core.Tracer) else 1.0
    return factor * penalty(activations, *args, **kwargs)

  return wrong


def _not_a_number(penalty):
  return lambda *args, **kwargs: jnp.nan * penalty(*args, **kwargs)


def _no_slope_of(place):
  def break_it(penalty):
    def wrong(*layer, **kwargs):
      layer = list(layer)
      layer[place] = jax.lax.stop_gradient(layer[place])
      return penalty(*layer, **kwargs)

    return wrong

  return break_it


def _coarse(penalty):
  # As TensorFloat-32 is, with 10 bits of mantissa.
  def wrong(*layer, **kwargs):
    coarse = (
      jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=10)
      for array in layer
    )
    return penalty(*coarse, **kwargs)

  return wrong


def _unmasked(penalty):
  return lambda *layer, where=None, **kwargs: penalty(*layer, **kwargs)


def _own_share(penalty):
  # As if the gradient of the kernel had not been summed over devices.
  def wrong(activations, kernel, **kwargs):
    if "{V:" in str(jax.typeof(activations)):
      kernel = (jax.lax.stop_gradient(kernel) + kernel) / 2
    return penalty(activations, kernel, **kwargs)

  return wrong


PENALTIES = functools.partial(check._penalties, 1, "squared")
BROKEN = {
  "scaled": (_scaled, PENALTIES),
  "not_a_number": (_not_a_number, PENALTIES),
  "activations_without_slope": (_no_slope_of(0), PENALTIES),
  "kernel_without_slope": (_no_slope_of(1), PENALTIES),
  "coarse": (_coarse, PENALTIES),
  "unmasked": (_unmasked, check._masked),
  "over_devices": (_own_share, check._over_devices),
  "compiled_samples": (
    _scaled_if_compiled,
    functools.partial(check._many, False),
  ),
  "compiled_members": (
    _scaled_if_compiled,
    functools.partial(check._many, True),
  ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_numbers_fail(monkeypatch, name):
  break_it, one_check = BROKEN[name]
  monkeypatch.setattr(check, "_NUM_ROWS", 50)
  monkeypatch.setattr(check, "_SIZES", ((1, 6, 2), (10, 12, 3)))
  line = check._line(name, 1e-4, one_check)
  assert line.passed, line
  broken = break_it(bean_jax.layer_penalty)
  monkeypatch.setattr(bean_jax, "layer_penalty", broken)
  line = check._line(name, 1e-4, one_check)
  assert not line.passed, line


def test_a_check_that_raises_fails_by_the_name_of_the_error():
  def raises():
    raise RuntimeError("no such kernel\nand more")

  line = check._line("one", 1.0, raises)
  assert line == (False, "one", "RuntimeError: no such kernel")


def test_one_device_is_not_checked_against_another(monkeypatch):
  monkeypatch.setattr(check, "_devices", lambda: jax.devices()[:1])
  line = check._line("two", 1.0, check._over_devices)
  assert line == (True, "two", "not checked: there is one device only")


def _pretend(monkeypatch, version, device):
  monkeypatch.setattr(check, "_jaxlib_version", lambda: version)
  monkeypatch.setattr(jax, "devices", lambda: [device])


CPU = types.SimpleNamespace(platform="cpu", device_kind="cpu")
A6000 = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA RTX A6000")
H200 = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")


@pytest.mark.parametrize(
  "version, device, words",
  (
    ("0.10.2", CPU, ("0.10.2", "39103", "pip install 'jax>=0.10,!=0.10.2'")),
    ("0.11.0", A6000, ("0.11.0", "40633", "another release")),
    ("0.10.1", CPU, ()),
    ("0.10.2", H200, ()),
    ("0.11.0", CPU, ()),
    ("0.11.0", H200, ()),
  ),
)
def test_wrong_releases_are_named_with_the_cure(
  monkeypatch, version, device, words
):
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  _pretend(monkeypatch, version, device)
  line = check.release()
  assert line.passed == (not words)
  for word in words:
    assert word in line.text


def test_the_flag_that_cures_a_release_is_noticed(monkeypatch):
  _pretend(monkeypatch, "0.10.2", CPU)
  monkeypatch.setenv("XLA_FLAGS", f"--some_other=1 {check._YNN_OFF}")
  line = check.release()
  assert line.passed
  assert "cured" in line.text
  monkeypatch.setenv("XLA_FLAGS", f"{check._YNN_OFF}dot")
  assert not check.release().passed


@pytest.mark.parametrize("passed", (True, False))
def test_one_line_a_check_and_the_exit_status(monkeypatch, capsys, passed):
  lines = [check.Line(True, "one", "fine"), check.Line(passed, "two", "hm")]
  monkeypatch.setattr(check, "run", lambda: lines)
  assert check.main([]) == (0 if passed else 1)
  printed = capsys.readouterr().out.splitlines()
  assert f"jax {jax.__version__}, jaxlib " in printed[0]
  assert printed[1] == "device: cpu (cpu)"
  assert printed[2] == "ok    one  fine"
  assert printed[3] == ("ok    two  hm" if passed else "FAIL  two  hm")
  assert printed[4].startswith("all 2" if passed else "1 of 2 checks failed")


def test_settings_are_named_before_the_installation_is_blamed(
  monkeypatch, capsys
):
  for name in list(os.environ):
    if name.startswith("JAX_") or name == "XLA_FLAGS":
      monkeypatch.delenv(name)
  monkeypatch.setattr(check, "run", lambda: [check.Line(False, "one", "hm")])
  assert check.main([]) == 1
  assert "do not trust" in capsys.readouterr().out
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("JAX_AUTO_PCAST", "0")
  assert check.main([]) == 1
  verdict = capsys.readouterr().out.splitlines()[-1]
  assert "check again without JAX_AUTO_PCAST=0," in verdict
  assert "do not trust" not in verdict


@pytest.mark.parametrize("platforms", ("cuda", "nonsense"))
def test_a_device_that_is_not_there_is_one_line(platforms):
  finished = _run_python(
    "-m", "bean_jax.check", JAX_PLATFORMS=platforms, CUDA_VISIBLE_DEVICES=""
  )
  assert finished.returncode == 2
  (line,) = finished.stderr.splitlines()[-1:]
  assert f"JAX_PLATFORMS={platforms}" in line
  assert "unset JAX_PLATFORMS" in line
  assert "Traceback" not in finished.stderr
  assert finished.stdout == ""


@pytest.mark.slow
def test_here_all_is_well_in_ten_seconds():
  finished = _run_python(
    "-c",
    "import sys, time; from bean_jax import check; status = check.main([]); "
    "print(time.process_time()); sys.exit(status)",
  )
  assert finished.returncode == 0, finished.stdout + finished.stderr
  lines = finished.stdout.splitlines()
  assert sum(line.startswith("ok  ") for line in lines) == NUM_CHECKS
  # Of the processor: on a busy machine the clock tells nothing.
  assert float(lines[-1]) < 10


@pytest.mark.slow
def test_a_wrong_library_fails_as_a_program():
  finished = _run_python(
    "-c",
    "import sys, bean_jax; right = bean_jax.layer_penalty; "
    "bean_jax.layer_penalty = lambda *a, **k: 1.1 * right(*a, **k); "
    "from bean_jax import check; sys.exit(check.main([]))",
  )
  assert finished.returncode == 1, finished.stderr
  lines = finished.stdout.splitlines()
  passed = [line for line in lines if line.startswith("ok  ")]
  # The others do not ask the function that was broken, or compare it with
  # itself.
  assert [line[6:].partition("  ")[0] for line in passed] == [
    "release",
    "layers that are found",
    "jax.shard_map over two devices",
  ]


def test_help_says_what_it_is_for():
  finished = _run_python("-m", "bean_jax.check", "--help")
  assert finished.returncode == 0, finished.stderr
  assert "python -m bean_jax.check" in finished.stdout
