"""Tables of learning rules: a row a rule."""

from collections.abc import Mapping, Sequence

from experiments.learning import methods
from experiments.records.results import Record
from experiments.rules.evaluations import EVALUATIONS
from experiments.tables import comparison, markdown, summary, versions
from experiments.tables.protocols import Entries, Entry


def table(
  names: Sequence[str],
  shots: Sequence[int],
  accuracies: Entries,
  evaluations: Mapping[str, Record],
) -> str:
  """Formats what is known of learning rules, by method, as Markdown."""
  measured = {name: columns(record) for name, record in evaluations.items()}
  titles = list(next(iter(measured.values()), {}))
  not_run = dict.fromkeys(titles, comparison.NOT_RUN)
  chosen = {name: methods.METHODS[name] for name in names}
  rows = [
    [
      method.title + comparison.baseline_note(method),
      *(_accuracy(accuracies.get((name, number))) for number in shots),
      *measured.get(name, not_run).values(),
    ]
    for name, method in chosen.items()
  ]
  head = ["rule", *(f"{number}-shot" for number in shots), *titles]
  return markdown.table(head, rows)


def _accuracy(entry: Entry | None) -> str:
  if entry is None or not entry.accuracies:
    return comparison.NOT_RUN
  text = summary.mean_percent(entry.accuracies, ".1f")
  gain = summary.mean_percent(entry.gains, "+.1f")
  return f"{text}; {gain}" if gain else text


def columns(record: Record) -> dict[str, str]:
  """Formats what was measured of networks, by the titles of columns."""
  found: dict[str, str] = {}
  for evaluation in EVALUATIONS.values():
    found |= evaluation.columns(record)
  return found


def summary_line(record: Record) -> str:
  """Says in a few words what was measured of networks."""
  measured = columns(record)
  pgd = next(title for title in measured if title.startswith("PGD"))
  return f"{pgd} {measured[pgd]} %, {measured['weights']}"


def text(
  parts: Sequence[tuple[str, Entries, Mapping[str, Record]]],
  names: Sequence[str],
  shots: Sequence[int],
  used: Sequence[Record],
) -> str:
  """Puts tables together: of each a title, accuracies and records by method.

  A table without accuracies has the methods of its records alone.
  """
  lines = [_HEADER]
  for title, accuracies, evaluations in parts:
    places = (names, shots) if accuracies else (list(evaluations), ())
    lines += [f"## {title}", table(*places, accuracies, evaluations)]
  if note := versions.mixed(used):
    lines.append(note)
  return "\n\n".join(lines)


_HEADER = """\
# Learning rules

Means over seeds with 95 % bootstrap intervals; accuracies and zero gradients in
percent, after a semicolon the difference to vanilla, paired by seed. Attacks
are within the largest change of a pixel that the column names; zero gradients
are images on which an attack has no direction. Weights: the distribution that
fits the strengths of the largest dense layer best, of how many networks, how
far it is ahead of the second best, and its greatest distance from the empirical
distribution function. Dale: neurons whose outgoing weights have one sign, and
how many had if signs were permuted; one sign: the share of a neuron's weights
that have its commoner sign."""
