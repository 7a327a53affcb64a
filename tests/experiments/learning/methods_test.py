"""Tests of experiments.learning.methods."""

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
from tests import reference
from tests.experiments import members, planned, tiny

DIGITS = tiny.load_digits(20)
SHOTS, ONCE = Shots(1), Schedule(1)
every_method = pytest.mark.parametrize("name", methods.METHODS)

# A network of a convolution and three dense layers, in NumPy or JAX; smooth.
LAYERS = ("fc1", "fc2", "fc3")
SHAPES = {
  "conv1": {"kernel": (3, 3, 1, 2), "bias": (2,)},
  "fc1": {"kernel": (8, 5), "bias": (5,)},
  "fc2": {"kernel": (5, 4), "bias": (4,)},
  "fc3": {"kernel": (4, 10), "bias": (10,)},
}


def of_shapes(function):
  return jax.tree.map(function, SHAPES, is_leaf=lambda x: type(x) is tuple)


def forward(params, images, xp=np, dropout=None, factors=(1, 1, 1)):
  """Logits and hidden; drawn dropout multiplies outputs with `factors`."""
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


def apply(variables, images, dropout=None):
  return forward(variables.params, images, jnp, dropout), {}


def predict(variables, images, dropout=None):
  (logits, _), _ = jax.vmap(apply, (0, None, 0))(variables, images, dropout)
  return jnp.argmax(logits, axis=-1)


