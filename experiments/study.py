"""What brings BEAN closest to the paper: one choice after another, varied.

Each variant changes one choice of the protocol of Table 1 (units and range of
alpha, gamma, distance, layers, batch size, initial parameters, learning rate,
epochs, what A is) and tries several values of alpha with it, for seeds that
Table 1 does not report. All accuracies are of validation images: test images
decide nothing.

    python -m experiments.study

trains 1-shot MNIST with 10 seeds in every variant, in 40 minutes on 2 CPU
cores, and goes on where it was stopped; finished cells are kept in
--output_dir, one JSON each, a folder for each variant.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import flags

from experiments import table1
from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.learning.streams import Shots
from experiments.machine import processes, progress
from experiments.population import cells, runs
from experiments.records import results
from experiments.tables import (
  canvas,
  comparison,
  figures,
  markdown,
  paper,
  stats,
  summary,
)

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "mnist",
  ["digits", *table1.DATASETS],
  "images to learn from",
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_integer(
  "shots", 1, "training images of each class", flag_values=FLAGS
)
_VALIDATIONS = flags.DEFINE_integer(
  "validations",
  10,
  "validations of a simulation, a divisor of all epochs",
  flag_values=FLAGS,
)
_EPOCHS = flags.DEFINE_integer(
  "epochs",
  None,
  "epochs of the usual protocol, instead of the paper's",
  flag_values=FLAGS,
)
flag_groups.define_seeds(FLAGS, default="100-109")
flag_groups.define_run(FLAGS, output_dir="outputs/study")
distributed.define_flags(FLAGS)


class Variant(NamedTuple):
  """One choice that differs from the usual ones.

  Attributes:
    meaning: What differs.
    alphas: Values of alpha to try, by method.
    options: Fields of `methods.Options` that differ.
    batch_size: Images in a step.
    initializer: Initial parameters, one of `networks.INITIALIZERS`.
    learning_rate: Adam's.
    epochs: What the usual number of epochs is multiplied with.
    with_vanilla: Whether training without BEAN differs too.
  """

  meaning: str
  alphas: Mapping[str, tuple[float, ...]]
  options: Mapping[str, Any] = {}
  batch_size: int = 1
  initializer: str = "pytorch_uniform"
  learning_rate: float = 5e-4
  epochs: float = 1
  with_vanilla: bool = False


_WIDE_ALPHAS = {
  "bean1": (1e-3, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
  "bean2": (1e-3, 0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4),
}
_ALPHAS = {"bean1": (1.0, 10.0, 30.0), "bean2": (10.0, 100.0, 1000.0)}
# For what needs less of it.
_LOW_ALPHAS = {
  "bean1": (0.01, 0.1, *_ALPHAS["bean1"]),
  "bean2": (0.1, 1.0, *_ALPHAS["bean2"]),
}
# For a penalty on fewer neurons.
_HIGH_ALPHAS = {
  "bean1": (*_ALPHAS["bean1"], 100.0, 300.0),
  "bean2": (*_ALPHAS["bean2"], 3e3, 1e4),
}


def _scaled(first: float, second: float) -> dict[str, tuple[float, ...]]:
  """Returns the usual values of alpha times a factor for each order."""
  factors = {"bean1": first, "bean2": second}
  return {
    name: tuple(float(f"{factors[name] * alpha:.6g}") for alpha in alphas)
    for name, alphas in _ALPHAS.items()
  }


# A grows with gamma^2, or gamma^4 of the second order, until tanh saturates.
VARIANTS = {
  "usual": Variant("the protocol of Table 1", _WIDE_ALPHAS, with_vanilla=True),
  "units_paper": Variant(
    "alpha in the paper's units, so that layers weigh alike",
    {
      "bean1": (10.0, 100.0, 300.0, 1000.0, 3000.0),
      "bean2": (1e3, 1e4, 1e5, 1e6, 1e7),
    },
    {"alpha_units": "paper"},
  ),
  "gamma_0.3": Variant("gamma 0.3", _scaled(10, 100), {"gamma": 0.3}),
  "gamma_3": Variant("gamma 3", _scaled(0.1, 0.02), {"gamma": 3.0}),
  "gamma_10": Variant(
    "gamma 10",
    {"bean1": (0.002, 0.02, 0.2, 0.6), "bean2": (2e-4, 0.002, 0.02, 0.2, 2.0)},
    {"gamma": 10.0},
  ),
  "distance_absolute": Variant(
    "absolute distance",
    {"bean1": (0.3, 3.0, 9.0, 30.0), "bean2": (3.0, 30.0, 300.0)},
    {"distance": "absolute"},
  ),
  "layers_last": Variant(
    "BEAN on the last layer alone",
    {"bean1": (3.0, 30.0, 90.0), "bean2": (30.0, 300.0, 3e3, 1e4, 3e4)},
    {"layers": ("fc3",)},
  ),
  "layers_last_two": Variant(
    "BEAN on the last two layers, not on the features of the convolutions",
    _HIGH_ALPHAS,
    {"layers": ("fc2", "fc3")},
  ),
  "layers_first": Variant(
    "BEAN on the features of the convolutions alone",
    _HIGH_ALPHAS,
    {"layers": ("fc1",)},
  ),
  "batch_full": Variant(
    "all images in a step, as many epochs",
    _ALPHAS,
    batch_size=0,
    with_vanilla=True,
  ),
  "batch_full_steps": Variant(
    "all images in a step, as many steps",
    _LOW_ALPHAS,
    batch_size=0,
    epochs=10,
    with_vanilla=True,
  ),
  "initializer_lecun": Variant(
    "LeCun normal initial parameters",
    _LOW_ALPHAS,
    initializer="lecun_normal",
    with_vanilla=True,
  ),
  "rate_0.0001": Variant(
    "learning rate 0.0001",
    _ALPHAS,
    learning_rate=1e-4,
    with_vanilla=True,
  ),
  "rate_0.002": Variant(
    "learning rate 0.002",
    _LOW_ALPHAS,
    learning_rate=2e-3,
    with_vanilla=True,
  ),
  "epochs_quarter": Variant(
    "a quarter of the epochs", _ALPHAS, epochs=0.25, with_vanilla=True
  ),
  "epochs_fourfold": Variant(
    "four times the epochs", _LOW_ALPHAS, epochs=4, with_vanilla=True
  ),
  "correlation_frozen": Variant(
    "no gradient through A",
    {
      "bean1_frozen": (0.01, 0.1, 1.0, 10.0, 30.0),
      "bean2_frozen": (0.1, 1.0, 10.0, 100.0, 1000.0),
    },
  ),
  "correlation_random": Variant(
    "a random A of equal mean, without a gradient",
    {"bean1_random": (0.01, 0.1, 1.0, 10.0, 30.0)},
  ),
}

_VARIANTS = flags.DEFINE_list(
  "variants",
  list(VARIANTS),
  f"what to train, comma-separated, of: {', '.join(VARIANTS)}",
  flag_values=FLAGS,
)


def make_runs() -> dict[str, cells.Config]:
  """Builds the runs from flags, by variant.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
  """
  names = parsing.names("variants", _VARIANTS.value, list(VARIANTS))
  shots = parsing.number("shots", _SHOTS.value, low=1)
  if _EPOCHS.value is None and shots not in table1.EPOCHS:
    raise parsing.ConfigError(
      f"--shots: the paper has {', '.join(map(str, table1.EPOCHS))}, got "
      f"{shots}; give --epochs with others"
    )
  if _EPOCHS.value is not None:
    parsing.number("epochs", _EPOCHS.value, low=1)
  parsing.number("validations", _VALIDATIONS.value, low=1)
  return {name: _make_config(name, shots) for name in names}


def _make_config(name: str, shots: int) -> cells.Config:
  variant = VARIANTS[name]
  epochs = variant.epochs * (_EPOCHS.value or table1.EPOCHS[shots])
  if epochs % _VALIDATIONS.value:
    raise parsing.ConfigError(
      f"--validations: expected a divisor of {epochs:g} epochs, those of "
      f"{name}, got {_VALIDATIONS.value}"
    )
  tried = {"vanilla": (0.0,)} if variant.with_vanilla else {}
  tried |= variant.alphas
  return cells.Config(
    experiment="study",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir) / name,
    resume=True,
    protocol=cells.Protocol(
      networks.Spec(initializer=variant.initializer),
      parsing.seeds("seeds", FLAGS.seeds),
      methods.Options(**variant.options),
      batch_size=variant.batch_size,
      validate_every=int(epochs) // _VALIDATIONS.value,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=tuple(
      cells.Cell(
        Shots(shots),
        method,
        alpha,
        int(epochs),
        variant.learning_rate,
      )
      for method, alphas in tried.items()
      for alpha in alphas
    ),
  )


def gains(
  records: Mapping[str, Sequence[summary.Record]],
) -> dict[tuple[str, str], stats.PairedDifference]:
  """Compares the best alpha of each variant with no BEAN at all.

  Args:
    records: By variant; "usual" among them.

  Returns:
    {(variant, method): difference of validation accuracy, best epoch, to
    vanilla of the variant, or the usual one where the variant has none}; what
    cannot be compared is left out.
  """
  usual = _vanilla(records.get("usual", []))
  found = {}
  for variant, tried in records.items():
    baseline = _vanilla(tried) or usual
    for record in summary.chosen(tried):
      name = record["config"]["method"]
      accuracies = summary.kept(record, "validation_accuracy")
      if name != "vanilla" and accuracies.keys() & baseline:
        _, values, others = stats.align(accuracies, baseline)
        found[variant, name] = stats.paired_difference(values, others)
  return found


def _vanilla(records: Sequence[summary.Record]) -> dict[int, float]:
  for record in records:
    if record["config"]["method"] == "vanilla":
      return summary.kept(record, "validation_accuracy")
  return {}


def per_simulation(
  records: Sequence[summary.Record], name: str
) -> dict[int, float]:
  """Chooses alpha anew in every simulation, as no one without its labels could.

  Args:
    records: Of one variant.
    name: The method.

  Returns:
    The greatest validation accuracy of each seed over alphas and epochs.
  """
  best: dict[int, float] = {}
  for record in records:
    if record["config"]["method"] == name:
      accuracies = summary.kept(record, "validation_accuracy")
      for seed, accuracy in accuracies.items():
        best[seed] = max(best.get(seed, 0.0), accuracy)
  return best


def table(records: Mapping[str, Sequence[summary.Record]]) -> str:
  """Formats the study as a Markdown table.

  Args:
    records: By variant.

  Returns:
    A line for each variant and method, at its best alpha.
  """
  rows = [
    [
      "variant",
      "method",
      "alpha",
      "best epoch",
      "last epoch, its own alpha",
      "gain over vanilla",
      "seeds won",
    ]
  ]
  compared = gains(records)
  for variant, tried in records.items():
    meaning = VARIANTS[variant].meaning
    last = {
      record["config"]["method"]: record
      for record in _chosen_by_last_epoch(tried)
    }
    for record in summary.chosen(tried):
      name = record["config"]["method"]
      difference = compared.get((variant, name))
      rows.append(
        [
          meaning,
          methods.METHODS[name].title,
          _alpha(record, tried),
          _percent(summary.kept(record, "validation_accuracy")),
          _last(last[name], tried),
          summary.percent(difference.interval, "+.1f") if difference else "",
          f"{difference.wins} of {difference.num_pairs}" if difference else "",
        ]
      )
  for name in comparison.BEAN:
    if best := per_simulation(records.get("usual", []), name):
      title = methods.METHODS[name].title
      meaning = "the usual protocol, alpha chosen in every simulation"
      rows.append([meaning, title, "", _percent(best), "", "", ""])
  return comparison.to_markdown(rows)


def alpha_table(records: Mapping[str, Sequence[summary.Record]]) -> str:
  """Formats how accuracy depends on alpha as a Markdown table.

  Args:
    records: By variant.

  Returns:
    A line for each variant, method and alpha, in ascending order.
  """
  rows = [["variant", "method", "alpha", "best epoch", "last epoch"]]
  for variant, tried in records.items():
    for name in dict.fromkeys(record["config"]["method"] for record in tried):
      title = methods.METHODS[name].title
      rows += [
        [
          VARIANTS[variant].meaning,
          title,
          "" if alpha is None else f"{alpha:g}",
          _percent(summary.kept(record, "validation_accuracy")),
          _percent(summary.kept(record, "validation_accuracy_last")),
        ]
        for alpha, record in _by_alpha(tried, name)
      ]
  return comparison.to_markdown(rows)


def _by_alpha(
  records: Sequence[summary.Record], name: str
) -> list[tuple[float | None, summary.Record]]:
  """Returns the records of a method that kept a simulation, by alpha."""
  found = [
    (summary.strength(record), record)
    for record in records
    if record["config"]["method"] == name
    and summary.kept(record, "validation_accuracy")
  ]
  return sorted(found, key=lambda pair: pair[0] or 0.0)


def _chosen_by_last_epoch(
  records: Sequence[summary.Record],
) -> list[summary.Record]:
  best: dict[str, tuple[float, summary.Record]] = {}
  for record in records:
    name = record["config"]["method"]
    accuracies = summary.kept(record, "validation_accuracy_last")
    if accuracies and summary.mean(accuracies) > best.get(name, (-1.0,))[0]:
      best[name] = summary.mean(accuracies), record
  return [record for _, record in best.values()]


def _last(record: summary.Record, tried: Sequence[summary.Record]) -> str:
  text = _percent(summary.kept(record, "validation_accuracy_last"))
  alpha = _alpha(record, tried)
  return f"{text} ({alpha})" if alpha else text


def _alpha(record: summary.Record, tried: Sequence[summary.Record]) -> str:
  """Names a record's alpha, and says where it is the least or the greatest."""
  alpha = summary.strength(record)
  if alpha is None:
    return ""
  name = record["config"]["method"]
  alphas = [
    summary.strength(other)
    for other in tried
    if other["config"]["method"] == name
  ]
  edge = " (edge)" if alpha in (min(alphas), max(alphas)) else ""
  return f"{alpha:g}{edge}"


