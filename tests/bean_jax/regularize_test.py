"""The loss transform, alone and under optimizers and transformations.

Of layers that the user names by `layers_fn`, and of those that are found.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import DISTANCES, OPTIONS, name_of

SIZES = {"fc1": (6, 8), "fc2": (8, 3)}
NUM_SAMPLES = 12


def _init(key):
  keys = dict(zip(SIZES, jax.random.split(key, len(SIZES)), strict=True))
  return {
    name: {
      "kernel": 0.5 * jax.random.normal(keys[name], size),
      "bias": jnp.zeros(size[1]),
    }
    for name, size in SIZES.items()
  }


def _draw_batch(key):
  inputs_key, labels_key = jax.random.split(key)
  return {
    "inputs": jax.random.normal(inputs_key, (NUM_SAMPLES, 6)),
    "labels": jax.random.randint(labels_key, (NUM_SAMPLES,), 0, 3),
  }


def _loss_fn(params, batch, *, temperature=1.0):
  """Returns the cross-entropy of a small network, and its activations."""
  hidden = {}
  outputs = batch["inputs"]
  for name, layer in params.items():
    hidden[name] = outputs
    bias = jnp.broadcast_to(layer["bias"], (len(outputs), len(layer["bias"])))
    outputs = outputs @ layer["kernel"] + bias
    if name == "fc1":
      outputs = jnp.tanh(outputs)
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(
    outputs / temperature, batch["labels"]
  )
  return jnp.mean(losses), {"hidden": hidden, "logits": outputs}


def _layers_fn(params, aux):
  return aux["hidden"], {name: params[name]["kernel"] for name in params}


def _by_layers_fn(loss_fn, **options):
  return bean_jax.regularize(loss_fn, _layers_fn, **options)


def _found(loss_fn, *, alpha, **options):
  """Regularizes the same layers; that of raw data is asked for by its path."""
  if isinstance(alpha, dict):
    alpha = {f"{name}/kernel": value for name, value in alpha.items()}
  paths = [f"{name}/kernel" for name in SIZES]
  return bean_jax.regularize(loss_fn, layers=paths, alpha=alpha, **options)


@pytest.fixture(name="regularize", params=(_by_layers_fn, _found))
def _regularize(request):
  return request.param


def _penalties(params, batch, **options):
  """Returns the oracle's penalty of each penalized layer."""
  _, aux = _loss_fn(params, batch)
  activations, kernels = _layers_fn(params, aux)
  return {
    name: reference.layer_penalty(activations[name], kernels[name], **options)
    for name in SIZES
  }


def _by_hand(params, batch, *, alpha, **options):
  """Returns the sum of both parts, without the transform."""
  loss, aux = _loss_fn(params, batch)
  activations, kernels = _layers_fn(params, aux)
  for name in SIZES:
    penalty = bean_jax.layer_penalty(
      activations[name], kernels[name], **options
    )
    loss = loss + alpha * penalty
  return loss, aux


def _assert_trees_close(ours, expected, rtol=1e-5, atol=1e-7):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def _assert_trees_equal(ours, expected):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def _member(members, index):
  return jax.tree.map(lambda leaf: leaf[index], members)


@pytest.fixture(name="params", scope="module")
def _params():
  return _init(jax.random.key(0))


@pytest.fixture(name="batch", scope="module")
def _batch():
  return _draw_batch(jax.random.key(1))


@pytest.mark.parametrize("options", OPTIONS, ids=name_of)
def test_adds_the_penalty(regularize, params, batch, options):
  regularized_fn = regularize(_loss_fn, alpha=3.0, gamma=2.0, **options)
  loss, _ = jax.jit(regularized_fn)(params, batch)
  plain, _ = _loss_fn(params, batch)
  penalty = sum(_penalties(params, batch, gamma=2.0, **options).values())
  np.testing.assert_allclose(loss, plain + 3 * penalty, rtol=1e-5)


