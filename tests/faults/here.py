"""Scripts run in this process, with networks that train in no time."""

import contextlib

import pytest

from experiments import (
  datasets,
  efficiency,
  few_shot,
  full_data,
  interpret,
  study,
  table1,
)
from experiments.architectures import networks
from experiments.population import runs
from experiments.records import results
from experiments.tables import figures
from tests.experiments import in_process, tiny

SCRIPTS = {"few_shot": few_shot, "table1": table1, "full_data": full_data}
# Those that share their machinery too, to be refused with their flags.
ALL = SCRIPTS | {
  "study": study,
  "interpret": interpret,
  "efficiency": efficiency,
}

# Two cells each, of two seeds.
SMALL = {
  "few_shot": (
    *("--model=mlp500", "--methods=vanilla,bean1", "--alphas=1", "--shots=1"),
    *("--seeds=2", "--epochs=2"),
  ),
  "table1": (
    *("--datasets=digits", "--methods=vanilla", "--shots=1", "--seeds=2"),
    *("--selection_seeds=100-101", "--epochs=2", "--validate_every=1"),
  ),
  "full_data": (
    *("--methods=vanilla,bean1", "--alphas=1", "--seeds=2", "--epochs=2"),
    *("--batch_size=20", "--checkpoint_seconds=0"),
  ),
  "study": (
    *("--dataset=digits", "--seeds=100-101", "--epochs=4", "--validations=2"),
    "--variants=usual",
  ),
  "interpret": (),
  "efficiency": (),
}


@contextlib.contextmanager
def tiny_networks():
  """Puts tiny networks, fewer digits and no drawing in the place of the real.

  Figures are written, for what may happen to files, but drawing takes longer
  than all the rest.
  """
  load, digits = datasets.load, tiny.load_few_digits()

  def load_few(name, **kwargs):
    return digits if name == "digits" else load(name, **kwargs)

  with pytest.MonkeyPatch.context() as patch:
    # That of few_shot has dropout, that of full_data batch statistics.
    for name, network in (("mlp500", tiny.NETWORK), ("lenet5", tiny.NORMED)):
      patch.setitem(networks._MAKERS, name, lambda *_, n=network: n)
    networks.make.cache_clear()
    patch.setattr(datasets, "load", load_few)
    patch.setattr(
      figures,
      "_finish",
      lambda drawing, path: results.write_bytes(path, b"figure"),
    )
    # Datasets are kept from run to run.
    runs._load_from.cache_clear()
    yield
  runs._load_from.cache_clear()
  networks.make.cache_clear()


def run(name, *args):
  """Runs a script; its exit status, standard output and error."""
  return in_process.run(ALL[name], *args)
