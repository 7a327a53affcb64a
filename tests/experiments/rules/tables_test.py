"""Tests of experiments.rules.tables and of what figures tell apart."""

import doctest

import numpy as np

from experiments.rules import drawing, tables
from experiments.tables import comparison, protocols

SEEDS = [0, 1, 2, 3]


def make_record(lognormal, stretched, compressed, shape=0.5):
  """A record of which nothing is known but what is given and constants."""
  numbers = (
    ("zero_gradients", 0.25),
    ("gini", 0.5),
    ("hoyer", 0.125),
    ("below", 0.75),
    ("dale", 0.5),
    ("dale_chance", 0.0625),
    ("agreement", 1.0),
    ("agreement_chance", 0.5),
    ("silhouette", 0.25),
    ("selectivity", 0.5),
  )
  likelihoods = {
    "lognormal": lognormal,
    "stretched": stretched,
    "compressed": compressed,
  }
  return {
    "config": {"epsilons": [0.0, 0.08, 0.3]},
    "seeds": SEEDS,
    "metrics": {
      **{name: [number] * 4 for name, number in numbers},
      **{f"{name}_likelihood": given for name, given in likelihoods.items()},
      **{f"{name}_distance": [0.01] * 4 for name in likelihoods},
      **{f"{name}_parameters": [[shape, 0.1]] * 4 for name in likelihoods},
      "fgsm": [[1.0, 0.5, 0.25]] * 4,
      "pgd": [[1.0, 0.25, 0.0]] * 4,
      "pgd_random": [[1.0, 0.125, 0.0]] * 4,
    },
  }


RECORD = make_record([1, 2, 3, 4], [2, 2.5, 2.5, 2], [0, 0, 0, 0])


def test_best_fit():
  name, wins, lead = tables.best_fit(RECORD)
  assert (name, wins) == ("lognormal", 2)
  np.testing.assert_allclose(lead, [-1, -0.5, 0.5, 2])


def test_a_network_without_synapses_has_no_best_fit():
  nothing = [float("nan")] * 4
  assert tables.best_fit(make_record(nothing, nothing, nothing))[1] == 0


def test_row():
  gains = np.array([0.25, 0.25])
  entry = protocols.Entry({0: 0.5, 1: 0.75}, 1.0, False, 0, gains, {})
  text = tables.table(
    ["vanilla", "bean1"], [1, 5], {("bean1", 5): entry}, {"bean1": RECORD}
  )
  head, _, vanilla, bean = (
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in text.splitlines()
  )
  assert set(vanilla[1:]) == {comparison.NOT_RUN}
  row = dict(zip(head, bean, strict=True))
  assert row["1-shot"] == comparison.NOT_RUN
  assert row["5-shot"] == "62.5 [50.0, 75.0]; +25.0 [+25.0, +25.0]"
  # The epsilon that is nearest to 0.1.
  assert row["FGSM 0.08"] == "50.0 [50.0, 50.0]"
  assert row["PGD 0.08"] == "25.0 [25.0, 25.0]"
  assert row["random start"] == "12.5 [12.5, 12.5]"
  assert row["zero gradients"] == "25.0 [25.0, 25.0]"
  assert row["weights"] == "lognormal, 2 of 4"
  assert row["Dale (chance)"] == "0.50 [0.50, 0.50] (0.06)"
  assert row["one sign (chance)"] == "1.00 [1.00, 1.00] (0.50)"
  assert row["below 0.005"] == "0.75 [0.75, 0.75]"


def test_what_is_hardly_stretched_is_exponential():
  for shape, title in ((0.9, "stretched exp."), (0.99, "exponential")):
    record = make_record([0] * 4, [1] * 4, [0] * 4, shape)
    text = tables.table(["vanilla"], [], {}, {"vanilla": record})
    assert f" {title}, 4 of 4 " in text


def test_seven_rules_at_most_in_a_figure():
  for count in range(1, 30):
    names = [str(number) for number in range(count)]
    parts = drawing.parts(names)
    assert all(len(part) <= 7 and part[0] == "0" for part in parts)
    rest = [name for part in parts for name in part[1:]]
    assert [names[0], *rest] == names


def test_examples_of_docstrings():
  assert doctest.testmod(drawing).failed == 0
