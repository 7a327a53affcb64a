"""What the records say about claims.

Pure functions from records to findings: a sentence with its interval, the
comparisons that it is made from, a verdict. Differences are paired by seed and
oriented so that a positive one is for the claim. Few-shot claims have 20 seeds
and many comparisons, so one counts where Holm's adjustment of the exact
sign-flip test is below 0.05; those of networks on all of MNIST have three to
five seeds, too few for that test, so there an interval counts that excludes 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.assemblies import summary as assemblies
from experiments.compaction import needed
from experiments.learning import methods
from experiments.records import results
from experiments.records.results import Record
from experiments.tables import comparison, paper, protocols, stats, summary

# Maps simulations to a number of each [num_seeds].
Metric = Callable[[assemblies.Cell], np.ndarray]
# What is compared, by group and label: entries, shots, a method and its rival.
Pairs = dict[tuple[str, str], tuple[protocols.Entries, int, str, str]]

HOLDS, IN_PART, FAILS = "holds", "holds in part", "does not hold"
NOT_TESTED = "not tested"
LEVEL = 0.05
# Validation accuracy that a most clustered network may lack, as a fraction, and
# points of accuracy that a smaller network may lose.
MARGIN = 0.01
POINTS = 0.5

NETWORKS = ("mnist-lenet5", "mnist-mlp500")
# BEAN-1 with another A than that of the wiring.
CONTROLS = "mnist-lenet5-controls"
REGULARIZERS = ("weight_decay", "l1", "group_lasso")


class Found(NamedTuple):
  """All records that claims are judged by."""

  few_shot: Mapping[str, protocols.Records]  # Of Table 1, by dataset.
  # Of assemblies, by folder: the cells of the last dense layer.
  networks: Mapping[str, assemblies.Group]
  smaller: Sequence[needed.Group]  # Of efficiency.


class Comparison(NamedTuple):
  """A difference that is for the claim where it is positive."""

  group: str  # What it is shown with, such as "1-shot".
  label: str  # Its name within that.
  interval: stats.Interval  # Of the mean difference, as fractions of 1.
  # Its p-value, adjusted for all comparisons of the claim; None where there are
  # too few seeds.
  adjusted: float | None = None

  @property
  def direction(self) -> int:
    """1 if it is told apart from 0 and for the claim, -1 if against, else 0."""
    mean, low, high = self.interval
    if self.adjusted is not None:
      return int(np.sign(mean)) if self.adjusted < LEVEL else 0
    return 1 if low > 0 else -1 if high < 0 else 0


class Finding(NamedTuple):
  """What was found about a claim."""

  sentence: str  # With its interval.
  comparisons: tuple[Comparison, ...]  # What it is made from.
  verdict: str  # `HOLDS`, `IN_PART`, `FAILS` or `NOT_TESTED`.


def read(directory: pathlib.Path) -> Found:
  """Reads all records below the folder of results that claims are judged by."""
  few_shot: dict[str, protocols.Records] = {}
  for name in protocols.Records._fields:
    for record in _load(directory / "table1" / name):
      dataset = record["config"]["dataset"]
      found = few_shot.setdefault(dataset, protocols.Records([], [], []))
      getattr(found, name).append(record)
  networks = {}
  for path in sorted((directory / "interpret").glob("*/")):
    for group in assemblies.groups(_load(path)).values():
      networks[path.name] = group
  smaller = [
    record
    for path in sorted((directory / "efficiency").glob("*/"))
    for record in _load(path)
  ]
  in_order = {name: few_shot[name] for name in paper.TABLE1 if name in few_shot}
  return Found(in_order, networks, needed.make_groups(smaller, points=POINTS))


def _load(folder: pathlib.Path) -> list[Record]:
  return list(results.load_all(folder).values()) if folder.is_dir() else []


def gain(found: Found, *, shots: int) -> Finding:
  """Judges the gain over vanilla at a number of shots."""
  pairs: Pairs = {}
  printed = {}
  for dataset, number, entries in _places(found, "strict"):
    for name in comparison.BEAN if number == shots else ():
      label = f"{_title(name)} on {paper.title(dataset)}"
      pairs[f"{shots}-shot", label] = entries, shots, name, "vanilla"
      theirs = paper.TABLE1[dataset]
      printed[label] = theirs[name][shots] - theirs["vanilla"][shots]
  compared = _compare(pairs)
  gains = ", ".join(
    f"{c.label} {_points(c)} (the paper: {printed[c.label]:+.1f})"
    for c in compared
  )
  reached = [100 * c.interval.high >= printed[c.label] for c in compared]
  sentence = f"Gain over vanilla in points: {gains}."
  return _finding(sentence, compared, whole=all(reached))


def against_regularizers(found: Found) -> Finding:
  """Judges BEAN against each other method of the paper, at all shots."""
  pairs: Pairs = {}
  known = (*comparison.BEAN, "vanilla")
  rivals = [name for name in paper.TABLE1["mnist"] if name not in known]
  for dataset, shots, entries in _places(found, "strict"):
    for name, rival in itertools.product(comparison.BEAN, rivals):
      label = f"{paper.title(dataset)}: {_title(name)} less {_title(rival)}"
      pairs[f"{shots}-shot", label] = entries, shots, name, rival
  compared = _compare(pairs)
  counts = []
  for rival in rivals:
    own = [c for c in compared if c.label.endswith(f"less {_title(rival)}")]
    ahead = sum(c.direction > 0 for c in own)
    counts.append(f"{_title(rival)} in {ahead} of {len(own)}")
  return _finding(
    f"BEAN is ahead of {', '.join(counts)} comparisons: {_range(compared)}.",
    compared,
  )


def order(found: Found) -> Finding:
  """Judges which order of BEAN is ahead at which numbers of shots."""
  pairs: Pairs = {}
  for dataset, shots, entries in _places(found, "strict"):
    first, second = comparison.BEAN if shots <= 5 else comparison.BEAN[::-1]
    label = f"{shots}-shot: {_title(first)} less {_title(second)}"
    pairs[paper.title(dataset), label] = entries, shots, first, second
  compared = _compare(pairs)
  return _finding(
    f"The order that the paper has ahead, less the other: {_range(compared)}.",
    compared,
  )


def against(
  found: Found,
  *,
  quantity: str,
  names: Sequence[str] = ("bean1",),
  rivals: Sequence[str],
  strengths: Mapping[str, float] | None = None,
  suffix: str = "",
) -> Finding:
  """Judges some methods against others, at all shots in both protocols.

  Strengths may be given, by method, for the strict one; and a suffix of titles
  that labels leave out.
  """
  pairs: Pairs = {}
  for protocol in protocols.PROTOCOLS:
    for dataset, shots, entries in _places(found, protocol, strengths):
      for name, rival in itertools.product(names, rivals):
        own, other = (_title(n).removesuffix(suffix) for n in (name, rival))
        said = [own] * (len(names) > 1) + [f"less {other}"] * (len(rivals) > 1)
        label = f"{paper.title(dataset)}, {shots}-shot"
        label += f": {' '.join(said)}" * bool(said)
        pairs[f"protocol {protocol}", label] = entries, shots, name, rival
  compared = _compare(pairs)
  return _finding(f"{quantity}: {_range(compared)}.", compared)


def rise(
  found: Found,
  *,
  quantity: str,
  metric: Metric,
  least: float = 0.0,
  networks: Sequence[str] = NETWORKS,
) -> Finding:
  """Judges whether BEAN raises a quantity by more than `least`."""
  strong = _of_networks(found, networks, metric, _clustered)
  usual = _of_networks(found, networks, metric, assemblies.chosen)
  compared = (*strong, *usual)
  paper = f" (the paper: {least:+g})" if least else ""
  return _finding(
    f"{quantity}, BEAN less vanilla{paper}: {_range(strong, 1)} with the "
    "strength that clusters most within a point of accuracy, "
    f"{_range(usual, 1)} with that of best accuracy.",
    compared,
    judged=strong,
    whole=all(c.interval.low > least for c in compared),
  )


def silhouettes(cell: assemblies.Cell) -> np.ndarray:
  """Returns the silhouettes of as many clusters as classes [num_seeds]."""
  return cell.at_classes("trained_silhouettes")


def clusters_by_wiring(found: Found) -> Finding:
  """Judges BEAN-1's clusters against those of penalties without its wiring."""
  wired, others = (
    found.networks.get(folder, ()) for folder in ("mnist-lenet5", CONTROLS)
  )
  by_strength = {c.strength: c for c in wired if c.method == "bean1"}
  compared = []
  for cell in others:
    if cell.strength in by_strength:
      gains = stats.differences(
        *(_by_seed(c, silhouettes) for c in (by_strength[cell.strength], cell))
      )
      label = f"less {cell.title.replace('=', ' ')}"
      compared.append(Comparison("LeNet-5", label, stats.mean_interval(gains)))
  return _finding(
    "Silhouette, BEAN-1 less BEAN-1 with a constant or random A of the same "
    f"strength and mean: {_range(compared, 1)}.",
    compared,
  )


