"""A page of all results: the paper's claims, what was found, what was measured.

    python -m experiments.report

reads what the other scripts left in --results_dir and writes one HTML file that
needs nothing else: figures are inside, and there is no script in it. It opens
with a line a claim; figures of those that no other figure shows are drawn into
claims/. What was not run is listed as not run.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
import html
import pathlib
import re

from absl import flags
import markdown_it

from experiments.account import claims, findings, spread
from experiments.command import flag_groups, parsing, scripts
from experiments.records import results
from experiments.tables import canvas, figures, markdown, stats

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_RULES = (
  "A claim holds if every comparison is told apart from 0 and for it, in part "
  "if more are for it than against it. With 20 seeds that is decided by the "
  "exact sign-flip test, corrected by Holm for all comparisons of the claim; "
  "with 3 to 5 by the interval alone, which is then somewhat too narrow."
)

_RESULTS_DIR = flag_groups.define_path(
  FLAGS, "results_dir", "results", "folder of the results"
)
_OUTPUT = flag_groups.define_path(
  FLAGS, "output", None, "HTML file; by default report.html in --results_dir"
)


Judged = Sequence[tuple[claims.Claim, findings.Finding]]


# The heading of each folder of results, and what makes its results.
SECTIONS = {
  "table1": (
    "Few-shot learning from scratch",
    "python -m experiments.table1 --output_dir=results/table1",
  ),
  "study": (
    "What matters for BEAN",
    "python -m experiments.study --output_dir=results/study",
  ),
  "full_data": (
    "Whole datasets",
    "python -m experiments.full_data --dataset=mnist --model=mlp500 "
    "--output_dir=results/full_data/mnist-mlp500",
  ),
  "interpret": (
    "Neuronal assemblies",
    "python -m experiments.interpret --checkpoint_dir=outputs/checkpoints "
    "--output_dir=results/interpret/mnist-mlp500",
  ),
  "efficiency": (
    "Efficiency",
    "python -m experiments.efficiency --checkpoint_dir=outputs/checkpoints "
    "--output_dir=results/efficiency/mnist-mlp300_100",
  ),
  "benchmarks": (
    "Speed",
    "python -m benchmarks.run --suite=cpu --output_dir=results/benchmarks",
  ),
}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem;
  overflow-wrap: break-word; padding: 1rem; }
h1, h2, h3, h4 { line-height: 1.2; }
h2 { border-top: 1px solid #8884; margin-top: 3rem; padding-top: 1.5rem; }
h3 { margin-top: 2.5rem; }
pre { background: #8881; overflow-x: auto; padding: .7rem; }
summary { cursor: pointer; padding: .3rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: left;
  vertical-align: top; white-space: nowrap; }
.claims :is(th, td) { white-space: normal; }
.claims td:nth-child(4) { font-weight: bold; min-width: 6rem; }
img { background: #fff; display: block; height: auto; margin: 1rem 0;
  max-height: 90vh; max-width: 100%; }
blockquote { border-left: 4px solid #8888; margin-left: 0; padding-left: 1rem; }
@media (max-width: 45rem) {
  .claims :is(table, tbody, tr, td) { display: block; }
  .claims thead { height: 0; overflow: hidden; position: absolute; }
  .claims tr { border: 1px solid #8886; margin-bottom: 1rem; }
  .claims td { border: 0; }
  .claims td:nth-child(1) { font-size: 1.2em; }
  .claims td:nth-child(2)::before { content: "The paper: "; }
  .claims td:nth-child(3)::before { content: "Found: "; }
}
@media print {
  body { font-size: 11px; max-width: none; }
  img { break-inside: avoid; max-height: 18cm; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  table { font-size: 9px; }
}
"""


def build(
  directory: pathlib.Path,
  judged: Judged,
  spreads: Sequence[spread.Spread],
  sections: Mapping[str, tuple[str, str]],
) -> str:
  """Builds the page, in HTML, with the figures that `draw` drew."""
  lines = [
    "# BEAN: what the paper says, what we found",
    "",
    "Built from records of single runs, each with its versions, device and "
    "seeds, by `python -m experiments.report`. Brackets are 95 % bootstrap "
    "intervals over seeds, differences are paired by seed. " + _RULES,
    "",
    '<div class="claims">',
    "",
    _table(judged),
    "",
    "</div>",
    "",
    "## The claims, one by one",
  ]
  for claim, finding in judged:
    lines += _claim(directory, claim, finding)
  lines += ["", "## Other seeds", "", spread.sentence(spreads), ""]
  if spreads:
    lines += _folded("By dataset and number of shots", [spread.table(spreads)])
  lines += ["", "## All tables and figures"]
  shown = {claim.figure for claim, _ in judged}
  for name, (title, command) in sections.items():
    lines += _section(directory, directory / name, title, command, shown)
  return _page("BEAN: results", "\n".join(lines), directory)


