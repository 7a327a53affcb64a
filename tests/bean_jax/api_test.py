"""The public face: names, signatures, documentation and what importing costs.

A change here is a change for every user. Whoever means it changes this file.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

import bean_jax

# Positional parameters, then keyword-only ones with their defaults.
SIGNATURES = {
  "bean_penalty": (
    ("activations", "kernels"),
    {
      "alpha": 1.0,
      "order": 1,
      "gamma": 1.0,
      "distance": "squared",
      "where": None,
    },
  ),
  "coactivation_divergence": (
    ("activations",),
    {"distance": "squared", "where": None},
  ),
  "layer_penalty": (
    ("activations", "kernel"),
    {"order": 1, "gamma": 1.0, "distance": "squared", "where": None},
  ),
  "neuron_correlation": (("kernel",), {"order": 1, "gamma": 1.0}),
  "regularize": (
    ("loss_fn", "layers_fn"),
    {
      "alpha": inspect.Parameter.empty,
      "order": 1,
      "gamma": 1.0,
      "distance": "squared",
      "where_fn": None,
    },
  ),
}
MODULES = sorted(
  module.name
  for module in pkgutil.walk_packages(bean_jax.__path__, "bean_jax.")
)
each_function = pytest.mark.parametrize("name", SIGNATURES)


def _run_python(program: str) -> str:
  """Returns what a fresh process prints, with warnings as errors."""
  finished = subprocess.run(
    [sys.executable, "-W", "error", "-c", program],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )
  assert finished.returncode == 0, finished.stderr
  return finished.stdout.strip()


def _section(docstring: str, title: str) -> str:
  """Returns the body of one section of a Google docstring, or ''."""
  match = re.search(
    rf"^{title}:\n((?:[ ].*\n|\n)*)", docstring + "\n", re.MULTILINE
  )
  return match[1] if match else ""


def test_public_names():
  assert sorted(bean_jax.__all__) == sorted(SIGNATURES)
  visible = {
    name
    for name, value in vars(bean_jax).items()
    if not name.startswith("_") and not inspect.ismodule(value)
  }
  assert visible == set(SIGNATURES)
  assert re.fullmatch(r"\d+\.\d+\.\d+", bean_jax.__version__)


@each_function
def test_signature(name):
  parameters = inspect.signature(getattr(bean_jax, name)).parameters.values()
  positional, keywords = SIGNATURES[name]
  assert positional == tuple(
    p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
  )
  assert list(keywords.items()) == [
    (p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY
  ]
  assert len(parameters) == len(positional) + len(keywords)
  for parameter in parameters:
    if parameter.kind is not parameter.KEYWORD_ONLY:
      assert parameter.default is parameter.empty


@each_function
def test_annotations(name):
  signature = inspect.signature(getattr(bean_jax, name))
  assert signature.return_annotation is not signature.empty
  for parameter in signature.parameters.values():
    assert parameter.annotation is not parameter.empty, parameter


@each_function
def test_documentation(name):
  function = getattr(bean_jax, name)
  docstring = inspect.getdoc(function)
  summary, blank = docstring.split("\n")[:2]
  assert summary.endswith(".")
  assert not blank
  for parameter in inspect.signature(function).parameters:
    pattern = rf"^ +{parameter}: \S"
    arguments = _section(docstring, "Args")
    assert re.search(pattern, arguments, re.MULTILINE), parameter
  assert _section(docstring, "Returns").strip()
  assert _section(docstring, "References").strip()
  assert doctest.DocTestParser().get_examples(_section(docstring, "Example"))
  assert function.__module__ in MODULES


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


def test_data_parallel_sharding_gives_the_same_penalty():
  # In a process of its own, which has two devices.
  difference = _run_python(
    """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
import bean_jax
from jax.sharding import NamedSharding, PartitionSpec

rng = np.random.default_rng(0)
layer = [np.float32(rng.normal(size=size)) for size in ((16, 9), (9, 4))]
mesh = jax.make_mesh(
  (2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
)
sharded = [
  jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))
  for array, axes in zip(layer, (["batch"], []))
]
assert len(sharded[0].sharding.device_set) == 2
worst = 0.0
for order in (1, 2):
  for distance in ("squared", "absolute"):
    value_and_grad = jax.jit(
      jax.value_and_grad(
        lambda h, w: bean_jax.layer_penalty(
          h, w, order=order, distance=distance
        ),
        argnums=(0, 1),
      )
    )
    for one, other in zip(
      jax.tree.leaves(value_and_grad(*layer)),
      jax.tree.leaves(value_and_grad(*sharded)),
    ):
      worst = max(worst, float(np.max(np.abs(one - np.asarray(other)))))
print(worst)
"""
  )
  assert float(difference) < 1e-6
