"""Tests of experiments.learning.methods."""

import doctest
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.architectures import networks
from experiments.architectures.dropout import Dropout, drop
from experiments.architectures.networks import Variables
from experiments.learning import methods, penalties
from experiments.learning.learner import Hparams, Samples, Schedule
from experiments.learning.streams import Batch, Shots
from experiments.records import results
from tests.experiments import tiny

ORDERS = {"bean1": 1, "bean2": 2}
WITHOUT_WIRING = ("bean1_random", "bean1_constant")
BEANS = ("bean1", "bean2", "bean1_frozen", "bean2_frozen", *WITHOUT_WIRING)
NONNEGATIVE = ("nonnegative_bean1", "nonnegative_bean2")
WITH_DROPOUT = ("bean1_dropout", "bean2_dropout", "bean1_constant_dropout")
DIGITS = tiny.load_digits(20)
LENET5 = networks.make(networks.Spec())
SHOTS = Shots(1)
ONCE = Schedule(1)

every_method = pytest.mark.parametrize("name", list(methods.METHODS))


def make_learner(name, network, schedule=ONCE, **options):
  return methods.learner(
    name, network, SHOTS, schedule, methods.Options(**options)
  )


@pytest.fixture(scope="module")
def lenet5():
  """Parameters of LeNet-5, and what enters its dense layers for digits."""
  shapes = jax.eval_shape(LENET5.init, jax.random.key(0)).params
  generator = np.random.default_rng(0)

  def draw(leaf):
    # So large that tanh matters.
    scale = 4 * np.prod(leaf.shape[:-1], dtype=int) ** -0.5
    return generator.uniform(-scale, scale, leaf.shape).astype(np.float32)

  params = jax.tree.map(draw, shapes)
  inputs = LENET5.prepare(DIGITS.train.images[[3, 50, 400]])
  (_, hidden), _ = jax.jit(LENET5.apply)(Variables(params, {}), inputs)
  assert [rows.shape[1] for rows in hidden.values()] == [400, 120, 84]
  return params, hidden


def penalty(name, lenet5, *, strength=1.0, mask=None, **options):
  """What a method adds to the loss of LeNet-5, here a loss of 0."""
  params, hidden = lenet5

  # What enters the layers, and nothing else: its loss is that of ten classes.
  def apply(variables, inputs, dropout=None):
    del variables, inputs, dropout
    return (jnp.zeros((len(hidden["fc1"]), 10)), hidden), {}

  objective = make_learner(
    name, LENET5._replace(apply=apply), **options
  ).objective
  labels = jnp.zeros(len(hidden["fc1"]), int)
  batch = Batch(Samples(None, labels), mask, jax.random.key(0))
  total, aux = jax.jit(objective)(params, {}, batch, Hparams(5e-4, strength))
  np.testing.assert_allclose(aux.data_loss, np.log(10), rtol=1e-6)
  return np.float64(total) - np.float64(aux.data_loss)


def naive_penalty(
  lenet5, *, order, gamma=1.0, distance="squared", factors=(1, 1, 1)
):
  """The penalty as in the authors' code: plain means, and no factor 1 / M.

  LeNet-5 or not, its dense layers are fc1, fc2 and fc3.
  """
  params, hidden = lenet5
  total = 0.0
  for layer, factor in zip(("fc1", "fc2", "fc3"), factors, strict=True):
    rows = np.asarray(hidden[layer], np.float64)
    kernel = np.asarray(params[layer]["kernel"], np.float64)
    weights = np.abs(np.tanh(gamma * kernel))
    distances = np.abs(rows[:, :, None] - rows[:, None, :])
    if distance == "squared":
      distances **= 2
    total += factor * np.mean((weights @ weights.T) ** order * distances)
  return total


@pytest.mark.parametrize("name,order", ORDERS.items())
@pytest.mark.parametrize(
  "options",
  ({}, {"gamma": 2.5}, {"distance": "absolute"}),
  ids=str,
)
def test_code_units_are_the_authors(name, order, options, lenet5):
  np.testing.assert_allclose(
    penalty(name, lenet5, strength=3.0, **options),
    3.0 * naive_penalty(lenet5, order=order, **options),
    rtol=1e-5,
  )


