"""The loss transform, alone and under optimizers and transformations.

Of layers that the user names by `layers_fn`, and of those that are found.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bean_jax
from tests import reference
from tests.bean_jax.layers import OPTIONS, name_of

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
  options = {"gamma": 2.0, "order": 2, "distance": "absolute", "alpha": 3.0}
  loss_fns = (
    regularize(_loss_fn, **options),
    functools.partial(_by_hand, **options),
  )
  gradient, expected = (
    jax.jit(jax.grad(fn, has_aux=True))(params, batch) for fn in loss_fns
  )
  chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize("jit", (jax.jit, lambda fn: fn), ids=("jit", "eager"))
@pytest.mark.parametrize("alpha", (0, np.float32(0), {"fc1": 0.0, "fc2": 0.0}))
def test_alpha_zero_leaves_every_bit(regularize, params, batch, alpha, jit):
  ours, expected = (
    jit(jax.value_and_grad(fn, has_aux=True))(params, batch)
    for fn in (regularize(_loss_fn, alpha=alpha), _loss_fn)
  )
  chex.assert_trees_all_equal(ours, expected)


@pytest.mark.parametrize("options", OPTIONS[::3], ids=name_of)
def test_traced_alpha_zero_leaves_every_bit(regularize, params, batch, options):
  def gradients(alpha, params, batch):
    regularized_fn = regularize(_loss_fn, alpha=alpha, **options)
    return jax.value_and_grad(regularized_fn, has_aux=True)(params, batch)

  plain = jax.jit(jax.value_and_grad(_loss_fn, has_aux=True))(params, batch)
  chex.assert_trees_all_equal(jax.jit(gradients)(0.0, params, batch), plain)


def test_alpha_zero_switches_off_a_penalty_that_overflows(params, batch):
  def layers_fn(params, aux):
    activations, kernels = _layers_fn(params, aux)
    return {name: 1e30 * activations[name] for name in activations}, kernels

  regularized_fn = bean_jax.regularize(_loss_fn, layers_fn, alpha=0.0)
  gradient, expected = (
    jax.jit(jax.grad(fn, has_aux=True))(params, batch)
    for fn in (regularized_fn, _loss_fn)
  )
  chex.assert_trees_all_equal(gradient, expected)


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


@pytest.mark.parametrize(
  "options",
  (
    *({"layers": layers} for layers in ("*", [], np.ones(2))),
    {"samples": 3},
    {"convolutions": True},
  ),
)
def test_layers_by_hand_take_no_options_of_found_ones(options):
  with pytest.raises(TypeError, match="choose layers and rows there"):
    bean_jax.regularize(_loss_fn, _layers_fn, alpha=1.0, **options)


def test_mask_of_none_is_an_error(regularize, params, batch):
  regularized_fn = regularize(_loss_fn, alpha=4.0, where_fn=lambda *_: None)
  with pytest.raises(TypeError, match="where_fn must return a boolean mask"):
    regularized_fn(params, batch)


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


@pytest.mark.parametrize("zero", (0, 0.0, False, np.int8(0), jnp.int32(0)))
def test_a_loss_of_zero_leaves_the_penalty_alone(
  regularize, params, batch, zero
):
  regularized_fn = regularize(
    lambda params, batch: (zero, _loss_fn(params, batch)[1]), alpha=3.0
  )
  penalty, aux = jax.jit(regularized_fn)(params, batch)
  assert penalty.dtype == jnp.float32
  expected = 3 * sum(_penalties(params, batch).values())
  np.testing.assert_allclose(penalty, expected, rtol=1e-5)
  chex.assert_trees_all_close(aux, _loss_fn(params, batch)[1], rtol=1e-5)


def test_vmap_over_alphas_and_seeds_equals_loop(regularize, batch):
  def gradient_of(alpha, seed):
    gradients = jax.grad(regularize(_loss_fn, alpha=alpha), has_aux=True)
    return gradients(_init(jax.random.key(seed)), batch)[0]

  alphas, seeds = jnp.float32([0.0, 0.5, 20.0]), jnp.arange(2)
  over_seeds = jax.vmap(gradient_of, in_axes=(None, 0))
  members = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(alphas, seeds)
  one = jax.jit(gradient_of)
  for i, j in np.ndindex(3, 2):
    member = jax.tree.map(lambda leaf, at=(i, j): leaf[at], members)
    expected = one(alphas[i], seeds[j])
    chex.assert_trees_all_close(member, expected, rtol=1e-4, atol=1e-6)


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


def _by_lbfgs(loss_fn, params, batch):
  """Returns the losses of steps whose line search evaluates the loss."""
  solver = optax.lbfgs()

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
  return jax.lax.scan(step, start, length=8)[1]


def _by_sam(loss_fn, params, batch):
  """Returns parameters from sharpness-aware minimization."""
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

  return jax.lax.scan(step, (params, tx.init(params)), length=5)[0][0]


def _by_micro_batches(loss_fn, params, batch):
  """Returns parameters from gradients that are accumulated."""
  tx = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=4)
  parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)

  def step(carry, part):
    params, state = carry
    gradient, _ = jax.grad(loss_fn, has_aux=True)(params, part)
    updates, state = tx.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(step, (params, tx.init(params)), parts)[0][0]


def _by_one_batch(loss_fn, params, batch):
  gradient, _ = jax.grad(loss_fn, has_aux=True)(params, batch)
  return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)


@pytest.mark.parametrize(
  "train, by_hand",
  (
    (_by_lbfgs, _by_lbfgs),
    (_by_sam, _by_sam),
    (_by_micro_batches, _by_one_batch),
  ),
)
def test_optimizers(regularize, params, batch, train, by_hand):
  options = {"alpha": 2.0, "distance": "absolute"}
  regularized_fn = regularize(_loss_fn, **options)
  sum_fn = functools.partial(_by_hand, **options)
  ours, expected, plain = jax.jit(
    lambda: (
      train(regularized_fn, params, batch),
      by_hand(sum_fn, params, batch),
      train(_loss_fn, params, batch),
    )
  )()
  chex.assert_trees_all_close(ours, expected, rtol=1e-3, atol=1e-5)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(ours, plain, rtol=1e-3, atol=1e-5)
  if train is _by_lbfgs:
    # The line search accepts what it sees to be lower.
    assert np.all(np.diff(ours) < 0)
    assert ours[-1] < 0.5 * ours[0]