def no_loss(found: Found) -> Finding:
  """Judges whether accuracy on all of MNIST stays what it is."""
  strong, usual = (
    _of_networks(found, NETWORKS, lambda c: c.values("test_accuracy"), pick)
    for pick in (_clustered, assemblies.chosen)
  )
  compared = (*strong, *usual)
  finding = _finding(
    f"Test accuracy in points, BEAN less vanilla: {_range(strong)} with the "
    f"strength that clusters most, {_range(usual)} with that of best "
    "validation accuracy.",
    compared,
  )
  if not compared:
    return finding
  lost = sum(c.direction < 0 for c in compared)
  verdict = HOLDS if not lost else FAILS if lost == len(compared) else IN_PART
  return finding._replace(verdict=verdict)


def fewer_parameters(
  found: Found, *, names: Sequence[str], retrained: Sequence[bool] = (False,)
) -> Finding:
  """Judges BEAN by the parameters that an accuracy needs.

  The claim is about a network without BEAN; regularizers are shown beside it.
  """
  ways = [
    (group, scheme, again)
    for group in found.smaller
    for scheme, again in group.ways
    if scheme in names and again in retrained
  ]
  plain = [c for way in ways for c in _saved(*way, rivals=("vanilla",))]
  others = [c for way in ways for c in _saved(*way, rivals=REGULARIZERS)]
  return _finding(
    "Share of the dense layers' parameters that BEAN saves, in points: "
    f"{_range(plain)} against vanilla, {_range(others)} against the best "
    "regularizer.",
    (*plain, *others),
    judged=plain,
  )


