"""Tries BEAN on public models, as they are, and writes docs/models.md.

    KERAS_BACKEND=jax python -m benchmarks.public_models [package ...]

What `find_layers` and `penalties` say is compared with what the matrix products
of each model meet as it runs; see `benchmarks.operands`. With packages named,
only their models are tried, and nothing is written. The packages are installed
beside those of requirements.txt.
"""

from collections.abc import Callable, Sequence
import datetime
import functools
import importlib.metadata
import pathlib
import platform
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bean_jax
from benchmarks import operands, public_model_makers
from experiments.records import results
from tests import reference

_PAGE = pathlib.Path(__file__).parent.parent / "docs" / "models.md"
# Equal operations have equal results where the compiler fuses none.
_UNFUSED = {"xla_backend_optimization_level": 0}
_KINDS = {
  "": "taken",
  "its inputs are raw data": "raw",
  "a convolution": "convolution",
  "activity changes its kernel, which may be none": "changed",
}
_TEXT = """# Public models

`bean_jax.regularize` was tried on {models} models of {packages} packages, with
small sizes and random parameters. What it found is compared with what the
matrix products of each model meet as it runs, operation by operation, with
other parameters and with other data: each factor that parameters change and
data do not is a kernel. The penalties are those of the NumPy reference on what
was met. Gradients are finite, the model is traced once, and the loss is as
without BEAN: to the bit, or, where "last bits" stands, to 1e-6, as the compiler
fuses operations in another way.

*Taken* are layers of neurons; *raw* are those of raw data; *conv.* are
convolutions; *refused* are those that cannot be walked into, and are named in
the error. *Wrong* is what differs from what was met: a layer missed, a layer
too many, a penalty that is another. See [which layers](layers.md).

The layers of both flows of flowjax are steps of a scan, which is read once for
all of its steps. So the first layer of the first step, which meets raw data, is
taken with the others; `layers=["*", "!*/layers/0/weight[0]"]` leaves it out.

| package | model | taken | raw | conv. | refused | wrong | loss |
|---|---|---|---|---|---|---|---|
{rows}

{needed}
`KERAS_BACKEND=jax python -m benchmarks.public_models`; Python {python}, jax
{jax}, {date}.
"""
_REFUSED = """\
Where layers are refused, `layers` leaves them out. Where none are left, as in
the neural ODE, the layers are to be handed out by `layers_fn`:
"""


class Verdict(NamedTuple):
  """What was found in a model.

  Attributes:
    numbers: Of layers, by kind.
    layers: What a user gives as `layers` where some are refused.
    faults: What is wrong, in words.
    to_the_bit: Whether the loss is that without BEAN to the bit.
  """

  numbers: dict[str, int]
  layers: list[str] | None
  faults: list[str]
  to_the_bit: bool


def examine(loss_fn: Callable[..., Any], params: Any, *args: Any) -> Verdict:
  """Compares what is found in a loss with what it meets as it runs."""
  params = operands.changed(params, 0)
  found = bean_jax.find_layers(loss_fn, params, *args)
  kinds = [_KINDS.get(layer.left_out, "refused") for layer in found]
  numbers = {kind: kinds.count(kind) for kind in (*_KINDS.values(), "refused")}
  layers = None
  if numbers["refused"]:
    layers = ["*"] + [
      f"!{layer.path}"
      for layer, kind in zip(found, kinds, strict=True)
      if kind == "refused"
    ]
  met = operands.layers(loss_fn, params, *args)
  faults = []
  num_dense = len(found) - numbers["convolution"] - numbers["changed"]
  if not numbers["refused"] and num_dense != len(met):
    faults.append(f"found {num_dense} dense layers, and met {len(met)}")
  if num_dense < len(met):
    faults.append(f"missed {len(met) - num_dense}")
  if not numbers["taken"]:
    return Verdict(numbers, layers, faults, True)
  terms, same, more = _regularized(loss_fn, layers, params, *args)
  num_raw = sum(not one.neurons for one in met) - numbers["raw"]
  if num_raw and not numbers["refused"]:
    faults.append(f"{num_raw} of raw data taken")
  # The steps of a scan are one call, which is of neurons if one step is; calls
  # of raw data beside it are left out.
  expected = [
    [
      reference.layer_penalty(inputs, one.kernel)
      for inputs in (one.inputs, np.concatenate(one.neurons or [one.inputs]))
    ]
    for one in met
  ]
  for path, term in terms.items():
    fits = [np.isclose(one, term, rtol=2e-3, atol=0).any() for one in expected]
    if any(fits):
      expected.pop(fits.index(True))
    else:
      faults.append(f"the penalty of {path} is that of no layer that was met")
  return Verdict(numbers, layers, faults + more, same)