NETWORK = networks.Network(
  init=lambda key: Variables(of_shapes(jnp.zeros), {}),
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

  return of_shapes(draw)


def make_learner(name, network=NETWORK, schedule=ONCE, **options):
  options = methods.Options(**options)
  return methods.learner(name, network, SHOTS, schedule, options)


def make_loss(name, *, strength=1.0, network=NETWORK, **options):
  """Maps (params, samples, mask) to (loss, aux)."""
  objective = make_learner(name, network, **options).objective
  return lambda params, samples=SAMPLES, mask=None: objective(
    params,
    {},
    Batch(samples, mask, jax.random.key(0)),
    Hparams(5e-4, strength),
  )


def loss_and_grads(name, params, **choices):
  return jax.value_and_grad(make_loss(name, **choices), has_aux=True)(params)


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


def naive_bean(params, hidden, *, units="code", **options):
  """The penalty of the paper; the authors' code has no factor 1 / M^order."""
  total = 0.0
  for layer, rows in hidden.items():
    kernel = params[layer]["kernel"]
    factor = kernel.shape[1] ** options["order"] if units == "code" else 1
    total += factor * reference.layer_penalty(rows, kernel, **options)
  return total


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
  for layer, rows in hidden.items():
    kernel = kernels[layer]["kernel"]
    mean = kernel.shape[1] * np.mean(reference.neuron_correlation(kernel))
    factors = wiring(LAYERS.index(layer), rows.shape[1])
    total += mean * np.mean(factors * reference.coactivation_divergence(rows))
  return total


# Each maps (params, hidden, parameters without a gradient) to a number.
DEFINITIONS = {
  "weight_decay": lambda params, hidden, fixed: (
    sum(np.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2
  ),
  "l1": lambda params, hidden, fixed: sum(
    np.abs(leaf).sum() for layer in LAYERS for leaf in params[layer].values()
  ),
  "group_lasso": lambda params, hidden, fixed: sum(
    np.sqrt(len(row) * np.sum(row**2))
    for layer in LAYERS
    for row in params[layer]["kernel"]
  ),
  "decov": lambda params, hidden, fixed: naive_decov(hidden),
  **{
    f"bean{order}{end}": lambda params, hidden, fixed, order=order, end=end: (
      naive_bean(fixed if end else params, hidden, order=order)
    )
    for order in (1, 2)
    for end in ("", "_frozen")
  },
  "bean1_random": lambda params, hidden, fixed: naive_without_wiring(
    fixed, hidden, penalties._random_correlation
  ),
  "bean1_constant": lambda params, hidden, fixed: naive_without_wiring(
    fixed, hidden, lambda place, n: np.ones((n, n))
  ),
  "mean_square": lambda params, hidden, fixed: sum(
    np.mean(rows**2) for rows in hidden.values()
  ),
}
WITH_DROPOUT = [
  f"{name}_dropout"
  for name in ("bean1", "bean2", "bean1_constant", "mean_square")
]
DEFINITIONS |= {
  name: DEFINITIONS[name.removesuffix("_dropout")] for name in WITH_DROPOUT
} | {f"nonnegative_{name}": DEFINITIONS[name] for name in ("bean1", "bean2")}


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
    ones = [np.ones((5, len(params[layer]["bias"]))) for layer in LAYERS]
    dropout = Dropout(0.5, jax.random.key(0))
    factors = [
      np.asarray(drop(x, dropout, place=place))[MASK]
      for place, x in enumerate(ones)
    ]

  def definition(params):
    images = IMAGES[MASK].astype(np.float64)
    _, hidden = forward(params, images, factors=factors)
    return 3.0 * DEFINITIONS[name](params, hidden, fixed)

  value, grads = masked[name]
  expected = definition(fixed)
  assert expected > 0.05
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  slopes = differentiate(definition, fixed)
  members.assert_close(grads, slopes, atol=1e-5 * expected)


def test_every_penalty_has_a_definition():
  losses = {"vanilla", "vanilla10", "dropout", "nonnegative"}
  losses |= {"pc_fixed", "pc_strict"}
  losses |= {name for name, m in methods.METHODS.items() if m.network}
  assert set(DEFINITIONS) | losses == set(methods.OF_ANY_SIZE)


@pytest.mark.parametrize("order", (1, 2))
def test_options_of_bean(order, params):
  wide = jax.tree.map(np.float64, params)
  _, hidden = forward(wide, np.float64(IMAGES))
  for options in (
    {"gamma": 2.5},
    {"distance": "absolute"},
    {"alpha_units": "paper"},
  ):
    value, _ = added(f"bean{order}", params, **options)
    named = {k.removeprefix("alpha_"): v for k, v in options.items()}
    expected = naive_bean(wide, hidden, order=order, **named)
    np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=options)


def test_layers_restrict_bean(params):
  names = [n for n in DEFINITIONS if "layers" in methods.METHODS[n].options]

  @jax.jit
  def run(params):
    return {name: added(name, params, layers=("fc3", "fc1")) for name in names}

  wide = jax.tree.map(np.float64, params)
  _, hidden = forward(wide, np.float64(IMAGES))
  part = {layer: hidden[layer] for layer in ("fc1", "fc3")}
  found = run(params)
  for name in set(names) - set(WITH_DROPOUT):
    expected = DEFINITIONS[name](wide, part, wide)
    assert 0.01 < expected < 0.9 * DEFINITIONS[name](wide, hidden, wide)
    np.testing.assert_allclose(found[name][0], expected, rtol=1e-5)


def test_strength_0_is_vanilla(params):
  """And beside dropout it is dropout, at the rate 0.5."""
  names = {
    "vanilla": {"bean1": 0.0, "bean2": 0.0, "dropout": 0.0},
    "dropout": dict.fromkeys(WITH_DROPOUT, 0.0),
  }

  @jax.jit
  def run(params):
    return {
      usual: (
        loss_and_grads(usual, params, strength=0.5),
        [loss_and_grads(n, params, strength=s) for n, s in others.items()],
      )
      for usual, others in names.items()
    }

  outcomes = run(params)
  for expected, others in outcomes.values():
    for outcome in others:
      members.assert_close(outcome, expected, rtol=1e-5, atol=1e-7)
  losses = [expected[0][0] for expected, _ in outcomes.values()]
  assert abs(losses[0] - losses[1]) > 1e-3


@every_method
def test_only_the_listed_options_matter(name):
  """Records name no other: see `cells.cell_config`."""
  unusual = planned.UNUSUAL
  usual = methods.Options()
  network, samples = NETWORK, SAMPLES
  if own := methods.METHODS[name].network:
    network = networks.make(networks.Spec(own))
    samples = Samples(jnp.zeros((5, 28, 28, 1), jnp.uint8), SAMPLES.labels)
  variables = jax.eval_shape(jax.vmap(network.init), members.keys_of(0))

  def traced(options):
    """All that training and evaluation compute, as a text."""
    schedule = methods.schedule(name, Schedule(1, 2), options)
    learner = methods.learner(name, network, SHOTS, schedule, options)

    def everything(key, hparams, stacked):
      state = learner.init(key, hparams, samples)
      lap = learner.lap(state, jnp.int32(0), key, hparams, samples)
      many = jax.tree.map(lambda leaf: leaf[None], (key, hparams))
      return lap, learner.predict(stacked, samples.inputs, *many, 1)

    hparams = Hparams(jnp.float32(5e-4), jnp.float32(0.5))
    closed = jax.make_jaxpr(everything)(jax.random.key(0), hparams, variables)
    numbers = [np.asarray(const).tolist() for const in closed.consts]
    text = re.sub("0x[0-9a-f]+", "", str(closed))
    return text, numbers, learner.num_laps, learner.epochs

  listed = methods.METHODS[name].options
  others = {k: v for k, v in unusual._asdict().items() if k not in listed}
  expected = traced(usual)
  assert traced(usual._replace(**others)) == expected
  for field in listed:
    changed = usual._replace(**{field: getattr(unusual, field)})
    assert traced(changed) != expected, field


def test_weight_decay_is_that_of_pytorch(params):
  """Of Adam, or of AdamW; for all parameters, biases and convolutions too."""
  hparams, key = Hparams(1e-2, 0.5), jax.random.key(0)

  @jax.jit
  def train(params):
    trained = []
    for decoupled in (False, True):
      # Three steps of all samples.
      learner = make_learner(
        "weight_decay", schedule=Schedule(3, 0, 3), decoupled_decay=decoupled
      )
      state = learner.init(key, hparams, SAMPLES)
      state = state._replace(variables=Variables(params, {}))
      state, _ = learner.lap(state, jnp.int32(0), key, hparams, SAMPLES)
      trained.append(state.variables.params)
    return trained

  @jax.jit
  def grads_fn(params):
    return jax.grad(make_loss("vanilla"), has_aux=True)(params)[0]

  plain = members.adam_by_hand(grads_fn, params, rate=1e-2)
  for decoupled, trained in zip((False, True), train(params), strict=True):
    expected = members.adam_by_hand(
      grads_fn, params, rate=1e-2, decay=0.5, decoupled=decoupled
    )
    members.assert_close(trained, expected, rtol=0, atol=1e-5)
    for leaf, other in zip(
      jax.tree.leaves(expected), jax.tree.leaves(plain), strict=True
    ):
      assert np.abs(leaf - other).max() > 1e-4


def test_penalties_of_special_cases(params):
  """Neurons without outgoing weights, and batches of one sample."""
  kernel = params["fc2"]["kernel"].copy()
  kernel[[1, 3]] = 0
  dead = {**params, "fc2": {**params["fc2"], "kernel": kernel}}
  one = jax.tree.map(lambda leaf: leaf[:1], SAMPLES)

  @jax.jit
  def run(params, dead):
    return (
      added("group_lasso", params),
      added("group_lasso", dead),
      added("decov", params, samples=one, strength=1e6),
      added("decov", params, mask=np.arange(5) == 2, strength=1e6),
    )

  (_, expected), (value, grads), *alone = run(params, dead)
  # No NaN and no pull, and the others are pulled as before.
  assert np.isfinite(value)
  slopes = np.array(expected["fc2"]["kernel"])
  slopes[[1, 3]] = 0
  np.testing.assert_allclose(grads["fc2"]["kernel"], slopes, rtol=1e-6)
  # One sample is where its mean is.
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(alone))