def _saved(
  group: needed.Group, scheme: str, again: bool, *, rivals: Sequence[str]
) -> list[Comparison]:
  """Compares BEAN with that of the rivals which needs the fewest parameters."""
  way = scheme, again
  whole = group.cells[0].values(f"{scheme}/parameters")[:, 0]
  shares = {
    cell.method: needed.need(group, cell, way).parameters / whole
    for cell in needed.choose(group, "strongest", way)
  }
  there = [name for name in rivals if name in shares]
  if not there:
    return []
  best = min(there, key=lambda name: shares[name].mean())
  title = "vanilla" if best == "vanilla" else "the best regularizer"
  _, _, network = paper.title(group.title).partition(", ")
  return [
    Comparison(
      network,
      f"{needed.title(way)}: {_title(name)} against {title}",
      stats.mean_interval(shares[best] - shares[name]),
    )
    for name in comparison.BEAN
    if name in shares
  ]


def _places(
  found: Found,
  protocol: str,
  strengths: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, int, protocols.Entries]]:
  """Yields every dataset and number of shots of Table 1, with all entries."""
  for dataset, records in found.few_shot.items():
    entries = protocols.entries(protocol, records, strengths)
    for shots in paper.TABLE1[dataset]["vanilla"]:
      yield dataset, shots, entries