def _regularized(
  loss_fn: Callable[..., Any], layers: Any, params: Any, *args: Any
) -> tuple[dict[str, float], bool, list[str]]:
  """Returns penalties, whether the loss is the same, and what is wrong."""
  num_traces = 0

  def counted(*args: Any) -> Any:
    nonlocal num_traces
    num_traces += 1
    return loss_fn(*args)

  def with_bean(params: Any, *args: Any) -> Any:
    loss, terms = bean_jax.penalties(counted, layers=layers)(params, *args)
    return loss + sum(terms.values()), (loss, terms)

  @functools.partial(jax.jit, compiler_options=_UNFUSED)
  def both(params: Any, *args: Any) -> Any:
    grad_fn = jax.value_and_grad(with_bean, has_aux=True)
    return grad_fn(params, *args), loss_fn(params, *args)

  for _ in range(2):
    ((_, (loss, terms)), gradient), without = both(params, *args)
  faults = []
  if not jnp.isclose(loss, without, rtol=1e-6, atol=0):
    faults.append(f"the loss is {loss}, without BEAN {without}")
  if not all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient)):
    faults.append("gradients are not finite")
  if num_traces != 1:
    faults.append(f"traced {num_traces} times")
  terms = {path: float(term) for path, term in terms.items()}
  return terms, bool(loss == without), faults


def _row(package: str, name: str, verdict: Verdict) -> str:
  numbers = verdict.numbers
  cells = (
    f"{package} {importlib.metadata.version(package)}",
    name,
    *[numbers[kind] for kind in ("taken", "raw", "convolution", "refused")],
    "; ".join(verdict.faults) or "nothing",
    ("to the bit" if verdict.to_the_bit else "last bits")
    if numbers["taken"]
    else "not run",
  )
  return f"| {' | '.join(map(str, cells))} |"


def main(packages: Sequence[str]) -> None:
  """Tries the models of packages, or of all, and writes the page if of all."""
  rows, needed, failed = [], [], []
  makers = public_model_makers.MAKERS
  names = [n for n, (p, _) in makers.items() if not packages or p in packages]
  for name in names:
    package, make = makers[name]
    try:
      verdict = examine(*make())
    except Exception as error:  # Whatever a foreign package raises.
      failed.append(f"{package}, {name}: {type(error).__name__}: {error}")
      print(failed[-1], file=sys.stderr, flush=True)
      continue
    rows.append(_row(package, name, verdict))
    print(rows[-1], flush=True)
    if verdict.layers and not packages:
      needed.append(f"- {name}: `layers={verdict.layers}`")
    if not packages:
      _write(rows, needed)
  if failed or not names:
    sys.exit(2)


def _write(rows: Sequence[str], needed: Sequence[str]) -> None:
  """Writes the page of the models that were tried so far."""
  text = _TEXT.format(
    models=len(rows),
    packages=len({row.split()[1] for row in rows}),
    rows="\n".join(rows),
    needed="\n".join([_REFUSED, *needed, ""]) if needed else "",
    python=platform.python_version(),
    jax=jax.__version__,
    date=datetime.datetime.now(datetime.UTC).date(),
  )
  results.write_bytes(_PAGE, text.encode())


if __name__ == "__main__":
  main(sys.argv[1:])
