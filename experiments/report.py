"""A page of all results: every table and figure, its command, the paper, ours.

    python -m experiments.report

reads what the other scripts left in --results_dir and writes one HTML file that
needs nothing else: figures are inside, and there is no script in it. What was
not run is listed as not run.
"""

import base64
from collections.abc import Callable, Sequence
import html
import json
import pathlib
import re
from typing import NamedTuple

from absl import flags
import markdown_it

from experiments.assemblies import summary as assemblies
from experiments.command import flag_groups, parsing, scripts
from experiments.compaction import needed, schemes
from experiments.learning import methods
from experiments.records import results
from experiments.tables import comparison, stats

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

# Validation accuracy that a most clustered network may lack, as a fraction, and
# points of accuracy that a smaller network may lose.
MARGIN = 0.01
POINTS = 0.5

_RESULTS_DIR = flag_groups.define_path(
  FLAGS,
  "results_dir",
  "results",
  "folder of the results",
)
_OUTPUT = flag_groups.define_path(
  FLAGS,
  "output",
  None,
  "HTML file; by default report.html in --results_dir",
)


class Section(NamedTuple):
  """What the page says about one experiment.

  Attributes:
    title: Heading.
    folder: Of the results, below --results_dir.
    command: Makes them.
    paper: What the paper says, Markdown.
    figures: Patterns of the files to show; each file is shown once.
    findings: Maps the folder to sentences about what was found.
  """

  title: str
  folder: str
  command: str
  paper: str
  figures: tuple[str, ...] = ("*.png",)
  findings: Callable[[pathlib.Path], list[str]] = lambda folder: []


def few_shot_findings(folder: pathlib.Path) -> list[str]:
  """Says whether BEAN is ahead in Table 1, from its records.

  Args:
    folder: Of `experiments.table1`.

  Returns:
    Sentences, those of one dataset and protocol after each other.
  """
  stages = [
    list(results.load_all(folder / name).values())
    if (folder / name).is_dir()
    else []
    for name in comparison.Records._fields
  ]
  names = sorted({r["config"]["dataset"] for r in stages[1]}, reverse=True)
  sentences = []
  for dataset in names:
    records = comparison.Records(
      *(
        [r for r in stage if r["config"]["dataset"] == dataset]
        for stage in stages
      )
    )
    shots = sorted({r["config"]["shots"] for r in records.evaluation})
    for protocol in comparison.PROTOCOLS:
      found = comparison.entries(protocol, records)
      rows = [
        n for n in methods.METHODS if n in comparison.paper.TABLE1["mnist"]
      ]
      sentences += [
        f"{dataset}, protocol {protocol}, {sentence}"
        for sentence in comparison.verdicts(found, rows, shots, dataset)
      ]
  return sentences


def assembly_findings(folder: pathlib.Path) -> list[str]:
  """Says how clustered plain networks are, and the most clustered with BEAN.

  Args:
    folder: Of `experiments.interpret`.

  Returns:
    A sentence for each of them.
  """
  sentences = []
  for group, cells in assemblies.groups(_records(folder)).items():
    for cell in assemblies.clustered(cells, margin=MARGIN):
      silhouettes = [
        assemblies.interval(cell.at_classes(name))
        for name in (
          "trained_silhouettes",
          "rescaled_silhouettes_live",
          "permuted_rescaled_silhouettes_live",
        )
      ]
      agreement = assemblies.interval(cell.values("rescaled_agreement"))
      share = assemblies.interval(cell.values("ablation_mean_diagonality"))
      accuracy = assemblies.interval(cell.values("test_accuracy"), 2, 100)
      sentences.append(
        f"{group}, {cell.title}: silhouette {silhouettes[0]} in weight space, "
        f"{silhouettes[1]} with weights of equal norm (permuted "
        f"{silhouettes[2]}); clusters agree with preferred classes by "
        f"{agreement} (adjusted mutual information); {share} of what ablations "
        f"cost falls on the ablated class; test accuracy {accuracy} %."
      )
  return sentences


def efficiency_findings(folder: pathlib.Path) -> list[str]:
  """Says how many parameters each method needs, at matched accuracy.

  Args:
    folder: Of `experiments.efficiency`.

  Returns:
    A sentence for each way to make networks smaller, of those that retrain.
  """
  sentences = []
  for group in needed.make_groups(_records(folder)):
    for scheme in group.schemes:
      options = {"points": POINTS, "retrained": group.retrained}
      counts = {
        methods.METHODS[cell.method].title: stats.mean_interval(
          needed.need(group, cell, scheme, **options).parameters / 1000
        )
        for cell in needed.choose(group, "strongest", scheme, **options)
      }
      text = ", ".join(
        f"{title} {mean:.1f} [{low:.1f}, {high:.1f}]"
        for title, (mean, low, high) in sorted(
          counts.items(), key=lambda item: item[1].mean
        )
      )
      sentences.append(
        f"{group.title}, {schemes.TITLES[scheme]}: thousands of parameters "
        f"needed for at most {POINTS} points lost: {text}."
      )
  return sentences


def speed_findings(folder: pathlib.Path) -> list[str]:
  """Lists the times of optimizer steps.

  Args:
    folder: Of `benchmarks.run`.

  Returns:
    A sentence for each case of steps.
  """
  sentences = []
  for path in sorted(folder.glob("*.json")):
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    for name, case in cases.items():
      if name.startswith("step_"):
        times = ", ".join(
          f"{row['name']} {1000 * row['median']:.3g} ms" for row in case["rows"]
        )
        sentences.append(f"{case['title']} ({path.stem}): {times}.")
  return sentences


def _records(folder: pathlib.Path) -> list[dict]:
  return [
    record
    for path in [folder, *sorted(folder.rglob("*/"))]
    for record in results.load_all(path).values()
  ]


