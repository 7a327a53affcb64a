"""Nothing here loads a pickle: to load one is to run what it says."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
PATHS = [
  path
  for folder in ("bean_jax", "experiments", "benchmarks", "examples", "docs")
  for path in sorted((_ROOT / folder).rglob("*.py"))
]
# Modules that unpickle what they read.
MODULES = {
  *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib"),
  *("shelve", "marshal", "pandas", "torch.serialization"),
}
# Functions that unpickle unless told not to, or run code.
CALLS = {"read_pickle", "to_pickle", "from_pickle", "eval", "exec"}


def uses(source):
  """What of a source may load a pickle, as (line, what)."""
  found = []
  for node in ast.walk(ast.parse(source)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module or "", *(alias.name for alias in node.names)]
    found += [
      (node.lineno, name)
      for name in names
      if name in MODULES or name.partition(".")[0] in MODULES
    ]
    if isinstance(node, ast.Call):
      found += [(node.lineno, call) for call in _unsafe(node)]
  return found


def _unsafe(node):
  function = node.func
  owner = function.value if isinstance(function, ast.Attribute) else None
  owner = owner.id if isinstance(owner, ast.Name) else None
  name = getattr(function, "attr", getattr(function, "id", ""))
  keywords = {keyword.arg: keyword.value for keyword in node.keywords}
  if name in CALLS and (owner is None or name.endswith("pickle")):
    yield name
  allow = keywords.get("allow_pickle")
  if allow is not None and getattr(allow, "value", None) is not False:
    yield "allow_pickle"
  # NumPy's default is safe since 1.16.3; said all the same, it is seen to be.
  if (owner, name) == ("np", "load") and allow is None:
    yield "np.load without allow_pickle=False"
  if (owner, name) == ("torch", "load"):
    yield "torch.load"


assert {"checkpoints.py", "results.py", "cache.py"} <= {p.name for p in PATHS}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_pickle(path):
  assert uses(path.read_text()) == []


SOURCES = (
  "import pickle",
  "import pickle as p",
  "from pickle import loads",
  "import os, joblib",
  "import torch.serialization",
  "np.load(path)",
  "np.load(path, allow_pickle=True)",
  "read_array(file, allow_pickle=flag)",
  "x.read_pickle(path)",
  "torch.load(path)",
  "eval(text)",
  "def f():\n  import cloudpickle",
)
SAFE = (
  "np.load(path, allow_pickle=False)",
  "json.load(file)",
  "jax.eval_shape(f)",
  "model.eval()",
  "import picklex",
)


@pytest.mark.parametrize("source", SOURCES + SAFE)
def test_pickles_are_seen(source):
  assert bool(uses(source)) == (source in SOURCES)
