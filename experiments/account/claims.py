"""The claims of the paper, and what the records say about each.

Pure functions from records to findings: a sentence with its interval, the
comparisons that it is made from, a verdict. Differences are paired by seed and
oriented so that a positive one is for the claim. Few-shot claims have 20 seeds
and many comparisons, so one counts where Holm's adjustment of the exact
sign-flip test is below 0.05; those of networks on all of MNIST have three to
five seeds, too few for that test, so there an interval counts that excludes 0.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.assemblies import summary as assemblies
from experiments.compaction import needed
from experiments.learning import methods
from experiments.records import results
from experiments.tables import comparison, paper, stats, summary

Record = dict[str, Any]

HOLDS, IN_PART, FAILS, NOT_TESTED = (
  "holds",
  "holds in part",
  "does not hold",
  "not tested",
)
LEVEL = 0.05
# Validation accuracy that a most clustered network may lack, as a fraction, and
# points of accuracy that a smaller network may lose.
MARGIN = 0.01
POINTS = 0.5
# Of the paper: a silhouette of 0.9 with BEAN, of 0.5 without it.
SILHOUETTE_RISE = 0.4

NETWORKS = {
  "mnist-lenet5": "LeNet-5",
  "mnist-mlp500": "perceptron",
}
REGULARIZERS = ("weight_decay", "l1", "group_lasso")
CIFAR = {
  "cifar10-resnet18": "ResNet-18",
  "cifar10-resnet18_16": "ResNet-18, 16 filters",
}


class Found(NamedTuple):
  """All records that claims are judged by.

  Attributes:
    few_shot: Of Table 1, by dataset.
    networks: Of assemblies, by folder: the cells of the last dense layer.
    smaller: Of efficiency.
  """

  few_shot: Mapping[str, comparison.Records]
  networks: Mapping[str, assemblies.Group]
  smaller: Sequence[needed.Group]


class Comparison(NamedTuple):
  """A difference that is for the claim where it is positive.

  Attributes:
    group: What it is shown with, such as "1-shot".
    label: Its name within that.
    interval: Of the mean difference, as fractions of 1.
    adjusted: Its p-value, adjusted for all comparisons of the claim; None where
      there are too few seeds.
  """

  group: str
  label: str
  interval: stats.Interval
  adjusted: float | None = None

  @property
  def direction(self) -> int:
    """1 if it is told apart from 0 and for the claim, -1 if against, else 0."""
    mean, low, high = self.interval
    if self.adjusted is not None:
      return int(np.sign(mean)) if self.adjusted < LEVEL else 0
    return 1 if low > 0 else -1 if high < 0 else 0


class Finding(NamedTuple):
  """What was found about a claim.

  Attributes:
    sentence: With its interval.
    comparisons: What it is made from.
    verdict: `HOLDS`, `IN_PART`, `FAILS` or `NOT_TESTED`.
  """

  sentence: str
  comparisons: tuple[Comparison, ...]
  verdict: str


class Claim(NamedTuple):
  """A claim of the paper.

  Attributes:
    title: A heading.
    paper: What the paper says.
    find: Maps records to what was found.
    folder: Of the results that it is judged by.
    command: Makes them.
    figure: File that shows it, below the results; None to draw the comparisons.
    alt: What the figure shows, for who cannot see it.
  """

  title: str
  paper: str
  find: Callable[[Found], Finding]
  folder: str
  command: str
  figure: str | None
  alt: str


def read(directory: pathlib.Path) -> Found:
  """Reads all records that claims are judged by.

  Args:
    directory: Folder of the results.

  Returns:
    The records that are there.

  Raises:
    results.ResultError: If one cannot be used.
  """
  stages = [
    _load(directory / "table1" / name) for name in comparison.Records._fields
  ]
  names = {record["config"]["dataset"] for record in stages[1]}
  few_shot = {
    dataset: comparison.Records(
      *([r for r in s if r["config"]["dataset"] == dataset] for s in stages)
    )
    for dataset in paper.TABLE1
    if dataset in names
  }
  networks = {}
  for path in sorted((directory / "interpret").glob("*/")):
    for group in assemblies.groups(_load(path)).values():
      networks[path.name] = group
  smaller = [
    record
    for path in sorted((directory / "efficiency").glob("*/"))
    for record in _load(path)
  ]
  return Found(few_shot, networks, needed.make_groups(smaller, points=POINTS))


def _load(folder: pathlib.Path) -> list[Record]:
  return list(results.load_all(folder).values()) if folder.is_dir() else []


def gain(shots: int) -> Callable[[Found], Finding]:
  """Returns what judges the gain over vanilla at a number of shots."""

  def find(found: Found) -> Finding:
    pairs, printed = {}, {}
    for dataset, entries in _entries(found, "strict").items():
      for name in comparison.BEAN:
        label = f"{_title(name)} on {paper.title(dataset)}"
        key = f"{shots}-shot", label
        pairs[key] = entries, (name, shots), ("vanilla", shots)
        theirs = paper.TABLE1[dataset]
        printed[label] = theirs[name][shots] - theirs["vanilla"][shots]
    compared = _compare(pairs)
    gains = ", ".join(
      f"{c.label} {_points(c)} (the paper: {printed[c.label]:+.1f})"
      for c in compared
    )
    reached = [100 * c.interval.high >= printed[c.label] for c in compared]
    verdict = _verdict(compared)
    if verdict == HOLDS and not all(reached):
      verdict = IN_PART
    return _finding(f"Gain over vanilla in points: {gains}.", compared, verdict)

  return find


def against_regularizers(found: Found) -> Finding:
  """Judges BEAN against each other method of the paper, at all shots."""
  pairs = {}
  rivals = [n for n in paper.TABLE1["mnist"] if n not in comparison.BEAN]
  rivals.remove("vanilla")
  for dataset, entries in _entries(found, "strict").items():
    for shots in paper.TABLE1[dataset]["vanilla"]:
      for name in comparison.BEAN:
        for rival in rivals:
          label = f"{paper.title(dataset)}: {_title(name)} less {_title(rival)}"
          pairs[f"{shots}-shot", label] = entries, (name, shots), (rival, shots)
  compared = _compare(pairs)
  counts = []
  for rival in rivals:
    own = [c for c in compared if c.label.endswith(f"less {_title(rival)}")]
    ahead = sum(c.direction > 0 for c in own)
    counts.append(f"{_title(rival)} in {ahead} of {len(own)}")
  return _finding(
    f"BEAN is ahead of {', '.join(counts)} comparisons; {_range(compared)}.",
    compared,
    _verdict(compared),
  )


def order(found: Found) -> Finding:
  """Judges which order of BEAN is ahead at which numbers of shots."""
  pairs = {}
  for dataset, entries in _entries(found, "strict").items():
    for shots in paper.TABLE1[dataset]["vanilla"]:
      first, second = comparison.BEAN if shots <= 5 else comparison.BEAN[::-1]
      label = f"{shots}-shot: {_title(first)} less {_title(second)}"
      key = paper.title(dataset), label
      pairs[key] = entries, (first, shots), (second, shots)
  compared = _compare(pairs)
  return _finding(
    f"The order that the paper has ahead, less the other: {_range(compared)}.",
    compared,
    _verdict(compared),
  )


def wiring_against(*rivals: str) -> Callable[[Found], Finding]:
  """Returns what judges BEAN-1 against penalties that know no wiring.

  Args:
    rivals: Names in `methods.METHODS`.
  """

  def find(found: Found) -> Finding:
    pairs = {}
    for protocol in comparison.PROTOCOLS:
      for dataset, entries in _entries(found, protocol).items():
        for shots in paper.TABLE1[dataset]["vanilla"]:
          for rival in rivals:
            label = f"{paper.title(dataset)}, {shots}-shot"
            label += f": less {_title(rival)}" * (len(rivals) > 1)
            key = f"protocol {protocol}", label
            pairs[key] = entries, ("bean1", shots), (rival, shots)
    compared = _compare(pairs)
    return _finding(
      f"BEAN-1 less {' and '.join(_title(name) for name in rivals)}: "
      f"{_range(compared)}.",
      compared,
      _verdict(compared),
    )

  return find


def rise(
  quantity: str,
  metric: Callable[[assemblies.Cell], np.ndarray],
  *,
  least: float = 0.0,
  networks: Mapping[str, str] = NETWORKS,
) -> Callable[[Found], Finding]:
  """Returns what judges whether BEAN raises what assemblies are measured by.

  Args:
    quantity: Its name.
    metric: Maps a cell to it [num_seeds].
    least: What the interval of a rise must exceed.
    networks: Names of networks by folder.
  """

  def find(found: Found) -> Finding:
    strong = _of_networks(found, networks, metric, _clustered)
    usual = _of_networks(found, networks, metric, assemblies.chosen)
    enough = [c.interval.low > least for c in (*strong, *usual)]
    verdict = _verdict(strong)
    if verdict == HOLDS and not all(enough):
      verdict = IN_PART
    return _finding(
      f"{quantity}, BEAN less vanilla: with the strength that clusters most "
      f"within a point of accuracy {_range(strong, 1)}; with that of best "
      f"accuracy {_range(usual, 1)}.",
      (*strong, *usual),
      verdict,
    )

  return find


def no_loss(found: Found) -> Finding:
  """Judges whether accuracy on all of MNIST stays what it is."""

  def metric(cell: assemblies.Cell) -> np.ndarray:
    return cell.values("test_accuracy")

  strong = _of_networks(found, NETWORKS, metric, _clustered)
  usual = _of_networks(found, NETWORKS, metric, assemblies.chosen)
  compared = (*strong, *usual)
  lost = sum(c.direction < 0 for c in compared)
  verdict = HOLDS if not lost else FAILS if lost == len(compared) else IN_PART
  return _finding(
    "Test accuracy in points, BEAN less vanilla: with the strength that "
    f"clusters most {_range(strong)}; with that of best validation accuracy "
    f"{_range(usual)}.",
    compared,
    verdict,
  )


def fewer_parameters(
  *names: str, retrained: Sequence[bool] = (False,)
) -> Callable[[Found], Finding]:
  """Returns what judges BEAN by the parameters that an accuracy needs.

  The claim is about a network without BEAN; regularizers are shown beside it.

  Args:
    names: In `schemes.SCHEMES`.
    retrained: Whether the smaller networks were trained again.
  """

  def find(found: Found) -> Finding:
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
      f"against vanilla {_range(plain)}; against the best regularizer "
      f"{_range(others)}.",
      (*plain, *others),
      _verdict(plain),
    )

  return find


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
  return [
    Comparison(
      _network(group),
      f"{needed.title(way)}: {_title(name)} against {title}",
      stats.paired_difference(shares[best], shares[name]).interval,
    )
    for name in comparison.BEAN
    if name in shares
  ]


def _network(group: needed.Group) -> str:
  """Names a network as readers know it."""
  _, _, name = group.title.partition(", ")
  return name.replace("lenet5", "LeNet-5").replace(
    "mlp300_100", "LeNet-300-100"
  )


def _entries(found: Found, protocol: str) -> dict[str, comparison.Entries]:
  return {
    dataset: comparison.entries(protocol, records)
    for dataset, records in found.few_shot.items()
  }


Place = tuple[str, int]


def _compare(
  pairs: Mapping[tuple[str, str], tuple[comparison.Entries, Place, Place]],
) -> list[Comparison]:
  """Compares entries by seed; those of a claim are adjusted together."""
  compared, p_values = [], []
  for (group, label), (entries, first, second) in pairs.items():
    if first not in entries or second not in entries:
      continue
    own, others = entries[first].accuracies, entries[second].accuracies
    if not own.keys() & others.keys():
      continue
    _, values, baseline = stats.align(own, others)
    interval = stats.paired_difference(values, baseline).interval
    compared.append(Comparison(group, label, interval))
    p_values.append(stats.sign_flip_p_value(values - baseline))
  if not compared:
    return []
  adjusted = stats.holm(p_values)
  return [
    c._replace(adjusted=float(p))
    for c, p in zip(compared, adjusted, strict=True)
  ]


def _of_networks(
  found: Found,
  networks: Mapping[str, str],
  metric: Callable[[assemblies.Cell], np.ndarray],
  pick: Callable[[assemblies.Group], list[assemblies.Cell]],
) -> list[Comparison]:
  """Compares BEAN's cells that were picked with vanilla, by seed."""
  compared = []
  for folder, network in networks.items():
    group = found.networks.get(folder, ())
    vanilla = [cell for cell in group if cell.method == "vanilla"]
    for cell in pick(group) if vanilla else ():
      if cell.method in comparison.BEAN:
        own, others = _by_seed(cell, metric), _by_seed(vanilla[0], metric)
        _, values, baseline = stats.align(own, others)
        interval = stats.paired_difference(values, baseline).interval
        title = cell.title.replace("=", " ")
        compared.append(Comparison(network, f"{network}, {title}", interval))
  return compared


