"""Small runs of scripts that the tests of this folder damage."""

import functools
import shutil

import pytest

from tests.faults import here


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Returns the folder of a script's small run, with `here.tiny_networks`."""

  @functools.cache
  def finished(name):
    folder = tmp_path_factory.mktemp(name)
    args = (*here.SMALL[name], f"--output_dir={folder}")
    status, _, err = here.run(name, *args)
    assert (status, err) == (0, "")
    return folder

  return finished


@pytest.fixture
def copy(finished, tmp_path):
  """Copies the folder of a script."""

  def copy(name):
    return shutil.copytree(finished(name), tmp_path / "copy")

  return copy