def _percent(accuracies: Mapping[int, float]) -> str:
  interval = stats.mean_interval(list(accuracies.values()))
  return summary.percent(interval, ".1f")


def write(
  records: Mapping[str, Sequence[summary.Record]], directory: pathlib.Path
) -> str:
  """Writes `table.md`.

  Args:
    records: By variant, of one dataset and number of shots.
    directory: Folder that exists.

  Returns:
    Its text.

  Raises:
    results.ResultError: If the file cannot be written.
  """
  seeds = next(iter(records.values()))[0]["config"]["seeds"]
  named = f"{seeds[0]} to {seeds[-1]}"
  if seeds[-1] - seeds[0] >= len(seeds):
    named = ", ".join(map(str, seeds))
  text = (
    f"# What matters for BEAN: {_setting(records)}\n\nValidation accuracy in "
    f"percent, means over seeds {named} with 95 % bootstrap intervals. The "
    "gain is paired by seed, at the best epoch.\n\n"
    f"{table(records)}\n\n## Every alpha\n\n{alpha_table(records)}\n"
  )
  results.write_bytes(directory / "table.md", text.encode())
  return text


def draw(
  records: Mapping[str, Sequence[summary.Record]], directory: pathlib.Path
) -> None:
  """Draws `gains.png` and `alpha_*.png` of each method.

  Args:
    records: By variant, of one dataset and number of shots.
    directory: Folder that exists.

  Raises:
    results.ResultError: If a file cannot be written.
  """
  setting = _setting(records)
  path = directory / "gains.png"
  with canvas.attempt(path):
    _draw_gains(path, gains(records), setting)
  for name in comparison.BEAN:
    path = directory / f"alpha_{name}.png"
    with canvas.attempt(path):
      _draw_alphas(path, records.get("usual", []), name, setting)


