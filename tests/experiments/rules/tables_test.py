"""Tests of experiments.rules; published_test has a whole table."""

import numpy as np
import pytest

from experiments.rules import drawing, evaluations, tables
from experiments.tables import comparison, protocols

NAMES = ("lognormal", "stretched", "compressed")


def make_record(*likelihoods, shape=0.5):
  """A record of given likelihoods, and of constants."""
  others = ("zero_gradients", "gini", "hoyer", "below", "dale", "dale_chance")
  others += ("agreement", "agreement_chance", "silhouette", "selectivity")
  metrics = {name: [0.25] * 4 for name in others}
  for name in ("fgsm", "pgd", "pgd_random"):
    metrics[name] = [[1.0, 0.5, 0.25]] * 4
  for name, likelihood in zip(NAMES, likelihoods, strict=True):
    metrics[f"{name}_likelihood"] = likelihood
    metrics[f"{name}_distance"] = [0.01] * 4
    metrics[f"{name}_parameters"] = [[shape, 0.1]] * 4
  return {
    "config": {"epsilons": [0.0, 0.08, 0.3]},
    "seeds": [0, 1, 2, 3],
    "metrics": metrics,
  }


RECORD = make_record([1, 2, 3, 4], [2, 2.5, 2.5, 2], [0, 0, 0, 0])


def test_best_fit():
  name, wins, lead = evaluations.best_fit(RECORD)
  assert (name, wins) == ("lognormal", 2)
  np.testing.assert_allclose(lead, [-1, -0.5, 0.5, 2])
  # A network without synapses has none.
  assert evaluations.best_fit(make_record(*[[float("nan")] * 4] * 3))[1] == 0


def test_the_epsilon_is_that_nearest_to_a_tenth_and_the_rest_is_not_run():
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
  assert row["FGSM 0.08"] == "50.0 [50.0, 50.0]"
  assert row["weights"] == "lognormal, 2 of 4"


def test_the_rule_that_gains_are_over_is_named_where_it_is_not_vanilla():
  names = ["vanilla", "nonnegative", "nonnegative_bean1"]
  _, _, *rows = tables.table(names, [1], {}, {}).splitlines()
  titles = [row.split("|")[1].strip() for row in rows]
  assert titles[:2] == ["Vanilla", "Non-negative"]
  assert titles[2] == "Non-negative, BEAN-1 (to Non-negative)"


@pytest.mark.parametrize(
  "shape,title", ((0.9, "stretched exp."), (0.99, "exponential"))
)
def test_what_is_hardly_stretched_is_exponential(shape, title):
  record = make_record([0] * 4, [1] * 4, [0] * 4, shape=shape)
  assert tables.columns(record)["weights"] == f"{title}, 4 of 4"


def test_seven_rules_at_most_in_a_figure():
  for count in range(1, 30):
    names = [str(number) for number in range(count)]
    parts = drawing.parts(names)
    assert all(len(part) <= 7 and part[0] == "0" for part in parts)
    rest = [name for part in parts for name in part[1:]]
    assert [names[0], *rest] == names
