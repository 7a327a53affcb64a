"""The claims of the paper, and how each is judged by records."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from experiments.account import findings
from experiments.learning import table1_rows

_INTERPRET = (
  "python -m experiments.interpret --checkpoint_dir=outputs/lenet5 "
  "--output_dir=results/interpret/mnist-lenet5"
)
_EFFICIENCY = (
  "python -m experiments.efficiency --checkpoint_dir=outputs/lenet5 "
  "--output_dir=results/efficiency/mnist-lenet5"
)
_HUNDREDTHS = "hundredths of a silhouette"
# Of the paper: a silhouette of 0.9 with BEAN, of 0.5 without it.
_rise_of_silhouettes = partial(
  findings.rise,
  quantity="Silhouette",
  metric=findings.silhouettes,
  least=0.4,
)
_CIFAR = ("cifar10-resnet18", "cifar10-resnet18_16")


class Claim(NamedTuple):
  """A claim of the paper."""

  title: str  # A heading.
  paper: str  # What the paper says.
  # Maps records to what was found.
  find: Callable[[findings.Found], findings.Finding]
  # Makes the records.
  command: str = "python -m experiments.table1 --output_dir=results/table1"
  # File that shows it, below the results; None to draw the comparisons.
  figure: str | None = None
  # What the figure shows, for who cannot see it.
  alt: str = (
    "Differences with their 95 % intervals; those to the right of 0 are for "
    "the claim."
  )
  unit: str = "points"  # Of the comparisons that are drawn.


CLAIMS = (
  Claim(
    "Gain at 1-shot",
    "BEAN gains most with fewest images: 11 to 16 points over vanilla at "
    "1-shot (Table 1).",
    partial(findings.gain, shots=1),
  ),
  Claim(
    "Gain at 20-shot",
    "4 to 6 points over vanilla at 20-shot (Table 1).",
    partial(findings.gain, shots=20),
  ),
  Claim(
    "Ahead of every regularizer",
    "BEAN is ahead of dropout, weight decay, l1 and imitation networks for all "
    "numbers of shots on both datasets (Table 1).",
    findings.against_regularizers,
  ),
  Claim(
    "Order 1 against order 2",
    "BEAN-1 is best at 1 and 5 shots, BEAN-2 at 10 and 20 (Section 3.2).",
    findings.order,
  ),
  Claim(
    "The wiring helps, against a random A",
    "Neurons that wire together should fire together: A is made of the "
    "weights (Eq. 5). The paper compares it with no other A.",
    partial(
      findings.against,
      quantity="BEAN-1 less BEAN-1 with a random A",
      rivals=["bean1_random"],
    ),
  ),
  Claim(
    "The wiring helps, against a constant A and none",
    "As above. With a constant A the penalty is the variance of a sample's "
    "activations; their mean square knows no pairs at all.",
    partial(
      findings.against,
      quantity="BEAN-1 less that with a constant A, or the mean square",
      rivals=["bean1_constant", "mean_square"],
    ),
  ),
  Claim(
    "BEAN adds to dropout",
    "Dropout is a rival in Table 1. The paper does not combine them.",
    partial(
      findings.against,
      quantity="BEAN beside dropout less dropout alone",
      names=["bean1_dropout", "bean2_dropout"],
      rivals=["dropout"],
      # The rate that it has beside BEAN.
      strengths={"dropout": table1_rows.RATE_BESIDE_BEAN},
      suffix=table1_rows.AND_DROPOUT,
    ),
  ),
  Claim(
    "The wiring helps beside dropout",
    "The paper compares A with no other A, and does not combine BEAN with "
    "dropout.",
    partial(
      findings.against,
      quantity="BEAN beside dropout less the constant A, or the mean square, "
      "beside dropout",
      names=["bean1_dropout", "bean2_dropout"],
      rivals=["bean1_constant_dropout", "mean_square_dropout"],
      suffix=table1_rows.AND_DROPOUT,
    ),
  ),
  Claim(
    "Neurons form clusters",
    "Silhouettes of ten clusters near 0.9 with BEAN and 0.5 without it "
    "(Figure 2).",
    _rise_of_silhouettes,
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-silhouettes.png",
    "Silhouettes of 2 to 20 clusters of the neurons before the last layer of "
    "LeNet-5: highest with ten clusters and BEAN-2, low for every number "
    "without BEAN.",
  ),
  Claim(
    "The wiring makes the clusters",
    "Neurons that wire together should fire together: A is made of the "
    "weights (Eq. 5). The paper shows no clusters of another A.",
    findings.clusters_by_wiring,
    "python -m experiments.interpret --checkpoint_dir=outputs/controls "
    f"--output_dir=results/interpret/{findings.CONTROLS}",
    unit=_HUNDREDTHS,
  ),
  Claim(
    "Clusters prefer one class each",
    "A strong association of assemblies and class selectivity (Figure 4).",
    partial(
      findings.rise,
      quantity="Adjusted mutual information of clusters and preferred classes",
      metric=lambda cell: cell.values("trained_agreement"),
    ),
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-maps.png",
    "Maps of the neurons' outgoing weights, coloured by preferred class: with "
    "BEAN-2 each group has one colour.",
  ),
  Claim(
    "Ablation damages one class",
    "Ablating the neurons that prefer a class costs that class its accuracy "
    "with BEAN, and no class in particular without it (Figure 5).",
    partial(
      findings.rise,
      quantity="Share of what an ablation costs that falls on its class",
      metric=lambda cell: cell.values("ablation_mean_diagonality"),
    ),
    _INTERPRET,
    "interpret/mnist-lenet5/mnist-lenet5-fc3-ablation.png",
    "What each class loses when the neurons that prefer a class are ablated: "
    "losses on the diagonal are those of the ablated class.",
  ),
  Claim(
    "The same in ResNet-18 on CIFAR-10",
    "Figures 2 and 4 show ResNet-18 on CIFAR-10 beside MNIST.",
    partial(_rise_of_silhouettes, networks=_CIFAR),
    "python -m experiments.full_data --dataset=cifar10 --model=resnet18 "
    "--output_dir=outputs/resnet18",
    unit=_HUNDREDTHS,
  ),
  Claim(
    "No loss of accuracy",
    "BEAN improves generalization (abstract); no accuracy on whole datasets "
    "is printed.",
    findings.no_loss,
    "python -m experiments.full_data --dataset=mnist --epochs=20 "
    "--output_dir=results/full_data/mnist-lenet5",
  ),
  Claim(
    "Neurons of an assembly share parameters",
    "Weak sharing of parameters within each assembly (Figure 6). So an "
    "assembly can be merged into one neuron.",
    partial(findings.fewer_parameters, names=["merge"]),
    _EFFICIENCY,
    "efficiency/mnist-lenet5/mnist-lenet5-needed-strongest.png",
    "Parameters that LeNet-5 needs: BEAN-1 and BEAN-2 need fewest when "
    "assemblies are merged, l1 when weights are pruned.",
  ),
  Claim(
    "Connections are sparse",
    "A sparse and structured connectivity (Figure 6).",
    partial(findings.fewer_parameters, names=["weights"]),
    _EFFICIENCY,
  ),
  Claim(
    "Networks become more efficient",
    "The abstract: BEAN substantially improves the efficiency of the model. "
    "There is no number.",
    partial(
      findings.fewer_parameters,
      names=["weights", "units", "merge"],
      retrained=(False, True),
    ),
    _EFFICIENCY,
    "efficiency/mnist-lenet5/mnist-lenet5-lost-strongest.png",
    "Points of accuracy that LeNet-5 loses as its dense layers shrink, by "
    "method: with assemblies merged BEAN loses least, with weights pruned l1.",
  ),
)
