"""Tests of benchmarks.steps: routes that disagree are not timed."""

import functools

import numpy as np
import pytest

from benchmarks import agreement, cases, problems, steps, trainers

OPTIONS = cases.Settings(quick=True, repeats=1, torch=False)


@functools.cache
def _ours():
  return steps.ours("bean_jax", 2, 2)


_linen = functools.partial(trainers.loss_and_gradients, network=trainers.LINEN)


@functools.cache
def _problem(num_images=3):
  return problems.draw(2, num_images)


@pytest.mark.slow
def test_problem_is_the_same_every_time_and_members_differ():
  first, again = problems.draw(2, 3), problems.draw(2, 3)
  np.testing.assert_array_equal(first.images, again.images)
  kernel = first.params["fc3"]["kernel"]
  np.testing.assert_array_equal(kernel, again.params["fc3"]["kernel"])
  assert np.all(kernel[0] != kernel[1])
  assert 0.1 < np.mean(first.images > 0) < 0.3
  part = first.members(1, 2)
  np.testing.assert_array_equal(part.labels[0], first.labels[1])


@pytest.mark.slow
def test_bean_weighs_in_what_is_checked():
  # Else a wrong penalty would hide below the tolerance.
  problem = _problem()
  for method in steps.PENALIZED:
    plain, _ = _linen(problem, "vanilla", 0.0)
    loss, _ = _linen(problem, method, problems.GREAT_STRENGTHS[method])
    assert np.all(loss - plain > 0.1 * plain), method


@pytest.mark.slow
def test_ours_agrees_with_linen_one_by_one():
  for method in steps.ALL:
    steps.check(_ours(), method, _problem(), 3)


@pytest.mark.slow
def test_wrong_gradients_and_wrong_steps_are_refused():
  def with_other_order(problem, method, strength):
    assert method == "bean1"
    return trainers.loss_and_gradients(problem, "bean2", strength)

  def without_bean(problem, method, batch_size, num_steps):
    assert method == "bean1"
    return trainers.one_by_one(problem, "vanilla", batch_size, num_steps)

  wrong = _ours()._replace(loss_and_gradients=with_other_order)
  with pytest.raises(agreement.DisagreementError, match="loss and gradients"):
    steps.check(wrong, "bean1", _problem(), 3)
  wrong = _ours()._replace(trainer=without_bean, loss_and_gradients=_linen)
  with pytest.raises(agreement.DisagreementError, match="three steps"):
    steps.check(wrong, "bean1", _problem(), 3)


def test_parts_of_epochs_are_refused():
  images = problems.draw_images(3, 4)
  problem = problems.Problem({}, images, np.zeros((3, 4), np.int32))
  for batch_size, num_steps in ((1, 5), (3, 4)):
    with pytest.raises(ValueError, match=f"{num_steps} steps of {batch_size}"):
      trainers.population(3)(problem, "bean1", batch_size, num_steps)


@pytest.mark.slow
def test_rows_have_ratios_to_the_plain_step():
  case = steps.run(1, OPTIONS)
  rows = {row["name"]: row for row in case.rows}
  assert set(rows) == {
    "Vanilla: bean_jax, 2 at once",
    "Vanilla: JAX, one by one",
    "BEAN-1: bean_jax, 2 at once",
    "BEAN-1: JAX, one by one",
  }
  for name, row in rows.items():
    plain = rows["Vanilla: " + name.partition(": ")[2]]
    # There is one round, so that paired ratios are those of the medians.
    expected = row["median"] / plain["median"]
    assert row["times_own_plain_step"] == pytest.approx(expected)
    assert row["floor"] > 0
    assert "faster_than_penalized_peer" not in row
