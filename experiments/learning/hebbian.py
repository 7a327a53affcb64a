r"""Hebbian learning of excitatory hidden units, and a perturbed read-out.

This rule is our own, and no reproduction. It is made from what the abstracts of
Inoue, Röhrbein and Knoblauch say of theirs, whose equations are not public:
competitive Hebbian plasticity under a non-negativity constraint and a cost of
maintaining synapses, homeostatic biases, and a read-out that learns by weight
perturbation.

A hidden unit i has the drive :math:`a_i = \sum_j W_{ij} v_j + b_i` by an image
v, of pixels in [0, 1], and the activity :math:`\max(a_i, 0)`. Those of the
share :math:`\rho` of all units that have the largest drive win, y = 1, and all
others lose, y = 0. With means over the images of a batch, and f the share of
units that are active, a > 0,

.. math::

  W_{ij} &\leftarrow \max\Bigl(W_{ij} + \eta \Bigl\langle y_i \Bigl(
  \frac{v_j - \lambda}{\max(|v|, 1)} - W_{ij} \Bigr) \Bigr\rangle, 0\Bigr), \\
  b_i &\leftarrow b_i + \kappa (\rho - \langle y_i \rangle + \rho - \langle f
  \rangle).

So a unit comes to the mean of the images for which it wins, each of norm 1,
less the cost :math:`\lambda`: a synapse whose pixel is then darker than that is
not kept. Biases make each unit win as often as any other, and all together as
active as they win.

The read-out S, its biases included, lowers the cross-entropy L by what random
changes of all weights do to it, with independent signs :math:`\xi = \pm 1`:

.. math:: G = \Bigl\langle \xi \, \frac{L(S + \sigma \xi) - L(S - \sigma \xi)}{2
  \sigma} \Bigr\rangle_\xi,

of which the mean is the gradient, but for terms of :math:`\sigma^2`. Adam takes
G for it, and kernels are projected to 0 or above.

What was chosen here, all of it; the methods `hebbian_...` change one choice
each, as said in brackets:

- Competition is hard, among all units, and :math:`\rho` is 0.1 [none: who is
  active wins].
- Weights of both layers stay at 0 or above [they may have any sign].
- The cost is subtracted, in units of a pixel, where a unit learns; it is the
  method's strength [0 is in its grid].
- Biases follow winning and, together, activity, which the read-out sees [they
  stay 0].
- Weight perturbation goes to both sides, with 32 draws in a step and
  :math:`\sigma` = 0.01, and Adam takes it [the gradient by backpropagation].
- Rates are :math:`\eta` = 0.1 and :math:`\kappa` = 1; all parts learn at once,
  for 500 epochs in batches of 100, or of all images if they are fewer. The
  network is a perceptron of 500 ReLU units, whose initial kernels are projected
  too.

References:
  Inoue, Röhrbein, Knoblauch, `Guiding sparse neural networks with
  neurobiological principles <https://arxiv.org/abs/2603.03234>`_, 2026.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.architectures.networks import Network, Variables
from experiments.learning import descent, learner, nonnegative, steps, streams
from experiments.learning.learner import Hparams, Samples, State
from experiments.learning.options import Options

PyTree = Any
# Layers of a perceptron with one hidden layer.
HIDDEN, READOUT = "fc1", "fc2"
# rho, of the units that win and of the images for which one is active; eta.
SHARE, RATE = 0.1, 0.1
# Bits of a random number, a draw each.
NUM_DRAWS = 32
SCHEDULE = learner.Schedule(epochs=500, batch_size=100, validate_every=20)


class Rule(NamedTuple):
  """What the methods differ in.

  Attributes:
    bias_rate: kappa; 0 leaves the biases 0.
    size: sigma; 0 for the gradient by backpropagation.
    competition: Whether those of largest drive win, and not all active ones.
    nonnegative: Whether weights stay at 0 or above.
  """

  bias_rate: float = 1.0
  size: float = 0.01
  competition: bool = True
  nonnegative: bool = True


def perturbation_gradient(
  loss_fn: Callable[[PyTree], jax.Array],
  params: PyTree,
  key: jax.Array,
  *,
  size: float,
) -> PyTree:
  """Estimates a gradient by random changes of all parameters at once.

  Returns:
    G, a tree like the parameters: the mean of `NUM_DRAWS` draws of size sigma.

  Example:
    >>> key = jax.random.key(0)
    >>> g = perturbation_gradient(lambda x: 3 * x**2, 2.0, key, size=0.01)
    >>> round(float(g), 3)
    12.0
  """
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  bits = jax.random.bits(key, flat.shape, jnp.uint32)

  def draw(place: jax.Array) -> jax.Array:
    signs = ((bits >> place) & 1).astype(flat.dtype) * 2 - 1
    above, below = (
      loss_fn(unravel(flat + change * signs)) for change in (size, -size)
    )
    return (above - below) / (2 * size) * signs

  draws = jax.vmap(draw)(jnp.arange(NUM_DRAWS, dtype=jnp.uint32))
  return unravel(jnp.mean(draws, axis=0))


def make_learner(
  network: Network,
  stream: streams.Stream,
  schedule: learner.Schedule,
  _options: Options,
  rule: Rule,
) -> learner.Learner:
  """Makes the learner of a perceptron with one hidden layer.

  A member's strength is the cost lambda; its memory is the state of Adam, of
  the read-out.
  """
  optimizer = descent.adam
  if rule.nonnegative:
    network = nonnegative.network(network)
    optimizer = nonnegative.optimizer(optimizer)

  def init(key: jax.Array, hparams: Hparams, _data: Samples) -> State:
    params = network.init(jax.random.fold_in(key, learner.INIT)).params
    hidden, readout = params[HIDDEN], {READOUT: params[READOUT]}
    hidden = {**hidden, "bias": jnp.zeros_like(hidden["bias"])}
    variables = Variables({HIDDEN: hidden, **readout}, {})
    return State(variables, optimizer(hparams).init(readout))

  def step(
    state: State, batch: streams.Batch, hparams: Hparams
  ) -> tuple[State, steps.Metrics]:
    (params, _), opt_state = state
    inputs, labels = batch.samples
    (_, activity), _ = network.apply(state.variables, inputs, None)
    hidden = learn_hidden(
      rule, params[HIDDEN], activity[HIDDEN], batch.mask, hparams.strength
    )

    def loss_fn(readout: PyTree) -> jax.Array:
      layer = readout[READOUT]
      logits = activity[READOUT] @ layer["kernel"] + layer["bias"]
      return descent.cross_entropy(logits, labels, batch.mask)

    readout = {READOUT: params[READOUT]}
    loss, grads = jax.value_and_grad(loss_fn)(readout)
    if rule.size:
      grads = perturbation_gradient(loss_fn, readout, batch.key, size=rule.size)
    updates, opt_state = optimizer(hparams).update(grads, opt_state, readout)
    params = {HIDDEN: hidden, **optax.apply_updates(readout, updates)}
    metrics = {"objective": loss, "train_loss": loss}
    return State(Variables(params, {}), opt_state), metrics

  return steps.make_learner(init, step, network, stream, schedule)


def learn_hidden(
  rule: Rule,
  layer: dict[str, jax.Array],
  inputs: jax.Array,
  mask: jax.Array | None,
  cost: jax.Array,
) -> dict[str, jax.Array]:
  """Returns the hidden layer, kernel [n, units], after images [batch, n]."""
  kernel, bias = layer["kernel"], layer["bias"]
  drives = inputs @ kernel + bias
  wins = active = (drives > 0).astype(drives.dtype)
  if rule.competition:
    number = max(1, round(SHARE * drives.shape[1]))
    # If there are ties, more units win.
    least = jnp.min(jax.lax.top_k(drives, number)[0], axis=1, keepdims=True)
    wins = (drives >= least).astype(drives.dtype)
  real = jnp.ones(len(inputs)) if mask is None else mask
  weights = real[:, None] / jnp.sum(real)
  won, fired = (jnp.sum(weights * y, axis=0) for y in (wins, active))
  norms = jnp.linalg.norm(inputs, axis=1, keepdims=True)
  targets = (inputs - cost) / jnp.maximum(norms, 1)
  kernel += RATE * (targets.T @ (weights * wins) - won * kernel)
  if rule.nonnegative:
    kernel = jnp.maximum(kernel, 0)
  bias += rule.bias_rate * (2 * SHARE - won - jnp.mean(fired))
  return {"kernel": kernel, "bias": bias}