def _by_seed(
  cell: assemblies.Cell, metric: Callable[[assemblies.Cell], np.ndarray]
) -> dict[int, float]:
  seeds = [seed for record in cell.records for seed in record["seeds"]]
  pairs = zip(seeds, metric(cell), strict=True)
  return {seed: float(value) for seed, value in pairs if np.isfinite(value)}


def _clustered(group: assemblies.Group) -> list[assemblies.Cell]:
  return assemblies.clustered(group, margin=MARGIN)


def _verdict(compared: Sequence[Comparison]) -> str:
  """Judges by how many comparisons are for the claim, and how many against."""
  directions = [c.direction for c in compared]
  if not directions:
    return NOT_TESTED
  if min(directions) > 0:
    return HOLDS
  return IN_PART if sum(directions) > 0 else FAILS


def _finding(
  sentence: str, compared: Iterable[Comparison], verdict: str
) -> Finding:
  compared = tuple(compared)
  if not compared:
    return Finding("There are no records of it.", (), NOT_TESTED)
  return Finding(sentence, compared, verdict)


def _range(compared: Sequence[Comparison], factor: float = 100) -> str:
  """Says which comparisons are least and greatest, and how many count."""
  if not compared:
    return "not run"
  ends = [f([*compared], key=lambda c: c.interval.mean) for f in (min, max)]
  ahead = sum(c.direction > 0 for c in compared)
  behind = sum(c.direction < 0 for c in compared)
  least, greatest = (f"{_points(c, factor)} ({_where(c)})" for c in ends)
  corrected = compared[0].adjusted is not None
  return (
    f"from {least} to {greatest}; {ahead} of {len(compared)} are above 0"
    + ", corrected by Holm," * corrected
    + f" and {behind} below"
  )


