"""Tests of experiments.account.claims, with records of known numbers.

tests/docs/pages_test.py has every line of the account of results/.
"""

import pathlib

import numpy as np
import pytest

from experiments.account import claims, findings
from experiments.assemblies import summary as assemblies
from experiments.learning import methods
from experiments.tables import comparison, protocols, stats, summary
from tests.experiments.tables import made

SEEDS = tuple(range(12))
# A mean of 0, and none of its sums of signs is 0.
NOISE = np.resize([0.004, -0.004, 0.011, -0.011, 0.02, -0.02], len(SEEDS))


def few_shot(accuracies):
  """Found records {(method, shots): mean accuracy}; BEAN's have noise.

  The first value of every grid is chosen.
  """
  records, selection = [], []
  for (name, shots), accuracy in accuracies.items():
    noise = NOISE * (name in comparison.BEAN)
    fields = {"dataset": "mnist", "shots": shots}
    last = (accuracy + noise).tolist()
    grid = methods.METHODS[name].grid
    records.append(made.record(name, grid[0], last=last, **fields))
    choices = (0.9 - 0.1 * np.arange(len(grid))).tolist()
    selection += made.grid(name, choices, last=last, **fields)
  found = protocols.Records(selection, records, records)
  return findings.Found({"mnist": found}, {}, ())


@pytest.mark.parametrize(
  "accuracy,verdict",
  (
    # The paper has a gain of 16.2: ahead by as much, ahead, and not so.
    *((0.57, findings.HOLDS), (0.45, findings.IN_PART)),
    *((0.40, findings.FAILS), (0.35, findings.FAILS)),
  ),
)
def test_gain_is_that_of_the_records(accuracy, verdict):
  found = few_shot({("vanilla", 1): 0.4, ("bean1", 1): accuracy})
  finding = findings.gain(found, shots=1)
  assert finding.verdict == verdict
  interval = stats.mean_interval(accuracy - 0.4 + NOISE)
  assert finding.sentence == (
    "Gain over vanilla in points: BEAN-1 on MNIST "
    f"{summary.percent(interval, '+.1f')} (the paper: +16.2)."
  )
  (compared,) = finding.comparisons
  np.testing.assert_allclose(compared.interval, interval, atol=1e-12)
  assert compared.adjusted == (1.0 if accuracy == 0.4 else 2 / 2**12)


def test_without_records_nothing_is_claimed():
  nothing = findings.Found({}, {}, ())
  for claim in claims.CLAIMS:
    finding = claim.find(nothing)
    assert finding.verdict == findings.NOT_TESTED, claim.title
    assert not finding.comparisons


def test_many_comparisons_are_corrected():
  # Alone the difference is told apart from 0, of four comparisons it is not.
  noise = np.where(np.arange(12) < 10, 0.01, -0.01)
  uneven = np.where(np.arange(12) < 6, 0.03, -0.01)
  p_value = stats.sign_flip_p_value(noise)
  assert findings.LEVEL / 4 < p_value < findings.LEVEL
  for rivals, factor, direction, verdict in (
    (["dropout"], 1, 1, findings.HOLDS),
    (["dropout", "weight_decay", "l1", "imitation"], 4, 0, findings.FAILS),
  ):
    found = few_shot({(name, 1): 0.5 for name in ["bean1", *rivals]})
    for record in found.few_shot["mnist"].evaluation:
      name = record["config"]["method"]
      plus = {"bean1": noise, "dropout": 0 * noise}.get(name, uneven)
      record["metrics"]["test_accuracy_last"] = (0.5 + plus).tolist()
    finding = findings.against_regularizers(found)
    assert len(finding.comparisons) == len(rivals)
    first = finding.comparisons[0]
    assert first.adjusted == pytest.approx(factor * p_value)
    assert (first.direction, finding.verdict) == (direction, verdict)
    assert f"({direction} of {len(rivals)} above 0, 0 below)" in (
      finding.sentence
    )


def test_bean_beside_dropout_is_held_against_dropout_of_its_rate():
  found = few_shot({("bean1_dropout", 1): 0.6, ("dropout", 1): 0.4})
  records = found.few_shot["mnist"]
  # What is chosen alone is another rate, of another accuracy.
  same_rate = made.record(
    "dropout", 0.5, last=(0.5 + NOISE).tolist(), dataset="mnist"
  )
  records.evaluation.append(same_rate)
  (claim,) = (c for c in claims.CLAIMS if c.title == "BEAN adds to dropout")
  strict = [
    compared
    for compared in claim.find(found).comparisons
    if compared.group == "protocol strict"
  ]
  (compared,) = strict
  assert compared.label == "MNIST, 1-shot: BEAN-1"
  np.testing.assert_allclose(compared.interval.mean, 0.1, atol=1e-12)


