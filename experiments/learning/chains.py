"""Networks as chains of layers, for rules that learn layer by layer.

A `Network` is one function, which returns the inputs of its dense layers beside
the logits. Its program is cut there: what leads from one cut to the next is a
layer. So every network is a chain whose dense layers have all information on
the classes, LeNet-5 with both convolutions as its first layer.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import descent, predictive_coding, streams
from experiments.learning.learner import Hparams

PyTree = Any


def cut(
  network: Network, variables: Variables, inputs: jax.Array
) -> list[Callable[[PyTree, jax.Array], jax.Array]]:
  """Cuts a network where its dense layers begin.

  Returns:
    Functions of (params, inputs), the first of which takes inputs as
    `Network.prepare` makes them, each other the outputs of the one before it,
    and the last returns logits. Batch statistics are those of the whole chain.

  Raises:
    ValueError: If something passes a dense layer by, as a skip connection does.

  Example:
    >>> from experiments.architectures import networks
    >>> network = networks.make(networks.Spec("lenet5"))
    >>> variables = network.init(jax.random.key(0))
    >>> x = network.prepare(jnp.zeros((2, 28, 28, 1)))
    >>> for layer in cut(network, variables, x):
    ...   x = layer(variables.params, x)
    ...   print(x.shape)
    (2, 400)
    (2, 120)
    (2, 84)
    (2, 10)
  """

  def run(params: PyTree, inputs: jax.Array) -> list[jax.Array]:
    (logits, hidden), _ = network.apply(
      variables._replace(params=params), inputs, None
    )
    return [*(hidden[layer] for layer in network.layers), logits]

  closed = jax.make_jaxpr(run)(variables.params, inputs)
  ends = closed.jaxpr.outvars
  entries = [closed.jaxpr.invars[-1], *ends[:-1]]
  names = ["input", *network.layers]
  return [
    _layer(closed, name, entry, end)
    for name, entry, end in zip(names, entries, ends, strict=True)
  ]


def predictive_gradient(network: Network, rule: str) -> descent.Gradient:
  """Makes the gradient of the mean cross-entropy by predictive coding.

  The rule is "exact", "fixed" or "strict", and its rate the member's strength.
  Every sample has beliefs of its own, which the loss of that sample moves, and
  gradients are means over samples. With the mean loss of a batch in its place,
  the beliefs of the strict rule would move less in larger batches. It takes all
  of a batch, no device's share of it.
  """

  def gradient(
    params: PyTree,
    batch_stats: PyTree,
    batch: streams.Batch,
    hparams: Hparams,
  ) -> tuple[tuple[jax.Array, descent.Aux], PyTree]:
    inputs, labels = batch.samples
    variables = Variables(params, batch_stats)
    count = len(labels) if batch.mask is None else jnp.sum(batch.mask)

    def loss_fn(logits: jax.Array) -> jax.Array:
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return jnp.sum(losses, where=batch.mask)

    learn = predictive_coding.value_and_grad(
      cut(network, variables, inputs),
      loss_fn,
      rule=rule,
      step_size=hparams.strength,
    )
    loss, grads = jax.tree.map(lambda leaf: leaf / count, learn(params, inputs))
    _, batch_stats = network.apply(variables, inputs, None)
    return (loss, descent.Aux(loss, batch_stats)), grads

  return gradient


def _layer(
  closed: core.ClosedJaxpr, name: str, entry: core.Var, end: core.Var
) -> Callable[[PyTree, jax.Array], jax.Array]:
  """Makes what leads from one variable of a program to another."""
  program = closed.jaxpr
  *params, inputs = program.invars
  needed, eqns = {end}, []
  for eqn in reversed(program.eqns):
    if needed.intersection(eqn.outvars):
      eqns.append(eqn)
      read = {atom for atom in eqn.invars if isinstance(atom, core.Var)}
      needed |= read - {entry}
  if inputs in needed:
    raise ValueError(
      f"expected a chain of layers, got a network in which something passes "
      f"{name} by"
    )
  part = program.replace(
    constvars=[],
    invars=[*program.constvars, *params, entry],
    outvars=[end],
    eqns=eqns[::-1],
  )
  run = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))

  def layer(params: PyTree, inputs: jax.Array) -> jax.Array:
    (outputs,) = run(*closed.consts, *jax.tree.leaves(params), inputs)
    return outputs

  return layer