def _where(compared: Comparison) -> str:
  """Names a comparison within its claim, without what a sentence has said."""
  label = compared.label.partition(" against ")[0]
  if label.startswith(compared.group):
    return label
  return f"{compared.group}, {label}"


def _points(compared: Comparison, factor: float = 100) -> str:
  form = "+.1f" if factor == 100 else "+.2f"
  scaled = stats.Interval(*(factor / 100 * x for x in compared.interval))
  return summary.percent(scaled, form)


def _title(name: str) -> str:
  return methods.METHODS[name].title


_TABLE1 = "python -m experiments.table1 --output_dir=results/table1"
_INTERPRET = (
  "python -m experiments.interpret --checkpoint_dir=outputs/lenet5 "
  "--output_dir=results/interpret/mnist-lenet5"
)
_EFFICIENCY = (
  "python -m experiments.efficiency --checkpoint_dir=outputs/lenet5 "
  "--output_dir=results/efficiency/mnist-lenet5"
)
_FOREST = (
  "Differences with their 95 % intervals; those to the right of 0 are for the "
  "claim."
)

CLAIMS = (
  Claim(
    "Gain at 1-shot",
    "BEAN gains most with fewest images: 11 to 16 points over vanilla at "
    "1-shot (Table 1).",
    gain(1),
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "Gain at 20-shot",
    "4 to 6 points over vanilla at 20-shot (Table 1).",
    gain(20),
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "Ahead of every regularizer",
    "BEAN is ahead of dropout, weight decay, l1 and imitation networks for all "
    "numbers of shots on both datasets (Table 1).",
    against_regularizers,
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "Order 1 against order 2",
    "BEAN-1 is best at 1 and 5 shots, BEAN-2 at 10 and 20 (Section 3.2).",
    order,
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "The wiring helps, against a random A",
    "Neurons that wire together should fire together: A is made of the "
    "weights (Eq. 5). The paper compares it with no other A.",
    wiring_against("bean1_random"),
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "The wiring helps, against a constant A and none",
    "As above. With a constant A the penalty is the variance of a sample's "
    "activations; their mean square knows no pairs at all.",
    wiring_against("bean1_constant", "mean_square"),
    "table1",
    _TABLE1,
    None,
    _FOREST,
  ),
  Claim(
    "Neurons form clusters",
    "Silhouettes of ten clusters near 0.9 with BEAN and 0.5 without it "
    "(Figure 2).",
    rise(
      "Silhouette",
      lambda cell: cell.at_classes("trained_silhouettes"),
      least=SILHOUETTE_RISE,
    ),
    "interpret",
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-silhouettes.png",
    "Silhouettes of 2 to 20 clusters of the neurons before the last layer of "
    "LeNet-5: highest with ten clusters and BEAN-2, low for every number "
    "without BEAN.",
  ),
  Claim(
    "Clusters prefer one class each",
    "A strong association of assemblies and class selectivity (Figure 4).",
    rise(
      "Adjusted mutual information of clusters and preferred classes",
      lambda cell: cell.values("trained_agreement"),
    ),
    "interpret",
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-maps.png",
    "Maps of the neurons' outgoing weights, coloured by preferred class: with "
    "BEAN-2 each group has one colour.",
  ),
  Claim(
    "Ablation damages one class",
    "Ablating the neurons that prefer a class costs that class its accuracy "
    "with BEAN, and no class in particular without it (Figure 5).",
    rise(
      "Share of what an ablation costs that falls on its class",
      lambda cell: cell.values("ablation_mean_diagonality"),
    ),
    "interpret",
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-ablation.png",
    "What each class loses when the neurons that prefer a class are ablated: "
    "losses on the diagonal are those of the ablated class.",
  ),
  Claim(
    "The same in ResNet-18 on CIFAR-10",
    "Figures 2 and 4 show ResNet-18 on CIFAR-10 beside MNIST.",
    rise(
      "Silhouette",
      lambda cell: cell.at_classes("trained_silhouettes"),
      least=SILHOUETTE_RISE,
      networks=CIFAR,
    ),
    "interpret",
    "python -m experiments.full_data --dataset=cifar10 --model=resnet18 "
    "--output_dir=outputs/resnet18",
    None,
    _FOREST,
  ),
  Claim(
    "No loss of accuracy",
    "BEAN improves generalization (abstract); no accuracy on whole datasets "
    "is printed.",
    no_loss,
    "full_data",
    "python -m experiments.full_data --dataset=mnist --epochs=20 "
    "--output_dir=results/full_data/mnist-lenet5",
    None,
    _FOREST,
  ),
  Claim(
    "Neurons of an assembly share parameters",
    "Weak sharing of parameters within each assembly (Figure 6). So an "
    "assembly can be merged into one neuron.",
    fewer_parameters("merge"),
    "efficiency",
    _EFFICIENCY,
    "efficiency/mnist-lenet5/mnist-lenet5-needed-strongest.png",
    "Parameters that LeNet-5 needs: BEAN-1 and BEAN-2 need fewest when "
    "assemblies are merged, l1 when weights are pruned.",
  ),
  Claim(
    "Connections are sparse",
    "A sparse and structured connectivity (Figure 6).",
    fewer_parameters("weights"),
    "efficiency",
    _EFFICIENCY,
    None,
    _FOREST,
  ),
  Claim(
    "Networks become more efficient",
    "The abstract: BEAN substantially improves the efficiency of the model. "
    "There is no number.",
    fewer_parameters("weights", "units", "merge", retrained=(False, True)),
    "efficiency",
    _EFFICIENCY,
    "efficiency/mnist-lenet5/mnist-lenet5-lost-strongest.png",
    "Points of accuracy that LeNet-5 loses as its dense layers shrink, by "
    "method: with assemblies merged BEAN loses least, with weights pruned l1.",
  ),
)