def _table(judged: Judged) -> str:
  """Formats claims and findings as a Markdown table that links to sections."""
  rows = []
  for claim, (sentence, _, verdict) in judged:
    link = f"[{claim.title}](#{_anchor(claim.title)})"
    rows.append([link, claim.paper, sentence, verdict])
  head = ["claim, with its figure", "the paper", "found", "verdict"]
  return markdown.table(head, rows)


def draw(directory: pathlib.Path, judged: Judged) -> None:
  """Draws into claims/*.png those claims that no other figure shows."""
  for claim, finding in judged:
    if claim.figure is None and finding.comparisons:
      path = directory / figure(claim)
      results.prepare_directory(path.parent)
      groups: dict[str, dict[str, stats.Interval]] = {}
      for compared in finding.comparisons:
        labels = groups.setdefault(compared.group, {})
        labels[compared.label] = compared.interval
      with canvas.attempt(path):
        title = f"{claim.title}: {finding.verdict}"
        series = list(groups.items())
        figures.differences(path, series, title=title, unit=claim.unit)


def figure(claim: claims.Claim) -> str:
  """Returns the file that shows a claim, below the results."""
  return claim.figure or f"claims/{_anchor(claim.title)}.png"


def _claim(
  directory: pathlib.Path, claim: claims.Claim, finding: findings.Finding
) -> list[str]:
  lines = ["", f"### {claim.title}", ""]
  if (directory / figure(claim)).exists():
    lines += [f"![{claim.alt}]({figure(claim)})", ""]
  lines += [f"**{finding.verdict.capitalize()}.** {finding.sentence}", ""]
  lines += [f"> The paper: {claim.paper}", ""]
  if not finding.comparisons:
    return [*lines, "```", claim.command, "```"]
  rows = [
    (
      c.group,
      c.label,
      "{:+.3f} [{:+.3f}, {:+.3f}]".format(*c.interval),
      "" if c.adjusted is None else f"{c.adjusted:.2g}",
      {1: "for it", 0: "undecided", -1: "against it"}[c.direction],
    )
    for c in finding.comparisons
  ]
  head = ("group", "comparison", "difference", "p, Holm", "the claim")
  return lines + _folded(
    f"All {len(rows)} comparisons, and the command",
    ["```", claim.command, "```", "", markdown.table(head, rows)],
  )


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
  opening = f"<details><summary>{html.escape(summary)}</summary>"
  return [opening, "", *lines, "", "</details>", ""]


def _section(
  directory: pathlib.Path,
  folder: pathlib.Path,
  title: str,
  command: str,
  shown: Collection[str | None],
) -> list[str]:
  lines = ["", f"### {title}", "", "```", command, "```", ""]
  tables = sorted(folder.rglob("table.md"))
  pictures = [
    path
    for path in sorted(folder.rglob("*.png"))
    if path.relative_to(directory).as_posix() not in shown
  ]
  if not tables and not pictures:
    return [*lines, "Not run.", ""]
  inside = []
  for path in tables:
    text = path.read_text(encoding="utf-8")
    # Its headings below those of the page.
    inside += ["", re.sub(r"^(#+) ", r"###\1 ", text, flags=re.MULTILINE), ""]
  for path in pictures:
    name = path.relative_to(directory).as_posix()
    alt = path.relative_to(folder).with_suffix("").as_posix()
    inside += ["", f"![{title}: {alt}]({name})"]
  return lines + _folded(
    f"{len(tables)} tables, {len(pictures)} figures", inside
  )


def _anchor(title: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _page(title: str, text: str, directory: pathlib.Path) -> str:
  parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
  tokens = parser.parse(text)
  for place, token in enumerate(tokens):
    if token.type == "heading_open":
      token.attrSet("id", _anchor(tokens[place + 1].content))
    for child in token.children or ():
      if child.type == "image":
        data = (directory / child.attrs["src"]).read_bytes()
        encoded = base64.b64encode(data).decode()
        child.attrSet("src", f"data:image/png;base64,{encoded}")
  body = parser.renderer.render(tokens, parser.options, {})
  # A table wider than a telephone scrolls alone.
  body = body.replace("<table>", '<div class="wide"><table>')
  body = body.replace("</table>", "</table></div>")
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    f"<body>\n{body}</body>\n</html>\n"
  )


def run() -> None:
  """Writes the page."""
  directory = pathlib.Path(_RESULTS_DIR.value)
  if not directory.is_dir():
    raise parsing.ConfigError(
      f"--results_dir: expected a folder with results, got {str(directory)!r}"
    )
  path = pathlib.Path(_OUTPUT.value or directory / "report.html")
  found = findings.read(directory)
  judged = [(claim, claim.find(found)) for claim in claims.CLAIMS]
  draw(directory, judged)
  page = build(directory, judged, spread.spreads(found.few_shot), SECTIONS)
  results.write_bytes(path, page.encode())
  print(f"wrote {path}")


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