@pytest.mark.parametrize("name,order", ORDERS.items())
def test_paper_units_have_the_factors_of_the_paper(name, order, lenet5):
  factors = [width**-order for width in (120, 84, 10)]
  np.testing.assert_allclose(
    penalty(name, lenet5, alpha_units="paper"),
    naive_penalty(lenet5, order=order, factors=factors),
    rtol=1e-5,
  )


def test_every_layer_is_penalized(lenet5):
  params, hidden = lenet5
  whole = penalty("bean1", lenet5)
  for layer in LENET5.layers:
    without = {**params, layer: jax.tree.map(np.zeros_like, params[layer])}
    assert penalty("bean1", (without, hidden)) < 0.999 * whole


@pytest.mark.parametrize("name", ORDERS)
def test_masked_samples_are_not_penalized(name, lenet5):
  params, hidden = lenet5
  real = {layer: rows[:2] for layer, rows in hidden.items()}
  expected = penalty(name, (params, real))
  masked = penalty(name, lenet5, mask=jnp.array([True, True, False]))
  np.testing.assert_allclose(masked, expected, rtol=1e-5)
  assert abs(penalty(name, lenet5) / expected - 1) > 1e-3


LAYERS = ("fc1", "fc2", "fc3")
SHAPES = {
  "conv1": {"kernel": (3, 3, 1, 2), "bias": (2,)},
  "fc1": {"kernel": (8, 5), "bias": (5,)},
  "fc2": {"kernel": (5, 4), "bias": (4,)},
  "fc3": {"kernel": (4, 10), "bias": (10,)},
}


def forward(params, images, xp=np, dropout=None, factors=(1, 1, 1)):
  """A convolution and three dense layers, in NumPy or JAX; smooth.

  `factors` are what drawn dropout multiplies the outputs of each layer with.
  """
  places = [
    images[:, row : row + 2, column : column + 2]
    for row in range(3)
    for column in range(3)
  ]
  kernel = params["conv1"]["kernel"].reshape(9, 2)
  outputs = xp.stack(places, axis=-1) @ kernel + params["conv1"]["bias"]
  x = xp.tanh(outputs).reshape(len(images), 8)
  hidden = {}
  for place, layer in enumerate(LAYERS):
    hidden[layer] = x
    outputs = x @ params[layer]["kernel"] + params[layer]["bias"]
    x = drop(xp.tanh(outputs) * factors[place], dropout, place=place)
  return outputs, hidden


def init(key):
  del key
  zeros = jax.tree.map(
    jnp.zeros, SHAPES, is_leaf=lambda node: type(node) is tuple
  )
  return Variables(zeros, {})


def apply(variables, images, dropout=None):
  return forward(variables.params, images, jnp, dropout), {}


def predict(variables, images, dropout=None):
  (logits, _), _ = jax.vmap(apply, (0, None, 0))(variables, images, dropout)
  return jnp.argmax(logits, axis=-1)


NETWORK = networks.Network(
  init=init,
  prepare=lambda images: images,
  apply=apply,
  evaluate=lambda variables, images: apply(variables, images)[0],
  predict=predict,
  layers=LAYERS,
)
IMAGES = np.random.default_rng(1).uniform(-1, 1, (5, 4, 4)).astype(np.float32)
SAMPLES = Samples(jnp.asarray(IMAGES), jnp.arange(5))
# Of the masked samples one is not the last.
MASK = np.array([True, False, True, True, False])


@pytest.fixture(scope="module")
def params():
  """Parameters of that network; no number is near 0, where norms bend."""
  generator = np.random.default_rng(2)

  def draw(shape):
    sizes = generator.uniform(0.2, 0.8, shape)
    return np.float32(generator.choice((-1, 1), shape) * sizes)

  return jax.tree.map(draw, SHAPES, is_leaf=lambda leaf: type(leaf) is tuple)


def make_loss(name, *, strength=1.0, network=NETWORK, **options):
  """Maps (params, samples, mask, key) to (loss, aux)."""
  objective = make_learner(name, network, **options).objective
  return lambda params, samples=SAMPLES, mask=None, key=None: objective(
    params,
    {},
    Batch(samples, mask, jax.random.key(0) if key is None else key),
    Hparams(5e-4, strength),
  )