SECTIONS = (
  Section(
    "Few-shot learning from scratch",
    "table1",
    "python -m experiments.table1 --output_dir=results/table1",
    "Table 1: BEAN is ahead of every other method for all numbers of shots on "
    "both datasets, by 24 to 42 percent of their accuracy at 1-shot MNIST. "
    "Means of 20 simulations, without intervals.",
    ("accuracy_against_shots_*.png", "sensitivity_*.png"),
    few_shot_findings,
  ),
  Section(
    "What matters for BEAN",
    "study",
    "python -m experiments.study --output_dir=results/study",
    "Nothing: gamma is 1 in all experiments, the absolute distance is said to "
    "behave alike, and which alphas, epochs and layers were tried is not told.",
  ),
  Section(
    "Whole datasets",
    "full_data",
    "python -m experiments.full_data --dataset=mnist --model=mlp500 "
    "--output_dir=results/full_data/mnist-mlp500",
    "Sections 3.1.1 and 3.1.2 train a perceptron and LeNet-5 on MNIST and "
    "ResNet-18 on CIFAR-10, and print no accuracy.",
  ),
  Section(
    "Neuronal assemblies",
    "interpret",
    "python -m experiments.interpret --checkpoint_dir=outputs/checkpoints "
    "--output_dir=results/interpret/mnist-mlp500",
    "Figures 2 to 6: silhouettes near 0.9 with BEAN and 0.5 without it, "
    "neurons of an assembly that prefer one class, and ablations that damage "
    "that class alone.",
    (
      "*-silhouettes.png",
      "*-maps.png",
      "*-coactivation.png",
      "*-ablation.png",
      "*-wiring.png",
      "*-strength.png",
    ),
    assembly_findings,
  ),
  Section(
    "Efficiency",
    "efficiency",
    "python -m experiments.efficiency --checkpoint_dir=outputs/checkpoints "
    "--output_dir=results/efficiency/mnist-mlp300_100",
    "The abstract: sparse and structured connectivity and parameter sharing "
    "substantially improve the efficiency of the model. There is no number.",
    findings=efficiency_findings,
  ),
  Section(
    "Speed",
    "benchmarks",
    "python -m benchmarks.run --suite=cpu --output_dir=results/benchmarks",
    "The correlation is computed by matrix operations, which GPUs speed up.",
    findings=speed_findings,
  ),
)

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem;
  padding: 1rem; }
h1, h2, h3, h4 { line-height: 1.2; }
h2 { border-top: 1px solid #8884; margin-top: 3rem; padding-top: 1.5rem; }
pre { background: #8881; overflow-x: auto; padding: .7rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #8886; padding: .25rem .5rem; text-align: left;
  white-space: nowrap; }
p:has(> img) { align-items: start; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
img { background: #fff; height: auto; max-width: 100%; }
blockquote { border-left: 4px solid #8888; margin-left: 0; padding-left: 1rem; }
"""


def build(directory: pathlib.Path, sections: Sequence[Section]) -> str:
  """Builds the page.

  Args:
    directory: Folder of the results.
    sections: What to say.

  Returns:
    HTML.
  """
  lines = [
    "# BEAN: what the paper says, what we found",
    "",
    "Built from records of single runs, each with its versions, device and "
    "seeds, by `python -m experiments.report`.",
    "",
    *(f"- [{s.title}](#{_anchor(s.title)})" for s in sections),
  ]
  for section in sections:
    lines += _section(directory, section)
  return _page("BEAN: results", "\n".join(lines), directory)


def _section(directory: pathlib.Path, section: Section) -> list[str]:
  folder = directory / section.folder
  lines = ["", f"## {section.title}", "", f"> The paper: {section.paper}", ""]
  lines += ["```", section.command, "```", ""]
  tables = sorted(folder.rglob("table.md"))
  shown = dict.fromkeys(
    path
    for pattern in section.figures
    for path in sorted(folder.rglob(pattern))
  )
  if not tables and not shown:
    return [*lines, "Not run.", ""]
  if findings := section.findings(folder):
    lines += ["### Found", "", *(f"- {sentence}" for sentence in findings), ""]
  for path in tables:
    lines += [_lowered(path.read_text(encoding="utf-8")), ""]
  for path in shown:
    name = path.relative_to(directory).as_posix()
    alt = path.relative_to(folder).with_suffix("").as_posix()
    # In one paragraph, side by side where there is room.
    lines.append(f"![{section.folder}: {alt}]({name})")
  return lines


def _lowered(markdown: str) -> str:
  """Puts the headings of a table's file below those of the page."""
  return re.sub(r"^(#+) ", r"##\1 ", markdown, flags=re.MULTILINE)


def _anchor(title: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _page(title: str, markdown: str, directory: pathlib.Path) -> str:
  parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
  tokens = parser.parse(markdown)
  for place, token in enumerate(tokens):
    if token.type == "heading_open":
      token.attrSet("id", _anchor(tokens[place + 1].content))
    for child in token.children or ():
      if child.type == "image":
        data = (directory / child.attrs["src"]).read_bytes()
        text = base64.b64encode(data).decode()
        child.attrSet("src", f"data:image/png;base64,{text}")
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
  """Writes the page.

  Raises:
    parsing.ConfigError: If --results_dir is no folder.
    results.ResultError: If a record cannot be used or the page not be written.
  """
  directory = pathlib.Path(_RESULTS_DIR.value)
  if not directory.is_dir():
    raise parsing.ConfigError(
      f"--results_dir: expected a folder with results, got {str(directory)!r}"
    )
  path = pathlib.Path(_OUTPUT.value or directory / "report.html")
  results.write_bytes(path, build(directory, SECTIONS).encode())
  print(f"wrote {path}")


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