def test_labels_say_what_is_compared():
  names = ("bean1", "bean1_dropout", "bean2_dropout", "mean_square_dropout")
  found = few_shot({(name, 1): 0.5 for name in names})

  def labels(names, rivals, **choices):
    finding = findings.against(
      found, quantity="", names=names, rivals=rivals, **choices
    )
    strict = [c for c in finding.comparisons if c.group == "protocol strict"]
    return [c.label.removeprefix("MNIST, 1-shot") for c in strict]

  both, rivals = ["bean1_dropout", "bean2_dropout"], ["mean_square_dropout"]
  assert labels(both[:1], rivals) == [""]
  assert labels(both[:1], ["bean1", *rivals]) == [
    ": less BEAN-1",
    ": less Mean square and dropout",
  ]
  assert labels(both, rivals, suffix=" and dropout") == [
    ": BEAN-1",
    ": BEAN-2",
  ]
  assert labels(both[1:], both[:1] + rivals, suffix=" and dropout") == [
    ": less BEAN-1",
    ": less Mean square",
  ]


def network(rises):
  """Cells of a network whose quantity is above vanilla's 0.1 by some rises."""
  cells = []
  rows = [("vanilla", 0.0, 0.0), *rises]
  for method, strength, rise in rows:
    records = []
    for seed in range(4):
      silhouettes = [0.1 + rise + 0.01 * (seed % 2) * (rise != 0)] * 19
      metrics = {
        "validation_accuracy": [0.9 - 1e-5 * strength],
        "trained_silhouettes": [silhouettes],
        "rescaled_silhouettes_live": [silhouettes],
        "ablation_class_accuracy": [[0.9] * 10],
      }
      records.append({"seeds": [seed], "metrics": metrics})
    cells.append(assemblies.Cell(method, strength, tuple(records)))
  return findings.Found({}, {"mnist-lenet5": tuple(cells)}, ())


def silhouette(found, least):
  return findings.rise(
    found,
    quantity="Silhouette",
    metric=lambda cell: cell.at_classes("trained_silhouettes"),
    least=least,
  )


def test_rise_of_strong_and_of_usual_networks():
  found = network([("bean2", 1.0, 0.2), ("bean2", 100.0, 0.6)])
  finding = silhouette(found, 0.4)
  strong, usual = finding.comparisons
  assert strong.label == "LeNet-5, BEAN-2 alpha 100"
  assert usual.label == "LeNet-5, BEAN-2 alpha 1"
  np.testing.assert_allclose(strong.interval.mean, 0.605)
  np.testing.assert_allclose(usual.interval.mean, 0.205)
  assert "[+0.60, +0.61]" in finding.sentence
  assert silhouette(found, 0.1).verdict == findings.HOLDS
  # Where all of an interval must exceed it.
  assert 0.2 <= usual.interval.low < 0.205 < usual.interval.high
  assert silhouette(found, 0.205).verdict == findings.IN_PART
  worse = network([("bean2", 1.0, -0.1)])
  assert silhouette(worse, 0.4).verdict == findings.FAILS


def test_clusters_are_the_wirings_where_controls_of_its_strength_have_fewer():
  controls = [("bean1_constant", 30.0, 0.2), ("bean1_random", 7.0, 0.9)]
  networks = {
    "mnist-lenet5": network([("bean1", 30.0, 0.6)]),
    findings.CONTROLS: network(controls),
  }
  found = findings.Found(
    {}, {k: v.networks["mnist-lenet5"] for k, v in networks.items()}, ()
  )
  finding = findings.clusters_by_wiring(found)
  (compared,) = finding.comparisons
  assert compared.label == "less BEAN-1, A constant alpha 30"
  np.testing.assert_allclose(compared.interval, 0.4)
  assert finding.verdict == findings.HOLDS
  assert finding.sentence.endswith(
    ": +0.40 [+0.40, +0.40] (1 of 1 above 0, 0 below)."
  )


RESULTS = pathlib.Path(__file__).parents[3] / "results"


def test_networks_trained_differently_are_kept_apart():
  found = findings.read(RESULTS)
  for name in findings.NETWORKS:
    seeds = {
      tuple(seed for record in cell.records for seed in record["seeds"])
      for cell in found.networks[name]
    }
    assert seeds == {(0, 1, 2, 3, 4)}, name


def test_figures_and_titles():
  titles = [claim.title for claim in claims.CLAIMS]
  assert len(set(titles)) == len(titles)
  for claim in claims.CLAIMS:
    assert claim.alt.endswith("."), claim.title
    assert claim.figure is None or (RESULTS / claim.figure).exists()