def loss_and_grads(name, params, **choices):
  """((loss, aux), gradients) of a method."""
  loss_fn = make_loss(name, **choices)
  return jax.value_and_grad(loss_fn, has_aux=True)(params)


def added(name, params, *, samples=SAMPLES, mask=None, **choices):
  """What a method adds to the cross-entropy, and its gradient."""
  loss_fn = make_loss(name, **choices)

  def penalty_fn(params):
    loss, aux = loss_fn(params, samples, mask)
    return loss - aux.data_loss

  return jax.value_and_grad(penalty_fn)(params)


def differentiate(function, params, step=1e-5):
  """Central differences of a function of parameters in float64."""
  params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), params)

  def differentiate_leaf(leaf):
    slopes = np.empty_like(leaf)
    for index in np.ndindex(leaf.shape):
      value = leaf[index]
      leaf[index] = value + step
      above = function(params)
      leaf[index] = value - step
      slopes[index] = (above - function(params)) / (2 * step)
      leaf[index] = value
    return slopes

  return jax.tree.map(differentiate_leaf, params)


def assert_close(actual, expected, rtol=1e-4, atol=1e-6):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    expected,
  )


def assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def naive_decov(hidden):
  total = 0.0
  for rows in hidden.values():
    covariance = np.cov(rows, rowvar=False, bias=True)
    np.fill_diagonal(covariance, 0)
    total += np.sum(covariance**2) / 2
  return total


def naive_without_wiring(kernels, hidden, wiring):
  """Code units: the mean of F F' instead of F F' / M, times A of mean 1."""
  total = 0.0
  for place, layer in enumerate(LAYERS):
    weights = np.abs(np.tanh(kernels[layer]["kernel"]))
    rows = hidden[layer]
    distances = (rows[:, :, None] - rows[:, None, :]) ** 2
    factors = wiring(place, rows.shape[1])
    total += np.mean(weights @ weights.T) * np.mean(factors * distances)
  return total


def constant(place, num_neurons):
  del place
  return np.ones((num_neurons, num_neurons))


