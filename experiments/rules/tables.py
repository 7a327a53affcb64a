"""Tables of learning rules: a row a rule."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.assemblies.summary import interval
from experiments.learning import methods
from experiments.records import results
from experiments.rules.records import Record
from experiments.tables import comparison, markdown, stats, summary
from experiments.weights import distributions

# The epsilon of the table, or the nearest there is.
EPSILON = 0.1
_TITLES = {
  "lognormal": "lognormal",
  "stretched": "stretched exp.",
  "compressed": "compressed exp.",
}


def table(
  names: Sequence[str],
  shots: Sequence[int],
  accuracies: comparison.Entries,
  evaluations: Mapping[str, Record],
) -> str:
  """Formats what is known of learning rules as a Markdown table.

  Args:
    names: Rows, names in `methods.METHODS`.
    shots: Numbers of shots, each a column of test accuracies.
    accuracies: What `comparison.entries` returned.
    evaluations: Records of networks by method.

  Returns:
    The table: means over seeds with 95 % bootstrap intervals; accuracies and
    shares of zero gradients in percent; after a semicolon the difference to
    vanilla, or the method's baseline, paired by seed.
  """
  measured = _columns(list(evaluations.values()))
  head = ["rule", *(f"{number}-shot" for number in shots), *measured]
  rows = [
    [
      methods.METHODS[name].title,
      *(_accuracy(accuracies.get((name, number))) for number in shots),
      *(
        column(evaluations[name]) if name in evaluations else comparison.NOT_RUN
        for column in measured.values()
      ),
    ]
    for name in names
  ]
  return markdown.table(head, rows)


def best_fit(record: Record) -> tuple[str, int, np.ndarray]:
  """Finds the distribution of greatest likelihood in the mean over seeds.

  Args:
    record: Of networks.

  Returns:
    Its name, the number of seeds of which it is the best, and its lead over
    the second best, in nats a synapse [seeds].
  """
  likelihoods = {
    name: results.metric(record, f"{name}_likelihood")
    for name in distributions.NAMES
  }
  first, second, _ = sorted(
    likelihoods, key=lambda name: -np.nan_to_num(likelihoods[name]).mean()
  )
  stacked = np.stack(list(likelihoods.values()))
  wins = np.count_nonzero(likelihoods[first] >= stacked.max(axis=0))
  return first, wins, likelihoods[first] - likelihoods[second]


def _accuracy(entry: comparison.Entry | None) -> str:
  if entry is None or not entry.accuracies:
    return comparison.NOT_RUN
  values = list(entry.accuracies.values())
  text = summary.percent(stats.mean_interval(values), ".1f")
  if entry.difference is None:
    return text
  return f"{text}; {summary.percent(entry.difference.interval, '+.1f')}"


def _columns(
  records: Sequence[Record],
) -> dict[str, Callable[[Record], str]]:
  """Returns how the columns of networks are made, by their titles."""
  if not records:
    return {}
  epsilons = np.array(records[0]["config"]["epsilons"])
  place = int(np.argmin(np.abs(epsilons - EPSILON)))
  at = f"{epsilons[place]:g}"

  def attacked(name: str) -> Callable[[Record], str]:
    return lambda record: interval(
      results.metric(record, name)[:, place], 1, 100
    )

  return {
    f"FGSM {at}": attacked("fgsm"),
    f"PGD {at}": attacked("pgd"),
    "random start": attacked("pgd_random"),
    "zero gradients": _plain("zero_gradients", 1, 100),
    "weights": _weights,
    "ahead by (nats)": lambda record: interval(best_fit(record)[2], 3),
    "distance": lambda record: interval(
      results.metric(record, f"{best_fit(record)[0]}_distance"), 3
    ),
    "Gini": _plain("gini"),
    "Hoyer": _plain("hoyer"),
    "below 0.005": _plain("below"),
    "Dale (chance)": _with_chance("dale"),
    "one sign (chance)": _with_chance("agreement"),
    "silhouette": _plain("silhouette"),
    "selectivity": _plain("selectivity"),
  }


def _plain(
  name: str, digits: int = 2, factor: float = 1.0
) -> Callable[[Record], str]:
  return lambda record: interval(results.metric(record, name), digits, factor)


def _with_chance(name: str) -> Callable[[Record], str]:
  def column(record: Record) -> str:
    chance = np.mean(results.metric(record, f"{name}_chance"))
    return f"{_plain(name)(record)} ({chance:.2f})"

  return column


def _weights(record: Record) -> str:
  name, wins, _ = best_fit(record)
  shape = np.mean(results.metric(record, f"{name}_parameters")[:, 0])
  title = _TITLES[name]
  # Neither stretched nor compressed by more than can be seen.
  if name != "lognormal" and abs(shape - 1) < 0.03:
    title = "exponential"
  return f"{title}, {wins} of {len(record['seeds'])}"


def summary_line(record: Record) -> str:
  """Says in a few words what was measured of networks."""
  columns = _columns([record])
  pgd = next(title for title in columns if title.startswith("PGD"))
  return f"{pgd} {columns[pgd](record)} %, {columns['weights'](record)}"


def text(
  parts: Sequence[tuple[str, comparison.Entries, Mapping[str, Record]]],
  names: Sequence[str],
  shots: Sequence[int],
  used: Sequence[Record],
) -> str:
  """Puts all tables together.

  Args:
    parts: Of each table its title, what `comparison.entries` returned, or {}
      for a table without accuracies by shots, and records of networks by
      method.
    names: Rows.
    shots: Numbers of shots.
    used: All records.

  Returns:
    The text.
  """
  lines = [_HEADER]
  for title, accuracies, evaluations in parts:
    lines.append(f"## {title}")
    if accuracies:
      lines.append(table(names, shots, accuracies, evaluations))
    else:
      lines.append(table(list(evaluations), (), {}, evaluations))
  if note := results.mixed_versions(used):
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
