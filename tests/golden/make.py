"""Makes the golden results of this version of jax on this backend.

    python -m tests.golden.make [FOLDER]

writes BACKEND-jaxVERSION.json into tests/golden, or that folder: values and
gradients of the penalty, and what short runs of the scripts record.
`golden_test` computes them again. They are to change only with a reason, which
the commit then says.
"""

import functools
import itertools
import json
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax
from experiments.records import results
from tests.experiments import in_process
from tests.faults import here

FOLDER = pathlib.Path(__file__).parent
COMMAND = "python -m tests.golden.make"
ARGS = {
  "few_shot_mlp500": "few_shot --model=mlp500 --methods=vanilla,bean1,bean2"
  " --alphas=10 --shots=1 --seeds=2 --epochs=2",
  "full_data_mlp500": "full_data --model=mlp500 --methods=vanilla,bean1"
  " --alphas=10 --seeds=1 --epochs=2",
  "few_shot_lenet5": "few_shot --methods=vanilla,bean1,bean2,dropout,l1"
  " --alphas=0.5 --shots=1 --seeds=1 --epochs=2",
}
METRICS = (
  *("train_loss_curve", "validation_accuracy_curve"),
  *("test_accuracy", "test_accuracy_last"),
)

Numbers = dict[str, list]


def path() -> pathlib.Path:
  """Returns the file of this version of jax on this backend."""
  return FOLDER / f"{jax.default_backend()}-jax{jax.__version__}.json"


def penalties() -> Numbers:
  """Computes values and gradients of all forms of the penalty."""
  rng = np.random.default_rng(0)
  activations = jnp.asarray(rng.normal(size=(20, 12)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(12, 7)), jnp.float32)
  numbers = {}
  for order, distance in itertools.product((1, 2), ("squared", "absolute")):
    penalty = functools.partial(
      bean_jax.layer_penalty, order=order, distance=distance
    )
    gradient = jax.jit(jax.value_and_grad(penalty, (0, 1)))
    value, gradients = gradient(activations, kernel)
    norms = [float(jnp.linalg.norm(gradient)) for gradient in gradients]
    numbers[f"order {order}, {distance}"] = [float(value), *norms]
  return numbers


def run(name: str) -> Numbers:
  """Runs a script of `ARGS`; returns {"cell: metric": numbers}."""
  script, *args = ARGS[name].split()
  numbers = {}
  with tempfile.TemporaryDirectory() as folder:
    status, _, err = in_process.run(
      here.ALL[script], *args, f"--output_dir={folder}"
    )
    if status:
      raise RuntimeError(err)
    for cell, record in results.load_all(folder).items():
      for metric in METRICS:
        numbers[f"{cell}: {metric}"] = record["metrics"][metric]
  return numbers


def main(folder: str | pathlib.Path = FOLDER) -> None:
  """Writes the file into a folder."""
  environment = results.environment()
  fields = {
    "command": COMMAND,
    "versions": environment["versions"],
    "device": environment["device"],
    "penalties": penalties(),
    **{name: run(name) for name in ARGS},
  }
  target = pathlib.Path(folder) / path().name
  target.write_text(json.dumps(fields, indent=1) + "\n")
  print(target)


if __name__ == "__main__":
  main(*sys.argv[1:2])