def test_gradient_is_the_sum_of_both(regularize, params, batch):
  options = {"gamma": 2.0, "order": 2, "distance": "absolute"}
  regularized_fn = regularize(_loss_fn, alpha=3.0, **options)
  gradient, expected = (
    jax.jit(jax.grad(loss_fn, has_aux=True))(params, batch)[0]
    for loss_fn in (
      regularized_fn,
      functools.partial(_by_hand, alpha=3.0, **options),
    )
  )
  _assert_trees_close(gradient, expected)


def test_gradient_flows_through_the_activations(regularize, params, batch):
  # A layer is penalized by way of its kernel and of all layers before it.
  alpha = {"fc1": 0.0, "fc2": 3.0}
  regularized_fn = regularize(_loss_fn, alpha=alpha)
  gradient, plain = (
    jax.jit(jax.grad(loss_fn, has_aux=True))(params, batch)[0]
    for loss_fn in (regularized_fn, _loss_fn)
  )
  for name in SIZES:
    difference = gradient[name]["kernel"] - plain[name]["kernel"]
    assert jnp.max(jnp.abs(difference)) > 1e-3


def test_aux_is_handed_on_untouched(regularize, params, batch):
  regularized_fn = regularize(_loss_fn, alpha=1.0)
  _, jitted_aux = jax.jit(regularized_fn)(params, batch)
  _assert_trees_equal(jitted_aux, jax.jit(_loss_fn)(params, batch)[1])


def test_signature_is_that_of_the_loss(regularize, params, batch):
  regularized_fn = regularize(_loss_fn, alpha=2.0)
  assert inspect.signature(regularized_fn) == inspect.signature(_loss_fn)
  penalty = 2 * sum(_penalties(params, batch).values())
  for arguments, keywords in (
    ((batch,), {"temperature": 0.5}),
    ((), {"batch": batch, "temperature": 0.5}),
  ):
    loss, _ = regularized_fn(params, *arguments, **keywords)
    plain, _ = _loss_fn(params, *arguments, **keywords)
    np.testing.assert_allclose(loss, plain + penalty, rtol=1e-5)


@pytest.mark.parametrize("alpha", (0, np.float32(0), {"fc1": 0.0, "fc2": 0.0}))
def test_alpha_zero_leaves_every_bit(regularize, params, batch, alpha):
  def gradient_fn(loss_fn):
    return jax.value_and_grad(loss_fn, has_aux=True)

  regularized_fn = regularize(_loss_fn, alpha=alpha)
  _assert_trees_equal(
    gradient_fn(regularized_fn)(params, batch),
    gradient_fn(_loss_fn)(params, batch),
  )
  _assert_trees_equal(
    jax.jit(gradient_fn(regularized_fn))(params, batch),
    jax.jit(gradient_fn(_loss_fn))(params, batch),
  )


@pytest.mark.parametrize("options", OPTIONS[::3], ids=name_of)
def test_traced_alpha_zero_leaves_every_bit(regularize, params, batch, options):
  def gradients(alpha, params, batch):
    regularized_fn = regularize(_loss_fn, alpha=alpha, **options)
    return jax.value_and_grad(regularized_fn, has_aux=True)(params, batch)

  plain = jax.jit(jax.value_and_grad(_loss_fn, has_aux=True))(params, batch)
  _assert_trees_equal(jax.jit(gradients)(0.0, params, batch), plain)


def test_alpha_zero_switches_off_a_penalty_that_overflows(
  regularize, params, batch
):
  def layers_fn(params, aux):
    activations, kernels = _layers_fn(params, aux)
    return {name: 1e30 * activations[name] for name in activations}, kernels

  regularized_fn = bean_jax.regularize(_loss_fn, layers_fn, alpha=0.0)
  gradient, _ = jax.jit(jax.grad(regularized_fn, has_aux=True))(params, batch)
  expected, _ = jax.jit(jax.grad(_loss_fn, has_aux=True))(params, batch)
  _assert_trees_equal(gradient, expected)


