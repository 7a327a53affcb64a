"""Neuronal assemblies in trained networks (Sections 3.1.1 and 3.1.2).

Looks at a dense layer of every checkpoint that `experiments.full_data` (or
`experiments.few_shot`) wrote: clusters of neurons by their outgoing weights
(Figures 1d and 2), activity for each class (Figure 3), selectivity and how
assemblies agree with preferred classes (Figure 4), ablation of each class's
population (Figure 5), the wiring of assemblies (Figure 6), measures of graphs
(Eq. 8 and 9), and the sizes of activations and weights. Each with its controls:
weights permuted, random groups, the network before training; and all of them
once more with outgoing weights of equal norm, since BEAN's penalty can be
lowered by scale alone.

    python -m experiments.full_data
    python -m experiments.interpret

looks at 55 LeNet-5 of digits. The paper's:

    python -m experiments.full_data --dataset=mnist --model=mlp500
    python -m experiments.interpret

A network of 500 neurons takes 10 to 30 s of one CPU core that other work
shares; t-SNE is most of it. Writes one JSON a checkpoint, table.md (with the
names of --layer and --epoch where they are given) and, for one seed, figures as
PNG and PDF. What has a record is not measured again.
"""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

from absl import flags
import numpy as np

from experiments import datasets
from experiments.assemblies import drawing, measures, sources, summary
from experiments.command import flag_groups, parsing, scripts
from experiments.machine import progress
from experiments.records import checkpoints, results
from experiments.records.results import Record
from experiments.tables import canvas, markdown

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_SETTINGS = measures.Settings()

sources.define_flags(FLAGS)
_LAYER = flags.DEFINE_string(
  "layer",
  None,
  "dense layer whose inputs are the neurons, such as fc3 of lenet5, fc2 of "
  "mlp500, head of resnet18; by default the last one",
  flag_values=FLAGS,
)
_EPOCH = flags.DEFINE_enum(
  "epoch",
  "best",
  ["best", "last"],
  "parameters to look at: after the epoch of best validation accuracy, or "
  "after the last one",
  flag_values=FLAGS,
)
_MAX_CLUSTERS = flags.DEFINE_integer(
  "max_clusters",
  _SETTINGS.max_clusters,
  "most clusters of K-means; the fewest are 2",
  flag_values=FLAGS,
)
_RESTARTS = flags.DEFINE_integer(
  "restarts",
  _SETTINGS.restarts,
  "initializations of each K-means, the best of which is kept",
  flag_values=FLAGS,
)
_CONTROLS = flags.DEFINE_integer(
  "controls",
  _SETTINGS.controls,
  "random groups for each ablated population",
  flag_values=FLAGS,
)
_FIGURES = flags.DEFINE_list(
  "figures",
  ["chosen", "clustered"],
  "strengths to draw, comma-separated, of: chosen (of best validation "
  "accuracy), clustered (most clustered within --margin of vanilla's validation"
  " accuracy), all; or none",
  flag_values=FLAGS,
)
_MARGIN = flags.DEFINE_float(
  "margin",
  1.0,
  "points of validation accuracy that the most clustered strength may cost",
  flag_values=FLAGS,
)
flag_groups.define_folders(FLAGS, output_dir="outputs/interpret")


def run() -> None:
  """Measures what is missing and writes records, a table and figures."""
  drawn = _FIGURES.value
  if drawn != ["none"]:
    parsing.names("figures", drawn, summary.SELECTIONS)
  settings = measures.Settings(
    max_clusters=parsing.number("max_clusters", _MAX_CLUSTERS.value, low=2),
    restarts=parsing.number("restarts", _RESTARTS.value, low=1),
    controls=parsing.number("controls", _CONTROLS.value, low=1),
  )
  margin = parsing.number("margin", _MARGIN.value, low=0) / 100
  found = sources.find(pathlib.Path(FLAGS.checkpoint_dir), FLAGS.methods)
  planned = [
    (s, datasets.load(s.config["dataset"], data_dir=FLAGS.data_dir))
    for s in found
  ]
  groups = summary.groups(_measure(planned, settings))
  text = summary.text(groups, margin=margin)
  parts = [_LAYER.value, "last" if _EPOCH.value == "last" else None]
  name = "-".join(["table", *filter(None, parts)])
  directory = pathlib.Path(FLAGS.output_dir)
  results.write_bytes(directory / f"{name}.md", f"{text}\n".encode())
  markdown.show(text)
  known = {source.digest: (source, dataset) for source, dataset in planned}
  for name, cells in groups.items():
    if picked := summary.select(cells, drawn, margin=margin):
      with canvas.attempt(directory / name):
        drawing.draw(directory / name, cells, picked, known)
  print(f"files in {directory}")


def _measure(
  planned: Sequence[tuple[sources.Source, datasets.Dataset]],
  settings: measures.Settings,
) -> list[Record]:
  """Returns the records of all checkpoints, with a line for each new one."""
  layers = [sources.layer_name(*each, _LAYER.value) for each in planned]
  directory = pathlib.Path(FLAGS.output_dir)
  results.prepare_directory(directory)
  epoch = _EPOCH.value
  suffix = "-last" if epoch == "last" else ""
  measured = []
  with progress.bar(total=len(planned), skipped=0) as bar:
    for (source, dataset), layer in zip(planned, layers, strict=True):
      record, is_new = results.made(
        directory / f"{source.path.stem}-{layer}{suffix}.json",
        {
          "experiment": "interpret",
          "config": {
            "layer": layer,
            "epoch": epoch,
            **settings._asdict(),
            "checkpoint": source.config,
            "checkpoint_sha256": source.digest,
          },
          "seeds": [source.config["seed"]],
          "source": dataset.source,
        },
        functools.partial(_look, source, dataset, layer, settings),
        resume=FLAGS.resume,
      )
      measured.append(record)
      bar.tick(source.path.stem, 1)
      if is_new:
        agreement = results.metric(record, "trained_agreement")[0]
        bar.print(
          f"{source.path.stem}: AMI of clusters and classes {agreement:.2f}, "
          f"{record['seconds']:.0f} s"
        )
  return measured


def _look(
  source: sources.Source,
  dataset: datasets.Dataset,
  layer: str,
  settings: measures.Settings,
) -> dict[str, Any]:
  """Measures a layer of a checkpoint; the metrics of a record of it."""
  seed = source.config["seed"]
  trained, untrained = sources.trained_and_untrained(
    source, dataset, layer, which=_EPOCH.value
  )
  measures.check_sizes(trained, settings)
  numbers = checkpoints.load(source.path).metrics
  suffix = "_last" if _EPOCH.value == "last" else ""
  metrics = {
    "validation_accuracy": source.validation_accuracy,
    # Few-shot simulations may keep less than others.
    "test_accuracy": numbers.get(f"test_accuracy{suffix}", np.nan),
    "num_neurons": len(trained.kernel),
    **measures.measure(
      measures.subjects(trained, untrained, seed=seed),
      settings,
      gamma=source.config.get("gamma", 1.0),
      seed=seed,
    ),
  }
  rounded = np.vectorize(lambda value: float(f"{value:.7g}"))
  return {"metrics": {name: [rounded(v)] for name, v in metrics.items()}}


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
