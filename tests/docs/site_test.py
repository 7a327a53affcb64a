"""The documentation, built strictly: a link that leads nowhere is an error."""

import subprocess
import sys

import pytest

from tests.bean_jax import api_test
from tests.docs import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Builds the documentation with warnings as errors."""
  for module in ("sphinx", "furo", "latex2mathml", "myst_parser"):
    pytest.importorskip(module)
  folder = tmp_path_factory.mktemp("site")
  finished = subprocess.run(
    [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
    + ["-b", "html", "-d", folder / "doctrees", ROOT / "docs", folder / "html"],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert finished.returncode == 0, finished.stderr
  return folder / "html"


@pytest.fixture(name="site", scope="module")
def _site(folder):
  return {path.stem: path.read_text() for path in folder.glob("*.html")}


def test_every_page_is_there(site):
  assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= site.keys()


def test_formulas_are_rendered(site):
  assert site["api"].count("<math") >= 5
  assert site["glossary"].count("<math") >= 20
  for name, page in site.items():
    assert "\\frac" not in page, name


def test_the_api_has_all_that_is_public(site):
  for name in (*api_test.SIGNATURES, *api_test.CLASSES):
    assert f'id="{name}"' in site["api"], name


def test_the_tutorial_has_its_picture(folder, site):
  assert "_static/tutorial.png" in site["tutorial"]
  picture = (folder / "_static" / "tutorial.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
