"""The pages: their code runs, their numbers are those of the results."""

import doctest
import importlib.util
import pathlib
import re

import numpy as np
import pytest

import bean_jax
from tests.docs import CODE, ROOT

# Beside those of the documentation.
OTHERS = [
  ROOT / "README.md",
  ROOT / "BUILD.md",
  *(ROOT / folder / "README.md" for folder in CODE),
  *sorted((ROOT / "results").glob("*.md")),
]
FOLDERS = ("bean_jax", "benchmarks", "examples", "experiments", "tests")
PAGES = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}


def _name(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def _blocks(name: str) -> list[tuple[str, str]]:
  """Returns the language and the text of the blocks of code."""
  return re.findall(
    r"^```(\S+)\n(.*?)^```$", PAGES[name].read_text(), re.DOTALL | re.MULTILINE
  )


def _load_numbers():
  spec = importlib.util.spec_from_file_location(
    "numbers_of_docs", ROOT / "docs" / "numbers.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _run(name: str) -> list[str]:
  """Runs the blocks of a page as one program; returns what went wrong."""
  names = {"__name__": f"page_{name}"}
  report: list[str] = []
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  for number, (language, text) in enumerate(_blocks(name)):
    if language == "python":
      exec(compile(text, f"{name}.md, block {number}", "exec"), names)
    elif language == "pycon":
      test = doctest.DocTestParser().get_doctest(
        text, names, f"{name}.md, block {number}", None, None
      )
      runner.run(test, out=report.append, clear_globs=False)
      names |= test.globs
  return report


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_are_a_program(name):
  assert not _run(name)


def test_there_are_blocks_to_run():
  languages = [language for name in PAGES for language, _ in _blocks(name)]
  assert languages.count("python") > 15
  assert languages.count("pycon") >= 5


@pytest.mark.parametrize("path", [*OTHERS, *PAGES.values()], ids=_name)
def test_tables_are_those_of_the_results(path):
  page = path.read_text()
  assert _load_numbers().with_tables(page) == page, "run python docs/numbers.py"


def _intervals(text: str) -> np.ndarray:
  """Returns all means with their bounds that a text has [..., 3]."""
  number = r"([+-]?\d+\.\d+)"
  found = re.findall(rf"{number}\s+\[{number},\s+{number}\]", text)
  return np.array(found, float).reshape(-1, 3)


@pytest.mark.parametrize(
  "path",
  [
    ROOT / "README.md",
    ROOT / "docs" / "alpha.md",
    ROOT / "results" / "what_helps.md",
  ],
  ids=_name,
)
def test_intervals_are_those_of_the_results(path):
  tables = [*ROOT.glob("results/*.md"), *ROOT.glob("results/**/table.md")]
  # Tables that are made of the results are on the page itself, too.
  made = re.compile(r"<!-- begin (.+) -->.*?<!-- end \1 -->", re.DOTALL)
  page = path.read_text()
  texts = [table.read_text() for table in tables if table != path]
  texts += [match[0] for match in made.finditer(page)]
  measured = np.concatenate([_intervals(text) for text in texts])
  stated = _intervals(made.sub("", page))
  assert len(stated) > 5
  for interval in stated:
    # Some tables have one digit, others two.
    distance = np.abs(measured - interval).max(axis=1).min()
    assert distance < 0.051, interval


@pytest.mark.parametrize("path", [*OTHERS, *PAGES.values()], ids=_name)
def test_commands_name_what_there_is(path):
  page = path.read_text()
  for module in re.findall(r"python -m ([\w.]+)", page):
    if module.partition(".")[0] in FOLDERS:
      file = ROOT / module.replace(".", "/")
      assert file.with_suffix(".py").exists(), module
  for name in re.findall(r"python (\S+\.py)", page):
    assert (ROOT / name).exists(), name


def test_every_example_is_on_its_page():
  page = PAGES["examples"].read_text()
  for path in (ROOT / "examples").glob("*_*.py"):
    if path.stem != "__init__":
      assert f"examples/{path.name}" in page, path.name


def test_the_changelog_has_this_version():
  changelog = (ROOT / "CHANGELOG.md").read_text()
  assert "## [Unreleased]" in changelog
  assert bean_jax.__version__ in changelog
