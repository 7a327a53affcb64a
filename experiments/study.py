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
import numpy as np

from experiments import datasets, table1
from experiments.architectures import networks
from experiments.command import distributed, flag_groups, parsing, scripts
from experiments.learning import methods
from experiments.machine import processes
from experiments.population import cells, runs
from experiments.records import results
from experiments.tables import (
  canvas,
  comparison,
  figures,
  markdown,
  paper,
  stages,
  stats,
  summary,
)

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "mnist",
  datasets.GRAY,
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
flag_groups.define(FLAGS, seeds="100-109")
flag_groups.define_run(FLAGS, output_dir="outputs/study")
distributed.define_flags(FLAGS)


# Metrics: nothing here is of test images.
_BEST, _LAST = "validation_accuracy", "validation_accuracy_last"


class Variant(NamedTuple):
  """One choice that differs from the usual ones."""

  meaning: str  # What differs.
  alphas: Mapping[str, tuple[float, ...]]  # Values of alpha to try, by method.
  options: Mapping[str, Any] = {}  # Fields of `methods.Options` that differ.
  batch_size: int = 1  # Images in a step.
  # Initial parameters, one of `networks.INITIALIZERS`.
  initializer: str = "pytorch_uniform"
  learning_rate: float = 5e-4  # Adam's.
  epochs: float = 1  # What the usual number of epochs is multiplied with.
  with_vanilla: bool = False  # Whether training without BEAN differs too.


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
  "gamma_0.3": Variant(
    "gamma 0.3",
    {"bean1": (10.0, 100.0, 300.0), "bean2": (1e3, 1e4, 1e5)},
    {"gamma": 0.3},
  ),
  "gamma_3": Variant(
    "gamma 3",
    {"bean1": (0.1, 1.0, 3.0), "bean2": (0.2, 2.0, 20.0)},
    {"gamma": 3.0},
  ),
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
    "learning rate 0.0001", _ALPHAS, learning_rate=1e-4, with_vanilla=True
  ),
  "rate_0.002": Variant(
    "learning rate 0.002", _LOW_ALPHAS, learning_rate=2e-3, with_vanilla=True
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
  """Builds the runs from flags, by variant."""
  names = parsing.names("variants", _VARIANTS.value, list(VARIANTS))
  shots = parsing.number("shots", _SHOTS.value, low=1)
  usual = table1.num_epochs(shots, _EPOCHS.value)
  parsing.number("validations", _VALIDATIONS.value, low=1)
  return {name: _make_run(name, shots, usual) for name in names}


def _make_run(name: str, shots: int, usual_epochs: int) -> cells.Config:
  variant = VARIANTS[name]
  epochs = variant.epochs * usual_epochs
  if epochs % _VALIDATIONS.value:
    raise parsing.ConfigError(
      f"--validations: expected a divisor of {epochs:g} epochs, those of "
      f"{name}, got {_VALIDATIONS.value}"
    )
  vanilla = {"vanilla": (0.0,)} if variant.with_vanilla else {}
  return cells.Config(
    experiment="study",
    dataset=_DATASET.value,
    data_dir=FLAGS.data_dir,
    output_dir=pathlib.Path(FLAGS.output_dir) / name,
    protocol=cells.Protocol(
      networks.Spec(initializer=variant.initializer),
      parsing.seeds("seeds", FLAGS.seeds),
      methods.Options(**variant.options),
      batch_size=variant.batch_size,
      validate_every=int(epochs) // _VALIDATIONS.value,
      members_per_chunk=flag_groups.members_per_chunk(FLAGS),
    ),
    cells=stages.grid(
      vanilla | dict(variant.alphas), shots, int(epochs), variant.learning_rate
    ),
  )


ByVariant = Mapping[str, Sequence[summary.Record]]


def gains(records: ByVariant) -> dict[tuple[str, str], np.ndarray]:
  """Compares the best alpha of each variant with no BEAN at all.

  Differences of validation accuracy, by variant and method, to vanilla of the
  variant, or to the usual one where the variant has none.
  """
  usual = _vanilla(records.get("usual", []))
  found = {}
  for variant, tried in records.items():
    baseline = _vanilla(tried) or usual
    for record in summary.chosen(tried):
      name = record["config"]["method"]
      compared = stats.differences(summary.kept(record, _BEST), baseline)
      if methods.METHODS[name].baseline and compared.size:
        found[variant, name] = compared
  return found


def _vanilla(records: Sequence[summary.Record]) -> stats.BySeed:
  found = _of_method(records, "vanilla")
  return summary.kept(found[0], _BEST) if found else {}


def per_simulation(records: Sequence[summary.Record]) -> dict[int, float]:
  """Returns the greatest validation accuracy of each seed over all alphas.

  Alpha is chosen anew in every simulation, as no one without its labels could.
  """
  best: dict[int, float] = {}
  for record in records:
    for seed, accuracy in summary.kept(record, _BEST).items():
      best[seed] = max(best.get(seed, 0.0), accuracy)
  return best


def table(records: ByVariant) -> str:
  """Formats each variant and method, at its best alpha, as Markdown."""
  head = ["variant", "method", "alpha", "best epoch"]
  head += ["last epoch, its own alpha", "gain over vanilla", "seeds won"]
  rows = []
  compared = gains(records)
  for variant, tried in records.items():
    last = {r["config"]["method"]: r for r in summary.chosen(tried, _LAST)}
    for record in summary.chosen(tried):
      name = record["config"]["method"]
      difference = compared.get((variant, name), np.empty(0))
      own_alpha = _alpha(last[name], tried)
      own_alpha = f" ({own_alpha})" if own_alpha else ""
      rows.append(
        [
          *(VARIANTS[variant].meaning, methods.METHODS[name].title),
          *(_alpha(record, tried), _percent(record, _BEST)),
          _percent(last[name], _LAST) + own_alpha,
          summary.mean_percent(difference, "+.1f"),
          summary.won(difference),
        ]
      )
  for name in comparison.BEAN:
    if best := per_simulation(_of_method(records.get("usual", []), name)):
      title = methods.METHODS[name].title
      meaning = "the usual protocol, alpha chosen in every simulation"
      accuracy = summary.mean_percent(best, ".1f")
      rows.append([meaning, title, "", accuracy, "", "", ""])
  return markdown.table(head, rows)


def alpha_table(records: ByVariant) -> str:
  """Formats how accuracy depends on alpha as a Markdown table."""
  head = ["variant", "method", "alpha", "best epoch", "last epoch"]
  rows = []
  for variant, tried in records.items():
    for name in dict.fromkeys(record["config"]["method"] for record in tried):
      for record in _of_method(tried, name):
        method = methods.METHODS[name]
        alpha = f"{methods.strength(record['config']):g}"
        shown = alpha if method.hparam else ""
        names = VARIANTS[variant].meaning, method.title
        accuracies = _percent(record, _BEST), _percent(record, _LAST)
        rows.append([*names, shown, *accuracies])
  return markdown.table(head, rows)


def _of_method(
  records: Sequence[summary.Record], name: str
) -> list[summary.Record]:
  """Returns the records of a method that kept a simulation, by alpha."""
  found = [
    record
    for record in records
    if record["config"]["method"] == name and summary.kept(record, _BEST)
  ]
  return sorted(found, key=lambda record: methods.strength(record["config"]))


def _alpha(record: summary.Record, tried: Sequence[summary.Record]) -> str:
  """Names a record's alpha, and says where it is the least or the greatest."""
  name = record["config"]["method"]
  if not methods.METHODS[name].hparam:
    return ""
  alpha = methods.strength(record["config"])
  same = [other for other in tried if other["config"]["method"] == name]
  alphas = [methods.strength(other["config"]) for other in same]
  return f"{alpha:g}" + " (edge)" * (alpha in (min(alphas), max(alphas)))


def _percent(record: summary.Record, metric: str) -> str:
  return summary.mean_percent(summary.kept(record, metric), ".1f")


def write(records: ByVariant, directory: pathlib.Path) -> str:
  """Writes `table.md` of one dataset and number of shots; returns its text."""
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


def _setting(records: ByVariant) -> str:
  config = next(iter(records.values()))[0]["config"]
  return f"{paper.title(config['dataset'])}, {config['shots']}-shot"


def draw(records: ByVariant, directory: pathlib.Path) -> None:
  """Draws `gains.png` and `alpha_*.png` of each method."""
  setting = f"{_setting(records)}: validation accuracy"
  series = []
  for name in comparison.BEAN:
    # With "bean1" goes "bean1_frozen", ...
    intervals = {
      VARIANTS[variant].meaning: stats.mean_interval(values)
      for (variant, method), values in gains(records).items()
      if method.startswith(name)
    }
    if intervals:
      series.append((methods.METHODS[name].title, intervals))
  path = directory / "gains.png"
  if series:
    with canvas.attempt(path):
      figures.differences(path, series, title=f"{setting}, gain over vanilla")
  usual = records.get("usual", [])
  baseline = None
  if vanilla := _vanilla(usual):
    baseline = "Vanilla, best epoch", stats.mean_interval(vanilla)
  for name in comparison.BEAN:
    path = directory / f"alpha_{name}.png"
    if own := _of_method(usual, name):
      lines = [
        ("best epoch", *summary.against_strength(own, _BEST)),
        ("last epoch", *summary.against_strength(own, _LAST)),
      ]
      title = f"{setting} of {methods.METHODS[name].title}"
      with canvas.attempt(path):
        figures.accuracy_against_hparam(
          path, lines, title=title, baseline=baseline
        )


def run() -> None:
  """Trains what is missing and writes table and figures."""
  variants = make_runs()
  trained = runs.train_all(list(variants.values()))
  if not processes.is_first():
    return
  records = dict(zip(variants, trained, strict=True))
  directory = pathlib.Path(FLAGS.output_dir)
  markdown.show(write(records, directory))
  draw(records, directory)


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, FLAGS)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
