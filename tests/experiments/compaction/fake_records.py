"""Records with numbers made up, as `compaction.measures` makes them."""

import numpy as np

from experiments.compaction import needed
from experiments.learning import methods

# Of 1000 weights, and 10 biases.
PARAMETERS = (1010, 510, 110)


def make(method, strength, seed, validation, *, test=None, retrained=None):
  """One record; accuracies are given for the whole and two smaller heads."""
  hparam = methods.METHODS[method].hparam
  values = {
    "parameters": PARAMETERS,
    "flops": [2 * n - 10 for n in PARAMETERS],
    "bytes": [4 * n for n in PARAMETERS],
    "time_ratio_1": (1.0, 0.8, 0.3),
    "validation_accuracy": validation,
    "test_accuracy": validation if test is None else test,
  }
  if retrained is not None:
    values["validation_accuracy_retrained"] = retrained
    values["test_accuracy_retrained"] = retrained
  metrics = {
    f"{scheme}/{name}": [list(numbers)]
    for scheme in ("weights", "units")
    for name, numbers in values.items()
  }
  metrics["parameters_outside"] = [7]
  for measure in ("gini_index", "hoyer_sparsity", "small_fraction"):
    metrics[f"{measure}/all"] = [0.25]
  checkpoint = {"dataset": "digits", "model": "lenet5", "method": method}
  checkpoint |= {"seed": seed} | ({hparam: strength} if hparam else {})
  return {
    "config": {"checkpoint": checkpoint},
    "seeds": [seed],
    "metrics": metrics,
  }


def make_all(**options):
  """Vanilla, two strengths of l1 and one of BEAN-1, two seeds each."""
  whole = np.array([0.9, 0.9, 0.8])
  rows = (
    # As vanilla, but at half its size.
    ("vanilla", None, (whole, whole + 0.02)),
    # A little worse as trained, and it stays so when it shrinks.
    ("l1", 0.1, ([0.896, 0.896, 0.896], [0.918, 0.918, 0.918])),
    # Too weak, but for one seed once it has shrunk.
    ("l1", 1.0, ([0.7, 0.7, 0.7], [0.7, 0.7, 0.92])),
    # The best as trained, which shrinks badly.
    ("bean1", 10.0, ([0.95, 0.8, 0.8], [0.97, 0.8, 0.8])),
  )
  return [
    make(method, strength, seed, accuracies, **options)
    for method, strength, both in rows
    for seed, accuracies in enumerate(both)
  ]


def group(records):
  (group,) = needed.make_groups(records, points=0.5)
  return group


def without(group, strength):
  cells = tuple(cell for cell in group.cells if cell.strength != strength)
  return group._replace(cells=cells)