def test_alpha_by_layer(regularize, params, batch):
  alphas = {"fc1": 0.5, "fc2": 20.0}
  penalties = _penalties(params, batch)
  regularized_fn = regularize(_loss_fn, alpha=alphas)
  loss, _ = regularized_fn(params, batch)
  plain, _ = _loss_fn(params, batch)
  expected = plain + sum(alphas[name] * penalties[name] for name in alphas)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_mask_of_real_samples(regularize, params, batch):
  where = np.arange(NUM_SAMPLES) < 7

  def where_fn(params, batch):
    assert set(params) == set(SIZES)
    return batch["where"]

  regularized_fn = regularize(_loss_fn, alpha=4.0, where_fn=where_fn)
  loss, _ = jax.jit(regularized_fn)(params, {**batch, "where": where})
  plain, _ = _loss_fn(params, batch)
  real = {name: array[where] for name, array in batch.items()}
  penalty = sum(_penalties(params, real).values())
  np.testing.assert_allclose(loss, plain + 4 * penalty, rtol=1e-5)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_loss_keeps_its_dtype(regularize, params, batch, dtype):
  def loss_fn(params, batch):
    loss, aux = _loss_fn(params, batch)
    return loss.astype(dtype), aux

  regularized_fn = regularize(loss_fn, alpha=1.0)
  loss, _ = regularized_fn(params, batch)
  assert loss.dtype == dtype
  with jax.enable_x64(True):
    loss, _ = regularize(loss_fn, alpha=np.float64(1), gamma=np.float64(1))(
      params, batch
    )
  assert loss.dtype == dtype


def test_a_loss_of_zero_leaves_the_penalty_alone(regularize, params, batch):
  def value_and_grad(loss_fn, params):
    return jax.value_and_grad(lambda params: loss_fn(params, batch)[0])(params)

  @jax.jit
  def all_of_them(params):
    sums = value_and_grad(functools.partial(_by_hand, alpha=3.0), params)
    loss = value_and_grad(_loss_fn, params)
    alone = [
      value_and_grad(
        regularize(
          lambda params, batch, zero=zero: (zero, _loss_fn(params, batch)[1]),
          alpha=3.0,
        ),
        params,
      )
      for zero in (0, 0.0, False, np.int8(0), jnp.zeros((), jnp.int32))
    ]
    return jax.tree.map(jnp.subtract, sums, loss), alone

  expected, alone = all_of_them(params)
  assert expected[0] > 0
  for each in alone:
    assert each[0].dtype == jnp.float32
    _assert_trees_close(each, expected, rtol=1e-4, atol=1e-6)


def test_vmap_over_alphas_and_seeds_equals_loop(regularize, batch):
  def gradient_of(alpha, seed):
    regularized_fn = regularize(_loss_fn, alpha=alpha)
    params = _init(jax.random.key(seed))
    (loss, _), gradient = jax.value_and_grad(regularized_fn, has_aux=True)(
      params, batch
    )
    return loss, gradient

  alphas, seeds = jnp.float32([0.0, 0.5, 20.0]), jnp.arange(2)
  over_seeds = jax.vmap(gradient_of, in_axes=(None, 0))
  over_both = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))
  members = over_both(alphas, seeds)
  one = jax.jit(gradient_of)
  for i, alpha in enumerate(alphas):
    for j, seed in enumerate(seeds):
      _assert_trees_close(
        _member(members, (i, j)), one(alpha, seed), rtol=1e-4, atol=1e-6
      )


def test_scheduled_alpha_is_traced_once(regularize, params, batch):
  schedule = optax.schedules.linear_schedule(0.0, 10.0, transition_steps=8)
  tx = optax.sgd(0.1)
  num_traces = 0

  @jax.jit
  def train_step(params, opt_state, step):
    nonlocal num_traces
    num_traces += 1
    regularized_fn = regularize(_loss_fn, alpha=schedule(step))
    (loss, _), gradient = jax.value_and_grad(regularized_fn, has_aux=True)(
      params, batch
    )
    updates, opt_state = tx.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  opt_state = tx.init(params)
  for step in range(12):
    plain, _ = _loss_fn(params, batch)
    penalty = sum(_penalties(params, batch).values())
    expected = plain + 10 * min(step / 8, 1) * penalty
    params, opt_state, loss = train_step(params, opt_state, step)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
  assert num_traces == 1


