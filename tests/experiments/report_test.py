"""Tests of experiments.report: a page that needs nothing but itself."""

import re

import pytest

from experiments import report
from experiments.account import claims, findings
from experiments.tables import figures, stats
from tests.experiments import in_process

TABLE = """\
# A table <of> numbers

| method | accuracy |
| --- | --- |
| BEAN-1 | **50.0** |
"""
SECTIONS = {
  "first": ("First things", "python -m first"),
  "later": ("Later", "python -m later"),
}
COMPARED = (
  findings.Comparison("1-shot", "a", stats.Interval(0.021, 0.01, 0.03), 0.004),
  findings.Comparison("1-shot", "b", stats.Interval(-0.05, -0.07, -0.03), 0.2),
)
FINDINGS = (
  (
    claims.Claim("All is well", "0.", None, "python -m a", None, "Bars."),
    findings.Finding("It is +2.1 [+1.0, +3.0].", COMPARED, findings.IN_PART),
  ),
  (
    claims.Claim("As drawn", "1.", None, "b", "first/one.png", "A dot."),
    findings.Finding("There are no records of it.", (), findings.NOT_TESTED),
  ),
)


def attributes(text, name):
  """All values of an attribute in a page."""
  return re.findall(f' {name}="([^"]*)"', text)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "first" / "below").mkdir(parents=True)
  (tmp_path / "first" / "below" / "table.md").write_text(TABLE)
  interval = stats.Interval(0.5, 0.4, 0.6)
  figures.accuracy_against_shots(
    tmp_path / "first" / "one.png", [("BEAN-1", [1], [interval])], title="one"
  )
  return tmp_path


@pytest.fixture
def text(folder):
  report.draw(folder, FINDINGS)
  return report.build(folder, FINDINGS, [], SECTIONS)


def test_opens_with_a_line_a_claim_that_leads_to_it(text):
  opening = text.partition("<h2")[0]
  assert opening.count("<tr>") == 1 + len(FINDINGS)
  for cell in ("It is +2.1 [+1.0, +3.0].", "holds in part", "not tested"):
    assert f"<td>{cell}</td>" in opening
  assert attributes(text, "href") == ["#all-is-well", "#as-drawn"]
  anchors = attributes(text, "id")
  assert {"all-is-well", "as-drawn"} <= set(anchors)
  assert len(set(anchors)) == len(anchors)


def test_a_claim_has_its_figure_first_and_details_folded(text):
  section = text[text.index('id="all-is-well"') : text.index('id="as-drawn"')]
  places = [
    section.index(part)
    for part in ('alt="Bars."', "Holds in part.", "<details>", "python -m a")
  ]
  assert places == sorted(places)
  for cells in (
    ("+0.021 [+0.010, +0.030]", "0.004", "for it"),
    ("-0.050 [-0.070, -0.030]", "0.2", "undecided"),
  ):
    assert "\n".join(f"<td>{cell}</td>" for cell in cells) in section


def test_section_has_what_belongs_to_it(text):
  first, later = text.split('id="later"')
  first = first[first.index('id="first-things"') :]
  assert "python -m first" in first
  assert "<td><strong>50.0</strong></td>" in first
  # Below the heading of the section.
  assert "<h4" in first
  assert text.count("<h1") == 1
  assert "Not run." in later
  assert "Not run." not in first


def test_page_needs_nothing_but_itself(folder, text):
  assert not re.search("<(script|link|iframe)", text)
  # One that shows a claim is not shown again.
  assert attributes(text, "alt") == ["Bars.", "A dot."]
  for source in attributes(text, "src"):
    assert source.startswith("data:image/png;base64,iVBOR")
  assert "http" not in text
  assert text.count("<details") == 2
  # The same results make the same page.
  assert report.build(folder, FINDINGS, [], SECTIONS) == text


def test_script(tmp_path):
  path = tmp_path / "report.html"
  out = in_process.done(report, f"--results_dir={tmp_path}")
  assert out == f"wrote {path}\n"
  page = path.read_text()
  assert page.count("Not run.") == len(report.SECTIONS)
  assert page.count("<td>not tested</td>") == len(claims.CLAIMS)


def test_results_that_are_not_there(tmp_path):
  folder = tmp_path / "nowhere"
  line = in_process.refused(report, f"--results_dir={folder}")
  assert line.startswith("error: --results_dir: expected a folder")
  assert not folder.exists()


def test_commands_are_those_of_scripts():
  of_claims = [claim.command for claim in claims.CLAIMS]
  of_sections = [command for _, command in report.SECTIONS.values()]
  for command in (*of_sections, *of_claims):
    path = in_process.ROOT / command.split()[2].replace(".", "/")
    assert path.with_suffix(".py").exists(), command
