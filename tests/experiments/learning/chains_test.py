"""Tests of experiments.learning.chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.learning import chains, descent
from experiments.learning.learner import Hparams, Samples
from experiments.learning.streams import Batch
from tests.experiments import members, tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
LABELS = np.array([3, 1, 4, 1])
LENET5 = networks.make(networks.Spec())


@pytest.mark.parametrize(
  "network,num_layers",
  (
    (LENET5, 4),
    (networks.make(networks.Spec("mlp300_100")), 3),
    (tiny.NORMED, 2),
  ),
  ids=("lenet5", "mlp300_100", "normed"),
)
def test_layers_make_the_network(network, num_layers):
  @jax.jit
  def run(key):
    variables = network.init(key)
    inputs = x = network.prepare(IMAGES)
    layers = chains.cut(network, variables, inputs)
    outputs = []
    for layer in layers:
      x = layer(variables.params, x)
      outputs.append(x)
    return network.apply(variables, inputs)[0], outputs

  (logits, hidden), outputs = run(jax.random.key(0))
  assert len(outputs) == num_layers
  expected = [*(hidden[layer] for layer in network.layers), logits]
  for a, b in zip(outputs, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_skip_connection_is_refused():
  def apply(variables, inputs, dropout=None):
    del dropout
    hidden = jnp.tanh(inputs @ variables.params)
    return (hidden @ variables.params + inputs, {"fc2": hidden}), {}

  network = tiny.NETWORK._replace(apply=apply)
  variables = networks.Variables(jnp.ones((4, 4)), {})
  with pytest.raises(ValueError, match="something passes fc2 by"):
    chains.cut(network, variables, jnp.ones((2, 4)))


def gradients(rule, network=tiny.NETWORK, rate=0.3):
  """Maps (rows, mask) to what a member is given."""
  variables = network.init(jax.random.key(0))
  gradient = chains.predictive_gradient(network, rule)
  inputs = network.prepare(jnp.asarray(IMAGES))

  @jax.jit
  def run(inputs, labels, mask=None):
    return gradient(
      variables.params,
      variables.batch_stats,
      Batch(Samples(inputs, labels), mask, jax.random.key(0)),
      Hparams(jnp.float32(1e-3), jnp.float32(rate)),
    )

  return lambda rows, **choices: run(
    inputs[np.array(rows)], LABELS[np.array(rows)], **choices
  )


@pytest.mark.parametrize("rule", ("fixed", "strict"))
def test_gradients_are_means_over_samples(rule):
  run = gradients(rule)
  singles = [run([row]) for row in range(3)]
  mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *singles)
  members.assert_close(run([0, 1, 2]), mean)
  members.assert_close(
    run([0, 3, 1, 2], mask=np.array([1, 0, 1, 1], bool)), mean
  )


@pytest.mark.parametrize("rule", ("exact", "fixed"))
def test_exact_gradients_are_those_of_descent(rule):
  """With a rate of 1, and with what a BatchNorm remembers."""
  for network in (tiny.NETWORK, tiny.NORMED, LENET5):
    variables = network.init(jax.random.key(0))
    batch = Batch(
      Samples(network.prepare(IMAGES), LABELS), None, jax.random.key(0)
    )
    objective = descent.make_objective(network)
    expected = jax.jit(jax.value_and_grad(objective, has_aux=True))(
      *variables, batch, Hparams(0.1, 0.1)
    )
    found = gradients(rule, network, rate=1.0)(range(4))
    members.assert_close(found, expected)