def test_training_in_scan_lowers_the_penalty(regularize, params, batch):
  def train(alpha):
    regularized_fn = regularize(_loss_fn, alpha=alpha)
    tx = optax.adam(1e-2)

    def step(carry, _):
      params, opt_state = carry
      gradient, _ = jax.grad(regularized_fn, has_aux=True)(params, batch)
      updates, opt_state = tx.update(gradient, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), None

    (trained, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=100)
    return trained

  members = jax.jit(jax.vmap(train))(jnp.float32([0.0, 10.0]))
  without, with_bean = (
    sum(_penalties(_member(members, i), batch).values()) for i in (0, 1)
  )
  assert with_bean < 0.2 * without


def test_lbfgs(regularize, params, batch):
  solver = optax.lbfgs()

  def minimize(loss_fn):
    def value_fn(params):
      return loss_fn(params, batch)[0]

    value_and_grad_fn = optax.value_and_grad_from_state(value_fn)

    def step(carry, _):
      params, state = carry
      value, grad = value_and_grad_fn(params, state=state)
      updates, state = solver.update(
        grad, state, params, value=value, grad=grad, value_fn=value_fn
      )
      return (optax.apply_updates(params, updates), state), value

    start = (params, solver.init(params))
    _, values = jax.lax.scan(step, start, length=8)
    return values

  regularized_fn = regularize(_loss_fn, alpha=2.0)
  by_hand = functools.partial(_by_hand, alpha=2.0)
  values, expected = jax.jit(
    lambda: (minimize(regularized_fn), minimize(by_hand))
  )()
  np.testing.assert_allclose(values, expected, rtol=1e-3)
  # The line search accepts what it sees to be lower.
  assert np.all(np.diff(values) < 0)
  assert values[-1] < 0.5 * values[0]


def test_sharpness_aware_minimization(regularize, params, batch):
  def train(loss_fn):
    grad_fn = jax.grad(lambda params: loss_fn(params, batch)[0])
    tx = optax.contrib.sam(
      optax.sgd(0.1),
      optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
      opaque_mode=True,
    )

    def step(carry, _):
      params, opt_state = carry
      updates, opt_state = tx.update(
        grad_fn(params), opt_state, params, grad_fn=lambda p, _: grad_fn(p)
      )
      return (optax.apply_updates(params, updates), opt_state), None

    (trained, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=5)
    return trained

  regularized_fn = regularize(_loss_fn, alpha=2.0)
  ours = jax.jit(lambda: train(regularized_fn))()
  expected = jax.jit(lambda: train(functools.partial(_by_hand, alpha=2.0)))()
  _assert_trees_close(ours, expected, rtol=1e-4, atol=1e-6)
  plain = jax.jit(lambda: train(_loss_fn))()
  assert not np.allclose(
    ours["fc2"]["kernel"], plain["fc2"]["kernel"], atol=1e-3
  )


@pytest.mark.parametrize("distance", DISTANCES)
def test_accumulated_micro_batches_equal_the_full_batch(
  regularize, params, batch, distance
):
  regularized_fn = regularize(_loss_fn, alpha=2.0, distance=distance)

  def train(tx, batches):
    @jax.jit
    def step(params, state, batch):
      gradient, _ = jax.grad(regularized_fn, has_aux=True)(params, batch)
      updates, state = tx.update(gradient, state, params)
      return optax.apply_updates(params, updates), state

    trained, state = params, tx.init(params)
    for micro_batch in batches:
      trained, state = step(trained, state, micro_batch)
    return trained

  num_micro = 4
  micro_batches = [
    {name: array[i::num_micro] for name, array in batch.items()}
    for i in range(num_micro)
  ]
  accumulated = train(
    optax.MultiSteps(optax.sgd(0.5), every_k_schedule=num_micro),
    micro_batches * 2,
  )
  full = train(optax.sgd(0.5), [batch] * 2)
  _assert_trees_close(accumulated, full, rtol=1e-5, atol=1e-6)