def test_l1_of_a_network_with_batch_norm_is_of_its_dense_layers():
  params = {
    "norm": {"scale": np.ones(3), "bias": np.ones(3)},
    "block": {
      "conv": {"kernel": np.ones((3, 3, 2, 3))},
      "dense": {"kernel": np.full((3, 2), -2.0), "bias": np.full(2, 0.5)},
    },
  }
  network = NETWORK._replace(
    apply=lambda *_: ((jnp.zeros((5, 10)), {}), {}), layers=()
  )
  value, _ = added("l1", params, strength=2.0, network=network)
  np.testing.assert_allclose(value, 2 * (12 + 1), rtol=1e-6)


# The penalty does not tell how far its A is symmetric, nor its diagonal.
def test_random_a_is_symmetric_of_mean_1_and_has_no_structure():
  wiring = penalties._random_correlation(1, 84)
  np.testing.assert_array_equal(wiring, wiring.T)
  np.testing.assert_allclose(wiring.mean(), 1, rtol=1e-6)
  above = wiring[np.triu_indices(84)]
  assert above.min() >= 0
  np.testing.assert_allclose(above.std(), 1 / 3**0.5, rtol=0.05)
  # Noise alone spreads the eigenvalues but the first: a semicircle.
  spread = np.linalg.eigvalsh(wiring)[:-1] / (above.std() * 84**0.5)
  assert np.abs(spread).max() < 2.5
  assert np.any(penalties._random_correlation(2, 84) != wiring)


@every_method
def test_evaluation_is_without_dropout_unless_asked_for(name):
  # Instead of classes, what drops neurons.
  network = NETWORK._replace(predict=lambda variables, images, drops=0: drops)
  keys = members.keys_of(0, 1)
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


@every_method
def test_strength_has_the_name_that_the_method_gives_it(name):
  hparam = methods.METHODS[name].hparam
  config = {"method": name, **({hparam: 0.125} if hparam else {})}
  assert methods.strength(config) == (0.125 if hparam else 0)


