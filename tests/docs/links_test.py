"""Links of all Markdown, as a host of repositories shows it, lead somewhere."""

import pathlib
import re
import urllib.parse

import pytest

from tests.docs import CODE, ROOT

PAGES = sorted(
  path
  for folder in (".", "docs", "results/**", *CODE)
  for path in ROOT.glob(f"{folder}/*.md")
)
LINK = re.compile(r"!?\[[^\]\[]*(?:`[^`]*`[^\]\[]*)*\]\(([^)\s]+)\)")


def _prose(page: str) -> str:
  """Returns a page without its blocks of code."""
  return re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)


def _anchors(page: str) -> set[str]:
  """Returns what headings can be linked by: their words, joined by dashes."""
  headings = re.findall(r"^#+ +(.+?) *$", _prose(page), re.MULTILINE)
  texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in headings]
  return {
    re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
    for text in texts
  }


def _broken(path: pathlib.Path, page: str) -> list[str]:
  """Returns the links of a page that lead nowhere within the repository."""
  found = []
  for link in LINK.findall(_prose(page)):
    target = urllib.parse.urlsplit(link)
    if target.scheme in ("http", "https", "mailto"):
      continue
    file, text = path, page
    if target.path:
      file = (path.parent / urllib.parse.unquote(target.path)).resolve()
      if not file.exists() or not file.is_relative_to(ROOT):
        found.append(link)
        continue
      text = file.read_text() if file.suffix == ".md" else ""
    # Sphinx makes the anchors of the API, and its own test looks at those.
    anchor = target.fragment
    if anchor and file.suffix == ".md" and not anchor.startswith("bean_jax."):
      found += [link] * (anchor not in _anchors(text))
  return found


@pytest.mark.parametrize(
  "path", PAGES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path):
  assert not _broken(path, path.read_text())


@pytest.mark.parametrize(
  "link", ("nowhere.md", "README.md#no-such-heading", "#nor-here", "../x.md")
)
def test_broken_links_are_found(link):
  page = f"# Here\n\n[well](#here) and [well](README.md), but [not]({link})\n"
  assert _broken(ROOT / "PAGE.md", page) == [link]