def _setting(records: Mapping[str, Sequence[summary.Record]]) -> str:
  config = next(iter(records.values()))[0]["config"]
  return f"{paper.title(config['dataset'])}, {config['shots']}-shot"


def _draw_gains(
  path: pathlib.Path,
  compared: Mapping[tuple[str, str], stats.PairedDifference],
  setting: str,
) -> None:
  if not compared:
    return
  figures.differences(
    path,
    [
      (
        methods.METHODS[name].title,
        {
          VARIANTS[variant].meaning: difference.interval
          for (variant, method), difference in compared.items()
          if method.startswith(name)
        },
      )
      # With "bean1" goes "bean1_frozen", ...
      for name in comparison.BEAN
      if any(method.startswith(name) for _, method in compared)
    ],
    title=f"{setting}: validation accuracy, gain over vanilla",
  )


def _draw_alphas(
  path: pathlib.Path,
  records: Sequence[summary.Record],
  name: str,
  setting: str,
) -> None:
  tried = _by_alpha(records, name)
  if not tried:
    return
  vanilla = list(_vanilla(records).values())
  figures.accuracy_against_hparam(
    path,
    [
      (
        label,
        [alpha for alpha, _ in tried],
        [
          stats.mean_interval(list(summary.kept(record, metric).values()))
          for _, record in tried
        ],
      )
      for metric, label in (
        ("validation_accuracy", "best epoch"),
        ("validation_accuracy_last", "last epoch"),
      )
    ],
    title=f"{setting}: validation accuracy of {methods.METHODS[name].title}",
    xlabel="alpha",
    baseline=(
      ("Vanilla, best epoch", stats.mean_interval(vanilla)) if vanilla else None
    ),
  )


def run() -> None:
  """Trains what is missing and writes table and figures.

  Raises:
    parsing.ConfigError: If a flag has a value that cannot be used.
    datasets.DatasetError: If the data cannot be had or has too few images.
    results.ResultError: If a folder holds a record of another configuration or
      cannot be written.
  """
  variants = make_runs()
  missing = {name: runs.missing(config) for name, config in variants.items()}
  done = sum(
    len(config.cells) - len(missing[name].cells)
    for name, config in variants.items()
  )
  with progress.bar(
    total=sum(runs.work(config) for config in missing.values()),
    skipped=done,
  ) as bar:
    records = {n: runs.train(config, bar) for n, config in variants.items()}
  if not processes.is_first():
    return
  directory = pathlib.Path(FLAGS.output_dir)
  markdown.show(write(records, directory))
  draw(records, directory)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
