"""Tests of experiments.report: a page that needs nothing but itself."""

import functools
import html.parser
import pathlib

import pytest

from experiments import report
from experiments.records import results
from experiments.tables import figures, stats
from tests.experiments import in_process

TABLE = """\
# A table <of> numbers

| method | accuracy |
| --- | --- |
| BEAN-1 | **50.0** |
"""
SECTIONS = (
  report.Section(
    "First things",
    "first",
    "python -m first --output_dir=results/first",
    "all is well.",
    ("*.png",),
    lambda folder: [f"{folder.name} is fine"],
  ),
  report.Section("Later", "later", "python -m later", "nothing."),
)


class Page(html.parser.HTMLParser):
  """What is of interest in a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.anchors, self.images = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    if tag == "a":
      self.links.append(attrs["href"])
    if tag == "img":
      self.images.append(attrs)
    if "id" in attrs:
      self.anchors.append(attrs["id"])


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "first" / "below").mkdir(parents=True)
  (tmp_path / "first" / "below" / "table.md").write_text(TABLE)
  figures.accuracy_against_shots(
    tmp_path / "first" / "one.png",
    [("BEAN-1", [1, 5], [stats.Interval(0.5, 0.4, 0.6)] * 2)],
    title="one",
  )
  return tmp_path


@pytest.fixture
def text(folder):
  return report.build(folder, SECTIONS)


def test_links_lead_to_sections(text):
  page = Page(text)
  assert page.links == ["#first-things", "#later"]
  assert {link[1:] for link in page.links} <= set(page.anchors)
  assert len(set(page.anchors)) == len(page.anchors)


def test_section_has_what_belongs_to_it(text):
  first, later = text.split('id="later"')
  assert "The paper: all is well." in first
  assert "python -m first --output_dir=results/first" in first
  assert "<li>first is fine</li>" in first
  assert "<td><strong>50.0</strong></td>" in first
  # Below the heading of the section.
  assert "<h3" in first
  assert text.count("<h1") == 1
  assert "Not run." in later
  assert "Not run." not in first


def test_page_needs_nothing_but_itself(text):
  page = Page(text)
  assert not {"script", "link", "iframe"} & set(page.tags)
  (image,) = page.images
  assert image["src"].startswith("data:image/png;base64,iVBOR")
  assert image["alt"] == "first: one"
  assert "http" not in text.replace("<!doctype html>", "")


def test_the_same_results_make_the_same_page(folder, text):
  assert report.build(folder, SECTIONS) == text


run = functools.partial(in_process.run, report)


def test_script(tmp_path):
  status, out, err = run(f"--results_dir={tmp_path}")
  assert (status, err) == (0, "")
  path = tmp_path / "report.html"
  assert out == f"wrote {path}\n"
  assert path.read_text().count("Not run.") == len(report.SECTIONS)


def test_results_that_are_not_there(tmp_path):
  folder = tmp_path / "nowhere"
  status, out, err = run(f"--results_dir={folder}")
  assert (status, out) == (2, "")
  assert err.startswith("error: --results_dir: expected a folder")
  assert err.count("\n") == 1
  assert not folder.exists()


def test_commands_are_those_of_scripts():
  root = pathlib.Path(report.__file__).parent
  for section in report.SECTIONS:
    _, _, module, *flags = section.command.split()
    assert (root / f"{module.removeprefix('experiments.')}.py").exists() or (
      module == "benchmarks.run"
    )
    assert any(section.folder in flag for flag in flags), section.title


def write_record(folder, method, accuracy, **hparam):
  metrics = ("test_accuracy", "validation_accuracy", "test_accuracy_last")
  record = {
    "experiment": "table1",
    "config": {"dataset": "mnist", "shots": 1, "method": method, **hparam},
    "source": "none",
    "members_per_chunk": 1,
    **results.environment(),
    "seconds": 1.0,
    "seeds": [0, 1],
    "metrics": {name: [accuracy] * 2 for name in metrics},
  }
  folder.mkdir(exist_ok=True)
  results.write(folder / f"{method}.json", record)


def test_findings_of_few_shot_records(tmp_path):
  assert report.few_shot_findings(tmp_path) == []
  for name in ("evaluation", "chosen"):
    write_record(tmp_path / name, "vanilla", 0.5)
    write_record(tmp_path / name, "bean1", 0.6, alpha=1.0)
  (sentence,) = report.few_shot_findings(tmp_path)
  assert sentence.startswith(
    "mnist, protocol paper, 1-shot: BEAN-1 is ahead of Vanilla"
  )