# Each maps (params, hidden, parameters without a gradient) to a number.
DEFINITIONS = {
  "weight_decay": lambda params, hidden, fixed: (
    sum(np.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2
  ),
  "l1": lambda params, hidden, fixed: sum(
    np.abs(params[layer][leaf]).sum()
    for layer in LAYERS
    for leaf in ("kernel", "bias")
  ),
  "group_lasso": lambda params, hidden, fixed: sum(
    np.sqrt(len(row) * np.sum(row**2))
    for layer in LAYERS
    for row in params[layer]["kernel"]
  ),
  "decov": lambda params, hidden, fixed: naive_decov(hidden),
  "bean1": lambda params, hidden, fixed: naive_penalty(
    (params, hidden), order=1
  ),
  "bean2": lambda params, hidden, fixed: naive_penalty(
    (params, hidden), order=2
  ),
  "bean1_frozen": lambda params, hidden, fixed: naive_penalty(
    (fixed, hidden), order=1
  ),
  "bean2_frozen": lambda params, hidden, fixed: naive_penalty(
    (fixed, hidden), order=2
  ),
  "bean1_random": lambda params, hidden, fixed: naive_without_wiring(
    fixed, hidden, penalties._random_correlation
  ),
  "bean1_constant": lambda params, hidden, fixed: naive_without_wiring(
    fixed, hidden, constant
  ),
  "mean_square": lambda params, hidden, fixed: sum(
    np.mean(rows**2) for rows in hidden.values()
  ),
}
DEFINITIONS |= {
  name: DEFINITIONS[name.removesuffix("_dropout")] for name in WITH_DROPOUT
}
DEFINITIONS |= {
  name: DEFINITIONS[name.removeprefix("nonnegative_")] for name in NONNEGATIVE
}


def drawn_dropout(params):
  """What the dropout of `added` multiplies outputs of each layer with."""
  return [
    np.asarray(
      drop(
        np.ones((len(IMAGES), len(params[layer]["bias"]))),
        Dropout(0.5, jax.random.key(0)),
        place=place,
      )
    )
    for place, layer in enumerate(LAYERS)
  ]


@pytest.fixture(scope="module")
def masked(params):
  """What every method adds for the real samples, and its gradient."""

  # All at once, which compiles in a fraction of the time.
  @jax.jit
  def run(params):
    return {
      name: added(name, params, mask=MASK, strength=3.0) for name in DEFINITIONS
    }

  return jax.device_get(run(params))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_penalty_and_gradient_are_those_of_the_definition(name, masked, params):
  fixed = jax.tree.map(np.float64, params)
  factors = [np.ones(1)] * 3
  if name in WITH_DROPOUT:
    factors = [factor[MASK] for factor in drawn_dropout(params)]
    assert {*factors[0].flat} == {*factors[1].flat} == {0, 2}

  def definition(params):
    images = IMAGES[MASK].astype(np.float64)
    _, hidden = forward(params, images, factors=factors)
    return 3.0 * DEFINITIONS[name](params, hidden, fixed)

  value, grads = masked[name]
  expected = definition(fixed)
  assert expected > 0.05
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  slopes = differentiate(definition, fixed)
  assert_close(grads, slopes, atol=1e-5 * expected)


def test_every_penalty_has_a_definition():
  losses = {"vanilla", "vanilla10", "dropout", "nonnegative"}
  losses |= {"pc_fixed", "pc_strict"}
  losses |= {name for name, m in methods.METHODS.items() if m.network}
  assert set(DEFINITIONS) | losses == set(methods.OF_ANY_SIZE)


def test_strength_0_is_vanilla(params):
  names = ("bean1", "bean2", "dropout")

  @jax.jit
  def run(params, strength):
    return {
      name: loss_and_grads(name, params, strength=strength)
      for name in ("vanilla", *names)
    }

  outcomes = run(params, 0.0)
  for name in names:
    assert_close(outcomes[name], outcomes["vanilla"], rtol=1e-5, atol=1e-7)


def test_strength_0_beside_dropout_is_dropout(params):
  @jax.jit
  def run(params):
    expected = loss_and_grads("dropout", params, strength=0.5)
    return expected, {
      name: loss_and_grads(name, params, strength=0.0) for name in WITH_DROPOUT
    }

  expected, outcomes = run(params)
  for outcome in outcomes.values():
    assert_close(outcome, expected, rtol=1e-5, atol=1e-7)


def test_constant_a_is_the_variance_over_neurons(lenet5):
  """And it is BEAN-1 where all neurons are wired alike."""
  params, hidden = lenet5
  alike = {
    layer: {"kernel": np.full_like(leaves["kernel"], 0.5)}
    for layer, leaves in params.items()
  }
  expected = sum(
    2 * np.tanh(0.5) ** 2 * width * np.float64(hidden[layer]).var(axis=1).mean()
    for layer, width in (("fc1", 120), ("fc2", 84), ("fc3", 10))
  )
  for name in ("bean1_constant", "bean1"):
    value = penalty(name, (alike, hidden))
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


@every_method
def test_only_the_listed_options_matter(name, params):
  """Records name no other: see `cells.cell_config`."""
  unusual = methods.Options(
    gamma=2.5,
    distance="absolute",
    alpha_units="paper",
    layers=("fc2",),
    decoupled_decay=True,
    dropout_at_eval=True,
    first_pseudo=8,
    last_pseudo=20_000,
    pseudo_periods=2,
    pseudo_epochs=3,
    competing_epochs=7,
    readout_epochs=11,
  )
  usual = methods.Options()
  network, variables, samples = NETWORK, Variables(params, {}), SAMPLES
  if own := methods.METHODS[name].network:
    network = networks.make(networks.Spec(own))
    variables = network.init(jax.random.key(0))
    samples = Samples(jnp.zeros((5, 28, 28, 1), jnp.uint8), SAMPLES.labels)
  assert all(a != b for a, b in zip(unusual, usual, strict=True))
  stacked = jax.tree.map(lambda leaf: leaf[None], variables)

  def traced(options):
    """All that training and evaluation compute, as a text."""
    schedule = methods.schedule(name, Schedule(1, 2), options)
    learner = methods.learner(name, network, SHOTS, schedule, options)

    def everything(key, hparams):
      state = learner.init(key, hparams, samples)
      lap = learner.lap(state, jnp.int32(0), key, hparams, samples)
      many = jax.tree.map(lambda leaf: leaf[None], (key, hparams))
      return lap, learner.predict(stacked, samples.inputs, *many, 1)

    hparams = Hparams(jnp.float32(5e-4), jnp.float32(0.5))
    closed = jax.make_jaxpr(everything)(jax.random.key(0), hparams)
    numbers = [np.asarray(const).tolist() for const in closed.consts]
    text = re.sub("0x[0-9a-f]+", "", str(closed))
    return text, numbers, learner.num_laps, learner.epochs

  listed = methods.METHODS[name].options
  others = {
    field: value
    for field, value in unusual._asdict().items()
    if field not in listed
  }
  expected = traced(usual)
  assert traced(usual._replace(**others)) == expected
  for field in listed:
    changed = usual._replace(**{field: getattr(unusual, field)})
    assert traced(changed) != expected, field


def adam_by_hand(grads_fn, params, *, rate, decay=0.0, decoupled=False):
  """Three steps of torch.optim.Adam(weight_decay=decay), or of AdamW."""
  leaves, structure = jax.tree.flatten(jax.tree.map(np.float64, params))
  means, squares = [0.0] * len(leaves), [0.0] * len(leaves)
  for step in range(1, 4):
    tree = jax.tree.unflatten(structure, [np.float32(leaf) for leaf in leaves])
    for place, grad in enumerate(jax.tree.leaves(grads_fn(tree))):
      grad = np.float64(grad)
      if decoupled:
        leaves[place] *= 1 - rate * decay
      else:
        grad += decay * leaves[place]
      means[place] = 0.9 * means[place] + 0.1 * grad
      squares[place] = 0.999 * squares[place] + 0.001 * grad**2
      mean = means[place] / (1 - 0.9**step)
      root = np.sqrt(squares[place] / (1 - 0.999**step))
      leaves[place] -= rate * mean / (root + 1e-8)
  return jax.tree.unflatten(structure, leaves)


def test_weight_decay_is_that_of_pytorch(params):
  """Of Adam, or of AdamW; for all parameters, biases and convolutions too."""
  hparams, key = Hparams(1e-2, 0.5), jax.random.key(0)
  # Three steps of all samples.
  learners = [
    make_learner(
      "weight_decay", NETWORK, Schedule(3, 0, 3), decoupled_decay=decoupled
    )
    for decoupled in (False, True)
  ]

  @jax.jit
  def train(params):
    trained = []
    for learner in learners:
      state = learner.init(key, hparams, SAMPLES)
      state = state._replace(variables=Variables(params, {}))
      state, _ = learner.lap(state, jnp.int32(0), key, hparams, SAMPLES)
      trained.append(state.variables.params)
    return trained

  @jax.jit
  def grads_fn(params):
    return jax.grad(make_loss("vanilla"), has_aux=True)(params)[0]

  plain = adam_by_hand(grads_fn, params, rate=1e-2)
  for decoupled, trained in zip((False, True), train(params), strict=True):
    expected = adam_by_hand(
      grads_fn, params, rate=1e-2, decay=0.5, decoupled=decoupled
    )
    assert_close(trained, expected, rtol=0, atol=1e-5)
    for leaf, other in zip(
      jax.tree.leaves(expected), jax.tree.leaves(plain), strict=True
    ):
      assert np.abs(leaf - other).max() > 1e-4


def test_decoupled_decay_is_no_part_of_the_loss(params):
  def traced(name, **options):
    loss_fn = make_loss(name, strength=0.5, **options)
    return str(jax.make_jaxpr(loss_fn)(params))

  assert traced("weight_decay", decoupled_decay=True) == traced("vanilla")
  assert traced("weight_decay") != traced("vanilla")


def test_penalties_of_special_cases(params):
  """Neurons without outgoing weights, and batches of one sample."""
  kernel = params["fc2"]["kernel"].copy()
  kernel[[1, 3]] = 0
  dead = {**params, "fc2": {**params["fc2"], "kernel": kernel}}
  one = jax.tree.map(lambda leaf: leaf[:1], SAMPLES)
  one_real = np.arange(5) == 2

  @jax.jit
  def run(params, dead):
    return (
      added("group_lasso", params),
      added("group_lasso", dead),
      added("decov", params, samples=one, strength=1e6),
      added("decov", params, mask=one_real, strength=1e6),
      added("decov", params, strength=100.0),
    )

  (_, expected), (value, grads), *alone, (covariance, _) = run(params, dead)
  # No NaN and no pull, and the others are pulled as before.
  assert np.isfinite(value)
  slopes = np.array(expected["fc2"]["kernel"])
  slopes[[1, 3]] = 0
  np.testing.assert_allclose(grads["fc2"]["kernel"], slopes, rtol=1e-6)
  # One sample is where its mean is.
  for outcome in alone:
    assert_equal(outcome, jax.tree.map(np.zeros_like, outcome))
  assert methods.METHODS["decov"].batch > 1
  _, hidden = forward(jax.tree.map(np.float64, params), np.float64(IMAGES))
  np.testing.assert_allclose(covariance, 100 * naive_decov(hidden), rtol=1e-4)


def test_a_without_a_gradient_acts_through_activations_alone(params):
  @jax.jit
  def run(params):
    return {
      name: added(name, params, layers=("fc2",), strength=10.0)
      for name in BEANS
    }

  outcomes = run(params)
  for name, (value, grads) in outcomes.items():
    slopes = grads["fc2"]["kernel"]
    if name in ORDERS:
      assert np.abs(slopes).min() > 1e-3
      continue
    # The outgoing kernel, which has no part in the layer's activations.
    np.testing.assert_array_equal(slopes, 0)
    # What made the activations is pulled.
    for layer in ("conv1", "fc1"):
      assert np.abs(grads[layer]["kernel"]).max() > 1e-2
    if name not in WITHOUT_WIRING:
      bean_value, bean_grads = outcomes[name.partition("_")[0]]
      np.testing.assert_allclose(value, bean_value, rtol=1e-6)
      for layer in ("conv1", "fc1"):
        assert_close(grads[layer], bean_grads[layer])


# The penalty does not tell how far its A is symmetric, nor its diagonal.
def test_random_a_is_symmetric_of_mean_1_and_has_no_structure():
  wiring = penalties._random_correlation(1, 84)
  np.testing.assert_array_equal(wiring, wiring.T)
  np.testing.assert_allclose(wiring.mean(), 1, rtol=1e-6)
  above = wiring[np.triu_indices(84)]
  assert above.min() >= 0
  np.testing.assert_allclose(above.std(), 1 / 3**0.5, rtol=0.05)
  assert len(np.unique(above)) > 0.99 * above.size
  # Noise alone spreads the eigenvalues but the first: a semicircle.
  spread = np.linalg.eigvalsh(wiring)[:-1] / (above.std() * 84**0.5)
  assert np.abs(spread).max() < 2.5
  assert np.any(penalties._random_correlation(2, 84) != wiring)


def test_layers_restrict_bean(params):
  @jax.jit
  def run(params):
    outcomes = {}
    for name in (*BEANS, "mean_square"):
      loss_fn = make_loss(name, strength=10.0, layers=("fc3", "fc1"))
      loss, aux = loss_fn(params)
      outcomes[name] = loss - aux.data_loss
    return outcomes

  wide = jax.tree.map(np.float64, params)
  _, hidden = forward(wide, IMAGES)
  # Neurons that fire alike are not penalized.
  part = {**hidden, "fc2": np.zeros_like(hidden["fc2"])}
  for name, value in run(params).items():
    expected = DEFINITIONS[name](wide, part, wide)
    assert 0.01 < expected < 0.9 * DEFINITIONS[name](wide, hidden, wide)
    np.testing.assert_allclose(value, 10 * expected, rtol=1e-5, err_msg=name)


class TestDropout:
  def test_hidden_layers_are_dropped_and_keep_their_means(self, params):
    num_keys, rate = 5000, 0.25
    # The second key is the first once more.
    seeds = jnp.maximum(jnp.arange(num_keys, dtype=jnp.uint32), 1)
    seen = {}

    def watched(*args):
      output = apply(*args)
      (_, seen["hidden"]), _ = output
      return output

    network = NETWORK._replace(apply=watched)
    loss_fn = make_loss("dropout", strength=rate, network=network)

    def run(key):
      loss, aux = loss_fn(params, key=key)
      return loss, aux.data_loss, seen["hidden"]

    keys = jax.vmap(jax.random.key)(seeds)
    losses, data_losses, hidden = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_array_equal(losses, data_losses)
    assert losses[0] == losses[1]
    assert len(np.unique(losses)) > 0.9 * num_keys
    _, expected = forward(params, IMAGES)
    # What the convolution made is not dropped.
    everywhere = np.broadcast_to(expected["fc1"], (num_keys, 5, 8))
    assert_close(hidden["fc1"], everywhere)
    np.testing.assert_allclose(
      np.mean(hidden["fc2"], axis=0), expected["fc2"], rtol=0.05
    )
    for layer in ("fc2", "fc3"):
      dropped = np.mean(hidden[layer] == 0, axis=0)
      np.testing.assert_allclose(dropped, rate, atol=0.03)

  @every_method
  def test_evaluation_is_without_unless_asked_for(self, name):
    # Instead of classes, what drops neurons.
    network = NETWORK._replace(predict=lambda variables, images, drops=0: drops)
    keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
    hparams = Hparams(jnp.zeros(2), jnp.array([0.25, 0.75]))

    def drops(**options):
      predict = make_learner(name, network, **options).predict
      return predict(None, None, keys, hparams, 3)

    assert drops() == 0
    found = drops(dropout_at_eval=True)
    if name == "dropout":
      np.testing.assert_array_equal(found.rate, hparams.strength)
    elif name in WITH_DROPOUT:
      np.testing.assert_array_equal(found.rate, 0.5)
    else:
      assert found == 0

  def test_a_rate_of_1_is_beyond_the_limit(self):
    assert methods.METHODS["dropout"].limit == 1


def test_learners_are_the_same_objects_for_equal_arguments():
  """So that what they compile to is kept."""
  learner = make_learner("bean1", NETWORK, gamma=2.0)
  assert learner is make_learner("bean1", NETWORK, Schedule(1), gamma=2.0)
  assert learner is not make_learner("bean1", NETWORK)
  assert learner is not make_learner("bean1", NETWORK, Schedule(2), gamma=2.0)


def test_layer_alphas():
  kernels = {"fc1": np.ones((4, 3)), "fc2": np.ones((3, 5))}

  def alphas(order, units):
    return penalties.layer_alphas(2.0, kernels, order=order, units=units)

  assert alphas(1, "code") == {"fc1": 6.0, "fc2": 10.0}
  assert alphas(2, "code") == {"fc1": 18.0, "fc2": 50.0}
  assert alphas(1, "paper") == alphas(2, "paper") == {"fc1": 2.0, "fc2": 2.0}


# A new method is covered by being in the table.


@every_method
def test_method_is_complete(name):
  method = methods.METHODS[name]
  assert method.batch >= 1
  assert set(method.options) <= set(methods.Options._fields)
  assert len(set(method.options)) == len(method.options)
  if method.hparam is None:
    assert method.grid == (0.0,)
    hparams = {}
  else:
    assert method.hparam not in methods.Options._fields
    assert len(method.grid) > 1
    assert list(method.grid) == sorted(set(method.grid))
    # Pseudo examples that stand still are a kind of imitation networks, units
    # that no other moves away and synapses without a cost are rules too.
    assert min(method.grid) > 0 or name == "imitation" or method.network
    assert min(method.grid) >= 0
    assert max(method.grid) < method.limit
    hparams = {method.hparam: method.grid[0]}
  # Both may be part of a file's name.
  assert name in results.cell_name("digits", "1shot", name, **hparams)


class TestSchedule:
  OPTIONS = methods.Options(pseudo_periods=2, pseudo_epochs=3)

  def schedule(self, name, **fields):
    planned = Schedule(6, validate_every=2)._replace(**fields)
    return methods.schedule(name, planned, self.OPTIONS)

  def test_most_take_that_of_the_run(self):
    assert self.schedule("bean1") == Schedule(6, 1, 2)

  def test_larger_batches_have_as_many_steps(self):
    assert self.schedule("decov") == Schedule(60, 10, 20)
    assert self.schedule("decov", batch_size=4) == Schedule(18, 10, 6)
    assert self.schedule("vanilla10") == self.schedule("decov")

  @pytest.mark.parametrize("batch_size", (0, 10, 100))
  def test_batches_that_are_large_enough_stay(self, batch_size):
    expected = Schedule(6, batch_size, 2)
    assert self.schedule("decov", batch_size=batch_size) == expected

  def test_a_pace_of_its_own(self):
    schedule = self.schedule("imitation", epochs=1)
    assert (schedule.epochs, schedule.epochs_per_lap) == (6, 3)
    assert set(methods.METHODS) - set(methods.OF_ANY_SIZE) == {"imitation"}


@pytest.mark.parametrize(
  "batch_size,steps,size", ((1, 20, 1), (4, 6, 4), (0, 2, 10), (100, 2, 10))
)
def test_cost_is_that_of_the_steps(batch_size, steps, size):
  planned = Schedule(2, batch_size)
  for name, method in methods.METHODS.items():
    cost = methods.cost(name, planned, methods.Options(), 10)
    if method.cost is None:
      assert cost == steps * (3 * size + method.step_cost)
    else:
      assert cost == method.cost(methods.Options(), 10) > 1e4


def test_titles_are_different():
  titles = [method.title for method in methods.METHODS.values()]
  assert len(set(titles)) == len(titles)


@every_method
def test_method_trains_a_population(name):
  options = methods.Options(
    first_pseudo=100,
    last_pseudo=100,
    pseudo_periods=2,
    pseudo_epochs=1,
    competing_epochs=1,
    readout_epochs=1,
  )
  schedule = methods.schedule(name, Schedule(1, batch_size=4), options)
  network, layer = tiny.NETWORK, "fc2"
  if (own := methods.METHODS[name].network) and own.startswith("competing"):
    network, layer = networks.make(networks.Spec(own)), "readout"
  learner = methods.learner(name, network, SHOTS, schedule, options)
  grid = methods.METHODS[name].grid
  weak, strong = grid[0], grid[-1]
  seeds = (0, 1, 0)
  keys = jax.vmap(jax.random.key)(jnp.array(seeds, jnp.uint32))
  hparams = Hparams(jnp.full(3, 5e-4), jnp.array((weak, weak, strong)))
  data = jax.tree.map(jnp.asarray, SHOTS.load(DIGITS, seeds))

  @jax.jit
  def train(keys, hparams, data):
    state = jax.vmap(learner.init)(keys, hparams, data)
    before = state.variables
    prepared = jax.vmap(learner.prepare)(data)
    run = jax.vmap(learner.lap, (0, None, 0, 0, 0))
    # Two laps, as pseudo examples move between them.
    state, report = jax.lax.scan(
      lambda state, lap: run(state, lap, keys, hparams, prepared),
      state,
      jnp.arange(2),
    )
    return before, state.variables, report

  before, variables, report = train(keys, hparams, data)
  np.testing.assert_array_equal(report.failed_step, -1)
  assert {"objective", "train_loss"} <= set(report.metrics)
  for values in report.metrics.values():
    assert values.shape == (2, 3)
    assert np.all(np.isfinite(values))
  kernels = variables.params[layer]["kernel"]
  for member, old in enumerate(before.params[layer]["kernel"]):
    assert not np.array_equal(kernels[member], old)
  # Whatever it does in training, the network itself is evaluated.
  images = DIGITS.validation.images
  np.testing.assert_array_equal(
    learner.predict(variables, images, keys, hparams, 1),
    network.predict(variables, images),
  )
  # The strength is a member's own.
  assert np.array_equal(kernels[0], kernels[2]) == (weak == strong)


def test_examples_of_docstrings():
  assert doctest.testmod(methods).failed == 0


def test_l1_of_a_network_with_batch_norm_is_of_its_dense_layers():
  params = {
    "norm": {"scale": np.ones(3), "bias": np.ones(3)},
    "block": {
      "conv": {"kernel": np.ones((3, 3, 2, 3))},
      "dense": {"kernel": np.full((3, 2), -2.0), "bias": np.full(2, 0.5)},
    },
  }

  def apply(variables, inputs, dropout=None):
    del variables, dropout
    return (jnp.zeros((len(inputs), 10)), {}), {}

  network = tiny.NETWORK._replace(apply=apply, layers=())
  samples = Samples(np.zeros((1, 4)), np.zeros(1, int))
  value, _ = added("l1", params, samples=samples, strength=2.0, network=network)
  np.testing.assert_allclose(value, 2 * (12 + 1), rtol=1e-6)
