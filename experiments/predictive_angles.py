r"""How far gradients of predictive coding are from the true ones.

    python -m experiments.predictive_angles

takes LeNet-5 with the initial parameters of 20 seeds and the shots of each as
one batch, and measures for rates eta and numbers of sweeps n the relative error
:math:`|g - g^*| / |g^*|` and the angle :math:`\arccos(g \cdot g^* / |g||g^*|)`
between the rule's gradient g and that of backpropagation, for all parameters
and for those of each layer. The rules are FixedPred, whose gradient of a layer
is a multiple of the true one; the strict rule as `pc_strict` trains by it,
where a sample's own loss moves its beliefs; and the strict rule with the mean
loss of the batch, as published, where they move a hundredth of that with 100
images. The script writes a record, a table and a figure for each rule, with
medians over seeds.

The figures are those of Rosenbaum, `On the relationship between predictive
coding and backpropagation <https://doi.org/10.1371/journal.pone.0266102>`_,
2022, for our network and with intervals.
"""

from collections.abc import Mapping, Sequence
import functools
import itertools
import pathlib
from typing import Any

from absl import flags
import jax
from jax import flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.architectures import networks
from experiments.architectures.networks import Variables
from experiments.command import flag_groups, parsing, scripts
from experiments.learning import chains, learner as learners, predictive_coding
from experiments.learning.learner import Samples
from experiments.learning.streams import Shots
from experiments.records import results
from experiments.tables import canvas, figures, markdown

PyTree = Any

RULES = {
  "fixed": "FixedPred",
  "strict": "strict, loss of each sample",
  "strict_mean": "strict, mean loss of the batch",
}
# Layers, and all of their parameters at once.
PARTS = ("conv1", "conv2", "fc1", "fc2", "fc3", "all")
# Of the seeds that an interval leaves out at each end.
TAIL = 5
_MEASURES = {"relative_error": "relative error", "angle": "angle (degrees)"}

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "digits",
  datasets.GRAY,
  "images of the batch",
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_integer(
  "shots", 10, "images of each class in the batch", flag_values=FLAGS
)
flag_groups.define(FLAGS, seeds="20")
_STEP_SIZES = flags.DEFINE_list(
  "step_sizes",
  ["0.1", "0.2", "0.5", "1"],
  "rates of the beliefs, eta, at most 2",
  flag_values=FLAGS,
)
_SWEEPS = flags.DEFINE_list(
  "sweeps",
  ["1", "2", "3", "4", "5", "7", "10", "20", "50", "100", "200"],
  "numbers of sweeps, n",
  flag_values=FLAGS,
)
flag_groups.define_folders(FLAGS, output_dir="outputs/predictive_angles")


def distances(found: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array]:
  r"""Returns the relative error of a gradient [n], and its angle in degrees.

  The angle is :math:`2 \arctan(|u - v| / |u + v|)` of the unit vectors u and v,
  which does not lose the digits of small angles as the arc cosine does; NaN
  where the gradient is 0 or not finite.

  Example:
    >>> error, angle = distances(jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0]))
    >>> print(f"{error:.3f}, {angle:.1f} degrees")
    2.236, 90.0 degrees
  """
  size = jnp.linalg.norm(true)
  u, v = found / jnp.linalg.norm(found), true / size
  angle = 2 * jnp.arctan2(jnp.linalg.norm(u - v), jnp.linalg.norm(u + v))
  return jnp.linalg.norm(found - true) / size, jnp.rad2deg(angle)


