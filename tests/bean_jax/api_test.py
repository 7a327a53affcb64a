"""The public face: names, signatures, documentation and what importing costs.

A change here is a change for every user. Whoever means it changes this file,
and says so in CHANGELOG.md.
"""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest

import bean_jax

# Everything a user may call, as it is called.
SIGNATURES = {
  "bean_jax.bean_penalty": (
    "(activations, kernels, *, alpha=1.0, order=1, gamma=1.0, "
    "distance='squared', where=None)"
  ),
  "bean_jax.coactivation_divergence": (
    "(activations, *, distance='squared', where=None)"
  ),
  "bean_jax.layer_penalty": (
    "(activations, kernel, *, order=1, gamma=1.0, distance='squared', "
    "where=None)"
  ),
  "bean_jax.neuron_correlation": "(kernel, *, order=1, gamma=1.0)",
  "bean_jax.capture": "(fn, *, layers=None)",
  "bean_jax.find_layers": "(fn, *args, **kwargs)",
  "bean_jax.penalties": (
    "(loss_fn, *, layers=None, order=1, gamma=1.0, distance='squared', "
    "where_fn=None, samples=None, convolutions=False)"
  ),
  "bean_jax.regularize": (
    "(loss_fn, layers_fn=None, *, alpha, layers=None, order=1, gamma=1.0, "
    "distance='squared', where_fn=None, samples=None, convolutions=False)"
  ),
  "bean_jax.assemblies.ablate": "(kernel, bias, neurons, *, means=None)",
  "bean_jax.assemblies.assembly_masks": "(assemblies, *, num_assemblies)",
  "bean_jax.assemblies.class_profiles": (
    "(activations, labels, *, num_classes)"
  ),
  "bean_jax.assemblies.clustering_coefficient": "(strength)",
  "bean_jax.assemblies.cohesion": "(matrix, assemblies)",
  "bean_jax.assemblies.dead_neurons": (
    "(activations, kernel, *, tolerance=0.01)"
  ),
  "bean_jax.assemblies.modularity": "(matrix, assemblies)",
  "bean_jax.assemblies.outgoing_variance": "(kernel, assemblies)",
  "bean_jax.assemblies.preferred_classes": "(profiles)",
  "bean_jax.assemblies.proximity": "(strength, *, paths=False)",
  "bean_jax.assemblies.rescale_units": "(incoming, bias, outgoing, scales)",
  "bean_jax.assemblies.selectivity": "(profiles)",
  "bean_jax.assemblies.unit_scales": "(kernel, *, norm=1.0)",
  "bean_jax.check.main": "(argv=None)",
  "bean_jax.check.release": "()",
  "bean_jax.check.run": "()",
  "bean_jax.sparsity.gini_index": "(weights)",
  "bean_jax.sparsity.hoyer_sparsity": "(weights)",
  "bean_jax.sparsity.magnitude_masks": "(kernels, fraction, *, scope='global')",
  "bean_jax.sparsity.merge_units": "(layer, groups, *, num_groups)",
  "bean_jax.sparsity.remove_units": "(layer, keep, *, means=None)",
  "bean_jax.sparsity.small_fraction": "(weights, *, threshold=0.01)",
  "bean_jax.sparsity.unit_importance": "(activations, kernel)",
}
# Every class that a user may make or be given, with its fields.
CLASSES = {
  "bean_jax.check.Line": "(passed, name, text)",
  "bean_jax.check.Release": (
    "(versions, platform, device, issue, cure, flag='')"
  ),
  "bean_jax.sparsity.HiddenLayer": "(incoming, bias, outgoing, next_bias)",
}
PUBLIC_MODULES = {
  "bean_jax",
  "bean_jax.assemblies",
  "bean_jax.check",
  "bean_jax.sparsity",
}
# Where functions that bean_jax exports are written; to be imported from there
# by nobody.
HOMES = {
  "bean_jax.correlation",
  "bean_jax.divergence",
  "bean_jax.layers",
  "bean_jax.loss",
  "bean_jax.penalty",
}
MODULES = sorted(
  module.name
  for module in pkgutil.walk_packages(bean_jax.__path__, "bean_jax.")
)
each_function = pytest.mark.parametrize("name", SIGNATURES)


def _function(name: str):
  module, _, name = name.rpartition(".")
  return getattr(importlib.import_module(module), name)


