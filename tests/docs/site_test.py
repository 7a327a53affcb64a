"""The built documentation: strictly, with links that lead somewhere."""

import html.parser
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

from tests.bean_jax import api_test

ROOT = pathlib.Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow


class Page(html.parser.HTMLParser):
  """What a page links to and can be linked by, and its formulas."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.links: list[str] = []
    self.anchors: set[str] = set()
    self.num_formulas = 0
    self.feed(path.read_text())

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.num_formulas += tag == "math"
    if attributes.get("id"):
      self.anchors.add(attributes["id"])
    link = attributes.get("href") or attributes.get("src")
    if link:
      self.links.append(link)


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory):
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
  paths = sorted((folder / "html").glob("**/*.html"))
  return {path: Page(path) for path in paths}


def test_every_page_is_there(site):
  built = {path.stem for path in site}
  assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= built


def test_links_lead_somewhere(site):
  num_checked = 0
  for path, page in site.items():
    for link in page.links:
      target = urllib.parse.urlsplit(link)
      if target.scheme or link.startswith(("//", "data:")):
        continue
      file = path
      if target.path:
        file = (path.parent / urllib.parse.unquote(target.path)).resolve()
      assert file.exists(), f"{path.name}: {link}"
      if target.fragment and file.suffix == ".html":
        anchors = site[file].anchors
        fragment = urllib.parse.unquote(target.fragment)
        assert fragment in anchors, f"{path.name}: {link}"
      num_checked += 1
  assert num_checked > 200


def test_formulas_are_rendered(site):
  formulas = {path.stem: page.num_formulas for path, page in site.items()}
  assert formulas["api"] >= 5
  assert formulas["glossary"] >= 20
  for path in site:
    if path.parent.name == "html":
      assert "\\frac" not in path.read_text(), path.name


def test_the_api_has_all_that_is_public(site):
  (api,) = (page for path, page in site.items() if path.stem == "api")
  assert set(api_test.SIGNATURES) | set(api_test.CLASSES) <= api.anchors


def test_the_tutorial_has_its_picture(site):
  (path,) = (path for path in site if path.stem == "tutorial")
  picture = path.parent / "_static" / "tutorial.png"
  assert "_static/tutorial.png" in site[path].links
  assert picture.read_bytes().startswith(b"\x89PNG")
