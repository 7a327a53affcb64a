"""Every example runs, and prints that BEAN did what it should."""

import ast
import configparser
import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
EXAMPLES = {
  path.stem: path.read_text()
  for path in sorted((ROOT / "examples").glob("*.py"))
  if path.stem != "__init__"
}
NEEDS = {"equinox_model": "equinox", "haiku_model": "haiku"}
each_example = pytest.mark.parametrize("name", EXAMPLES)


@functools.cache
def _run(name: str) -> str:
  """Returns what an example prints, with warnings as errors."""
  if name in NEEDS:
    pytest.importorskip(NEEDS[name])
  finished = subprocess.run(
    [sys.executable, "-W", "error", "-m", f"examples.{name}"],
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
    cwd=ROOT,
    # With as few threads as cores, several CPU devices may starve each other.
    env={**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": "8"},
  )
  assert finished.returncode == 0, finished.stderr
  return finished.stdout


def _numbers(text: str, pattern: str) -> list[float]:
  return [float(number) for number in re.findall(pattern, text, re.MULTILINE)]


def _penalties(text: str, name: str = "") -> list[float]:
  return _numbers(text, rf"^.*{name}.* penalty ([\d.]+)")


def _accuracies(text: str, name: str = "") -> list[float]:
  return _numbers(text, rf"^.*{name}.* accuracy ([\d.]+)%")


@each_example
def test_one_statement_is_of_bean(name):
  marks = re.findall(r"^(.*)# BEAN$", EXAMPLES[name], re.MULTILINE)
  assert len(marks) == 1


@each_example
def test_can_be_copied(name):
  program = EXAMPLES[name]
  modules = re.findall(r"^\s*(?:import|from) (\w+)", program, re.MULTILINE)
  assert not {*modules} & {"experiments", "benchmarks", "examples", "tests"}
  assert f"python -m examples.{name}" in ast.get_docstring(ast.parse(program))


@each_example
def test_fits_on_a_screen(name):
  program = EXAMPLES[name]
  lines = program.splitlines()
  # Beside what it imports, its model and what it says of itself.
  beside = {
    number
    for node in ast.parse(program).body
    if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.Expr)
    for number in range(node.lineno, (node.end_lineno or 0) + 1)
  }
  code = [
    line
    for number, line in enumerate(lines, 1)
    if number not in beside and not re.match(r"\s*(#|$)", line)
  ]
  assert len(code) < 40


def test_the_extra_installs_what_they_import():
  config = configparser.ConfigParser()
  config.read(ROOT / "setup.cfg")
  extra = config["options.extras_require"]["examples"].split()
  installed = {requirement.partition(">=")[0] for requirement in extra}
  names = {"haiku": "dm-haiku", "sklearn": "scikit-learn"}
  imported = {
    names.get(module, module)
    for program in EXAMPLES.values()
    for module in re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)
    if module not in sys.stdlib_module_names
  }
  # JAX, which all need, brings in NumPy.
  assert imported - {"bean_jax", "jax", "numpy"} == installed


# By how much the penalty falls at least, in programs that print one accuracy
# and one penalty without BEAN and with it.
FALLS = {
  "bare_jax": 0.1,
  "equinox_model": 0.5,
  "haiku_model": 0.5,
  "linen_model": 0.1,
  "nnx_model": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FALLS)
def test_the_penalty_falls_and_the_network_learns(name):
  text = _run(name)
  (before,), (after,) = _penalties(text, "plain"), _penalties(text, "BEAN")
  assert 0 < after < FALLS[name] * before
  plain, bean = _accuracies(text)
  assert plain > 65
  # That of Linen gains by it.
  assert bean > plain + (1 if name == "linen_model" else -3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("lbfgs", "sharpness_aware", "accumulated"))
def test_optimizers_lower_the_penalty(name):
  text = _run("optimizers")
  (before,), (after,) = (
    _penalties(text, f"{name}, {way}") for way in ("plain", "BEAN")
  )
  assert 0 < after < 0.7 * before
  plain, bean = _numbers(text, rf"{name}, .* loss ([\d.]+)")
  assert bean < 1.05 * plain


@pytest.mark.slow
def test_penalties_are_logged_by_layer_and_fall_as_alpha_rises():
  text = _run("schedule_and_log")
  for layer in ("layers_2", "layers_4"):
    penalties = _numbers(text, rf"{layer}/kernel ([\d.]+)")
    assert len(penalties) == 5
    assert penalties[-1] < 0.5 * penalties[1]
  losses = _numbers(text, r"loss ([\d.]+)")
  assert losses[-1] < 0.1 * losses[0]


@pytest.mark.slow
def test_some_rows_do_what_all_rows_do():
  text = _run("some_rows")
  silhouettes = _numbers(text, r"silhouette ([\d.]+)")
  plain, *bean = silhouettes[:4]
  assert plain < 0.3
  assert min(bean) > 0.45
  assert max(bean) - min(bean) < 0.1
  accuracies = _accuracies(text)
  assert min(accuracies[1:4]) > accuracies[0] - 0.5
  assert min(accuracies[5:]) > accuracies[4] - 0.5


@pytest.mark.slow
def test_convolutions_cost_more_and_learn():
  text = _run("resnet")
  assert min(_accuracies(text)) > 75
  plain, dense, every = _numbers(text, r"([\d.]+) MB")
  assert plain <= dense < every < 4 * plain


@pytest.mark.slow
def test_two_devices_train_as_one():
  text = _run("data_parallel")
  assert re.findall(r"^(\w+), (\d) devices", text, re.MULTILINE) == [
    ("plain", "1"),
    ("plain", "2"),
    ("BEAN", "1"),
    ("BEAN", "2"),
  ]
  for numbers in (_penalties(text), _numbers(text, r"loss ([\d.]+)")):
    assert numbers[::2] == pytest.approx(numbers[1::2], rel=1e-3)
  assert _penalties(text, "BEAN")[0] < 0.5 * _penalties(text, "plain")[0]


@pytest.mark.slow
def test_frozen_parts_adapt_with_a_lower_penalty():
  text = _run("frozen_head")
  for kind in ("frozen head", "frozen body"):
    plain, bean = _penalties(text, kind)
    assert 0 < bean < 0.6 * plain
  assert min(_accuracies(text)) > 30


@pytest.mark.slow
def test_neurons_that_are_wired_together_fire_together():
  text = _run("language_model")
  # A uniform guess takes 6.7 bits, the frequencies of characters about 4.7.
  plain, *bean = _numbers(text, r"([\d.]+) bits")
  assert plain < 3.2
  assert max(bean) < plain + 0.25
  for place in ("differ ", "and "):
    plain, *bean = _numbers(text, rf"{place}([\d.]+)")
    assert max(bean) < 0.8 * plain
    assert max(bean) - min(bean) < 0.1


@pytest.mark.slow
def test_choices_of_layers_differ_and_some_rows_do_what_all_do():
  text = _run("vision_transformer")
  plain, *every, _, head = _numbers(text, r"silhouette ([\d.]+)")
  assert plain < 0.2
  assert min(*every, head) > 1.5 * plain
  assert max(every) - min(every) < 0.1
  plain, *every, dense, head = _accuracies(text)
  assert plain > 55
  assert min(every) > plain + 2
  assert max(every) - min(every) < 5
  assert min(dense, head) > plain - 2


@pytest.mark.slow
def test_a_sweep_over_alpha_has_its_best_inside():
  text = _run("alpha_sweep")
  for order in (1, 2):
    accuracies = _accuracies(text, f"BEAN-{order}")
    assert len(accuracies) == 5
    assert max(accuracies) > accuracies[0] + 2