def _signature(function) -> str:
  """Returns the signature without annotations."""
  signature = inspect.signature(function)
  empty = inspect.Parameter.empty
  return str(
    signature.replace(
      parameters=[
        parameter.replace(annotation=empty)
        for parameter in signature.parameters.values()
      ],
      return_annotation=inspect.Signature.empty,
    )
  )


def _run_python(program: str) -> str:
  """Returns what a fresh process prints, with warnings as errors."""
  finished = subprocess.run(
    [sys.executable, "-W", "error", "-c", program],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
    # With as few threads as cores, several CPU devices may starve each other.
    env={**os.environ, "NPROC": "8"},
  )
  assert finished.returncode == 0, finished.stderr
  return finished.stdout.strip()


def _section(docstring: str, title: str) -> str:
  """Returns the body of one section of a Google docstring, or ''."""
  match = re.search(
    rf"^{title}:\n((?:[ ].*\n|\n)*)", docstring + "\n", re.MULTILINE
  )
  return match[1] if match else ""


def _public(is_kind) -> dict:
  """Returns what public modules have of a kind, by its name."""
  return {
    f"{module}.{name}": value
    for module in PUBLIC_MODULES
    for name, value in vars(importlib.import_module(module)).items()
    if is_kind(value)
    and value.__module__.startswith("bean_jax")
    and not name.startswith("_")
  }


def test_public_names():
  assert set(_public(inspect.isfunction)) == set(SIGNATURES)
  exported = {name for name in SIGNATURES if name.count(".") == 1}
  assert {f"bean_jax.{name}" for name in bean_jax.__all__} == exported
  assert re.fullmatch(r"\d+\.\d+\.\d+", bean_jax.__version__)
  visible = {
    f"bean_jax.{name}"
    for name, value in vars(bean_jax).items()
    if not name.startswith("_") and not inspect.ismodule(value)
  }
  assert visible == exported


def test_public_classes():
  classes = _public(inspect.isclass)
  assert {name: _signature(value) for name, value in classes.items()} == CLASSES
  for name, value in classes.items():
    attributes = _section(inspect.getdoc(value), "Attributes")
    documented = re.findall(r"^ {2}(\w+): \S", attributes, re.MULTILINE)
    assert documented == list(inspect.signature(value).parameters), name


def test_every_module_is_public_or_not():
  visible = {name for name in MODULES if "._" not in name}
  assert visible | {"bean_jax"} == PUBLIC_MODULES | HOMES


@each_function
def test_signature(name):
  assert _signature(_function(name)) == SIGNATURES[name]
  signature = inspect.signature(_function(name))
  assert signature.return_annotation is not signature.empty
  for parameter in signature.parameters.values():
    assert parameter.annotation is not parameter.empty, parameter


@each_function
def test_documentation(name):
  function = _function(name)
  docstring = inspect.getdoc(function)
  summary, *rest = docstring.split("\n")
  assert summary.endswith(".")
  assert not rest[0]
  arguments = _section(docstring, "Args")
  documented = re.findall(r"^ {2}\*{0,2}(\w+): \S", arguments, re.MULTILINE)
  assert documented == list(inspect.signature(function).parameters)
  assert _section(docstring, "Returns").strip()
  assert function.__module__ in MODULES
  if function.__module__ != "bean_jax.check":
    assert doctest.DocTestParser().get_examples(_section(docstring, "Example"))
  if name.count(".") == 1 and function.__module__ != "bean_jax.layers":
    assert _section(docstring, "References").strip()


@pytest.mark.parametrize("module", ("bean_jax", *MODULES))
def test_module_is_documented_and_its_examples_hold(module):
  module = importlib.import_module(module)
  assert inspect.getdoc(module)
  finder = doctest.DocTestFinder(exclude_empty=True)
  runner = doctest.DocTestRunner()
  output = []
  for test in finder.find(module):
    runner.run(test, out=output.append)
  assert not runner.summarize(verbose=False).failed, "".join(output)


def test_import_brings_in_jax_alone():
  brought_in = _run_python(
    "import sys, jax; before = set(sys.modules); import bean_jax; "
    "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
    "print(*sorted(new - sys.stdlib_module_names))"
  )
  assert set(brought_in.split()) - {"jax"} == {"bean_jax"}


def test_import_leaves_the_devices_to_the_user():
  # A program may still choose its devices, or jax.distributed, afterwards.
  count = _run_python(
    "import bean_jax, jax; jax.config.update('jax_platforms', 'cpu'); "
    "jax.config.update('jax_num_cpu_devices', 3); print(jax.device_count())"
  )
  assert count == "3"
