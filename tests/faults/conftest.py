"""Small runs of scripts that the tests of this folder damage."""

import functools
import shutil

import pytest

from experiments import datasets
from experiments.architectures import networks
from experiments.records import results
from experiments.tables import figures
from tests.experiments import tiny
from tests.faults import here


@pytest.fixture(scope="module")
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
      entry = networks.NETWORKS[name]
      made = entry._replace(make=lambda *_, n=network: n)
      patch.setitem(networks.NETWORKS, name, made)
    networks.make.cache_clear()
    patch.setattr(datasets, "load", load_few)
    patch.setattr(
      figures,
      "_finish",
      lambda drawing, path: results.write_bytes(path, b"figure"),
    )
    yield
  networks.make.cache_clear()


@pytest.fixture(scope="module")
def finished(tiny_networks, tmp_path_factory):
  """Returns the folder of a script's small run."""

  @functools.cache
  def finished(name):
    folder = tmp_path_factory.mktemp(name)
    here.done(name, folder)
    return folder

  return finished


@pytest.fixture
def copy(finished, tmp_path):
  """Copies the folder of a script."""

  def copy(name):
    return shutil.copytree(finished(name), tmp_path / "copy")

  return copy