def test_all_but_one_method_are_compared_with_another():
  alone = [name for name, m in methods.METHODS.items() if m.baseline is None]
  assert alone == ["vanilla"]


@every_method
def test_method_is_complete(name):
  method = methods.METHODS[name]
  titles = [method.title for method in methods.METHODS.values()]
  assert titles.count(method.title) == 1
  assert set(method.options) <= set(methods.Options._fields)
  assert list(method.grid) == sorted(set(method.grid))
  hparams = {}
  if method.hparam is None:
    assert method.grid == (0.0,)
  else:
    assert method.hparam not in methods.Options._fields
    # Pseudo examples that stand still are a kind of imitation networks, units
    # that no other moves away and synapses without a cost are rules too.
    assert min(method.grid) > 0 or name == "imitation" or method.network
    assert max(method.grid) < method.limit
    hparams = {method.hparam: method.grid[0]}
  # Both may be part of a file's name.
  assert name in results.cell_name("digits", "1shot", name, **hparams)
  assert (method.limit == 1) == (name == "dropout")


@pytest.mark.parametrize(
  "name,planned,expected",
  (
    ("bean1", (6, 1, 2), (6, 1, 2)),
    # As many steps, and as many validations.
    ("decov", (6, 1, 2), (60, 10, 20)),
    ("decov", (6, 1, 0), (60, 10, 0)),
    ("decov", (6, 4, 2), (18, 10, 6)),
    ("vanilla10", (6, 4, 2), (18, 10, 6)),
    *(("decov", (6, size, 2), (6, size, 2)) for size in (0, 10, 100)),
    # At a pace of its own.
    ("imitation", (1, 1, 1), (6, 100, 3)),
    ("competing100", (1, 1, 1), (150, 100, 10)),
  ),
)
def test_schedule(name, planned, expected):
  options = methods.Options(
    pseudo_periods=2, pseudo_epochs=3, competing_epochs=60, readout_epochs=90
  )
  found = methods.schedule(name, Schedule(*planned), options)
  assert found == Schedule(*expected)


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


SHORT = methods.Options(
  first_pseudo=100,
  last_pseudo=100,
  pseudo_periods=2,
  pseudo_epochs=1,
  competing_epochs=1,
  readout_epochs=1,
)
MEMBERS = (0, 1, 0)


def make_population(name):
  """The learner of a method, its network and hyper-parameters of members."""
  network = tiny.NETWORK
  if (own := methods.METHODS[name].network) and own.startswith("competing"):
    network = networks.make(networks.Spec(own))
  schedule = methods.schedule(name, Schedule(1, batch_size=4), SHORT)
  grid = methods.METHODS[name].grid
  hparams = Hparams(jnp.full(3, 5e-4), jnp.array((grid[0], grid[0], grid[-1])))
  return (
    methods.learner(name, network, SHOTS, schedule, SHORT),
    network,
    hparams,
  )


@every_method
def test_method_trains_a_population(name):
  learner, network, hparams = make_population(name)

  @jax.jit
  def train(keys, data):
    state = jax.vmap(learner.init)(keys, hparams, data)
    prepared = jax.vmap(learner.prepare)(data)
    run = jax.vmap(learner.lap, (0, None, 0, 0, 0))
    # Two, as pseudo examples move between them.
    last, report = jax.lax.scan(
      lambda state, lap: run(state, lap, keys, hparams, prepared),
      state,
      jnp.arange(2),
    )
    return state.variables, last.variables, report

  data = SHOTS.load(DIGITS, MEMBERS)
  before, variables, report = jax.device_get(
    train(members.keys_of(*MEMBERS), data)
  )
  np.testing.assert_array_equal(report.failed_step, -1)
  assert {"objective", "train_loss"} <= set(report.metrics)
  for values in report.metrics.values():
    assert values.shape == (2, 3)
    assert np.all(np.isfinite(values))
  layer = list(variables.params)[-1]
  kernels = variables.params[layer]["kernel"]
  for member, old in enumerate(before.params[layer]["kernel"]):
    assert not np.array_equal(kernels[member], old)
  # Whatever it does in training, the network itself is evaluated.
  images, keys = DIGITS.validation.images, members.keys_of(*MEMBERS)
  np.testing.assert_array_equal(
    learner.predict(variables, images, keys, hparams, 1),
    network.predict(variables, images),
  )
  # The strength is a member's own.
  grid = methods.METHODS[name].grid
  assert np.array_equal(kernels[0], kernels[2]) == (len(grid) == 1)