def parts(grads: PyTree) -> dict[str, jax.Array]:
  """Returns the gradient of each layer and of "all", each as one vector."""
  vectors = {n: flatten_util.ravel_pytree(g)[0] for n, g in grads.items()}
  return {**vectors, "all": jnp.concatenate(list(vectors.values()))}


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(
  network: networks.Network,
  rule: str,
  params: PyTree,
  samples: Samples,
  step_size: jax.Array,
  num_sweeps: jax.Array,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Measures gradients of members, parameters and samples [members, ...].

  Relative errors and angles [members], by layer and for "all" of them.
  """

  def of_member(params: PyTree, samples: Samples) -> dict:
    inputs = network.prepare(samples.inputs)
    layers = chains.cut(network, Variables(params, {}), inputs)
    weight = 1 / len(samples.labels) if rule == "strict_mean" else 1.0

    def loss_fn(logits: jax.Array) -> jax.Array:
      cross_entropy = optax.softmax_cross_entropy_with_integer_labels
      return weight * jnp.sum(cross_entropy(logits, samples.labels))

    def gradient(rule: str) -> dict[str, jax.Array]:
      value_and_grad = predictive_coding.value_and_grad(
        layers, loss_fn, rule=rule, step_size=step_size, num_sweeps=num_sweeps
      )
      return parts(value_and_grad(params, inputs)[1])

    found, true = gradient(rule.removesuffix("_mean")), gradient("exact")
    return {name: distances(found[name], true[name]) for name in true}

  return jax.vmap(of_member)(params, samples)


def measure_all(
  config: Mapping[str, Any], data_dir: str | None
) -> dict[str, np.ndarray]:
  """Measures all rules: {"fixed_angle": [seeds, rates, sweeps, parts], ...}.

  Numbers have 5 significant digits.
  """
  seeds, rates, sweeps = (
    config[name] for name in ("seeds", "step_sizes", "sweeps")
  )
  dataset = datasets.load(config["dataset"], data_dir=data_dir)
  samples = Shots(config["shots"]).load(dataset, seeds)
  network = networks.make(networks.Spec())

  @jax.jit
  @jax.vmap
  def init(seed: jax.Array) -> PyTree:
    key = jax.random.fold_in(jax.random.key(seed), learners.INIT)
    return network.init(key).params

  params = init(jnp.array(seeds, jnp.uint32))
  shape = len(seeds), len(rates), len(sweeps), len(PARTS)
  names = itertools.product(RULES, _MEASURES)
  found = {f"{rule}_{name}": np.empty(shape) for rule, name in names}
  for rule, (i, eta), (j, number) in itertools.product(
    RULES, enumerate(rates), enumerate(sweeps)
  ):
    measured = measure(
      network, rule, params, samples, jnp.float32(eta), jnp.int32(number)
    )
    for k, part in enumerate(PARTS):
      for name, values in zip(_MEASURES, measured[part], strict=True):
        found[f"{rule}_{name}"][:, i, j, k] = values
  rounded = np.vectorize(lambda value: float(f"{value:.5g}"))
  return {name: rounded(values) for name, values in found.items()}


def summarize(values: np.ndarray) -> np.ndarray:
  """Returns median, low and high over seeds [seeds, ...], of 90 % of them.

  NaN where a seed has no finite number.

  Example:
    >>> summarize(np.arange(21.0)).tolist()
    [10.0, 1.0, 19.0]
  """
  finite = np.where(np.isfinite(values), values, np.nan)
  return np.percentile(finite, [50, TAIL, 100 - TAIL], axis=0)


def table(record: Mapping[str, Any]) -> str:
  """Formats angles of all parameters in degrees; empty where not finite."""
  config = record["config"]
  head = ["rule", "eta", *(f"n = {number}" for number in config["sweeps"])]
  everything = PARTS.index("all")
  rows = []
  for rule, title in RULES.items():
    angles = summarize(results.metric(record, f"{rule}_angle"))[..., everything]
    for place, eta in enumerate(config["step_sizes"]):
      cells = [
        "" if np.isnan(middle) else f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        for middle, low, high in angles[:, place].T
      ]
      rows.append([title, f"{eta:g}", *cells])
  return markdown.table(head, rows)


def draw(path: pathlib.Path, record: Mapping[str, Any], rule: str) -> None:
  """Draws relative errors and angles against n, a column for each eta."""
  config = record["config"]
  rates, sweeps = config["step_sizes"], config["sweeps"]
  drawing = canvas.blank(
    2 + 2.3 * len(rates),
    5.6,
    title=f"Predictive coding ({RULES[rule]}) beside backpropagation, LeNet-5",
    dpi=130,
  )
  grid = drawing.subplots(
    len(_MEASURES), len(rates), sharex=True, sharey="row", squeeze=False
  )
  for plots, (name, words) in zip(grid, _MEASURES.items(), strict=True):
    values = summarize(results.metric(record, f"{rule}_{name}"))
    for place, plot in enumerate(plots):
      for index, part in enumerate(PARTS):
        label = "all parameters" if part == "all" else part
        look = {"label": label, "markersize": 4}
        figures.curve(
          plot,
          sweeps,
          values[:, place, :, index],
          figures.style("", index) | look,
        )
      plot.set_xscale("log")
      figures.frame(plot, "")
    plots[0].set_ylabel(words, fontsize=11)
    plots[0].set_ylim(bottom=0)
    if name == "relative_error":
      # Linear up to 1, logarithmic above, where the strict rule diverges.
      plots[0].set_yscale("symlog", linthresh=1)
      high = plots[0].get_ylim()[1]
      ticks = [t for t in (0, 0.5, 1, 10, 100, 1000, 10_000) if t <= high]
      plots[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
  for plot, eta in zip(grid[0], rates, strict=True):
    plot.set_title(f"eta {eta:g}", fontsize=11)
  for plot in grid[-1]:
    plot.set_xlabel("sweeps n", fontsize=11)
  canvas.legend(drawing, grid[0, 0], columns=len(PARTS))
  canvas.save(drawing, path)


def run() -> None:
  """Makes the record if it is missing, then table and figures."""
  config = parse_config()
  directory = pathlib.Path(FLAGS.output_dir)
  results.prepare_directory(directory)
  path = directory / results.cell_name(
    config["dataset"], f"{config['shots']}shot", "predictive_angles"
  )
  fields = {
    "experiment": "predictive_angles",
    "config": config,
    "seeds": config["seeds"],
  }
  record, _ = results.made(
    path, fields, lambda: {"metrics": measure_all(config, FLAGS.data_dir)}
  )
  text = table(record)
  results.write_bytes(
    path.with_suffix(".md"),
    f"Angle of all parameters in degrees: median over {len(config['seeds'])} "
    f"seeds [{TAIL}th, {100 - TAIL}th percentile].\n\n{text}\n".encode(),
  )
  markdown.show(text)
  for rule in RULES:
    figure = path.with_name(f"{path.stem}-{rule}.png")
    with canvas.attempt(figure):
      draw(figure, record, rule)
  print(f"record, table and figures in {directory}")


def parse_config() -> dict[str, Any]:
  """Builds the configuration of the record from flags."""
  step_sizes = parsing.numbers("step_sizes", _STEP_SIZES.value, float, low=0)
  for value in step_sizes:
    if not 0 < value <= 2:
      raise parsing.ConfigError(
        f"--step_sizes: expected numbers above 0, at most 2, got {value:g}"
      )
  return {
    "dataset": _DATASET.value,
    "shots": parsing.number("shots", _SHOTS.value, low=1),
    "seeds": list(parsing.seeds("seeds", FLAGS.seeds)),
    "step_sizes": sorted(step_sizes),
    "sweeps": sorted(parsing.numbers("sweeps", _SWEEPS.value, int, low=1)),
    "parts": list(PARTS),
  }


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, run, kept="a finished record is kept")


if __name__ == "__main__":
  scripts.start(main, FLAGS)
