"""The same few-shot training twice: in JAX, and in PyTorch as published.

    python -m benchmarks.same_training

trains LeNet-5 on the shots of each seed with the program of the experiments,
and again in PyTorch with BEAN's tensor [N, N, S], from the same initial
parameters and through the images in the same order. It prints both accuracies
on the test images after the last epoch, and their difference. Needs the extra
`bench`, and 2 minutes for each method with BEAN on a CPU core.
"""

from collections.abc import Sequence
import importlib.util
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import problems
from experiments import datasets
from experiments.architectures.networks import Variables
from experiments.command import flag_groups, parsing, scripts
from experiments.learning import learner as learners, streams
from experiments.learning.learner import Samples, Schedule
from experiments.population import program
from experiments.tables import markdown, stats

PyTree = Any

# Its own, so that scripts can be imported together.
FLAGS = flags.FlagValues()

_DATASET = flags.DEFINE_enum(
  "dataset",
  "mnist",
  ["digits", "mnist", "fashion_mnist"],
  "images to learn from",
  flag_values=FLAGS,
)
flag_groups.define_data_dir(FLAGS)
flag_groups.define_methods(
  FLAGS, known=list(problems.ORDERS), default=list(problems.ORDERS)
)
flag_groups.define(FLAGS, seeds="20")
_SHOTS = flags.DEFINE_integer(
  "shots", 1, "training images of each class", flag_values=FLAGS
)
_EPOCHS = flags.DEFINE_integer(
  "epochs", 200, "passes over the training images", flag_values=FLAGS
)


def draw(
  dataset: datasets.Dataset, *, shots: int, seeds: Sequence[int]
) -> tuple[jax.Array, problems.Problem]:
  """Draws keys [members], parameters and shots as the experiments do."""
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  labels = dataset.train.labels
  rows = np.stack(
    [datasets.draw_shots(labels, num_shots=shots, seed=seed) for seed in seeds]
  )
  return keys, problems.Problem(
    problems.initial_params(keys), dataset.train.images[rows], labels[rows]
  )


def train_jax(
  problem: problems.Problem, keys: jax.Array, method: str, num_epochs: int
) -> PyTree:
  """Trains with batches of one image by the program of the experiments.

  Initial parameters and orders come from the keys [members]; the method has the
  strength of `problems`. Returns parameters in the form of `problem.params`.
  """
  # Validation cannot be left out, but for once.
  schedule = Schedule(num_epochs, batch_size=1, validate_every=num_epochs)
  learner = problems.learner(problems.LENET5, method, schedule)
  hparams = problems.hparams(len(keys), problems.STRENGTHS[method])
  data = Samples(problem.images, problem.labels)
  run = program.make_run(learner, problems.OWN, 1)
  carry, _ = jax.jit(run)(
    program.make_init(learner.init, problems.OWN)(keys, hparams, data),
    jnp.int32(0),
    keys,
    hparams,
    np.ones(len(keys), bool),
    problems.samples(problem),
    jax.tree.map(lambda leaf: leaf[0], data),
  )
  return jax.device_get(carry.state.variables.params)


def train_torch(
  problem: problems.Problem, keys: jax.Array, method: str, num_epochs: int
) -> PyTree:
  """Trains the same in PyTorch, BEAN as published; see `train_jax`."""
  # Only here, as PyTorch need not be installed.
  from benchmarks import torch_networks, torch_trainers

  gradient = torch_trainers.backpropagation(
    method, torch_networks.pairwise, problems.STRENGTHS[method]
  )
  images, labels = torch_trainers.images_and_labels(problem)
  orders = _orders(keys, problem.labels.shape[1], num_epochs)
  trained = []
  for member, network in enumerate(torch_networks.lenet5s(problem.params)):
    optimizer = torch_trainers.adam(network.parameters())
    for _ in torch_trainers.descend(
      network,
      optimizer,
      gradient,
      images[member],
      labels[member],
      orders[member][:, None].tolist(),
    ):
      pass
    trained.append(torch_networks.from_torch(dict(network.named_parameters())))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trained)


def _orders(keys: jax.Array, num_images: int, num_epochs: int) -> np.ndarray:
  """Returns which image the experiments take in each step [members, steps]."""

  def of_epoch(key: jax.Array, epoch: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(key, learners.SHUFFLE), epoch)
    rows, _ = streams.batches(key, num_images, 1)
    return rows[:, 0]

  of_epochs = jax.vmap(of_epoch, in_axes=(None, 0))
  of_members = jax.jit(jax.vmap(of_epochs, in_axes=(0, None)))
  orders = of_members(keys, jnp.arange(num_epochs))
  return np.asarray(orders).reshape(len(keys), -1)


def table(
  method: str,
  seeds: Sequence[int],
  ours: Sequence[float],
  theirs: Sequence[float],
) -> str:
  """Sets two implementations' accuracies in percent side by side.

  Returns:
    A table in Markdown, with the mean difference and its 95 % bootstrap
    interval in the last row.

  Example:
    >>> print(table("bean1", [7, 9], [50.0, 50.0], [49.0, 49.0]))
    | bean1, seed | bean_jax | PyTorch | difference           |
    | ----------- | -------- | ------- | -------------------- |
    | 7           | 50.00    | 49.00   | +1.00                |
    | 9           | 50.00    | 49.00   | +1.00                |
    | mean        | 50.00    | 49.00   | +1.00 [+1.00, +1.00] |
  """
  rows = [
    [str(seed), f"{a:.2f}", f"{b:.2f}", f"{a - b:+.2f}"]
    for seed, a, b in zip(seeds, ours, theirs, strict=True)
  ]
  mean, low, high = stats.mean_interval(np.subtract(ours, theirs))
  difference = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
  means = [f"{np.mean(ours):.2f}", f"{np.mean(theirs):.2f}"]
  head = [f"{method}, seed", "bean_jax", "PyTorch", "difference"]
  return markdown.table(head, [*rows, ["mean", *means, difference]])


def compare() -> None:
  """Trains every method twice and prints its table."""
  for flag in (_SHOTS, _EPOCHS):
    parsing.number(flag.name, flag.value, low=1)
  names = parsing.names("methods", FLAGS.methods, list(problems.ORDERS))
  seeds = parsing.seeds("seeds", FLAGS.seeds)
  if importlib.util.find_spec("torch") is None:
    raise parsing.ConfigError(
      "PyTorch is not installed; pip install '.[bench]'"
    )
  dataset = datasets.load(_DATASET.value, data_dir=FLAGS.data_dir)
  keys, problem = draw(dataset, shots=_SHOTS.value, seeds=seeds)
  predict = jax.jit(problems.LENET5.predict)
  for method in names:
    accuracies = []
    for train in (train_jax, train_torch):
      params = train(problem, keys, method, _EPOCHS.value)
      # Both are evaluated by the same program.
      classes = predict(Variables(params, {}), dataset.test.images)
      right = np.asarray(classes) == dataset.test.labels
      accuracies.append(100 * right.mean(axis=1))
    markdown.show(table(method, seeds, *accuracies) + "\n")


def main(argv: Sequence[str]) -> int | None:
  """Runs the script; returns the exit status."""
  return scripts.run(argv, compare)


if __name__ == "__main__":
  scripts.start(main, FLAGS)
