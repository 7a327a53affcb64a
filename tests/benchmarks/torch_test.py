"""Tests of PyTorch's contenders, where it is installed."""

import functools

import jax
import numpy as np
import pytest

from benchmarks import (
  agreement,
  cases,
  epochs,
  evaluation,
  learning_rules,
  penalties,
  problems,
  steps,
)
from experiments.architectures import models
from experiments.machine import devices
from tests import reference

pytestmark = pytest.mark.optimized
torch = pytest.importorskip("torch", reason="needs the extra `bench`")

# After what may skip this file.
from benchmarks import (  # noqa: E402
  torch_networks,
  torch_rules,
  torch_trainers,
)

OPTIONS = cases.Settings(quick=True, repeats=1, torch=True)


@pytest.fixture(autouse=True)
def _one_thread():
  # Threads that wait for each other are slow where cores are shared.
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@functools.cache
def _problem():
  # PyTorch's initial parameters, so that JAX need not compile its own.
  torch.manual_seed(0)
  members = [
    torch_networks.from_torch(dict(torch_networks.LeNet5().named_parameters()))
    for _ in range(2)
  ]
  return problems.Problem(
    jax.tree.map(lambda *leaves: np.stack(leaves), *members),
    problems.draw_images(2, 3),
    np.array([[0, 1, 2], [3, 4, 5]], np.int32),
  )


def test_parameters_go_there_and_back():
  params = _problem().params
  network = torch_networks.lenet5s(params)[1]
  back = torch_networks.from_torch(dict(network.named_parameters()))
  jax.tree.map(
    lambda got, all_members: np.testing.assert_array_equal(got, all_members[1]),
    back,
    params,
  )


def test_network_is_that_of_the_experiments():
  problem = _problem()
  member = jax.tree.map(lambda leaf: leaf[1], problem.params)
  logits, hidden = models.LeNet5().apply({"params": member}, problem.images[1])
  images = torch.tensor(problem.images[1].transpose(0, 3, 1, 2)) / 255
  got, got_hidden = torch_networks.lenet5s(problem.params)[1](images)
  agreement.check("logits", torch_networks.to_numpy(got), logits)
  for layer, neurons in zip(("fc2", "fc3"), got_hidden[1:], strict=True):
    agreement.check(layer, torch_networks.to_numpy(neurons), hidden[layer])


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("form", ("pairwise", "closed_form"))
def test_penalties_are_the_definition_in_the_units_of_the_code(form, order):
  hidden, kernel = penalties.draw(5, 7, 3)
  got = getattr(torch_networks, form)(
    torch.tensor(hidden), torch.tensor(kernel.T.copy()), order
  )
  expected = reference.layer_penalty(hidden, kernel, order=order)
  np.testing.assert_allclose(got, 3.0**order * expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", steps.ALL)
def test_routes_agree(method):
  for route in steps.peers(1, OPTIONS):
    if method in route.methods:
      steps.check(route, method, _problem(), 3)


def test_wrong_gradients_are_seen():
  problem = _problem()
  strength = problems.GREAT_STRENGTHS["bean1"]

  def without_gradient_by_activations(hidden, weight, order):
    return torch_networks.closed_form(hidden.detach(), weight, order)

  right, wrong = (
    torch_trainers.loss_and_gradients(penalty)(problem, "bean1", strength)
    for penalty in (torch_networks.pairwise, without_gradient_by_activations)
  )
  agreement.check("loss", wrong[0], right[0])
  with pytest.raises(agreement.DisagreementError, match="conv1"):
    agreement.check("gradients", wrong, right)


def test_calls_go_on_from_where_the_last_one_stopped():
  for trainer in (
    torch_trainers.one_by_one(torch_networks.closed_form),
    torch_trainers.vectorized,
  ):
    run = trainer(_problem(), "bean1", 1, 3)
    twice = np.concatenate([run(), run()])
    once = trainer(_problem(), "bean1", 1, 6)()
    assert once.shape == (6, 2)
    np.testing.assert_allclose(twice, once, rtol=1e-5)
    assert np.all(once[3:] < once[:3])


def test_dense_layer_and_penalty_agree_with_ours():
  layer = penalties.draw(5, 7, 3)
  for order in (0, 1, 2):
    function = penalties.dense
    if order:
      function = penalties.value_and_gradients(order, "squared")
    got = torch_trainers.make_layer(*layer, order)()
    got = jax.tree.map(torch_networks.to_numpy, got)
    agreement.check(f"order {order}", got, jax.jit(function)(*layer))


def test_predictive_coding_agrees_with_ours(monkeypatch):
  problem = _problem()
  ours = learning_rules.predictive_updates(problem)
  for name, gradient in torch_rules.PREDICTIVE.items():
    agreement.check(
      name, learning_rules.predictive_peer_updates(problem, gradient), ours
    )
  monkeypatch.setattr(torch_rules, "NUM_SWEEPS", 19)
  for name, gradient in torch_rules.PREDICTIVE.items():
    with pytest.raises(agreement.DisagreementError, match="conv1"):
      agreement.check(
        name, learning_rules.predictive_peer_updates(problem, gradient), ours
      )


def test_competing_units_agree_with_ours():
  weights, images = learning_rules.draw_units(2, 20, 30)
  batches = images.reshape(3, 10, 784)
  ours = np.asarray(learning_rules.make_epoch(weights, batches)()) - weights

  def updates(**changed):
    rule = {**learning_rules.RULE, **changed}
    train = torch_rules.competing_epoch(
      weights, batches, learning_rules.RATE, **rule
    )
    return train() - weights

  agreement.check("updates", updates(), ours)
  with pytest.raises(agreement.DisagreementError):
    agreement.check("updates", updates(rank=6), ours)


def test_number_of_threads_is_chosen_and_set(monkeypatch):
  monkeypatch.setattr(devices, "num_cores", lambda: 2)
  seen = []

  def run():
    seen.append(torch.get_num_threads())

  torch_trainers.best_num_threads(run)
  assert seen == [1, 2] * 3
  torch_trainers.with_threads(run, 1)()
  assert seen[-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  (
    evaluation.run,
    functools.partial(penalties.run, 4096),
    functools.partial(epochs.lenet5, 200),
    epochs.resnet18,
    learning_rules.predictive_coding,
    learning_rules.competition,
  ),
)
def test_cases_are_checked_and_have_ratios(case):
  rows = case(OPTIONS).rows
  assert any("PyTorch" in row["name"] for row in rows)
  for row in rows:
    if "PyTorch" not in row["name"]:
      assert {"faster_than_peer", "times_own_plain_step"} & row.keys()