def _compare(pairs: Pairs) -> list[Comparison]:
  """Compares entries by seed; those of a claim are adjusted together."""
  compared, p_values = [], []
  for (group, label), (entries, shots, *names) in pairs.items():
    own, others = (
      entries[name, shots].accuracies if (name, shots) in entries else {}
      for name in names
    )
    gains = stats.differences(own, others)
    if gains.size:
      compared.append(Comparison(group, label, stats.mean_interval(gains)))
      p_values.append(stats.sign_flip_p_value(gains))
  adjusted = stats.holm(p_values).tolist() if p_values else []
  return [
    c._replace(adjusted=p) for c, p in zip(compared, adjusted, strict=True)
  ]


def _of_networks(
  found: Found,
  networks: Sequence[str],
  metric: Metric,
  pick: Callable[[assemblies.Group], list[assemblies.Cell]],
) -> list[Comparison]:
  """Compares BEAN's cells that were picked with vanilla, by seed."""
  compared = []
  for folder in networks:
    network = paper.title(folder.partition("-")[2])
    group = found.networks.get(folder, ())
    vanilla = [cell for cell in group if cell.method == "vanilla"]
    for cell in pick(group) if vanilla else ():
      if cell.method in comparison.BEAN:
        gains = stats.differences(
          _by_seed(cell, metric), _by_seed(vanilla[0], metric)
        )
        label = f"{network}, {cell.title.replace('=', ' ')}"
        compared.append(Comparison(network, label, stats.mean_interval(gains)))
  return compared


def _by_seed(cell: assemblies.Cell, metric: Metric) -> dict[int, float]:
  seeds = [seed for record in cell.records for seed in record["seeds"]]
  pairs = zip(seeds, metric(cell), strict=True)
  return {seed: value for seed, value in pairs if np.isfinite(value)}


_clustered = functools.partial(assemblies.clustered, margin=MARGIN)


def _finding(
  sentence: str,
  compared: Sequence[Comparison],
  *,
  judged: Sequence[Comparison] | None = None,
  whole: bool = True,
) -> Finding:
  """Judges by how many comparisons are for a claim, and how many against.

  Those that are `judged` decide, or all. Where all of them are for the claim,
  it holds, but in part if not as a whole.
  """
  if not compared:
    return Finding("There are no records of it.", (), NOT_TESTED)
  directions = [c.direction for c in (compared if judged is None else judged)]
  if not directions:
    verdict = NOT_TESTED
  elif min(directions) > 0:
    verdict = HOLDS if whole else IN_PART
  else:
    verdict = IN_PART if sum(directions) > 0 else FAILS
  return Finding(sentence, tuple(compared), verdict)


def _range(compared: Sequence[Comparison], factor: float = 100) -> str:
  """Says which comparisons are least and greatest, and how many count."""
  if not compared:
    return "not run"
  ends = [f(compared, key=lambda c: c.interval.mean) for f in (min, max)]
  between = " to ".join(dict.fromkeys(_points(c, factor) for c in ends))
  ahead = sum(c.direction > 0 for c in compared)
  behind = sum(c.direction < 0 for c in compared)
  return f"{between} ({ahead} of {len(compared)} above 0, {behind} below)"


def _points(compared: Comparison, factor: float = 100) -> str:
  form = "+.1f" if factor == 100 else "+.2f"
  return summary.percent(compared.interval, form, factor)


def _title(name: str) -> str:
  return methods.METHODS[name].title
